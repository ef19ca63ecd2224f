// Every object is written under another name, synced and renamed, so that it is whole or not there.
// Paths are walked directory by directory from the store's own and never through a symbolic link:
// nobody who may write into the store can lead the server out of it.
#include "pg/postgres.hpp"

#include "providers/file_store.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/artifact_folder.hpp"
#include "core/artifact_writer.hpp"
#include "core/durable_file.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "pg/guard.hpp"
#include "pg/settings.hpp"

namespace providers {
namespace {

using core::Descriptor;

constexpr std::size_t kPiece = std::size_t{1} << 20;
constexpr std::size_t kMaxDepth = 64;
constexpr std::uint64_t kSpaceStep = std::uint64_t{16} << 20;
// No database's folder has a name like that (core::folder_name).
constexpr const char* kBuiltInFolder = "/.blobs";
constexpr std::string_view kTemporarySuffix = ".tmp";

[[noreturn]] void fail(int error, const std::string& what, const std::string& path) {
  const char* code = core::sqlstate::kIoError;
  std::string hint;
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      code = core::sqlstate::kDiskFull;
      hint = "Free space on that file system.";
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      code = core::sqlstate::kInsufficientPrivilege;
      hint = "Give the server's operating-system user the right to read and write there.";
      break;
    case ENOENT:
      code = core::sqlstate::kUndefinedFile;
      break;
    case ELOOP:
    case ENOTDIR:
    case EISDIR:
      code = core::sqlstate::kWrongObjectType;
      hint = "A blob store holds directories and regular files, and no symbolic links.";
      break;
    case EMFILE:
    case ENFILE:
      code = core::sqlstate::kInsufficientResources;
      break;
    default:
      break;
  }
  throw core::Error(code, "could not " + what + " \"" + path + "\": " + std::strerror(error), {},
                    std::move(hint));
}

// Relative, with plain names between single slashes.
std::vector<std::string> split_name(const std::string& name) {
  std::vector<std::string> parts;
  bool good = name.find('\0') == std::string::npos;
  for (std::size_t begin = 0; good && begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    good = !parts.back().empty() && parts.back() != "." && parts.back() != "..";
    begin = end + 1;
  }
  if (!good || parts.size() > kMaxDepth) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "\"" + name + "\" is no name for an object in a blob store", {},
                      "Names are relative, without \"..\", \".\" and empty parts.");
  }
  return parts;
}

// One that is not finished, of this or of a session that was killed.
bool is_temporary(std::string_view file) {
  return file.starts_with('.') && file.ends_with(kTemporarySuffix);
}

class Directory {
 public:
  Directory(std::string path, bool create) : path_(std::move(path)) {
    if (create) {
      core::make_private_directory(path_);
    }
    root_ = Descriptor(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (root_.get() < 0) {
      fail(errno, "open the directory of the blob store", path_);
    }
  }

  const std::string& path() const { return path_; }
  std::string path_of(const std::string& name) const { return path_ + "/" + name; }

  // The directory that holds the object. Without `create`, and where it is not there: none.
  Descriptor open_parent(const std::string& name, bool create) const {
    const auto parts = split_name(name);
    Descriptor current(::fcntl(root_.get(), F_DUPFD_CLOEXEC, 0));
    if (current.get() < 0) {
      fail(errno, "open directory", path_);
    }
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      current = open_child(current, parts[i], name, create);
      if (current.get() < 0) {
        break;
      }
    }
    return current;
  }

  static std::string leaf(const std::string& name) { return name.substr(name.rfind('/') + 1); }

 private:
  Descriptor open_child(const Descriptor& parent, const std::string& part, const std::string& name,
                        bool create) const {
    if (create) {
      if (::mkdirat(parent.get(), part.c_str(), 0700) == 0) {
        if (::fsync(parent.get()) != 0) {
          fail(errno, "sync the directory of", path_of(name));
        }
      } else if (errno != EEXIST) {
        fail(errno, "create a directory for", path_of(name));
      }
    }
    constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    Descriptor child(::openat(parent.get(), part.c_str(), kFlags));
    if (child.get() < 0 && (errno != ENOENT || create)) {
      fail(errno, "open the directory of", path_of(name));
    }
    return child;
  }

  std::string path_;
  Descriptor root_;
};

// The object's new file, gone unless it is published.
class NewFile {
 public:
  NewFile(const Directory& directory, const std::string& name)
      : path_(directory.path_of(name)),
        parent_(directory.open_parent(name, true)),
        leaf_(Directory::leaf(name)) {
    // What processes left that died, here or on another machine that shares the directory.
    core::ArtifactFolder(path_, Descriptor(::fcntl(parent_.get(), F_DUPFD_CLOEXEC, 0))).sweep();
    std::uint64_t token = 0;
    if (!pg_strong_random(&token, sizeof token)) {
      throw core::Error(core::sqlstate::kInternalError, "no random number could be had");
    }
    temporary_ = "." + std::to_string(token) + "." + std::to_string(::getpid());
    temporary_ += kTemporarySuffix;
    constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    file_ = Descriptor(::openat(parent_.get(), temporary_.c_str(), kFlags, 0600));
    if (file_.get() < 0 || ::flock(file_.get(), LOCK_EX) != 0) {
      fail(errno, "create a file for", path_);
    }
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (!temporary_.empty()) {
      ::unlinkat(parent_.get(), temporary_.c_str(), 0);
    }
  }

  void write(std::string_view content) {
    if (written_ >= checked_) {
      checked_ = written_ + kSpaceStep;
      core::require_space(core::free_space(file_.get()), path_);
    }
    core::write_all(file_.get(), content, path_);
    written_ += content.size();
  }

  void publish() {
    if (::fsync(file_.get()) != 0) {
      fail(errno, "sync", path_);
    }
    if (file_.close() != 0) {
      fail(errno, "close", path_);
    }
    if (::renameat(parent_.get(), temporary_.c_str(), parent_.get(), leaf_.c_str()) != 0) {
      fail(errno, "put in place", path_);
    }
    temporary_.clear();
    if (::fsync(parent_.get()) != 0) {
      fail(errno, "sync the directory of", path_);
    }
  }

 private:
  std::string path_;
  Descriptor parent_;
  std::string leaf_;
  std::string temporary_;
  Descriptor file_;
  std::uint64_t written_ = 0;
  std::uint64_t checked_ = 0;
};

class FileUpload : public Upload {
 public:
  FileUpload(std::shared_ptr<const Directory> directory, std::string name, int fd)
      : directory_(std::move(directory)), name_(std::move(name)), fd_(fd) {
    split_name(name_);  // a bad name is told at once
  }
  ~FileUpload() override {
    if (published_) {
      try {
        const Descriptor parent = directory_->open_parent(name_, false);
        ::unlinkat(parent.get(), Directory::leaf(name_).c_str(), 0);
      } catch (const std::exception&) {
        return;  // it stays, without a manifest
      }
    }
  }

  void advance(std::uint64_t bytes) override {
    if (!file_) {
      file_ = std::make_unique<NewFile>(*directory_, name_);
    }
    std::string piece;
    while (copied_ < bytes) {
      pg::check_for_interrupts();
      piece.resize(static_cast<std::size_t>(std::min<std::uint64_t>(bytes - copied_, kPiece)));
      const ssize_t count = ::pread(fd_, piece.data(), piece.size(), static_cast<off_t>(copied_));
      if (count < 0 && errno == EINTR) {
        continue;
      }
      if (count <= 0) {
        throw core::Error(core::sqlstate::kIoError,
                          "could not read what is to be stored as \"" + name_ + "\": " +
                              (count < 0 ? std::strerror(errno) : "the file is too short"));
      }
      file_->write(std::string_view(piece).substr(0, static_cast<std::size_t>(count)));
      copied_ += static_cast<std::uint64_t>(count);
    }
  }

  void finish(std::uint64_t bytes) override {
    advance(bytes);
    file_->publish();
    file_.reset();
    published_ = true;
  }

  void keep() override { published_ = false; }

 private:
  std::shared_ptr<const Directory> directory_;
  std::string name_;
  int fd_;
  bool published_ = false;  // and not yet to be kept
  std::uint64_t copied_ = 0;
  std::unique_ptr<NewFile> file_;
};

class FileStore : public BlobStore {
 public:
  FileStore(std::string path, bool create)
      : directory_(std::make_shared<const Directory>(std::move(path), create)) {}

  std::string url(const std::string& name) const override {
    return "file://" + directory_->path_of(name);
  }

  std::unique_ptr<Upload> upload(const std::string& name, int fd) override {
    return std::make_unique<FileUpload>(directory_, name, fd);
  }

  void put(const std::string& name, std::string_view content) override {
    NewFile file(*directory_, name);
    file.write(content);
    file.publish();
  }

  void get(const std::string& name, const std::function<void(std::string_view)>& sink) override {
    const Descriptor file = open_object(name);
    if (file.get() < 0) {
      fail(ENOENT, "open", directory_->path_of(name));
    }
    std::string buffer(kPiece, '\0');
    while (true) {
      pg::check_for_interrupts();
      const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) {
        continue;
      }
      if (count < 0) {
        fail(errno, "read", directory_->path_of(name));
      }
      if (count == 0) {
        return;
      }
      sink(std::string_view(buffer).substr(0, static_cast<std::size_t>(count)));
    }
  }

  std::optional<ObjectInfo> find(const std::string& name) override {
    const Descriptor file = open_object(name);
    struct stat status {};
    if (file.get() < 0) {
      return std::nullopt;
    }
    if (::fstat(file.get(), &status) != 0) {
      fail(errno, "look at", directory_->path_of(name));
    }
    return ObjectInfo{name, static_cast<std::uint64_t>(status.st_size)};
  }

  std::vector<ObjectInfo> list(const std::string& prefix) override {
    std::vector<ObjectInfo> objects;
    // The prefix may end in the middle of a name: from its last whole directory on.
    const std::size_t slash = prefix.rfind('/');
    const std::string base = slash == std::string::npos ? "" : prefix.substr(0, slash + 1);
    const Descriptor start = directory_->open_parent(base + "x", false);
    if (start.get() >= 0) {
      walk(start, base, prefix, 0, objects);
    }
    std::sort(objects.begin(), objects.end(),
              [](const ObjectInfo& a, const ObjectInfo& b) { return a.name < b.name; });
    return objects;
  }

  void remove(const std::string& name) override {
    const Descriptor parent = directory_->open_parent(name, false);
    if (parent.get() < 0) {
      return;
    }
    if (::unlinkat(parent.get(), Directory::leaf(name).c_str(), 0) != 0) {
      if (errno != ENOENT) {
        fail(errno, "remove", directory_->path_of(name));
      }
    } else if (::fsync(parent.get()) != 0) {
      fail(errno, "sync the directory of", directory_->path_of(name));
    }
  }

 private:
  // A regular file, or none.
  Descriptor open_object(const std::string& name) const {
    const Descriptor parent = directory_->open_parent(name, false);
    if (parent.get() < 0) {
      return Descriptor();
    }
    // Not to wait for the writer of a pipe that lies there.
    constexpr int kFlags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    Descriptor file(::openat(parent.get(), Directory::leaf(name).c_str(), kFlags));
    struct stat status {};
    if (file.get() < 0) {
      if (errno != ENOENT) {
        fail(errno, "open", directory_->path_of(name));
      }
    } else if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
      throw core::Error(core::sqlstate::kWrongObjectType,
                        "\"" + directory_->path_of(name) + "\" is no regular file");
    }
    return file;
  }

  struct CloseDirectory {
    void operator()(DIR* stream) const noexcept { ::closedir(stream); }
  };

  // `base`: the directory's own name, with its slash.
  void walk(const Descriptor& directory, const std::string& base, const std::string& prefix,
            std::size_t depth, std::vector<ObjectInfo>& objects) const {
    if (depth > kMaxDepth) {
      return;
    }
    // The stream owns a descriptor of its own.
    const int own = ::fcntl(directory.get(), F_DUPFD_CLOEXEC, 0);
    const std::unique_ptr<DIR, CloseDirectory> stream(own < 0 ? nullptr : ::fdopendir(own));
    if (stream == nullptr) {
      const int error = errno;
      if (own >= 0) {
        ::close(own);
      }
      fail(error, "list", directory_->path_of(base));
    }
    walk(*stream, base, prefix, depth, objects);
  }

  void walk(DIR& stream, const std::string& base, const std::string& prefix, std::size_t depth,
            std::vector<ObjectInfo>& objects) const {
    const int directory = ::dirfd(&stream);
    while (const dirent* entry = ::readdir(&stream)) {
      pg::check_for_interrupts();
      const std::string file = entry->d_name;
      const std::string name = base + file;
      const bool on_the_way = prefix.starts_with(name + "/") || name.starts_with(prefix);
      struct stat status {};
      if (file == "." || file == ".." || is_temporary(file) || !on_the_way ||
          ::fstatat(directory, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
        continue;
      }
      if (S_ISDIR(status.st_mode)) {
        constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
        Descriptor child(::openat(directory, entry->d_name, kFlags));
        if (child.get() < 0) {
          fail(errno, "list", directory_->path_of(name));
        }
        walk(child, name + "/", prefix, depth + 1, objects);
      } else if (S_ISREG(status.st_mode) && name.starts_with(prefix)) {
        objects.push_back({name, static_cast<std::uint64_t>(status.st_size)});
      }
    }
  }

  std::shared_ptr<const Directory> directory_;
};

}  // namespace

std::unique_ptr<BlobStore> open_file_store(const net::Service& service) {
  const std::string path = service.option("directory");
  if (path.empty()) {
    return std::make_unique<FileStore>(pg::settings::artifact_directory() + kBuiltInFolder, true);
  }
  if (path.front() != '/') {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "the directory of the blob store \"" + service.name + "\" is not absolute");
  }
  // Never made here: where its file system is not mounted, objects would land beneath.
  return std::make_unique<FileStore>(path, false);
}

}  // namespace providers
