// Streaming compression of artifacts: none, gzip (zlib) or zstd, in bounded memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace core {

enum class Compression { kNone, kGzip, kZstd };

std::optional<Compression> parse_compression(std::string_view name);
const char* name_of(Compression compression);
// "", ".gz", ".zst": what the file's name ends in.
const char* suffix_of(Compression compression);

// Where the bytes that come out go to.
using ByteSink = std::function<void(std::string_view)>;

class Compressor {
 public:
  Compressor() = default;
  Compressor(const Compressor&) = delete;
  Compressor& operator=(const Compressor&) = delete;
  virtual ~Compressor() = default;

  virtual void write(std::string_view bytes, const ByteSink& sink) = 0;
  virtual void finish(const ByteSink& sink) = 0;
};
std::unique_ptr<Compressor> make_compressor(Compression compression);

// Gives out as much as the caller has room for, however much a byte of input expands to. Damaged
// input is a core::Error 22P04.
class Decompressor {
 public:
  Decompressor() = default;
  Decompressor(const Decompressor&) = delete;
  Decompressor& operator=(const Decompressor&) = delete;
  virtual ~Decompressor() = default;

  // Takes what it used off the front of `input`; returns how many bytes it wrote. With room left
  // over, the input is used up.
  virtual std::size_t read(std::string_view& input, char* out, std::size_t room) = 0;
  // No more input: an error where the stream is not complete.
  virtual void finish() = 0;
};
std::unique_ptr<Decompressor> make_decompressor(Compression compression);

}  // namespace core
