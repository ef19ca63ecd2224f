#include "core/token_estimate.hpp"

#include <algorithm>
#include <cmath>

#include "core/utf8.hpp"

namespace core {
namespace {

// In thousandths of a token. See the header for where they come from.
constexpr std::uint64_t kAsciiLetter = 205;
constexpr std::uint64_t kOtherLatin = 1700;
constexpr std::uint64_t kArabic = 850;
constexpr std::uint64_t kCyrillic = 460;
constexpr std::uint64_t kGreek = 1080;
constexpr std::uint64_t kHan = 1070;
constexpr std::uint64_t kHangul = 1240;
// Up to three digits are one token; a blank before them is one of its own.
constexpr std::uint64_t kDigits = 1900;
constexpr std::uint64_t kSign = 1200;
// Blanks go with the word that follows; line breaks do not.
constexpr std::uint64_t kLineBreaks = 1000;
// Vowel signs, Hebrew, Indic scripts, Thai: measured near one each, as are typographic signs.
constexpr std::uint64_t kOther = 1000;
constexpr std::uint64_t kEmoji = 2000;

constexpr std::size_t kDigitsInToken = 3;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_line_break(char c) { return c == '\n' || c == '\r'; }

std::uint64_t weight(char32_t c) {
  if ((c >= 0xC0 && c <= 0x24F) || (c >= 0x300 && c <= 0x36F) || (c >= 0x1E00 && c <= 0x1EFF)) {
    return kOtherLatin;
  }
  if ((c >= 0x600 && c <= 0x77F && !(c >= 0x64B && c <= 0x65F)) || (c >= 0xFB50 && c <= 0xFDFF) ||
      (c >= 0xFE70 && c <= 0xFEFC)) {
    return kArabic;
  }
  if (c >= 0x400 && c <= 0x52F) {
    return kCyrillic;
  }
  if (c >= 0x370 && c <= 0x3FF) {
    return kGreek;
  }
  if ((c >= 0x3000 && c <= 0x9FFF) || (c >= 0xF900 && c <= 0xFAFF) ||
      (c >= 0xFF00 && c <= 0xFFEF)) {
    return kHan;
  }
  if (c >= 0xAC00 && c <= 0xD7A3) {
    return kHangul;
  }
  return c >= 0x10000 ? kEmoji : kOther;
}

}  // namespace

std::uint64_t estimate_tokens(std::string_view text) {
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
      sum += kAsciiLetter;
      ++at;
    } else if (is_digit(c)) {
      std::size_t length = 1;
      while (length < kDigitsInToken && at + length < text.size() && is_digit(text[at + length])) {
        ++length;
      }
      sum += kDigits;
      at += length;
    } else if (is_line_break(c)) {
      sum += kLineBreaks;
      while (at < text.size() && is_line_break(text[at])) {
        ++at;
      }
    } else if (static_cast<unsigned char>(c) < 0x80) {
      sum += c == ' ' || c == '\t' ? 0 : kSign;
      ++at;
    } else {
      const utf8::CodePoint point = utf8::decode(text, at);
      sum += utf8::is_blank(point.value) ? 0 : weight(point.value);
      at += point.length;
    }
  }
  if (text.empty()) {
    return 0;
  }
  return std::max<std::uint64_t>(1, (sum + 500) / 1000);
}

void TokenCalibrator::observe(std::uint64_t estimated, std::uint64_t counted) {
  if (estimated == 0 || counted == 0) {
    return;
  }
  // Beyond this much, what came earlier fades: some twenty batches of a hundred chunks.
  constexpr double kMemory = 1'000'000;
  const double total = estimated_ + static_cast<double>(estimated);
  const double fade = total > kMemory ? kMemory / total : 1;
  estimated_ = total * fade;
  counted_ = (counted_ + static_cast<double>(counted)) * fade;
}

double TokenCalibrator::ratio() const {
  return estimated_ > 0 ? std::clamp(counted_ / estimated_, kLowest, kHighest) : 1;
}

std::uint64_t TokenCalibrator::corrected(std::uint64_t estimated) const {
  if (estimated == 0) {
    return 0;
  }
  const double tokens = std::round(static_cast<double>(estimated) * ratio());
  return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(tokens));
}

}  // namespace core
