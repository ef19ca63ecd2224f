#include "pg/postgres.hpp"

#include "jobs/export.hpp"

#include <chrono>
#include <ctime>
#include <unordered_map>

#include "core/artifact_writer.hpp"
#include "core/check.hpp"
#include "core/durable_file.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "core/json_line.hpp"
#include "net/service.hpp"
#include "pg/encoding.hpp"
#include "pg/library.hpp"
#include "pg/line_source.hpp"
#include "pg/progress.hpp"
#include "pg/roles.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "pg/table_tree.hpp"
#include "pg/transaction_end.hpp"
#include "sources/source.hpp"

extern "C" {
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "utils/lsyscache.h"
}

namespace jobs {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string seconds_json(double seconds) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.3f", seconds);
  return buffer;
}

std::string utf8(const std::string& text) { return pg::to_utf8(text).value_or("?"); }

std::string database_name() {
  return pg::call([] { return get_database_name(MyDatabaseId); });
}

// Rows by namespace. Rows of one namespace often follow each other.
class NamespaceCounts {
 public:
  void add(std::string_view json) {
    if (last_ != nullptr && json == last_json_) {
      ++*last_;
      return;
    }
    last_json_ = json;
    const auto found = counts_.find(last_json_);
    if (found != counts_.end()) {
      last_ = &found->second;
    } else if (counts_.size() < core::kMaxNamespaces) {
      last_ = &counts_[last_json_];
    } else {
      last_ = &others_;
    }
    ++*last_;
  }
  void tell(core::Manifest& manifest) const {
    for (const auto& [json, rows] : counts_) {
      std::string name;
      if (json.front() == '"' && core::append_unescaped(name, json)) {
        manifest.namespaces[name] = rows;
      }
    }
    manifest.namespaces_truncated = others_ > 0;
  }

 private:
  std::unordered_map<std::string, std::uint64_t> counts_;
  std::string last_json_;
  std::uint64_t* last_ = nullptr;
  std::uint64_t others_ = 0;
};

// Notes the lines on which columns hold JSON's null, as runs.
void add_json_nulls(const pg::LineBatch& batch, std::uint64_t lines_before,
                    core::Manifest& manifest) {
  std::string_view found = batch.json_nulls.view();
  std::uint32_t pair[2];
  for (; found.size() >= sizeof pair; found.remove_prefix(sizeof pair)) {
    std::memcpy(pair, found.data(), sizeof pair);
    core::LineRuns& runs = manifest.json_nulls[manifest.columns[pair[0]].name];
    const std::uint64_t line = lines_before + pair[1] + 1;
    if (!runs.empty() && runs.back().first + runs.back().second == line) {
      ++runs.back().second;
    } else {
      runs.emplace_back(line, 1);
    }
  }
}

std::string default_file_name(const ExportRequest& request, int number) {
  return "dr_export_" + request.name + "_" + core::utc_stamp(std::time(nullptr)) +
         (number == 1 ? "" : "_" + std::to_string(number)) + ".ndjson" +
         core::suffix_of(request.compression);
}

core::ArtifactFolder folder_of(const ExportRequest& request) {
  if (!request.file_name || core::is_plain_file_name(*request.file_name)) {
    return database_folder();
  }
  const std::size_t slash = request.file_name->rfind('/');
  if (slash == std::string::npos || slash + 1 == request.file_name->size()) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "\"" + *request.file_name + "\" cannot be the name of a file", {},
                      "Give a name without control characters, backslashes and a leading dot.");
  }
  if (!pg::may_write_server_files()) {
    throw core::Error(core::sqlstate::kInsufficientPrivilege,
                      "permission denied to write outside the artifact directory",
                      "Only roles with the privileges of pg_write_server_files may give a path.",
                      "Give a plain file name; it is written to the database's folder below "
                      "bacmr.artifact_directory.");
  }
  const std::string directory = request.file_name->substr(0, slash);
  if (request.file_name->front() == '/') {
    return core::ArtifactFolder(directory.empty() ? "/" : directory);
  }
  return core::ArtifactFolder(database_folder().path_of(directory));
}

// Names of files are UTF-8, whatever the database's encoding.
ExportRequest with_utf8_name(ExportRequest request) {
  if (request.file_name) {
    const std::optional<std::string> name = pg::to_utf8(*request.file_name);
    if (!name) {
      throw core::Error(core::sqlstate::kInvalidParameterValue,
                        "file_name cannot be written in UTF-8", {}, "Give a name in ASCII.");
    }
    request.file_name = name;
  }
  return request;
}

}  // namespace

core::ArtifactFolder database_folder() {
  return {pg::settings::artifact_directory(), core::folder_name(utf8(database_name()))};
}

std::string object_prefix() { return core::folder_name(utf8(database_name())) + "/"; }

core::Compression checked_compression(const std::optional<std::string>& name) {
  const auto compression = core::parse_compression(name.value_or("none"));
  if (!compression) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "unknown compression \"" + *name + "\"", {},
                      "Give 'none', 'gzip' or 'zstd'.");
  }
  return *compression;
}

ExportRequest export_of_chunks(const pg::Extension& extension) {
  const sources::Sources all = sources::Sources::load_locked(extension);
  const sources::Source& chunks = all.require("chunks", "export");
  ExportRequest request;
  request.relation = chunks.oid;
  request.name = "chunks";
  request.id_column = chunks.columns.at("id").name;
  request.space_column = chunks.columns.at("namespace").name;
  return request;
}

ExportRequest export_of_table(Oid relation) {
  ExportRequest request;
  request.relation = relation;
  const char* name = pg::call([relation] { return get_rel_name(relation); });
  if (name == nullptr) {
    throw core::Error(core::sqlstate::kUndefinedTable,
                      "there is no relation with the OID " + std::to_string(relation));
  }
  request.name = core::short_name(core::folder_name(utf8(name)));
  pg::Spi spi;
  const pg::Rows key = spi.query(
      "SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid"
      " AND a.attnum = i.indkey[0] WHERE i.indrelid = $1 AND i.indisprimary AND i.indnkeyatts = 1",
      {pg::Param::oid(relation)});
  request.id_column = key.empty() ? "" : key.text(0, 0);
  return request;
}

Export::Export(const ExportRequest& request, const std::string& request_id)
    : request_(with_utf8_name(request)), request_id_(request_id), folder_(folder_of(request_)) {
  pg::lock_tree(request_.relation);
  // Other people's folders are none of ours to tidy.
  if (in_database_folder()) {
    folder_.sweep();
  }
  choose_file();
}

void Export::open_store() {
  if (request_.destination && !store_) {
    store_ = providers::open_blob_store(
        net::load_service(net::ServiceKind::kBlobStore, *request_.destination), request_id_, http_);
  }
}

void Export::choose_file() {
  if (request_.file_name) {
    file_ = request_.file_name->substr(request_.file_name->rfind('/') + 1);
    if (!core::is_plain_file_name(file_)) {
      throw core::Error(core::sqlstate::kInvalidParameterValue,
                        "\"" + file_ + "\" cannot be the name of a file", {},
                        "Give a name without control characters, backslashes and a leading dot.");
    }
    if (folder_.exists(file_) || folder_.exists(core::manifest_name(file_))) {
      throw core::Error(core::sqlstate::kDuplicateFile,
                        "the file \"" + folder_.path_of(file_) + "\" exists already", {},
                        "Give another file_name, or none.");
    }
    return;
  }
  int number = 1;
  do {
    file_ = default_file_name(request_, number++);
  } while (folder_.exists(file_) || folder_.exists(core::manifest_name(file_)));
}

void Export::describe_server() {
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT $1::regclass::text,"
      " to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),"
      " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
      "  ELSE pg_current_wal_insert_lsn() END::text,"
      " current_setting('server_version'), current_setting('server_encoding')",
      {pg::Param::oid(request_.relation)});
  manifest_.relation = utf8(rows.text(0, 0));
  manifest_.snapshot_at = rows.text(0, 1);
  manifest_.lsn = rows.text(0, 2);
  manifest_.server_version = rows.text(0, 3);
  manifest_.server_encoding = rows.text(0, 4);
  manifest_.system_identifier = std::to_string(pg::call([] { return GetSystemIdentifier(); }));
  manifest_.database = utf8(database_name());
  manifest_.extension_version = pg::kLibraryVersion;
  manifest_.request_id = utf8(request_id_);
}

void Export::write() {
  const Clock::time_point start = Clock::now();
  describe_server();
  manifest_.file = file_;
  manifest_.compression = request_.compression;
  manifest_.namespace_column = utf8(request_.space_column);
  if (request_.space) {
    manifest_.exported_namespace = utf8(*request_.space);
  }
  const std::vector<pg::LineColumn> columns = pg::columns_of(request_.relation);
  for (const pg::LineColumn& column : columns) {
    manifest_.columns.push_back({utf8(column.name), utf8(column.type)});
  }
  const std::unique_ptr<pg::LineSource> lines = pg::read_lines(
      request_.relation, columns, request_.id_column, request_.space_column, request_.space);
  writer_ = std::make_unique<core::ArtifactWriter>(folder_, file_);
  if (store_) {
    upload_ = store_->upload(object_prefix() + file_, writer_->fd());
  }
  const std::unique_ptr<core::Compressor> compressor = core::make_compressor(request_.compression);
  const core::ByteSink sink = [this](std::string_view bytes) { writer_->write(bytes); };
  NamespaceCounts namespaces;
  const auto batch = std::make_unique<pg::LineBatch>();
  pg::Progress progress("exporting " + manifest_.relation, "rows");
  while (lines->next(*batch)) {
    const std::string_view text = batch->text.view();
    for (int i = 0; i < batch->count; ++i) {
      const pg::LineMark& mark = batch->marks[i];
      if (mark.namespace_end > mark.namespace_begin) {
        namespaces.add(
            text.substr(mark.namespace_begin, mark.namespace_end - mark.namespace_begin));
      }
    }
    const auto id_of = [&](const pg::LineMark& mark) {
      return std::string(text.substr(mark.id_begin, mark.id_end - mark.id_begin));
    };
    if (manifest_.rows == 0) {
      manifest_.first_id = id_of(batch->marks[0]);
    }
    manifest_.last_id = id_of(batch->marks[batch->count - 1]);
    add_json_nulls(*batch, manifest_.rows, manifest_);
    manifest_.rows += static_cast<std::uint64_t>(batch->count);
    manifest_.ndjson_bytes += text.size();
    compressor->write(text, sink);
    progress.tell(manifest_.rows);
    advance_upload();
  }
  compressor->finish(sink);
  namespaces.tell(manifest_);
  writer_->finish();
  manifest_.bytes = writer_->written();
  manifest_.sha256 = writer_->sha256();
  core::ensure(
      request_.compression != core::Compression::kNone || manifest_.bytes == manifest_.ndjson_bytes,
      "every byte of the rows is in the file");
  publish();
  write_figures_ = core::JsonObject()
                       .raw("seconds", seconds_json(seconds_since(start)))
                       .number("rows", static_cast<std::int64_t>(manifest_.rows))
                       .number("bytes", static_cast<std::int64_t>(manifest_.bytes))
                       .text("method", lines->method())
                       .str();
}

void Export::advance_upload() {
  if (upload_) {
    try {
      upload_->advance(writer_->written());
    } catch (const core::Error&) {
      // The file comes first: upload() tries again, and says what is wrong.
      upload_.reset();
    }
  }
}

void Export::publish() {
  const std::string manifest = core::manifest_name(file_);
  core::ArtifactWriter description(folder_, manifest);
  const std::string text = core::manifest_text(manifest_);
  if (text.size() > core::kMaxManifestBytes) {
    throw core::Error(
        core::sqlstate::kProgramLimitExceeded,
        "the manifest takes more than " + std::to_string(core::kMaxManifestBytes >> 20) + " MB",
        "It lists the lines that hold JSON's null in a column, or long ids.",
        "Store SQL's NULL instead, or dump the table with pg_dump.");
  }
  description.write(text);
  description.finish();
  // The manifest last: a file without one is not complete.
  if (!writer_->publish(file_)) {
    throw core::Error(core::sqlstate::kDuplicateFile,
                      "the file \"" + folder_.path_of(file_) + "\" has appeared meanwhile", {},
                      "Export again.");
  }
  pg::remove_file_at_abort(folder_.path_of(file_));
  if (!description.publish(manifest)) {
    throw core::Error(core::sqlstate::kDuplicateFile,
                      "the file \"" + folder_.path_of(manifest) + "\" has appeared meanwhile", {},
                      "Export again.");
  }
  pg::remove_file_at_abort(folder_.path_of(manifest));
}

void Export::upload() {
  if (!request_.destination) {
    return;
  }
  const Clock::time_point start = Clock::now();
  open_store();
  if (!upload_) {
    upload_ = store_->upload(object_prefix() + file_, writer_->fd());
  }
  // Taken out first: one that has failed is of no more use.
  const std::unique_ptr<providers::Upload> upload = std::move(upload_);
  upload->finish(manifest_.bytes);
  store_->put(object_prefix() + core::manifest_name(file_), core::manifest_text(manifest_));
  upload->keep();
  upload_figures_ = core::JsonObject()
                        .raw("seconds", seconds_json(seconds_since(start)))
                        .number("bytes", static_cast<std::int64_t>(manifest_.bytes))
                        .text("url", url())
                        .str();
}

std::string Export::remote_source() const {
  return request_.destination ? utf8(*request_.destination) + "/" + object_prefix() + file_ : "";
}

std::string Export::url() const { return store_ ? store_->url(object_prefix() + file_) : ""; }

bool Export::in_database_folder() const {
  return !request_.file_name || request_.file_name->find('/') == std::string::npos;
}

std::string Export::local_source() const { return in_database_folder() ? file_ : path(); }

void Export::describe(core::JsonObject& detail) const {
  detail.text("relation", manifest_.relation)
      .text("file", file_)
      .text("path", path())
      .text("local_source", local_source())
      .number("rows", static_cast<std::int64_t>(manifest_.rows))
      .number("bytes", static_cast<std::int64_t>(manifest_.bytes))
      .text("sha256", manifest_.sha256)
      .text("snapshot_at", manifest_.snapshot_at);
  if (request_.destination) {
    detail.text("url", url()).text("source", remote_source());
  }
  if (manifest_.exported_namespace) {
    detail.text("namespace", *manifest_.exported_namespace);
  }
}

}  // namespace jobs
