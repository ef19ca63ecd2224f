#include "core/token_bucket.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace core {
namespace {

constexpr double kMsPerMinute = 60'000;
constexpr double kMsSavedUp = 1000;

}  // namespace

TokenBucket::TokenBucket(double per_minute) noexcept
    : per_ms_(std::max(per_minute, 0.0) / kMsPerMinute),
      // A bucket for less than one would never let one request through.
      capacity_(std::max(per_ms_ * kMsSavedUp, 1.0)),
      level_(capacity_) {}

std::chrono::milliseconds TokenBucket::wait(double amount, Time now) noexcept {
  if (per_ms_ <= 0) {
    return std::chrono::milliseconds(0);
  }
  refill(now);
  const double lacking = std::min(amount, capacity_) - level_;
  if (lacking <= 0) {
    return std::chrono::milliseconds(0);
  }
  constexpr double kLongestMs = 24 * 60 * kMsPerMinute;
  return std::chrono::milliseconds(
      static_cast<std::int64_t>(std::min(std::ceil(lacking / per_ms_), kLongestMs)));
}

void TokenBucket::take(double amount, Time now) noexcept {
  if (per_ms_ > 0) {
    refill(now);
    level_ -= std::max(amount, 0.0);
  }
}

void TokenBucket::refill(Time now) noexcept {
  if (started_ && now > at_) {
    const auto passed = static_cast<double>((now - at_).count());
    level_ = std::min(level_ + passed * per_ms_, capacity_);
  }
  if (!started_ || now > at_) {
    started_ = true;
    at_ = now;
  }
}

}  // namespace core
