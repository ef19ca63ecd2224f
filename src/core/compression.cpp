#include "core/compression.hpp"

// next_in points to constant bytes.
#define ZLIB_CONST
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "core/error.hpp"

namespace core {
namespace {

// The levels that their own command line tools take.
constexpr int kGzipLevel = 6;
constexpr int kZstdLevel = 3;
constexpr std::size_t kPiece = std::size_t{256} << 10;
// zlib: 15 bits of window, 16 more for a gzip header.
constexpr int kGzipWindow = 15 + 16;

[[noreturn]] void damaged(const char* format, const char* reason) {
  throw Error(sqlstate::kBadFileFormat, std::string("damaged ") + format + " data: " + reason, {},
              "The file was altered or cut off: take another copy of it.");
}

class Plain : public Compressor {
 public:
  void write(std::string_view bytes, const ByteSink& sink) override { sink(bytes); }
  void finish(const ByteSink& /*sink*/) override {}
};

class Gzip : public Compressor {
 public:
  Gzip() : piece_(kPiece) {
    if (deflateInit2(&stream_, kGzipLevel, Z_DEFLATED, kGzipWindow, 8, Z_DEFAULT_STRATEGY) !=
        Z_OK) {
      throw std::bad_alloc();
    }
  }
  Gzip(const Gzip&) = delete;
  Gzip& operator=(const Gzip&) = delete;
  ~Gzip() override { deflateEnd(&stream_); }

  void write(std::string_view bytes, const ByteSink& sink) override {
    // zlib counts in 32 bits.
    for (; bytes.size() > kPiece; bytes.remove_prefix(kPiece)) {
      run(bytes.substr(0, kPiece), Z_NO_FLUSH, sink);
    }
    run(bytes, Z_NO_FLUSH, sink);
  }
  void finish(const ByteSink& sink) override { run({}, Z_FINISH, sink); }

 private:
  void run(std::string_view bytes, int flush, const ByteSink& sink) {
    stream_.next_in = reinterpret_cast<const Bytef*>(bytes.data());
    stream_.avail_in = static_cast<uInt>(bytes.size());
    do {
      stream_.next_out = reinterpret_cast<Bytef*>(piece_.data());
      stream_.avail_out = static_cast<uInt>(piece_.size());
      deflate(&stream_, flush);
      sink({piece_.data(), piece_.size() - stream_.avail_out});
    } while (stream_.avail_out == 0);
  }

  z_stream stream_{};
  std::vector<char> piece_;
};

class Zstd : public Compressor {
 public:
  Zstd() : stream_(ZSTD_createCCtx()), piece_(ZSTD_CStreamOutSize()) {
    if (stream_ == nullptr) {
      throw std::bad_alloc();
    }
    ZSTD_CCtx_setParameter(stream_, ZSTD_c_compressionLevel, kZstdLevel);
    ZSTD_CCtx_setParameter(stream_, ZSTD_c_checksumFlag, 1);
  }
  Zstd(const Zstd&) = delete;
  Zstd& operator=(const Zstd&) = delete;
  ~Zstd() override { ZSTD_freeCCtx(stream_); }

  void write(std::string_view bytes, const ByteSink& sink) override {
    run(bytes, ZSTD_e_continue, sink);
  }
  void finish(const ByteSink& sink) override { run({}, ZSTD_e_end, sink); }

 private:
  void run(std::string_view bytes, ZSTD_EndDirective end, const ByteSink& sink) {
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    for (bool more = true; more;) {
      ZSTD_outBuffer out{piece_.data(), piece_.size(), 0};
      const std::size_t left = ZSTD_compressStream2(stream_, &out, &in, end);
      if (ZSTD_isError(left) != 0) {
        throw Error(sqlstate::kInternalError,
                    std::string("zstd could not compress: ") + ZSTD_getErrorName(left));
      }
      if (out.pos > 0) {
        sink({piece_.data(), out.pos});
      }
      more = end == ZSTD_e_end ? left != 0 : in.pos < in.size;
    }
  }

  ZSTD_CCtx* stream_;
  std::vector<char> piece_;
};

class PlainReader : public Decompressor {
 public:
  std::size_t read(std::string_view& input, char* out, std::size_t room) override {
    const std::size_t taken = std::min(input.size(), room);
    std::memcpy(out, input.data(), taken);
    input.remove_prefix(taken);
    return taken;
  }
  void finish() override {}
};

class Gunzip : public Decompressor {
 public:
  Gunzip() {
    if (inflateInit2(&stream_, kGzipWindow) != Z_OK) {
      throw std::bad_alloc();
    }
  }
  Gunzip(const Gunzip&) = delete;
  Gunzip& operator=(const Gunzip&) = delete;
  ~Gunzip() override { inflateEnd(&stream_); }

  std::size_t read(std::string_view& input, char* out, std::size_t room) override {
    std::size_t produced = 0;
    // zlib counts in 32 bits.
    const auto piece = [](std::size_t size) {
      return static_cast<uInt>(std::min(size, std::size_t{1} << 30));
    };
    while (produced < room) {
      if (ended_) {
        if (input.empty()) {
          break;
        }
        // As gzip itself does: another member may follow.
        inflateReset(&stream_);
        ended_ = false;
      }
      stream_.next_in = reinterpret_cast<const Bytef*>(input.data());
      stream_.avail_in = piece(input.size());
      stream_.next_out = reinterpret_cast<Bytef*>(out + produced);
      stream_.avail_out = piece(room - produced);
      const uInt offered = stream_.avail_in;
      const uInt free = stream_.avail_out;
      const int code = inflate(&stream_, Z_NO_FLUSH);
      if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR) {
        damaged("gzip", stream_.msg != nullptr ? stream_.msg : "invalid stream");
      }
      ended_ = code == Z_STREAM_END;
      input.remove_prefix(offered - stream_.avail_in);
      produced += free - stream_.avail_out;
      if (!ended_ && stream_.avail_out > 0 && input.empty()) {
        break;
      }
    }
    return produced;
  }
  void finish() override {
    if (!ended_) {
      damaged("gzip", "it ends too early");
    }
  }

 private:
  z_stream stream_{};
  bool ended_ = false;
};

class Unzstd : public Decompressor {
 public:
  Unzstd() : stream_(ZSTD_createDCtx()) {
    if (stream_ == nullptr) {
      throw std::bad_alloc();
    }
  }
  Unzstd(const Unzstd&) = delete;
  Unzstd& operator=(const Unzstd&) = delete;
  ~Unzstd() override { ZSTD_freeDCtx(stream_); }

  std::size_t read(std::string_view& input, char* out, std::size_t room) override {
    ZSTD_inBuffer from{input.data(), input.size(), 0};
    ZSTD_outBuffer to{out, room, 0};
    // Output may wait inside although the input is used up: until it leaves room over.
    do {
      if (ended_ && from.pos == from.size) {
        break;
      }
      const std::size_t left = ZSTD_decompressStream(stream_, &to, &from);
      if (ZSTD_isError(left) != 0) {
        damaged("zstd", ZSTD_getErrorName(left));
      }
      ended_ = left == 0;
    } while (to.pos < to.size && from.pos < from.size);
    input.remove_prefix(from.pos);
    return to.pos;
  }
  void finish() override {
    if (!ended_) {
      damaged("zstd", "it ends too early");
    }
  }

 private:
  ZSTD_DCtx* stream_;
  bool ended_ = false;
};

}  // namespace

std::optional<Compression> parse_compression(std::string_view name) {
  for (const Compression each : {Compression::kNone, Compression::kGzip, Compression::kZstd}) {
    if (name == name_of(each)) {
      return each;
    }
  }
  return std::nullopt;
}

const char* name_of(Compression compression) {
  switch (compression) {
    case Compression::kNone:
      return "none";
    case Compression::kGzip:
      return "gzip";
    case Compression::kZstd:
      return "zstd";
  }
  return "";
}

const char* suffix_of(Compression compression) {
  switch (compression) {
    case Compression::kNone:
      return "";
    case Compression::kGzip:
      return ".gz";
    case Compression::kZstd:
      return ".zst";
  }
  return "";
}

std::unique_ptr<Compressor> make_compressor(Compression compression) {
  switch (compression) {
    case Compression::kGzip:
      return std::make_unique<Gzip>();
    case Compression::kZstd:
      return std::make_unique<Zstd>();
    case Compression::kNone:
      break;
  }
  return std::make_unique<Plain>();
}

std::unique_ptr<Decompressor> make_decompressor(Compression compression) {
  switch (compression) {
    case Compression::kGzip:
      return std::make_unique<Gunzip>();
    case Compression::kZstd:
      return std::make_unique<Unzstd>();
    case Compression::kNone:
      break;
  }
  return std::make_unique<PlainReader>();
}

}  // namespace core
