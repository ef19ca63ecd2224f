// libFuzzer target: whatever a vector store answers, the readers of core/pinecone_messages neither
// read out of bounds nor throw, and keep what their header promises; core/vector_metadata makes of
// any text an object that a store takes, or says why not.
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Isrc
//       test/fuzz/pinecone_reply_fuzz.cpp src/core/pinecone_messages.cpp
//       src/core/vector_metadata.cpp src/core/json_cursor.cpp src/core/json_line.cpp
//       src/core/json.cpp -o pinecone_reply_fuzz
//   ./pinecone_reply_fuzz -max_total_time=60 NEW_DIRECTORY test/fuzz/corpus/pinecone_reply
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/pinecone_messages.hpp"
#include "core/utf8.hpp"
#include "core/vector_metadata.hpp"

namespace {

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

void check_id(const std::string& id) {
  require(!id.empty() && core::utf8::is_valid(id) && id.find('\0') == std::string::npos);
}

void check_replies(std::string_view body) {
  core::read_upserted_count(body);
  core::read_record_count(body);
  if (const auto stats = core::read_index_stats(body)) {
    for (const auto& [name, count] : stats->namespaces) {
      require(core::utf8::is_valid(name));
    }
  }
  if (const auto page = core::read_id_page(body)) {
    for (const std::string& id : page->ids) {
      check_id(id);
    }
    require(core::utf8::is_valid(page->next));
  }
  if (const auto vectors = core::read_fetched_vectors(body)) {
    for (const core::PineconeVector& vector : *vectors) {
      check_id(vector.id);
      for (const float value : vector.values) {
        require(std::isfinite(value));
      }
      // The other parser also refuses numbers beyond double, and halves of surrogate pairs.
      require(vector.metadata.empty() || nlohmann::json::accept(vector.metadata) ||
              vector.metadata.find_first_of("eE\\") != std::string::npos);
      // What was read can be written, and reads the same.
      core::ByteBuffer record;
      core::append_record(record, {vector.id, vector.values, {}});
      const auto again =
          core::read_fetched_vectors("{\"vectors\":{\"x\":" + std::string(record.view()) + "}}");
      require(again && again->size() == 1 && again->front().id == vector.id &&
              again->front().values == vector.values);
    }
  }
  if (const auto matches = core::read_query_matches(body)) {
    for (const core::PineconeMatch& match : *matches) {
      check_id(match.id);
      require(std::isfinite(match.score));
    }
  }
}

void check_metadata(std::string_view text) {
  const core::VectorMetadata metadata = core::flatten_metadata(text);
  require(metadata.json.empty() != metadata.reason.empty());
  if (metadata.json.empty()) {
    return;
  }
  require(metadata.json.size() <= core::kMaxVectorMetadata);
  const auto object = nlohmann::json::parse(metadata.json, nullptr, false);
  require(object.is_object());
  for (const auto& [key, value] : object.items()) {
    require(!key.empty() && key.front() != '$');
    require(value.is_string() || value.is_number() || value.is_boolean() || value.is_array());
    require(!value.is_array() || std::all_of(value.begin(), value.end(),
                                             [](const auto& item) { return item.is_string(); }));
  }
  require(core::flatten_metadata(metadata.json).json == metadata.json);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  check_replies(body);
  check_metadata(body);
  return 0;
}
