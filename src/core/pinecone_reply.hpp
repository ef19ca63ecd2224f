// What Pinecone answers (API version 2025-10), read from JSON. Numbers of 64 bits may come as
// numbers or as strings. Nothing is returned where a reply is not what it should be.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace core {

// POST /describe_index_stats. An index of sparse vectors has no dimension: 0.
std::optional<std::uint64_t> read_pinecone_dimension(std::string_view body);
// GET /namespaces/{namespace}.
std::optional<std::uint64_t> read_pinecone_record_count(std::string_view body);

// GET /vectors/list.
struct PineconePage {
  std::vector<std::string> ids;
  std::string next;  // the token of the next page; '' on the last
};
std::optional<PineconePage> read_pinecone_page(std::string_view body);

// GET /vectors/fetch.
struct PineconeVector {
  std::string id;
  std::vector<float> values;
  std::string metadata;  // a JSON object
};
std::optional<std::vector<PineconeVector>> read_pinecone_vectors(std::string_view body);

// POST /query.
struct PineconeMatch {
  std::string id;
  double score = 0;
};
std::optional<std::vector<PineconeMatch>> read_pinecone_matches(std::string_view body);

// How many records an upsert has written.
std::optional<std::uint64_t> read_pinecone_upserted(std::string_view body);

}  // namespace core
