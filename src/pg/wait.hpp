// Waiting that notices cancels, shutdown and the postmaster's death at once.
#pragma once

#include "pg/postgres.hpp"

#include <cstdint>

namespace pg {

void wait_interruptibly(std::int64_t microseconds);

// Waits for this process's latch, at most so long; true if it was set. For a worker's main loop.
bool wait_for_latch(std::int64_t milliseconds);

// For waits that are not by a latch: ends this process where the postmaster is gone. As long as it
// ran on, no new server could start here.
void leave_without_postmaster();

}  // namespace pg
