// libFuzzer target: whatever an embedder answers, core/embedding_reply and core/service_error
// neither read out of bounds nor throw, and keep what their headers promise.
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Isrc
//       test/fuzz/embedding_reply_fuzz.cpp src/core/embedding_reply.cpp src/core/service_error.cpp
//       src/core/json_cursor.cpp src/core/json_line.cpp src/core/base64.cpp -o embedding_reply_fuzz
//   ./embedding_reply_fuzz -max_total_time=60 NEW_DIRECTORY test/fuzz/corpus/embedding_reply
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/embedding_reply.hpp"
#include "core/service_error.hpp"
#include "core/utf8.hpp"

namespace {

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

void check_reply(std::string_view body, std::size_t texts, std::optional<std::size_t> dimensions) {
  const core::EmbeddingReply reply = core::read_embedding_reply(body, texts, dimensions);
  if (!reply.problem.empty()) {
    require(reply.vectors.empty() && reply.unusable.empty() && reply.dimensions == 0);
    return;
  }
  require(reply.vectors.size() == texts);
  std::vector<bool> unusable(texts);
  for (const core::UnusableVector& vector : reply.unusable) {
    require(vector.index < texts && !unusable[vector.index] && !vector.reason.empty());
    unusable[vector.index] = true;
  }
  for (std::size_t i = 0; i < texts; ++i) {
    const std::vector<float>& values = reply.vectors[i];
    require(values.empty() == unusable[i]);
    require(values.empty() || values.size() == reply.dimensions);
    require(values.empty() || !dimensions || values.size() == *dimensions);
    bool zeros = true;
    for (const float value : values) {
      require(std::isfinite(value));
      zeros = zeros && value == 0;
    }
    require(values.empty() || !zeros);
  }
  require(core::utf8::is_valid(reply.model));
}

void check_error(int status, std::string_view body) {
  const core::ServiceError error = core::read_service_error(status, body);
  for (const std::string* text : {&error.message, &error.type, &error.code}) {
    require(text->size() <= core::kMaxServiceMessage);
    require(core::utf8::is_valid(*text));
    for (const char c : *text) {
      require(static_cast<unsigned char>(c) >= 0x20);
    }
  }
  require(status != 413 || error.kind == core::ServiceErrorKind::kTooLarge ||
          error.kind == core::ServiceErrorKind::kQuota);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  check_reply(body, 1, std::nullopt);
  check_reply(body, 2, std::nullopt);
  check_reply(body, 2, 4);
  for (const int status : {400, 401, 413, 429, 500}) {
    check_error(status, body);
  }
  return 0;
}
