// The bodies of requests to Pinecone's data plane and of its answers, as of API version 2025-10.
// Writing vectors is the work here: a number is written in the fewest digits that read back as the
// same float. A hundred vectors of 1,536 dimensions take 1.93 MB so, which is more than the limit
// below leaves for one upsert: pack by bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/byte_buffer.hpp"

namespace core {

inline constexpr std::string_view kPineconeApiVersion = "2025-10";
inline constexpr std::size_t kPineconeMaxVectors = 1'000;  // of an upsert or a delete
inline constexpr std::size_t kPineconeMaxBytes =
    1'900'000;  // of an upsert; the service says 2 MB, not of which kind
inline constexpr std::size_t kPineconeMaxIdCharacters = 512;
inline constexpr std::size_t kPineconeMaxDimension = 20'000;

// --- requests ---------------------------------------------------------------------------------

// Why no record can have this id, fit for a list of failed chunks; nothing where one can.
std::optional<std::string> pinecone_id_problem(std::string_view id);

struct PineconeRecord {
  std::string_view id;
  std::span<const float> values;  // all finite: else core::Error (XX000)
  std::string_view metadata;      // a flat JSON object (core/vector_metadata); may be empty
};

// One record as an upsert holds it. To keep the limits, write records one after the other into a
// buffer, pack them by their sizes with what upsert_frame_bytes says and a separator of 1, and make
// a body of each batch.
void append_record(ByteBuffer& out, const PineconeRecord& record);
std::string upsert_body(std::string_view space, std::span<const std::string_view> records);
// What a body has around its records.
std::size_t upsert_frame_bytes(std::string_view space);

std::string query_body(std::string_view space, std::span<const float> vector, std::uint64_t top_k);
std::string delete_body(std::string_view space, std::span<const std::string> ids);
inline constexpr std::string_view kDescribeIndexStatsBody = "{}";

// --- answers ----------------------------------------------------------------------------------
// Nothing where the body is no such answer: malformed, cut off, nested too deep, or with a field of
// another type. Fields that are not known are passed over. 64-bit integers may be numbers or
// strings. What an answer leaves out is 0 or empty, since Protobuf's JSON leaves out just that.

std::optional<std::uint64_t> read_upserted_count(std::string_view body);

struct PineconeStats {
  std::uint64_t dimension = 0;  // 0: not stated
  std::uint64_t total = 0;
  std::map<std::string, std::uint64_t> namespaces;  // vectors of each; may lag behind
  std::string metric;
  std::string vector_type;
};
std::optional<PineconeStats> read_index_stats(std::string_view body);

// Of GET /namespaces/{name}: record_count.
std::optional<std::uint64_t> read_record_count(std::string_view body);

struct PineconeIdPage {
  std::vector<std::string> ids;
  std::string next;  // what to ask for the following page with; empty behind the last one
};
std::optional<PineconeIdPage> read_id_page(std::string_view body);

struct PineconeVector {
  std::string id;
  std::vector<float> values;
  std::string metadata;  // JSON, as the service wrote it; empty where there is none
};
// In the order of the answer.
std::optional<std::vector<PineconeVector>> read_fetched_vectors(std::string_view body);

struct PineconeMatch {
  std::string id;
  double score = 0;  // finite
};
std::optional<std::vector<PineconeMatch>> read_query_matches(std::string_view body);

}  // namespace core
