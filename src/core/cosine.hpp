// The cosine of the angle between two vectors.
#pragma once

#include <optional>
#include <span>

namespace core {

// From -1 to 1. Nothing where one of them has no direction: it is zero, or holds something that is
// no finite number. They have the same length. Summed in double precision, in four lanes: the same
// bits on every machine, and not one addition after the other.
std::optional<double> cosine(std::span<const float> a, std::span<const float> b);

}  // namespace core
