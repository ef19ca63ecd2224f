#include "core/json_cursor.hpp"

#include <charconv>

#include "core/json_line.hpp"
#include "core/json_scan.hpp"
#include "core/utf8.hpp"

namespace core {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_hex_digit(char c) {
  const char lower = static_cast<char>(c | 0x20);
  return is_digit(c) || (lower >= 'a' && lower <= 'f');
}

const char* skip_digits(const char* at, const char* end) {
  while (at < end && is_digit(*at)) {
    ++at;
  }
  return at;
}

}  // namespace

bool JsonCursor::fail() {
  failed_ = true;
  at_ = end_;
  return false;
}

void JsonCursor::skip_blanks() {
  while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) {
    ++at_;
  }
}

char JsonCursor::peek() {
  skip_blanks();
  return at_ < end_ ? *at_ : '\0';
}

bool JsonCursor::finish() {
  skip_blanks();
  return !failed_ && at_ == end_ && depth_ == 0;
}

bool JsonCursor::enter(char bracket) {
  if (peek() != bracket || at_ == end_ || depth_ == kMaxDepth) {
    return fail();
  }
  ++at_;
  started_ &= ~(std::uint64_t{1} << depth_);
  ++depth_;
  return true;
}

// Steps over a comma, or out of the innermost bracket.
bool JsonCursor::separator(char close) {
  if (failed_ || depth_ == 0) {
    return fail();
  }
  const char c = peek();
  const std::uint64_t bit = std::uint64_t{1} << (depth_ - 1);
  if (c == close) {
    ++at_;
    --depth_;
    return false;
  }
  if ((started_ & bit) != 0) {
    if (c != ',') {
      return fail();
    }
    ++at_;
  }
  started_ |= bit;
  return true;
}

bool JsonCursor::next_member(std::string_view& quoted_key) {
  if (!separator('}') || !read_quoted(quoted_key)) {
    return false;
  }
  if (peek() != ':') {
    return fail();
  }
  ++at_;
  return true;
}

bool JsonCursor::next_element() { return separator(']'); }

bool JsonCursor::read_quoted(std::string_view& quoted) {
  if (peek() != '"') {
    return fail();
  }
  const char* const start = at_++;
  for (;;) {
    at_ = json_scan::find_special(at_, end_);
    if (at_ == end_) {
      return fail();
    }
    const char c = *at_++;
    if (c == '"') {
      quoted = {start, static_cast<std::size_t>(at_ - start)};
      return true;
    }
    if (c != '\\' || at_ == end_) {
      return fail();
    }
    const char escape = *at_++;
    if (escape == 'u') {
      for (int i = 0; i < 4; ++i) {
        if (at_ == end_ || !is_hex_digit(*at_)) {
          return fail();
        }
        ++at_;
      }
    } else if (std::string_view("\"\\/bfnrt").find(escape) == std::string_view::npos) {
      return fail();
    }
  }
}

bool JsonCursor::read_string(std::string& out) {
  std::string_view quoted;
  return read_quoted(quoted) && (unquote(quoted, out) || fail());
}

bool JsonCursor::read_number(std::string_view& number) {
  skip_blanks();
  const char* const start = at_;
  const char* at = at_;
  if (at < end_ && *at == '-') {
    ++at;
  }
  const char* const digits = at;
  at = skip_digits(at, end_);
  if (at == digits || (*digits == '0' && at - digits > 1)) {
    return fail();
  }
  if (at < end_ && *at == '.') {
    const char* const fraction = ++at;
    at = skip_digits(at, end_);
    if (at == fraction) {
      return fail();
    }
  }
  if (at < end_ && (*at == 'e' || *at == 'E')) {
    ++at;
    if (at < end_ && (*at == '+' || *at == '-')) {
      ++at;
    }
    const char* const exponent = at;
    at = skip_digits(at, end_);
    if (at == exponent) {
      return fail();
    }
  }
  at_ = at;
  number = {start, static_cast<std::size_t>(at - start)};
  return true;
}

bool JsonCursor::read_unsigned(std::uint64_t& out) {
  std::string_view text;
  if (peek() == '"') {
    if (!read_quoted(text)) {
      return false;
    }
    text = text.substr(1, text.size() - 2);
  } else if (!read_number(text)) {
    return false;
  }
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, out);
  return (error == std::errc() && stop == end && !text.empty()) || fail();
}

bool JsonCursor::word(std::string_view expected) {
  if (!rest().starts_with(expected)) {
    return fail();
  }
  at_ += expected.size();
  return true;
}

bool JsonCursor::skip() {
  const std::size_t outside = depth_;
  std::string_view ignored;
  do {
    switch (peek()) {
      case '{':
      case '[': {
        const bool object = *at_ == '{';
        if (!enter(*at_)) {
          return false;
        }
        // Which kind of bracket each level has, for the way out.
        objects_ = object ? objects_ | (std::uint64_t{1} << (depth_ - 1))
                          : objects_ & ~(std::uint64_t{1} << (depth_ - 1));
        break;
      }
      case '"':
        read_quoted(ignored);
        break;
      case 't':
        word("true");
        break;
      case 'f':
        word("false");
        break;
      case 'n':
        word("null");
        break;
      default:
        read_number(ignored);
    }
    // To the next value, out of as many brackets as close here.
    while (!failed_ && depth_ > outside) {
      const bool object = (objects_ & (std::uint64_t{1} << (depth_ - 1))) != 0;
      if (object ? next_member(ignored) : next_element()) {
        break;
      }
    }
  } while (!failed_ && depth_ > outside);
  return !failed_;
}

bool JsonCursor::read_raw(std::string_view& value) {
  skip_blanks();
  const char* const start = at_;
  if (!skip()) {
    return false;
  }
  value = {start, static_cast<std::size_t>(at_ - start)};
  return true;
}

bool unquote(std::string_view quoted, std::string& out) {
  out.clear();
  return utf8::is_valid(quoted) && append_unescaped(out, quoted) &&
         out.find('\0') == std::string::npos;
}

}  // namespace core
