// Plain POSIX files: a descriptor that closes itself, and errors with the SQLSTATE that Postgres
// itself would use.
#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace core {

// "could not <what> "<path>": <reason>", as core::Error.
[[noreturn]] void fail_io(int error, const std::string& what, const std::string& path);

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();

  bool valid() const { return fd_ >= 0; }
  int get() const { return fd_; }
  // Closing can be where a network file system reports that a write failed.
  int close();

 private:
  int fd_ = -1;
};

void write_all(int fd, std::string_view content, const std::string& path);
void sync_file(int fd, const std::string& path);
// So that what was created in it outlives a power cut.
void sync_directory(const std::string& directory);

}  // namespace core
