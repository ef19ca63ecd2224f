// Giving way to the application: how long a job that works in batches rests between two of them.
#pragma once

#include "pg/postgres.hpp"

#include <chrono>

namespace jobs {

class Pacing {
 public:
  // A batch begins: before its transaction.
  void begin();
  // It is committed. While more sessions are at work than the machine has processors, sleeps
  // nineteen times as long as the batch took: the job then has a twentieth of one processor, and a
  // backlog is no reason for the application to slow down. Otherwise returns at once. Notices
  // cancels.
  void rest() const;

 private:
  using Clock = std::chrono::steady_clock;

  Clock::time_point began_{};
};

}  // namespace jobs
