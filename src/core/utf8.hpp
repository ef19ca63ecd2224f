// Walking over UTF-8, one code point at a time. Bytes that are not UTF-8 come out as U+FFFD, one
// for each byte, so that a walk always ends and never reads past the text.
#pragma once

#include <cstddef>
#include <string_view>

namespace core::utf8 {

inline constexpr char32_t kReplacement = 0xFFFD;

struct CodePoint {
  char32_t value = kReplacement;
  std::size_t length = 1;  // in bytes
  bool valid = false;
};

// The code point that starts at `at`, which lies within the text.
inline CodePoint decode(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) {
    return {lead, 1, true};
  }
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() - at < length) {
    return {};
  }
  char32_t value = lead & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) {
      return {};
    }
    value = (value << 6) | (byte(i) & 0x3Fu);
  }
  // Longer than need be, half of a surrogate pair, or beyond the last code point.
  if ((length == 3 && (value < 0x800 || (value >= 0xD800 && value <= 0xDFFF))) ||
      (length == 4 && (value < 0x10000 || value > 0x10FFFF))) {
    return {};
  }
  return {value, length, true};
}

inline bool is_valid(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = decode(text, at);
    if (!point.valid) {
      return false;
    }
    at += point.length;
  }
  return true;
}

// The largest cut at or before `at` that leaves no code point in two; the text is UTF-8.
inline std::size_t boundary_before(std::string_view text, std::size_t at) {
  if (at >= text.size()) {
    return text.size();
  }
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) {
    --at;
  }
  return at;
}

// What ends a word or begins a line: ASCII blanks, and Unicode's own.
inline bool is_blank(char32_t c) {
  return c == ' ' || (c >= 0x09 && c <= 0x0D) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace core::utf8
