// How far a long job has come, for whoever waits for it at the other end of the session.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace pg {

// A NOTICE every five seconds, such as "exporting public.chunks: 1200000 rows so far". A session
// that does not want it sets client_min_messages.
class Progress {
 public:
  // `what`: "exporting public.chunks"; `unit`: "rows".
  Progress(std::string what, std::string unit);

  // `total` 0: not known. Cheap enough to be called for each row.
  void tell(std::uint64_t done, std::uint64_t total = 0);

 private:
  using Clock = std::chrono::steady_clock;

  std::string what_;
  std::string unit_;
  Clock::time_point last_ = Clock::now();
};

}  // namespace pg
