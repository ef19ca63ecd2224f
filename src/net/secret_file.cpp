#include "pg/postgres.hpp"

#include "net/secret_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <system_error>

#include "core/error.hpp"
#include "core/option_value.hpp"
#include "net/service_options.hpp"

namespace net {
namespace {

constexpr std::size_t kLargest = 64UL * 1024;

class File {
 public:
  // Without blocking: a FIFO in that place must not stop the session.
  explicit File(const std::string& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

const char* sqlstate_of(int problem) {
  switch (problem) {
    case ENOENT:
    case ENOTDIR:
      return core::sqlstate::kUndefinedFile;
    case EACCES:
    case EPERM:
      return core::sqlstate::kInsufficientPrivilege;
    default:
      return core::sqlstate::kIoError;
  }
}

[[noreturn]] void cannot_read(const std::string& option, const std::string& path, int problem) {
  throw core::Error(
      sqlstate_of(problem),
      "could not read file \"" + path + "\": " + std::generic_category().message(problem),
      "Option \"" + option + "\" of the user mapping names it.",
      "The file must be readable for the server's operating-system user.");
}

[[noreturn]] void unfit(const char* sqlstate, const std::string& option, const std::string& path,
                        const std::string& why) {
  throw core::Error(sqlstate, "file \"" + path + "\" " + why,
                    "Option \"" + option + "\" of the user mapping names it.",
                    "Put the secret alone into a regular file, in one line.");
}

// The file's bytes, up to one more than the limit: it may grow after fstat().
std::string content_of(const File& file, const std::string& option, const std::string& path) {
  std::string content(kLargest + 1, '\0');
  std::size_t filled = 0;
  while (filled < content.size()) {
    const ssize_t got = ::read(file.fd(), content.data() + filled, content.size() - filled);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      cannot_read(option, path, errno);
    }
    if (got == 0) {
      break;
    }
    filled += static_cast<std::size_t>(got);
  }
  content.resize(filled);
  return content;
}

}  // namespace

std::string read_secret_file(const std::string& option, const std::string& path) {
  if (!core::is_plain_path(path)) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "option \"" + option + "\" must be an absolute path");
  }
  const File file(path);
  struct stat status {};
  if (file.fd() < 0 || ::fstat(file.fd(), &status) != 0) {
    cannot_read(option, path, errno);
  }
  if (!S_ISREG(status.st_mode)) {
    unfit(core::sqlstate::kWrongObjectType, option, path, "is not a regular file");
  }
  std::string secret = content_of(file, option, path);
  if (secret.size() > kLargest) {
    unfit(core::sqlstate::kInvalidParameterValue, option, path, "is larger than 64 kB");
  }
  if (!secret.empty() && secret.back() == '\n') {
    secret.pop_back();
  }
  if (!secret.empty() && secret.back() == '\r') {
    secret.pop_back();
  }
  if (secret.empty()) {
    unfit(core::sqlstate::kInvalidParameterValue, option, path, "holds no secret");
  }
  if (!core::is_secret(secret)) {
    unfit(core::sqlstate::kInvalidParameterValue, option, path,
          "holds something else than one secret of up to 16384 printable ASCII characters");
  }
  return secret;
}

}  // namespace net
