#include "pg/progress.hpp"

#include <utility>

#include "pg/log.hpp"

namespace pg {
namespace {

constexpr std::chrono::seconds kPeriod{5};

}  // namespace

Progress::Progress(std::string what, std::string unit)
    : what_(std::move(what)), unit_(std::move(unit)) {}

void Progress::tell(std::uint64_t done, std::uint64_t total) {
  const Clock::time_point now = Clock::now();
  if (now - last_ < kPeriod) {
    return;
  }
  last_ = now;
  const std::string so_far =
      total > 0 ? " of " + std::to_string(total) + " " + unit_ : " " + unit_ + " so far";
  notice_client(what_ + ": " + std::to_string(done) + so_far);
}

}  // namespace pg
