#include "pg/wait.hpp"

#include <algorithm>
#include <chrono>

#include "pg/guard.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "utils/wait_event.h"
}

namespace pg {
namespace {

// A latch may be set for reasons of others, and a timeout is a 32-bit number of milliseconds.
constexpr std::int64_t kLongestWaitMs = 60'000;

}  // namespace

bool wait_for_latch(std::int64_t milliseconds) {
  const long timeout = static_cast<long>(std::clamp<std::int64_t>(milliseconds, 0, kLongestWaitMs));
  return call([timeout] {
    const int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
                                 PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
    return (events & WL_LATCH_SET) != 0;
  });
}

void wait_interruptibly(std::int64_t microseconds) {
  // Not the wall clock, which may be set meanwhile.
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const auto passed = [start] {
    return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count();
  };
  for (std::int64_t us = 0; us < microseconds; us = passed()) {
    wait_for_latch((microseconds - us) / 1000 + 1);
  }
}

void leave_without_postmaster() {
  call([] {
    if (IsUnderPostmaster && !PostmasterIsAlive()) {
      proc_exit(1);
    }
  });
}

}  // namespace pg
