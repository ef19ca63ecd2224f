#include "core/http_retry.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace core {
namespace {

// Longer than anybody waits; keeps the arithmetic within its types.
constexpr std::int64_t kLongestMs = std::int64_t{366} * 24 * 3600 * 1000;

std::string_view trim(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) {
    return {};
  }
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

std::optional<int> parse_digits(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0 || text.empty()) {
    return std::nullopt;
  }
  return value;
}

// Digits with an optional fraction, times `unit_ms`.
std::optional<std::chrono::milliseconds> parse_delay(std::string_view text, double unit_ms) {
  text = trim(text);
  const bool plain = !text.empty() && text.front() != '.' &&
                     text.find_first_not_of("0123456789.") == std::string_view::npos;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (!plain || error == std::errc::invalid_argument || end != text.data() + text.size()) {
    return std::nullopt;
  }
  if (error == std::errc::result_out_of_range) {
    value = static_cast<double>(kLongestMs);
  }
  const double ms = std::min(std::ceil(value * unit_ms), static_cast<double>(kLongestMs));
  return std::chrono::milliseconds(static_cast<std::int64_t>(ms));
}

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> words;
  while (true) {
    const auto begin = text.find_first_not_of(" ,-");
    if (begin == std::string_view::npos) {
      return words;
    }
    text.remove_prefix(begin);
    const auto end = std::min(text.find_first_of(" ,-"), text.size());
    words.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::optional<int> parse_month(std::string_view name) {
  constexpr std::array<std::string_view, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const auto* found = std::find(kMonths.begin(), kMonths.end(), name);
  if (found == kMonths.end()) {
    return std::nullopt;
  }
  return static_cast<int>(found - kMonths.begin()) + 1;
}

std::optional<int> parse_time_of_day(std::string_view text) {
  if (text.size() != 8 || text[2] != ':' || text[5] != ':') {
    return std::nullopt;
  }
  const auto hour = parse_digits(text.substr(0, 2));
  const auto minute = parse_digits(text.substr(3, 2));
  const auto second = parse_digits(text.substr(6, 2));
  if (!hour || !minute || !second || *hour > 23 || *minute > 59 || *second > 60) {
    return std::nullopt;
  }
  return *hour * 3600 + *minute * 60 + *second;
}

}  // namespace

RetryClass classify_status(int status) noexcept {
  if (status == 429) {
    return RetryClass::kThrottled;
  }
  return status == 408 || (status >= 500 && status != 501) ? RetryClass::kFault
                                                           : RetryClass::kFinal;
}

std::optional<std::time_t> parse_http_date(std::string_view text) {
  // Sun, 06 Nov 1994 08:49:37 GMT | Sunday, 06-Nov-94 08:49:37 GMT | Sun Nov  6 08:49:37 1994
  const auto words = split(text);
  if (words.size() < 5) {
    return std::nullopt;
  }
  const bool day_first = parse_digits(words[1]).has_value();
  if (day_first ? words.size() != 6 || words[5] != "GMT" : words.size() != 5) {
    return std::nullopt;
  }
  const auto day = parse_digits(day_first ? words[1] : words[2]);
  const auto month = parse_month(day_first ? words[2] : words[1]);
  const std::string_view year_text = day_first ? words[3] : words[4];
  const auto time_of_day = parse_time_of_day(day_first ? words[4] : words[3]);
  auto year = parse_digits(year_text);
  if (!day || !month || !year || !time_of_day || (year_text.size() != 4 && year_text.size() != 2)) {
    return std::nullopt;
  }
  if (year_text.size() == 2) {
    *year += *year < 70 ? 2000 : 1900;
  }
  const std::chrono::year_month_day date{std::chrono::year(*year),
                                         std::chrono::month(static_cast<unsigned>(*month)),
                                         std::chrono::day(static_cast<unsigned>(*day))};
  if (!date.ok()) {
    return std::nullopt;
  }
  const auto days = std::chrono::sys_days(date).time_since_epoch().count();
  return static_cast<std::time_t>(days) * 86400 + *time_of_day;
}

std::optional<std::chrono::milliseconds> parse_retry_after(std::string_view retry_after,
                                                           std::string_view retry_after_ms,
                                                           std::time_t now) {
  if (const auto delay = parse_delay(retry_after_ms, 1)) {
    return delay;
  }
  if (const auto delay = parse_delay(retry_after, 1000)) {
    return delay;
  }
  if (const auto date = parse_http_date(trim(retry_after))) {
    const auto seconds = std::clamp<std::int64_t>(*date - now, 0, kLongestMs / 1000);
    return std::chrono::seconds(seconds);
  }
  return std::nullopt;
}

}  // namespace core
