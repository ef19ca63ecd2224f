// Looking for what a JSON string has to escape, eight bytes at a time.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace core::json_scan {

// A quote, a backslash or a control character.
constexpr bool is_special(unsigned char c) { return c < 0x20 || c == '"' || c == '\\'; }

// The high bit of each special byte; exact up to the first one.
constexpr std::uint64_t special_bytes(std::uint64_t word) {
  constexpr std::uint64_t kOnes = 0x0101010101010101;
  constexpr std::uint64_t kHighs = 0x8080808080808080;
  const auto zeros = [](std::uint64_t v) { return (v - kOnes) & ~v & kHighs; };
  const std::uint64_t controls = (word - kOnes * 0x20) & ~word & kHighs;
  return controls | zeros(word ^ (kOnes * '"')) | zeros(word ^ (kOnes * '\\'));
}

// The first byte in memory is a word's lowest one only here; elsewhere byte by byte will do.
inline constexpr bool kByWords = std::endian::native == std::endian::little;

// The first special byte, or `end`.
inline const char* find_special(const char* from, const char* end) {
  if constexpr (kByWords) {
    for (; end - from >= 8; from += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, from, 8);
      if (const std::uint64_t found = special_bytes(word); found != 0) {
        return from + std::countr_zero(found) / 8;
      }
    }
  }
  while (from < end && !is_special(static_cast<unsigned char>(*from))) {
    ++from;
  }
  return from;
}

}  // namespace core::json_scan
