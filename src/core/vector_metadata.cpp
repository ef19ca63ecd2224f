#include "core/vector_metadata.hpp"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "core/json.hpp"
#include "core/json_line.hpp"
#include "core/utf8.hpp"

namespace core {
namespace {

constexpr std::size_t kMaxNesting = 32;
constexpr std::string_view kCannotHold =
    "its metadata holds a text that no store can keep: NUL, or "
    "half of a character";

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) {
    return {};
  }
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

// Whether a double holds a number: whole ones exactly, others as near as a double comes.
bool fits_double(std::string_view number) {
  double value = 0;
  const char* const end = number.data() + number.size();
  if (std::from_chars(number.data(), end, value).ec != std::errc() || !std::isfinite(value)) {
    return false;
  }
  if (number.find_first_of(".eE") != std::string_view::npos) {
    return true;
  }
  constexpr double kBeyondInt64 = 9223372036854775808.0;
  std::int64_t whole = 0;
  return std::from_chars(number.data(), end, whole).ec == std::errc() &&
         std::abs(value) < kBeyondInt64 && static_cast<std::int64_t>(value) == whole;
}

// As it stands, unless it has more digits than a double can tell.
std::string number_text(std::string_view number) {
  constexpr std::size_t kLong = 24;
  if (number.size() <= kLong) {
    return std::string(number);
  }
  double value = 0;
  std::from_chars(number.data(), number.data() + number.size(), value);
  char text[32];
  const auto result = std::to_chars(text, text + sizeof text, value);
  return {text, result.ptr};
}

class Flattener {
 public:
  // False where a text cannot be kept.
  bool object(std::string_view text, const std::string& prefix, std::size_t depth) {
    std::vector<JsonMember> members;
    split_json_object(text, members);
    for (const JsonMember& member : members) {
      std::string key = depth == 0 ? std::string() : prefix + ".";
      // A member's key comes without its quotes, which are next to it.
      const std::string_view quoted(member.key.data() - 1, member.key.size() + 2);
      if (!append_unescaped(key, quoted) || !value(member.value, std::move(key), depth)) {
        return false;
      }
    }
    return true;
  }

  std::string str() const {
    JsonObject out;
    for (const auto& [key, entry] : entries_) {
      out.raw(key, entry.json);
    }
    return out.str();
  }

 private:
  struct Entry {
    std::string json;
    std::size_t rank = 0;  // how far the key is from what was written
  };

  bool value(const JsonValue& value, std::string key, std::size_t depth) {
    if (value.kind == JsonKind::kNull) {
      return true;
    }
    if (value.kind == JsonKind::kObject && depth + 1 < kMaxNesting) {
      return object(value.text, key, depth + 1);
    }
    auto json = json_of(value);
    if (!json) {
      return false;
    }
    std::size_t rank = depth * 2;
    if (key.empty() || key.front() == '$') {
      key.insert(0, "_");
      ++rank;
    }
    const auto [at, added] = entries_.try_emplace(std::move(key));
    if (added || rank < at->second.rank) {
      at->second = {std::move(*json), rank};
    }
    return true;
  }

  static std::optional<std::string> json_of(const JsonValue& value) {
    switch (value.kind) {
      case JsonKind::kString: {
        std::string text;
        if (!append_unescaped(text, value.text)) {
          return std::nullopt;
        }
        return json_string(text);
      }
      case JsonKind::kNumber:
        return fits_double(value.text) ? number_text(value.text) : json_string(value.text);
      case JsonKind::kArray:
        return list(value.text);
      case JsonKind::kObject:
        return json_string(value.text);
      default:
        return std::string(value.text);
    }
  }

  static std::optional<std::string> list(std::string_view text) {
    std::vector<JsonValue> elements;
    split_json_array(text, elements);
    JsonArray out;
    for (const JsonValue& element : elements) {
      if (element.kind == JsonKind::kString) {
        std::string plain;
        if (!append_unescaped(plain, element.text)) {
          return std::nullopt;
        }
        out.text(plain);
      } else if (element.kind != JsonKind::kNull) {
        out.text(element.text);
      }
    }
    return out.str();
  }

  std::map<std::string, Entry> entries_;
};

// 52431 → 52,431
std::string with_commas(std::size_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3;) {
    at -= 3;
    text.insert(at, ",");
  }
  return text;
}

}  // namespace

VectorMetadata flatten_metadata(std::string_view metadata, std::size_t max_bytes) {
  const std::string_view text = trimmed(metadata);
  if (text.empty() || text == "null") {
    return {"{}", {}};
  }
  std::vector<JsonMember> members;
  JsonProblem problem;
  if (!utf8::is_valid(text) || !parse_json_object(text, members, problem)) {
    return {{}, "its metadata is not a JSON object"};
  }
  Flattener flattener;
  if (!flattener.object(text, {}, 0)) {
    return {{}, std::string(kCannotHold)};
  }
  std::string json = flattener.str();
  if (json.size() > max_bytes) {
    return {{},
            "its metadata has " + with_commas(json.size()) + " bytes, and the store takes " +
                with_commas(max_bytes)};
  }
  return {std::move(json), {}};
}

}  // namespace core
