#include "core/ndjson.hpp"

#include <bit>
#include <charconv>

#include "core/json_scan.hpp"

namespace core::ndjson {
namespace {

constexpr std::size_t kLongestEscape = 6;

char* escape(char* out, unsigned char c) {
  constexpr char kHex[] = "0123456789abcdef";
  *out++ = '\\';
  switch (c) {
    case '"':
    case '\\':
      *out++ = static_cast<char>(c);
      return out;
    case '\b':
      *out++ = 'b';
      return out;
    case '\f':
      *out++ = 'f';
      return out;
    case '\n':
      *out++ = 'n';
      return out;
    case '\r':
      *out++ = 'r';
      return out;
    case '\t':
      *out++ = 't';
      return out;
    default:
      break;
  }
  *out++ = 'u';
  *out++ = '0';
  *out++ = '0';
  *out++ = kHex[c >> 4];
  *out++ = kHex[c & 15];
  return out;
}

}  // namespace

void append_string(ByteBuffer& out, std::string_view text) {
  const char* from = text.data();
  const char* const end = from + text.size();
  // Room for the rest as it is, for one escape, and for a word that is copied in full.
  const auto room = [&] {
    return out.reserve(static_cast<std::size_t>(end - from) + kLongestEscape + 2 + 8);
  };
  char* to = room();
  const auto commit = [&] {
    out.commit(static_cast<std::size_t>(to - (out.mutable_data() + out.size())));
  };
  const auto escape_next = [&] {
    to = escape(to, static_cast<unsigned char>(*from++));
    commit();
    to = room();
  };
  *to++ = '"';
  if constexpr (json_scan::kByWords) {
    while (end - from >= 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, from, 8);
      std::memcpy(to, &word, 8);
      const std::uint64_t found = json_scan::special_bytes(word);
      if (found == 0) {
        from += 8;
        to += 8;
        continue;
      }
      const int clean = std::countr_zero(found) / 8;
      from += clean;
      to += clean;
      escape_next();
    }
  }
  while (from < end) {
    if (json_scan::is_special(static_cast<unsigned char>(*from))) {
      escape_next();
    } else {
      *to++ = *from++;
    }
  }
  *to++ = '"';
  commit();
}

void append_integer(ByteBuffer& out, std::int64_t value) {
  constexpr std::size_t kLongest = 20;
  char* const to = out.reserve(kLongest);
  out.commit(static_cast<std::size_t>(std::to_chars(to, to + kLongest, value).ptr - to));
}

void append_json(ByteBuffer& out, std::string_view json) {
  const std::size_t start = out.size();
  out.append(json);
  for (char* at = out.mutable_data() + start; at < out.mutable_data() + out.size(); ++at) {
    if (*at == '\n' || *at == '\r') {
      *at = ' ';
    }
  }
}

}  // namespace core::ndjson
