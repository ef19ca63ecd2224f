#include "core/circuit_breaker.hpp"

#include <algorithm>
#include <limits>

namespace core {

CircuitBreaker::Permit CircuitBreaker::admit(Time now, const Limits& limits) noexcept {
  if (state_ == State::kClosed) {
    return {true, now, 0, 0};
  }
  const Time wait = since_ + limits.cooldown - now;
  if (state_ == State::kOpen) {
    if (wait > 0) {
      return {false, now, 0, wait};
    }
    state_ = State::kHalfOpen;
  } else if (probing_ && wait > 0) {
    return {false, now, 0, wait};
  }
  // A probe that has been silent for so long may belong to a process that is gone.
  probing_ = true;
  since_ = now;
  return {true, now, ++probes_, 0};
}

bool CircuitBreaker::is_current(const Permit& permit) const noexcept {
  return state_ == State::kHalfOpen && probing_ && permit.probe == probes_ && permit.probe != 0;
}

void CircuitBreaker::succeeded(const Permit& permit) noexcept {
  if (state_ == State::kClosed || is_current(permit)) {
    state_ = State::kClosed;
    failures_ = 0;
    probing_ = false;
  }
}

void CircuitBreaker::failed(const Permit& permit, Time now, const Limits& limits) noexcept {
  if (state_ != State::kClosed && !is_current(permit)) {
    return;
  }
  if (state_ == State::kClosed && failures_ > 0 && permit.at < last_failure_) {
    return;
  }
  last_failure_ = now;
  failures_ = std::min(failures_, std::numeric_limits<std::int32_t>::max() - 1) + 1;
  if (state_ == State::kHalfOpen || (limits.threshold >= 1 && failures_ >= limits.threshold)) {
    open(now);
  }
}

void CircuitBreaker::abandoned(const Permit& permit) noexcept {
  if (is_current(permit)) {
    probing_ = false;
  }
}

void CircuitBreaker::open(Time now) noexcept {
  state_ = State::kOpen;
  since_ = now;
  probing_ = false;
}

}  // namespace core
