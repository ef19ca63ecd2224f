// A rate limit: so much a minute, spread evenly, with a second's worth saved up at the most.
//
// What is taken may be more than that second's worth, such as the tokens of one large request: it
// is let through when the bucket is full, and what follows waits until the debt is paid. Has no
// clock of its own; the caller brings the time.
#pragma once

#include <chrono>

namespace core {

class TokenBucket {
 public:
  using Time = std::chrono::milliseconds;  // of a clock that never goes back

  // `per_minute` 0: no limit.
  explicit TokenBucket(double per_minute) noexcept;

  // How long until `amount` may be taken. 0: now.
  std::chrono::milliseconds wait(double amount, Time now) noexcept;
  // Whether that was waited for is the caller's business: the debt is noted all the same.
  void take(double amount, Time now) noexcept;

 private:
  void refill(Time now) noexcept;

  double per_ms_;
  double capacity_;
  double level_;
  Time at_{0};
  bool started_ = false;
};

}  // namespace core
