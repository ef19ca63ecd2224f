// A circuit breaker: after a number of failures in a row it refuses requests for a while, then lets
// one at a time through as a probe, whose outcome decides.
//
// Plain data without pointers or a clock of its own, so that it can lie in shared memory; the
// caller brings the time, and the lock.
#pragma once

#include <cstdint>
#include <type_traits>

namespace core {

class CircuitBreaker {
 public:
  using Time = std::int64_t;  // milliseconds of a clock that never goes back

  enum class State : std::uint32_t { kClosed = 0, kOpen = 1, kHalfOpen = 2 };

  struct Limits {
    int threshold = 5;      // failures in a row that open it; below 1: it never opens
    Time cooldown = 30000;  // how long it stays open, and how long a silent probe is waited for
  };

  // The answer to "may I?", to be handed back with the outcome.
  struct Permit {
    bool granted = true;
    Time at = 0;              // when it was given
    std::uint64_t probe = 0;  // the number of the probe that this request is; 0: none
    Time wait = 0;            // where it was refused: how long until asking again makes sense
  };

  Permit admit(Time now, const Limits& limits) noexcept;

  // The outcome of a request that was admitted. Where the breaker has opened since, only the probe
  // has a say: what was under way before tells nothing about now. Likewise requests that were under
  // way together and fail together count as one failure.
  void succeeded(const Permit& permit) noexcept;
  void failed(const Permit& permit, Time now, const Limits& limits) noexcept;
  // It ended without telling anything about the service: cancelled, say.
  void abandoned(const Permit& permit) noexcept;

  State state() const noexcept { return state_; }
  int failures() const noexcept { return failures_; }  // in a row
  // Nothing to remember: as new.
  bool blank() const noexcept { return state_ == State::kClosed && failures_ == 0; }

 private:
  bool is_current(const Permit& permit) const noexcept;
  void open(Time now) noexcept;

  State state_ = State::kClosed;
  std::int32_t failures_ = 0;
  Time last_failure_ = 0;
  Time since_ = 0;  // when it opened; half-open: when the probe started
  std::uint64_t probes_ = 0;
  bool probing_ = false;
};
static_assert(std::is_trivially_copyable_v<CircuitBreaker>);

}  // namespace core
