// Writing an artifact: under a hidden name first, hashed and written back to disk as it grows, so
// that the last fsync has little left to do; published under its name once it is complete and
// synced.
#pragma once

#include "core/artifact_folder.hpp"
#include "core/byte_buffer.hpp"
#include "core/sha256.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace core {

// What is left free where artifacts are written, at the least: a full disk may stop the server. 1
// GiB, or a twentieth of a file system that is smaller than 20 GiB.
struct FreeSpace {
  std::uint64_t available = 0;
  std::uint64_t reserve = 0;
};
// Of the file system on which `fd` lies.
FreeSpace free_space(int fd);

// An error (53100) where less than the reserve is left; `place` is for its text.
void require_space(const FreeSpace& space, const std::string& place);

class ArtifactWriter {
 public:
  // For tests: how much space there is.
  using SpaceProbe = std::function<FreeSpace(int fd)>;

  // `name`: of the file to be, which the hidden name is made from.
  ArtifactWriter(const ArtifactFolder& folder, const std::string& name,
                 SpaceProbe probe = free_space);
  ArtifactWriter(const ArtifactWriter&) = delete;
  ArtifactWriter& operator=(const ArtifactWriter&) = delete;
  // Removes the hidden name; what was published stays.
  ~ArtifactWriter();

  void write(std::string_view bytes);
  // Everything is on disk when it returns.
  void finish();
  // Gives the finished file its name; false where that is taken. Never replaces a file.
  bool publish(const std::string& name);

  // What can be read through fd() now.
  std::uint64_t written() const { return written_; }
  int fd() const { return fd_.get(); }
  // Of the finished file.
  std::string sha256() { return hash_.hex(); }

 private:
  void open(const std::string& name);
  void flush();
  void put(std::string_view bytes);
  void check_space() const;
  void write_back();

  const ArtifactFolder& folder_;
  SpaceProbe probe_;
  std::string temporary_;
  Descriptor fd_;
  ByteBuffer buffer_;
  Sha256 hash_;
  std::uint64_t written_ = 0;
  std::uint64_t checked_ = 0;
  std::uint64_t write_back_ = 0;
  std::uint64_t dropped_ = 0;
};

}  // namespace core
