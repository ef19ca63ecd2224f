// Quantiles from counts: the bins of DDSketch (Masson, Rim and Lee, "DDSketch: a fast and
// fully-mergeable quantile sketch with relative-error guarantees", PVLDB 12, 2019) over a fixed
// range, so that the memory is fixed too.
//
// A bin holds the values in (edge / kGamma, edge]; any value of a bin is within 1 % of the one that
// stands for it. Values are not negative.
#pragma once

#include <cstdint>
#include <span>

namespace core::sketch {

inline constexpr double kRelativeError = 0.01;
inline constexpr double kGamma = (1 + kRelativeError) / (1 - kRelativeError);
// In seconds: from a microsecond to 19,000 years; in bytes: to 600 GB. What is smaller counts as
// kLowest, what is larger as the highest bin.
inline constexpr double kLowest = 1e-6;
inline constexpr int kBins = 2048;

int bin_of(double value) noexcept;
// The value that stands for a bin.
double value_of(int bin) noexcept;

// The q-quantile (q from 0 to 1) of what the bins hold: the value of rank floor(q * (n - 1)),
// counted from 0 in ascending order. `lowest` and `highest` are the exact extremes. NaN where the
// bins are empty.
double quantile(std::span<const std::uint64_t> bins, double q, double lowest,
                double highest) noexcept;

}  // namespace core::sketch
