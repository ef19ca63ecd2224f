#include "core/rate_limit.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>

namespace core {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLongestWait{60'000};
constexpr double kDayMs = 24.0 * 3600 * 1000;

// A number that is not negative, from the start of `text`, which it is taken from.
std::optional<double> take_number(std::string_view& text) {
  const auto length = std::min(text.find_first_not_of("0123456789."), text.size());
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + length, value);
  if (length == 0 || error != std::errc() || end != text.data() + length) {
    return std::nullopt;
  }
  text.remove_prefix(length);
  return value;
}

std::optional<double> parse_amount(std::string_view text) {
  const auto value = take_number(text);
  return text.empty() ? value : std::nullopt;
}

struct Unit {
  std::string_view name;
  double ms;
};

std::optional<double> take_unit(std::string_view& text) {
  constexpr std::array<Unit, 6> kUnits = {
      {{"ms", 1}, {"us", 0.001}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}, {"d", kDayMs}}};
  for (const Unit& unit : kUnits) {
    if (text.starts_with(unit.name)) {
      text.remove_prefix(unit.name.size());
      return unit.ms;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<milliseconds> parse_reset(std::string_view text) {
  if (text.empty()) {
    return std::nullopt;
  }
  double total = 0;
  if (const auto seconds = parse_amount(text)) {
    total = *seconds * 1000;
    text = {};
  }
  while (!text.empty()) {
    const auto value = take_number(text);
    const auto unit = take_unit(text);
    if (!value || !unit) {
      return std::nullopt;
    }
    total += *value * *unit;
  }
  return milliseconds(static_cast<std::int64_t>(std::ceil(std::min(total, kDayMs))));
}

milliseconds RateLimit::Told::wait(double amount, Time now) const noexcept {
  const double wanted = most > 0 ? std::min(amount, most) : amount;
  if (now >= full || wanted <= remaining) {
    return milliseconds(0);
  }
  Time until = full;
  if (per_ms > 0) {
    until = std::min(full, at + milliseconds(static_cast<std::int64_t>(
                                    std::ceil(std::min((wanted - remaining) / per_ms, kDayMs)))));
  }
  return std::max(until - now, milliseconds(0));
}

void RateLimit::Told::hear(std::string_view limit, std::string_view left, std::string_view reset,
                           Time now) noexcept {
  const auto remains = parse_amount(left);
  const auto until = parse_reset(reset);
  if (!remains || !until) {
    return;
  }
  const auto total = parse_amount(limit);
  remaining = *remains;
  at = now;
  full = now + *until;
  most = total.value_or(0);
  const auto ms = static_cast<double>(until->count());
  per_ms = total && ms > 0 ? std::max(*total - *remains, 0.0) / ms : 0;
}

milliseconds RateLimit::wait(double tokens, Time now) noexcept {
  const milliseconds longest =
      std::max({requests_.wait(1, now), tokens_.wait(tokens, now), told_requests_.wait(1, now),
                told_tokens_.wait(tokens, now), held_until_ - now});
  return std::clamp(longest, milliseconds(0), kLongestWait);
}

void RateLimit::take(double tokens, Time now) noexcept {
  requests_.take(1, now);
  tokens_.take(tokens, now);
  told_requests_.take(1);
  told_tokens_.take(tokens);
}

void RateLimit::hold(Time until) noexcept { held_until_ = std::max(held_until_, until); }

void RateLimit::hear_requests(std::string_view limit, std::string_view remaining,
                              std::string_view reset, Time now) noexcept {
  told_requests_.hear(limit, remaining, reset, now);
}

void RateLimit::hear_tokens(std::string_view limit, std::string_view remaining,
                            std::string_view reset, Time now) noexcept {
  told_tokens_.hear(limit, remaining, reset, now);
}

}  // namespace core
