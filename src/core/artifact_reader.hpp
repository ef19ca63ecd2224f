// Reading an artifact line by line, decompressed as it goes, in bounded memory, with the SHA-256 of
// the file as it is on disk.
#pragma once

#include "core/byte_buffer.hpp"
#include "core/compression.hpp"
#include "core/file.hpp"
#include "core/sha256.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace core {

class ArtifactReader {
 public:
  // `path` is for the texts of errors. `max_bytes`: how much may come out after decompression; more
  // is an error (54000) that names the limit.
  ArtifactReader(Descriptor file, std::string path, Compression compression,
                 std::uint64_t max_bytes);

  // The next line without its newline; it stays valid until the next call. False at the end.
  bool next_line(std::string_view& line);

  std::uint64_t lines() const { return lines_; }
  // Of the file, as far as it has been read: all of it once next_line() has returned false.
  std::uint64_t bytes() const { return bytes_; }
  std::string sha256() const { return hash_.hex(); }
  // After decompression.
  std::uint64_t ndjson_bytes() const { return ndjson_bytes_; }

 private:
  bool fill();

  Descriptor file_;
  std::string path_;
  std::unique_ptr<Decompressor> decompressor_;
  std::uint64_t max_bytes_;
  ByteBuffer input_;            // read from the file
  std::string_view unread_;     // of input_, not decompressed yet
  ByteBuffer text_;             // decompressed
  std::size_t line_start_ = 0;  // in text_
  std::size_t searched_ = 0;    // text_ holds no newline between line_start_ and here
  Sha256 hash_;
  std::uint64_t lines_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t ndjson_bytes_ = 0;
  bool file_ended_ = false;
  bool ended_ = false;
};

}  // namespace core
