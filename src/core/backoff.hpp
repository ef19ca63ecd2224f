// How long to wait before trying again: doubling, capped, with jitter, so that workers which failed
// together do not all come back together.
#pragma once

#include <chrono>
#include <cstdint>

namespace core {

class Backoff {
 public:
  using Duration = std::chrono::milliseconds;

  // The n-th delay (from 0) lies between half of min(cap, first * 2^n) and all of it ("equal
  // jitter": at least half, so that a tight loop of failures is impossible).
  constexpr Backoff(Duration first, Duration cap) : first_(first), cap_(cap) {}

  // `random` is any 32 random bits.
  Duration next(std::uint32_t random);
  void reset() { failures_ = 0; }
  unsigned failures() const { return failures_; }

 private:
  Duration first_;
  Duration cap_;
  unsigned failures_ = 0;
};

}  // namespace core
