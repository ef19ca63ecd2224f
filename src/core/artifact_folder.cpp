#include "core/artifact_folder.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "core/durable_file.hpp"
#include "core/error.hpp"
#include "core/manifest.hpp"
#include "core/sha256.hpp"

namespace core {
namespace {

constexpr std::size_t kLongestName = 200;
constexpr std::size_t kLongestPart = 100;
constexpr std::size_t kDigits = 12;

Descriptor open_directory(const std::string& path, int flags) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | flags));
  if (!fd.valid()) {
    if (errno == ELOOP || errno == ENOTDIR) {
      throw Error(sqlstate::kWrongObjectType, "\"" + path + "\" is not a directory",
                  "Artifacts are not written through a symbolic link.",
                  "Move it out of the way, or set bacmr.artifact_directory to another directory.");
    }
    fail_io(errno, "open directory", path);
  }
  return fd;
}

// ".<name>.<pid>.tmp"
bool is_temporary(const std::string& name) {
  constexpr std::string_view kSuffix = ".tmp";
  if (!name.starts_with('.') || !name.ends_with(kSuffix)) {
    return false;
  }
  const std::string stem = name.substr(0, name.size() - kSuffix.size());
  const std::size_t dot = stem.rfind('.');
  return dot > 0 && dot + 1 < stem.size() &&
         stem.find_first_not_of("0123456789", dot + 1) == std::string::npos;
}

}  // namespace

std::string folder_name(const std::string& text) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string name;
  for (const char each : text) {
    const auto c = static_cast<unsigned char>(each);
    const bool safe = c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                      (c >= 'A' && c <= 'Z') || c == '_' || c == '-' || (c == '.' && !name.empty());
    if (safe) {
      name += each;
    } else {
      name.append({'%', kHex[c >> 4], kHex[c & 15]});
    }
  }
  return name;
}

std::string short_name(const std::string& name) {
  if (name.size() <= kLongestPart) {
    return name;
  }
  std::size_t end = kLongestPart - kDigits - 1;
  // Not in the middle of a character, nor of %XX.
  while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0) == 0x80) {
    --end;
  }
  if (const std::size_t percent = name.rfind('%', end - 1);
      percent != std::string::npos && percent + 3 > end) {
    end = percent;
  }
  return name.substr(0, end) + "~" + sha256_hex(name).substr(0, kDigits);
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name.size() <= kLongestName && name.front() != '.' &&
         !name.ends_with(manifest_name("")) && std::ranges::none_of(name, [](char each) {
           const auto c = static_cast<unsigned char>(each);
           return c < 0x20 || c == 0x7F || c == '/' || c == '\\';
         });
}

ArtifactFolder::ArtifactFolder(const std::string& root, const std::string& name)
    : path_(root + "/" + name) {
  make_private_directory(root);
  if (::mkdir(path_.c_str(), 0700) == 0) {
    sync_directory(root);
  } else if (errno != EEXIST) {
    fail_io(errno, "create directory", path_);
  }
  fd_ = open_directory(path_, O_NOFOLLOW);
}

ArtifactFolder::ArtifactFolder(const std::string& path)
    : path_(path), fd_(open_directory(path, 0)) {}

ArtifactFolder::ArtifactFolder(std::string path, Descriptor fd)
    : path_(std::move(path)), fd_(std::move(fd)) {}

bool ArtifactFolder::exists(const std::string& name) const {
  struct stat status {};
  return ::fstatat(fd(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
}

Descriptor ArtifactFolder::open(const std::string& name) const {
  // O_NONBLOCK: a pipe of that name must not hold us up.
  Descriptor file(::openat(fd(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file.valid()) {
    if (errno == ENOENT) {
      throw Error(sqlstate::kUndefinedFile, "there is no file \"" + name + "\" in " + path_, {},
                  "List what is there: ls " + path_);
    }
    fail_io(errno, "open file", path_of(name));
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) {
    fail_io(errno, "open file", path_of(name));
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(sqlstate::kWrongObjectType, "\"" + path_of(name) + "\" is not a regular file");
  }
  return file;
}

void ArtifactFolder::remove(const std::string& name) const {
  if (::unlinkat(fd(), name.c_str(), 0) != 0 && errno != ENOENT) {
    fail_io(errno, "remove file", path_of(name));
  }
}

void ArtifactFolder::sync() const {
  if (::fsync(fd()) != 0) {
    fail_io(errno, "sync directory", path_);
  }
}

std::vector<std::string> ArtifactFolder::all_names() const {
  // fdopendir takes its descriptor over, and moves its position.
  const int copy = ::openat(fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(copy >= 0 ? ::fdopendir(copy) : nullptr,
                                                      ::closedir);
  if (!directory) {
    fail_io(errno, "read directory", path_);
  }
  std::vector<std::string> names;
  for (errno = 0; const dirent* entry = ::readdir(directory.get()); errno = 0) {
    names.emplace_back(entry->d_name);
  }
  if (errno != 0) {
    fail_io(errno, "read directory", path_);
  }
  std::ranges::sort(names);
  return names;
}

std::vector<std::string> ArtifactFolder::list() const {
  std::vector<std::string> names = all_names();
  std::erase_if(names, [](const std::string& name) { return name.starts_with('.'); });
  return names;
}

int ArtifactFolder::sweep() const {
  int swept = 0;
  const std::vector<std::string> names = all_names();
  for (const std::string& name : names) {
    if (!is_temporary(name)) {
      continue;
    }
    const Descriptor file(
        ::openat(fd(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    struct stat status {};
    if (!file.valid() || ::flock(file.get(), LOCK_EX | LOCK_NB) != 0 ||
        ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
      continue;
    }
    for (const std::string& other : names) {
      struct stat published {};
      if (status.st_nlink > 1 && !is_temporary(other) && !other.ends_with(manifest_name("")) &&
          ::fstatat(fd(), other.c_str(), &published, AT_SYMLINK_NOFOLLOW) == 0 &&
          published.st_ino == status.st_ino && published.st_dev == status.st_dev &&
          !exists(manifest_name(other))) {
        remove(other);
      }
    }
    remove(name);
    ++swept;
  }
  return swept;
}

}  // namespace core
