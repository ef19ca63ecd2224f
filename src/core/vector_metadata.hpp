// A chunk's metadata, which may be any JSON object, in the form that vector stores of Pinecone's
// kind take: a flat object of strings, finite numbers, booleans and lists of strings, of 40 KB at
// most.
//
// The rules, for users:
//   * A nested object is flattened, with dots between the keys: {"a":{"b":1}} → "a.b": 1. Where two
//     lead to the same key, the one that took less flattening wins, so a key that is written out in
//     full always does; of two equals the first one.
//   * A null is left out, within lists too. An object that holds nothing else vanishes.
//   * A list becomes a list of strings. What is no string in it is there as its JSON text:
//     ["a", 1, true, {"b":2}] → ["a", "1", "true", "{\"b\":2}"].
//   * A number stays one where a double holds it: within range, and whole numbers exactly.
//   Otherwise
//     it becomes a string of its digits, so that a long id keeps its last ones.
//   * A key that begins with "$", which such stores reserve, or is empty gets "_" in front.
//   * What is nested more than 32 deep is there as its JSON text.
// Keys are sorted by their bytes, so equal metadata give equal texts. What is still too large
// cannot be sent: nothing is cut off in silence.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace core {

inline constexpr std::size_t kMaxVectorMetadata = 40'960;  // bytes of JSON

struct VectorMetadata {
  std::string json;  // a flat object; empty where there is a reason
  // Why it cannot be sent, fit for a list of failed chunks: "its metadata has … bytes …".
  std::string reason;
};

// `metadata`: JSON. Empty text and null count as an object without members.
VectorMetadata flatten_metadata(std::string_view metadata,
                                std::size_t max_bytes = kMaxVectorMetadata);

}  // namespace core
