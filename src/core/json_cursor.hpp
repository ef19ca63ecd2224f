// Reading JSON in one pass, without building it up: for replies of services, which can be megabytes
// of numbers. The caller asks for what it expects; what it does not know it skips. Strict as RFC
// 8259, and bounded in depth, since a reply is not to be trusted.
//
//   JsonCursor in(body);
//   std::string_view key;
//   for (in.enter('{'); in.next_member(key);) {
//     if (key == "\"count\"") { in.read_unsigned(count); } else { in.skip(); }
//   }
//   if (!in.finish()) { … malformed … }
//
// The first fault stops everything: from then on each call returns false, so loops end, and
// finish() tells.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace core {

class JsonCursor {
 public:
  static constexpr std::size_t kMaxDepth = 60;

  explicit JsonCursor(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

  // The first character of the next value, or '\0' where the text is at its end or has failed. What
  // is neither { [ " - nor a digit nor t f n is no value.
  char peek();

  // Steps into an object or an array.
  bool enter(char bracket);
  // To the next member, whose value has to be read or skipped then; false behind the last one. The
  // key is as it stands in the text, with its quotes: `"name"`.
  bool next_member(std::string_view& quoted_key);
  // To the next element; false behind the last one.
  bool next_element();

  // A string as it stands in the text, with its quotes.
  bool read_quoted(std::string_view& quoted);
  // What a string means; fails where that is not UTF-8, or holds a NUL.
  bool read_string(std::string& out);
  // A number as it stands in the text.
  bool read_number(std::string_view& number);
  // A whole number ≥ 0, as a number or as a string: Protobuf's JSON has 64-bit integers as strings.
  bool read_unsigned(std::uint64_t& out);
  // A value of any kind, nested ones included.
  bool skip();
  // As skip(), and hands it out as it stands in the text.
  bool read_raw(std::string_view& value);

  // For callers with a reader of their own for what comes next (a long array of numbers): what is
  // left, and how far they came.
  std::string_view rest() const { return {at_, static_cast<std::size_t>(end_ - at_)}; }
  void advance(std::size_t bytes) { at_ += bytes; }

  // Gives up; returns false.
  bool fail();
  bool failed() const { return failed_; }
  // Whether all was well, and nothing but blanks is left.
  bool finish();

 private:
  void skip_blanks();
  bool separator(char close);
  bool word(std::string_view expected);

  const char* at_;
  const char* end_;
  std::size_t depth_ = 0;
  // A bit for each level: set once it has had an element; and, while skipping, where it is an
  // object.
  std::uint64_t started_ = 0;
  std::uint64_t objects_ = 0;
  bool failed_ = false;
};

// What a quoted key or string means, as UTF-8; false where it is not that, or holds a NUL.
bool unquote(std::string_view quoted, std::string& out);

}  // namespace core
