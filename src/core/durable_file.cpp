#include "core/durable_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/file.hpp"

namespace core {
namespace {

// A name collision can only come from another run in the same second.
constexpr int kMaxCollisions = 1000;

class TemporaryFile {
 public:
  explicit TemporaryFile(std::string path) : path_(std::move(path)) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

std::string utc_stamp(std::time_t when) {
  std::tm parts{};
  ::gmtime_r(&when, &parts);
  char buffer[32];
  std::strftime(buffer, sizeof buffer, "%Y%m%d_%H%M%S", &parts);
  return buffer;
}

void make_private_directory(const std::string& directory) {
  for (std::size_t end = directory.find('/', 1);; end = directory.find('/', end + 1)) {
    const std::string part = directory.substr(0, end);
    if (::mkdir(part.c_str(), 0700) == 0) {
      const std::size_t slash = part.rfind('/');
      sync_directory(slash == 0 ? "/" : part.substr(0, slash));
    } else if (errno != EEXIST && errno != EISDIR) {
      fail_io(errno, "create directory", part);
    }
    if (end == std::string::npos) {
      break;
    }
  }
  struct stat status {};
  if (::stat(directory.c_str(), &status) != 0) {
    fail_io(errno, "open directory", directory);
  }
  if (!S_ISDIR(status.st_mode)) {
    fail_io(ENOTDIR, "open directory", directory);
  }
}

std::string write_new_file(const std::string& directory, const std::string& stem,
                           const std::string& suffix, std::string_view content) {
  const TemporaryFile temporary(directory + "/." + stem + "." + std::to_string(::getpid()) +
                                ".tmp");
  {
    // What a killed process of the same number left may be another name of its finished file.
    ::unlink(temporary.path().c_str());
    constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    Descriptor fd(::open(temporary.path().c_str(), kFlags, 0600));
    if (fd.get() < 0) {
      fail_io(errno, "create file", temporary.path());
    }
    write_all(fd.get(), content, temporary.path());
    sync_file(fd.get(), temporary.path());
    if (fd.close() != 0) {
      fail_io(errno, "close file", temporary.path());
    }
  }
  for (int attempt = 1; attempt <= kMaxCollisions; ++attempt) {
    const std::string number = attempt == 1 ? "" : "_" + std::to_string(attempt);
    std::string path = directory + "/";
    path.append(stem).append(number).append(suffix);
    // link, unlike rename, refuses to replace a file; the temporary name goes with `temporary`.
    if (::link(temporary.path().c_str(), path.c_str()) == 0) {
      sync_directory(directory);
      return path;
    }
    if (errno != EEXIST) {
      fail_io(errno, "create file", path);
    }
  }
  fail_io(EEXIST, "create file", directory + "/" + stem + suffix);
}

}  // namespace core
