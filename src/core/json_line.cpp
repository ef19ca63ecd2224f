#include "core/json_line.hpp"

#include <algorithm>
#include <cstdint>

#include "core/json_scan.hpp"

namespace core {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

int hex_digit(char c) {
  if (is_digit(c)) {
    return c - '0';
  }
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Walks over JSON text. Each step leaves `at` behind what it has read, or sets `reason`.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  std::size_t at = 0;
  const char* reason = nullptr;

  bool fail(const char* why) {
    if (reason == nullptr) {
      reason = why;
    }
    return false;
  }
  void skip_space() {
    while (at < text_.size() && is_space(text_[at])) {
      ++at;
    }
  }
  bool ended() const { return at >= text_.size(); }
  char peek() const { return ended() ? '\0' : text_[at]; }
  bool take(char c) {
    if (peek() != c || ended()) {
      return false;
    }
    ++at;
    return true;
  }

  bool string() {
    ++at;  // the quote
    const char* const end = text_.data() + text_.size();
    for (;; ++at) {
      at = static_cast<std::size_t>(json_scan::find_special(text_.data() + at, end) - text_.data());
      if (ended()) {
        return fail("a string without its end");
      }
      if (text_[at] == '"') {
        ++at;
        return true;
      }
      if (text_[at] != '\\') {
        return fail("a control character in a string");
      }
      if (!escape()) {
        return false;
      }
    }
  }

  // One value of any kind, nested ones included.
  bool value(JsonKind& kind) {
    const std::size_t start = at;
    stack_.clear();
    if (!scalar_or_open(kind)) {
      return false;
    }
    while (!stack_.empty()) {
      if (!inside()) {
        return false;
      }
    }
    return at > start;
  }

 private:
  bool escape() {
    ++at;
    if (ended()) {
      return fail("a string without its end");
    }
    switch (text_[at]) {
      case '"':
      case '\\':
      case '/':
      case 'b':
      case 'f':
      case 'n':
      case 'r':
      case 't':
        return true;
      case 'u':
        for (int i = 0; i < 4; ++i) {
          ++at;
          if (ended() || hex_digit(text_[at]) < 0) {
            return fail("\\u without four hexadecimal digits");
          }
        }
        return true;
      default:
        return fail("an unknown escape in a string");
    }
  }

  bool word(std::string_view expected) {
    if (text_.substr(at, expected.size()) != expected) {
      return fail("a value was expected");
    }
    at += expected.size();
    return true;
  }

  bool digits() {
    if (!is_digit(peek())) {
      return fail("a digit was expected");
    }
    while (is_digit(peek())) {
      ++at;
    }
    return true;
  }

  bool number() {
    take('-');
    if (!take('0') && !digits()) {
      return false;
    }
    if (take('.') && !digits()) {
      return false;
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at;
      if (!take('+')) {
        take('-');
      }
      return digits();
    }
    return true;
  }

  // A scalar in full, or the opening bracket of what is nested, which then lies on the stack.
  bool scalar_or_open(JsonKind& kind) {
    switch (peek()) {
      case '"':
        kind = JsonKind::kString;
        return string();
      case '{':
      case '[':
        kind = peek() == '{' ? JsonKind::kObject : JsonKind::kArray;
        if (stack_.size() >= kMaxJsonDepth) {
          return fail("nested too deeply");
        }
        stack_.push_back(text_[at++]);
        fresh_ = true;
        return true;
      case 't':
        kind = JsonKind::kBoolean;
        return word("true");
      case 'f':
        kind = JsonKind::kBoolean;
        return word("false");
      case 'n':
        kind = JsonKind::kNull;
        return word("null");
      default:
        kind = JsonKind::kNumber;
        return peek() == '-' || is_digit(peek()) ? number() : fail("a value was expected");
    }
  }

  // One step inside what lies on the stack: its end, or its next element.
  bool inside() {
    const bool object = stack_.back() == '{';
    skip_space();
    if (take(object ? '}' : ']')) {
      stack_.pop_back();
      fresh_ = false;
      return true;
    }
    if (!fresh_) {
      if (!take(',')) {
        return fail("',' or the closing bracket was expected");
      }
      skip_space();
    }
    if (object) {
      if (peek() != '"') {
        return fail("a key was expected");
      }
      if (!string()) {
        return false;
      }
      skip_space();
      if (!take(':')) {
        return fail("':' was expected");
      }
      skip_space();
    }
    fresh_ = false;
    JsonKind kind{};
    // After a ',' no closing bracket may come: scalar_or_open() refuses it.
    return scalar_or_open(kind);
  }

  std::string_view text_;
  std::string stack_;
  bool fresh_ = false;  // nothing has been read inside the innermost bracket yet
};

bool read_members(Scanner& scanner, std::string_view text, std::vector<JsonMember>& members) {
  if (!scanner.take('{')) {
    return scanner.fail("an object was expected");
  }
  scanner.skip_space();
  if (scanner.take('}')) {
    return true;
  }
  do {
    scanner.skip_space();
    if (scanner.peek() != '"') {
      return scanner.fail("a key was expected");
    }
    const std::size_t key = scanner.at;
    if (!scanner.string()) {
      return false;
    }
    JsonMember member;
    member.key = text.substr(key + 1, scanner.at - key - 2);
    scanner.skip_space();
    if (!scanner.take(':')) {
      return scanner.fail("':' was expected");
    }
    scanner.skip_space();
    const std::size_t start = scanner.at;
    if (!scanner.value(member.value.kind)) {
      return false;
    }
    member.value.text = text.substr(start, scanner.at - start);
    if (members.size() == kMaxJsonMembers) {
      return scanner.fail("more keys than a table has columns");
    }
    members.push_back(member);
    scanner.skip_space();
  } while (scanner.take(','));
  return scanner.take('}') || scanner.fail("',' or '}' was expected");
}

void append_utf8(std::string& out, std::uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

std::uint32_t four_digits(std::string_view text) {
  std::uint32_t value = 0;
  for (const char c : text) {
    value = value * 16 + static_cast<std::uint32_t>(hex_digit(c));
  }
  return value;
}

// `rest` begins behind "\u".
bool append_code_point(std::string& out, std::string_view& rest) {
  std::uint32_t c = four_digits(rest.substr(0, 4));
  rest.remove_prefix(4);
  if (c >= 0xD800 && c < 0xDC00) {
    if (!rest.starts_with("\\u")) {
      return false;
    }
    const std::uint32_t low = four_digits(rest.substr(2, 4));
    if (low < 0xDC00 || low > 0xDFFF) {
      return false;
    }
    rest.remove_prefix(6);
    c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
  } else if (c == 0 || (c >= 0xDC00 && c < 0xE000)) {
    return false;
  }
  append_utf8(out, c);
  return true;
}

}  // namespace

bool parse_json_object(std::string_view line, std::vector<JsonMember>& members,
                       JsonProblem& problem) {
  members.clear();
  Scanner scanner(line);
  scanner.skip_space();
  bool good = read_members(scanner, line, members);
  if (good) {
    scanner.skip_space();
    good = scanner.ended() || scanner.fail("something follows the object");
  }
  if (!good) {
    problem = {scanner.reason, scanner.at};
  }
  return good;
}

void split_json_object(std::string_view object, std::vector<JsonMember>& members) {
  members.clear();
  Scanner scanner(object);
  read_members(scanner, object, members);
}

void split_json_array(std::string_view array, std::vector<JsonValue>& elements) {
  elements.clear();
  Scanner scanner(array);
  scanner.take('[');
  scanner.skip_space();
  if (scanner.take(']')) {
    return;
  }
  do {
    scanner.skip_space();
    const std::size_t start = scanner.at;
    JsonValue element;
    if (!scanner.value(element.kind)) {
      return;
    }
    element.text = array.substr(start, scanner.at - start);
    elements.push_back(element);
    scanner.skip_space();
  } while (scanner.take(','));
}

bool append_unescaped(std::string& out, std::string_view quoted) {
  std::string_view rest = quoted.substr(1, quoted.size() - 2);
  while (!rest.empty()) {
    const std::size_t plain = std::min(rest.find('\\'), rest.size());
    out.append(rest.substr(0, plain));
    rest.remove_prefix(plain);
    if (rest.empty()) {
      break;
    }
    const char c = rest[1];
    rest.remove_prefix(2);
    switch (c) {
      case 'b':
        out += '\b';
        break;
      case 'f':
        out += '\f';
        break;
      case 'n':
        out += '\n';
        break;
      case 'r':
        out += '\r';
        break;
      case 't':
        out += '\t';
        break;
      case 'u':
        if (!append_code_point(out, rest)) {
          return false;
        }
        break;
      default:
        out += c;
    }
  }
  return true;
}

}  // namespace core
