#include "core/text_sentences.hpp"

#include <utility>

#include "core/utf8.hpp"

namespace core {
namespace {

bool ends_sentence(char32_t c) {
  switch (c) {
    case '.':
    case '!':
    case '?':
    case 0x2026:  // …
    case 0x203C:  // ‼
    case 0x203D:  // ‽
    case 0x061F:  // ؟
    case 0x06D4:  // ۔
    case 0x0964:  // ।
    case 0x3002:  // 。
    case 0xFF01:  // ！
    case 0xFF0E:  // ．
    case 0xFF1F:  // ？
      return true;
    default:
      return false;
  }
}

// Scripts with these need no blank behind them.
bool ends_without_blank(char32_t c) { return c == 0x3002 || c == 0xFF01 || c == 0xFF1F; }

bool closes(char32_t c) {
  return c == '"' || c == '\'' || c == ')' || c == ']' || c == 0xBB || c == 0x2019 || c == 0x201D ||
         c == 0x203A || c == 0x300D || c == 0x300F || c == 0xFF09;
}

bool is_line_break(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

// What has been written so far.
class Sentence {
 public:
  void blank() { pending_ = !text_.empty(); }
  void add(std::string_view bytes) {
    if (pending_) {
      last_word_ = text_.size();
      before_last_word_ = length_;
      text_ += ' ';
      ++length_;
      pending_ = false;
    }
    text_ += bytes;
    ++length_;
  }
  std::size_t length() const { return length_ + (pending_ ? 1 : 0); }
  bool long_enough() const { return length_ >= kMinSentence; }
  std::string str() { return std::move(text_); }
  // Without the word that did not get finished, unless little else is there.
  std::string cut() {
    if (!pending_ && before_last_word_ >= kMinSentence) {
      text_.resize(last_word_);
    }
    return std::move(text_);
  }

 private:
  std::string text_;
  std::size_t length_ = 0;
  std::size_t last_word_ = 0;         // where the blank before it is, in bytes
  std::size_t before_last_word_ = 0;  // and in characters
  bool pending_ = false;              // a blank, if anything follows
};

}  // namespace

std::string first_sentence(std::string_view text) {
  Sentence sentence;
  bool ended = false;  // behind a full stop, and what may close it
  for (std::size_t at = 0; at < text.size();) {
    const utf8::CodePoint point = utf8::decode(text, at);
    const std::string_view bytes = text.substr(at, point.length);
    at += point.length;
    if (!point.valid) {
      continue;
    }
    const char32_t c = point.value;
    if (utf8::is_blank(c)) {
      if ((ended || is_line_break(c)) && sentence.long_enough()) {
        return sentence.str();
      }
      sentence.blank();
      ended = false;
      continue;
    }
    if (sentence.length() >= kMaxSentence) {
      return sentence.cut();
    }
    sentence.add(bytes);
    if (ends_without_blank(c) && sentence.long_enough()) {
      return sentence.str();
    }
    ended = ends_sentence(c) || (ended && closes(c));
  }
  return sentence.str();
}

}  // namespace core
