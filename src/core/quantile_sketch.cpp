#include "core/quantile_sketch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace core::sketch {

int bin_of(double value) noexcept {
  if (!(value > kLowest)) {
    return 0;
  }
  static const double per_bin = 1 / std::log(kGamma);
  const double bin = std::ceil(std::log(value / kLowest) * per_bin);
  return static_cast<int>(std::min<double>(bin, kBins - 1));
}

double value_of(int bin) noexcept { return kLowest * std::pow(kGamma, bin) * 2 / (kGamma + 1); }

double quantile(std::span<const std::uint64_t> bins, double q, double lowest,
                double highest) noexcept {
  const std::uint64_t count = std::accumulate(bins.begin(), bins.end(), std::uint64_t{0});
  if (count == 0) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const auto rank = static_cast<std::uint64_t>(q * static_cast<double>(count - 1));
  std::uint64_t below = 0;
  std::size_t bin = 0;
  while (bin + 1 < bins.size() && below + bins[bin] <= rank) {
    below += bins[bin];
    ++bin;
  }
  return std::clamp(value_of(static_cast<int>(bin)), lowest, std::max(lowest, highest));
}

}  // namespace core::sketch
