// libFuzzer target: whatever a server sends, core/s3_reply neither reads out of bounds nor throws,
// and what it lets pass keeps what its header promises.
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Isrc
//       test/fuzz/s3_reply_fuzz.cpp src/core/s3_reply.cpp -o s3_reply_fuzz
//   ./s3_reply_fuzz -max_total_time=60 NEW_DIRECTORY test/fuzz/corpus/s3_reply
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <variant>

#include "core/s3_reply.hpp"

namespace {

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

struct Promises {
  static void text(const std::string& value) {
    require(value.find('\0') == std::string::npos);
    require(value.size() <= core::kMaxS3ReplyBytes);
  }
  void operator()(const core::S3Error& error) const {
    require(!error.code.empty() || !error.message.empty());
    for (const std::string* value : {&error.code, &error.message, &error.request_id, &error.host_id,
                                     &error.region, &error.endpoint, &error.bucket}) {
      text(*value);
    }
  }
  void operator()(const core::S3UploadStarted& started) const {
    require(!started.upload_id.empty());
    text(started.upload_id);
  }
  void operator()(const core::S3UploadCompleted& completed) const { text(completed.etag); }
  void operator()(const core::S3ObjectList& list) const {
    require(!list.truncated || !list.next_token.empty());
    for (const core::S3Object& object : list.objects) {
      require(!object.key.empty());
      text(object.key);
    }
  }
  void operator()(const core::S3UploadList& list) const {
    require(!list.truncated || !list.next_key_marker.empty());
    for (const core::S3PendingUpload& upload : list.uploads) {
      require(!upload.key.empty() && !upload.upload_id.empty());
      text(upload.key);
      text(upload.upload_id);
    }
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const auto reply = core::read_s3_reply(body);
  if (reply) {
    std::visit(Promises(), *reply);
    // What follows a whole reply is no part of it.
    require(!core::read_s3_reply(std::string(body) + "x"));
    require(core::read_s3_reply(std::string(body) + "\n").has_value() ||
            body.size() == core::kMaxS3ReplyBytes);
  }
  return 0;
}
