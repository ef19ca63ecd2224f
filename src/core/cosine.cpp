#include "core/cosine.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace core {
namespace {

constexpr std::size_t kLanes = 4;
using Lanes = std::array<double, kLanes>;

double sum(const Lanes& lanes) { return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]); }

}  // namespace

std::optional<double> cosine(std::span<const float> a, std::span<const float> b) {
  const std::size_t size = std::min(a.size(), b.size());
  Lanes dot{};
  Lanes norm_a{};
  Lanes norm_b{};
  const auto add = [&](std::size_t i, std::size_t lane) {
    const double x = a[i];
    const double y = b[i];
    dot[lane] += x * y;
    norm_a[lane] += x * x;
    norm_b[lane] += y * y;
  };
  std::size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      add(i + lane, lane);
    }
  }
  for (; i < size; ++i) {
    add(i, i % kLanes);
  }
  // Squares of floats neither overflow nor vanish in double precision, nor does the product of two
  // square roots.
  const double norms = std::sqrt(sum(norm_a)) * std::sqrt(sum(norm_b));
  if (!std::isfinite(norms) || norms <= 0) {
    return std::nullopt;
  }
  return std::clamp(sum(dot) / norms, -1.0, 1.0);
}

}  // namespace core
