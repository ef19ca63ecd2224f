#include "jobs/artifact_source.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "core/error.hpp"
#include "core/json_line.hpp"
#include "jobs/export.hpp"
#include "jobs/http_metrics.hpp"
#include "net/service.hpp"
#include "pg/encoding.hpp"
#include "pg/guard.hpp"
#include "pg/progress.hpp"
#include "pg/roles.hpp"
#include "providers/blob_store.hpp"

namespace jobs {
namespace {

// How many lines go by between two looks for a cancel.
constexpr std::uint64_t kCheckEvery = 1024;

[[noreturn]] void no_manifest(const std::string& name) {
  throw core::Error(
      core::sqlstate::kUndefinedFile,
      "\"" + name + "\" has no manifest beside it, so nothing tells whether it is whole", {},
      "Fetch " + core::manifest_name(name) + " too; an export without one was not finished.");
}

}  // namespace

std::string read_manifest(const core::ArtifactFolder& folder, const std::string& name) {
  const core::Descriptor file = folder.open(name);
  std::string text;
  char piece[16384];
  for (;;) {
    const ssize_t got = ::read(file.get(), piece, sizeof piece);
    if (got < 0 && errno != EINTR) {
      core::fail_io(errno, "read file", folder.path_of(name));
    }
    if (got > 0) {
      text.append(piece, static_cast<std::size_t>(got));
    }
    // One byte more than is allowed is enough for parse_manifest() to say so.
    if (got == 0 || text.size() > core::kMaxManifestBytes) {
      return text;
    }
  }
}

std::string read_manifest(providers::BlobStore& store, const std::string& name) {
  std::string text;
  store.get(name, [&](std::string_view piece) {
    text += piece;
    if (text.size() > core::kMaxManifestBytes) {
      core::parse_manifest(text, name);  // which says so
    }
  });
  return text;
}

ArtifactSource::ArtifactSource(const std::string& source, const std::string& request_id)
    : source_(source), path_(source) {
  // Names of files and objects are UTF-8, those of servers the database's.
  const std::size_t slash = source.find('/');
  if (slash == 0 || slash == std::string::npos) {
    open_file(pg::to_utf8(source).value_or(source));
  } else {
    const std::string object = source.substr(slash + 1);
    fetch(source.substr(0, slash), pg::to_utf8(object).value_or(object), request_id);
  }
}

void ArtifactSource::open_file(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string name = path.substr(slash == std::string::npos ? 0 : slash + 1);
  if (!core::is_plain_file_name(name)) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "\"" + path + "\" is not the name of an export", {},
                      "Give a file name in the database's artifact folder, or "
                      "<server>/<object> for one in a blob store.");
  }
  if (slash == std::string::npos) {
    folder_ = std::make_unique<core::ArtifactFolder>(database_folder());
  } else if (pg::may_read_server_files() || pg::may_write_server_files()) {
    folder_ = std::make_unique<core::ArtifactFolder>(slash == 0 ? "/" : path.substr(0, slash));
  } else {
    throw core::Error(core::sqlstate::kInsufficientPrivilege,
                      "permission denied to read outside the artifact directory",
                      "Only roles with the privileges of pg_read_server_files may give a path.",
                      "Give a file name in the database's artifact folder.");
  }
  path_ = folder_->path_of(name);
  file_ = folder_->open(name);
  if (!folder_->exists(core::manifest_name(name))) {
    no_manifest(name);
  }
  manifest_ = core::parse_manifest(read_manifest(*folder_, core::manifest_name(name)),
                                   core::manifest_name(name));
}

void ArtifactSource::fetch(const std::string& server, const std::string& object,
                           const std::string& request_id) {
  HttpMetrics http;
  const net::Service service = net::load_service(net::ServiceKind::kBlobStore, server);
  if (service.type == "file" && !object.starts_with(object_prefix()) &&
      !pg::may_read_server_files()) {
    throw core::Error(core::sqlstate::kInsufficientPrivilege,
                      "permission denied for exports of another database",
                      "Only roles with the privileges of pg_read_server_files may read them.",
                      "Objects of this database begin with " + object_prefix());
  }
  const auto store = providers::open_blob_store(service, request_id, http);
  std::string text;
  const std::string manifest = core::manifest_name(object);
  try {
    text = read_manifest(*store, manifest);
  } catch (const core::Error& e) {
    if (std::string_view(e.sqlstate()) == core::sqlstate::kUndefinedFile && store->find(object)) {
      no_manifest(object);
    }
    throw;
  }
  manifest_ = core::parse_manifest(text, manifest);
  folder_ = std::make_unique<core::ArtifactFolder>(database_folder());
  folder_->sweep();
  spool_ = std::make_unique<core::ArtifactWriter>(*folder_, "spool");
  std::uint64_t arrived = 0;
  store->get(object, [&](std::string_view piece) {
    arrived += piece.size();
    if (arrived > manifest_.bytes) {
      throw core::Error(core::sqlstate::kProgramLimitExceeded,
                        "\"" + source_ + "\" is longer than the " +
                            std::to_string(manifest_.bytes) + " bytes that its manifest states",
                        {}, "The object was altered: take another copy of it.");
    }
    spool_->write(piece);
  });
  spool_->finish();
  file_ = core::Descriptor(::fcntl(spool_->fd(), F_DUPFD_CLOEXEC, 0));
}

core::ArtifactReader ArtifactSource::read() const {
  core::Descriptor copy(::fcntl(file_.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.valid() || ::lseek(copy.get(), 0, SEEK_SET) != 0) {
    core::fail_io(errno, "read file", path_);
  }
  return {std::move(copy), path_, manifest_.compression, manifest_.ndjson_bytes};
}

std::optional<std::string> ArtifactSource::difference(const core::ArtifactReader& reader) const {
  const auto differs = [](const char* what, std::uint64_t is, std::uint64_t should) {
    return std::string("it has ") + std::to_string(is) + " " + what + ", its manifest states " +
           std::to_string(should);
  };
  if (reader.bytes() != manifest_.bytes) {
    return differs("bytes", reader.bytes(), manifest_.bytes);
  }
  if (reader.sha256() != manifest_.sha256) {
    return "its SHA-256 is " + reader.sha256() + ", its manifest states " + manifest_.sha256;
  }
  if (reader.ndjson_bytes() != manifest_.ndjson_bytes) {
    return differs("bytes of NDJSON", reader.ndjson_bytes(), manifest_.ndjson_bytes);
  }
  if (reader.lines() != manifest_.rows) {
    return differs("lines", reader.lines(), manifest_.rows);
  }
  return std::nullopt;
}

std::optional<std::string> ArtifactSource::find_problem() const {
  core::ArtifactReader reader = read();
  std::string_view line;
  std::vector<core::JsonMember> members;
  core::JsonProblem problem;
  std::optional<std::string> bad_line;
  pg::Progress progress("verifying " + source_, "lines");
  try {
    while (reader.next_line(line)) {
      if (!bad_line && !core::parse_json_object(line, members, problem)) {
        bad_line = "line " + std::to_string(reader.lines()) +
                   " is not a JSON object: " + problem.reason + " at byte " +
                   std::to_string(problem.offset + 1);
      }
      if (reader.lines() % kCheckEvery == 0) {
        pg::check_for_interrupts();
        progress.tell(reader.lines(), manifest_.rows);
      }
    }
  } catch (const core::Error& e) {
    return e.detail().empty() ? e.message() : e.message() + " (" + e.detail() + ")";
  }
  // That the file was altered explains a bad line, not the other way round.
  if (std::optional<std::string> found = difference(reader)) {
    return found;
  }
  return bad_line;
}

void ArtifactSource::require_sound() const {
  if (const std::optional<std::string> problem = find_problem()) {
    throw core::Error(
        core::sqlstate::kBadFileFormat, "the export \"" + source_ + "\" is damaged: " + *problem,
        "Nothing was imported.",
        "Take another copy of it, or an older export; bacmr_verify_export() checks one.");
  }
}

}  // namespace jobs
