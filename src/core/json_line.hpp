// Reading one line of NDJSON: a JSON object, checked in full against RFC 8259, taken apart into its
// members. Values stay as they stand in the line; nothing is copied. (That its bytes are UTF-8 is
// for the caller to check.)
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace core {

enum class JsonKind { kNull, kBoolean, kNumber, kString, kArray, kObject };

// A value as it stands in the text, a string with its quotes.
struct JsonValue {
  JsonKind kind = JsonKind::kNull;
  std::string_view text;
};

struct JsonMember {
  std::string_view key;  // escapes and all, without the quotes
  JsonValue value;
};

// What is wrong with a text, and where: bytes from its start.
struct JsonProblem {
  std::string reason;
  std::size_t offset = 0;
};

// Deeper than PostgreSQL itself parses by default.
inline constexpr std::size_t kMaxJsonDepth = 6000;

// More than a table or a row type has columns (1,664 at the most).
inline constexpr std::size_t kMaxJsonMembers = 2000;

// False, with `problem` filled in, where `line` is not exactly one JSON object.
bool parse_json_object(std::string_view line, std::vector<JsonMember>& members,
                       JsonProblem& problem);

// The members of an object and the elements of an array, of a value that has been checked.
void split_json_object(std::string_view object, std::vector<JsonMember>& members);
void split_json_array(std::string_view array, std::vector<JsonValue>& elements);

// Appends what a string (with its quotes) means, as UTF-8; false where it holds \u0000 or half a
// surrogate pair.
bool append_unescaped(std::string& out, std::string_view quoted);

}  // namespace core
