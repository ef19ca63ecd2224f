#include "core/backoff.hpp"

#include <algorithm>

namespace core {

Backoff::Duration Backoff::next(std::uint32_t random) {
  // 2^30 times the first delay is past any cap; shifting further would overflow.
  constexpr unsigned kMaxDoublings = 30;
  const auto doublings = std::min(failures_, kMaxDoublings);
  const auto limit = std::max<Duration::rep>(cap_.count(), 0);
  const auto first = std::max<Duration::rep>(first_.count(), 1);
  const auto full = first > (limit >> doublings) ? limit : first << doublings;
  const auto half = full / 2;
  ++failures_;
  return Duration(full - half + static_cast<Duration::rep>(random % (half + 1)));
}

}  // namespace core
