// Writing JSON: strings escaped as RFC 8259 asks, and objects and arrays built up piece by piece.
// Input is taken to be UTF-8; bytes that are not are replaced by U+FFFD, so that what is written
// always parses.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace core {

// Appends `text` as a JSON string, quotes included.
void append_json_string(std::string& out, std::string_view text);
std::string json_string(std::string_view text);

// {"a":1,"b":"x"}: members in the order in which they are added. The caller sees to it that a key
// is added once.
class JsonObject {
 public:
  JsonObject& text(std::string_view name, std::string_view value);
  JsonObject& number(std::string_view name, std::int64_t value);
  JsonObject& boolean(std::string_view name, bool value);
  JsonObject& null(std::string_view name);
  // `value` is JSON already.
  JsonObject& raw(std::string_view name, std::string_view value);

  bool empty() const noexcept { return body_.empty(); }
  std::string str() const { return "{" + body_ + "}"; }

 private:
  void key(std::string_view name);
  std::string body_;
};

class JsonArray {
 public:
  JsonArray& text(std::string_view value);
  JsonArray& raw(std::string_view value);

  bool empty() const noexcept { return body_.empty(); }
  std::string str() const { return "[" + body_ + "]"; }

 private:
  void separator();
  std::string body_;
};

}  // namespace core
