// core/quantile_sketch: any quantile within 1 % of the exact one.
#include "core/quantile_sketch.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace {

namespace sketch = core::sketch;

std::vector<std::uint64_t> bins_of(const std::vector<double>& values) {
  std::vector<std::uint64_t> bins(sketch::kBins, 0);
  for (const double value : values) {
    ++bins[sketch::bin_of(value)];
  }
  return bins;
}

void expect_quantiles(std::vector<double> values, const std::string& what) {
  const std::vector<std::uint64_t> bins = bins_of(values);
  std::sort(values.begin(), values.end());
  for (const double q : {0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0}) {
    const double exact = values[static_cast<std::size_t>(q * (values.size() - 1.0))];
    EXPECT_NEAR(sketch::quantile(bins, q, values.front(), values.back()), exact,
                exact * (sketch::kRelativeError + 1e-9))
        << what << ", q = " << q;
  }
}

TEST(QuantileSketch, IsWithinOnePercentOfTheExactQuantile) {
  std::mt19937_64 random(7);
  const std::vector<std::pair<std::string, std::function<double()>>> sources = {
      {"lognormal", [&] { return std::lognormal_distribution<double>(0, 2)(random); }},
      {"uniform", [&] { return std::uniform_real_distribution<double>(0.001, 300)(random); }},
      {"pareto",
       [&] { return std::pow(1 - std::uniform_real_distribution<double>()(random), -2); }},
      {"microseconds", [&] { return 1e-6 + std::exponential_distribution<double>(1e4)(random); }},
      {"bytes", [&] { return std::exp(std::uniform_real_distribution<double>(0, 25)(random)); }}};
  for (const auto& [name, draw] : sources) {
    for (const std::size_t n : {1U, 2U, 10U, 10000U}) {
      std::vector<double> values;
      std::generate_n(std::back_inserter(values), n, draw);
      expect_quantiles(values, name + " " + std::to_string(n));
    }
  }
}

TEST(QuantileSketch, EachBinHoldsWhatItStandsFor) {
  for (int bin = 1; bin < sketch::kBins; ++bin) {
    EXPECT_EQ(sketch::bin_of(sketch::value_of(bin)), bin);
  }
}

TEST(QuantileSketch, WhatLiesOutsideTheRangeIsKeptAtItsEnds) {
  EXPECT_EQ(sketch::bin_of(0), 0);
  EXPECT_EQ(sketch::bin_of(1e-300), 0);
  EXPECT_EQ(sketch::bin_of(1e300), sketch::kBins - 1);
  // The exact extremes bound what is said.
  EXPECT_EQ(sketch::quantile(bins_of({0, 0, 0}), 0.5, 0, 0), 0);
  EXPECT_EQ(sketch::quantile(bins_of({1e300}), 0.99, 1e300, 1e300), 1e300);
}

TEST(QuantileSketch, NothingObservedIsNotANumber) {
  EXPECT_TRUE(std::isnan(sketch::quantile(bins_of({}), 0.5, 0, 0)));
}

}  // namespace
