#include "core/file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.hpp"

namespace core {

void fail_io(int error, const std::string& what, const std::string& path) {
  const char* code = sqlstate::kIoError;
  std::string hint;
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      code = sqlstate::kDiskFull;
      hint = "Free space on that file system, or set bacmr.artifact_directory to another one.";
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      code = sqlstate::kInsufficientPrivilege;
      hint =
          "Let the server's operating-system user write there, or set bacmr.artifact_directory to "
          "a directory that it may write.";
      break;
    case ENOENT:
      code = sqlstate::kUndefinedFile;
      hint = "Set bacmr.artifact_directory to a directory that can be created.";
      break;
    case ENOTDIR:
    case EISDIR:
      code = sqlstate::kWrongObjectType;
      hint = "Set bacmr.artifact_directory to a directory that can be created.";
      break;
    case EEXIST:
      code = sqlstate::kDuplicateFile;
      break;
    case EMFILE:
    case ENFILE:
      code = sqlstate::kInsufficientResources;
      break;
    default:
      break;
  }
  throw Error(code, "could not " + what + " \"" + path + "\": " + std::strerror(error), {},
              std::move(hint));
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

int Descriptor::close() { return ::close(std::exchange(fd_, -1)); }

void write_all(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      fail_io(errno, "write", path);
    }
    content.remove_prefix(static_cast<std::size_t>(written));
  }
}

void sync_file(int fd, const std::string& path) {
  if (::fsync(fd) != 0) {
    fail_io(errno, "sync file", path);
  }
}

void sync_directory(const std::string& directory) {
  const Descriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) {
    fail_io(errno, "open directory", directory);
  }
  if (::fsync(fd.get()) != 0) {
    fail_io(errno, "sync directory", directory);
  }
}

}  // namespace core
