// core::cosine.
#include "core/cosine.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace {

using core::cosine;
using Vector = std::vector<float>;

double of(const Vector& a, const Vector& b) {
  const auto result = cosine(a, b);
  return result ? *result : std::nan("");
}

TEST(Cosine, MeasuresDirectionsAlone) {
  EXPECT_DOUBLE_EQ(of({1, 0}, {5, 0}), 1);
  EXPECT_DOUBLE_EQ(of({1, 0}, {0, 3}), 0);
  EXPECT_DOUBLE_EQ(of({1, 2, 3, 4, 5}, {-2, -4, -6, -8, -10}), -1);
  EXPECT_DOUBLE_EQ(of({1, 0}, {1, 1}), std::sqrt(0.5));
  EXPECT_DOUBLE_EQ(of({3, 4, 0, 0, 0, 0, 12}, {0, 0, 0, 0, 0, 0, 1}), 12.0 / 13);
}

TEST(Cosine, StaysWithinItsBounds) {
  const Vector third(3, 1.0F / 3);
  const Vector tenth(3, 0.1F);
  EXPECT_LE(of(third, tenth), 1);
  EXPECT_NEAR(of(third, tenth), 1, 1e-15);
}

TEST(Cosine, BearsTheSmallestAndTheLargest) {
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  constexpr float kHuge = std::numeric_limits<float>::max();
  EXPECT_DOUBLE_EQ(of({kTiny, 0}, {kHuge, 0}), 1);
  EXPECT_DOUBLE_EQ(of(Vector(2000, kHuge), Vector(2000, kTiny)), 1);
}

TEST(Cosine, NothingWithoutADirection) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(cosine(Vector{0, 0}, Vector{1, 0}), std::nullopt);
  EXPECT_EQ(cosine(Vector{1, 0}, Vector{0, 0}), std::nullopt);
  EXPECT_EQ(cosine(Vector{kNan, 1}, Vector{1, 0}), std::nullopt);
  EXPECT_EQ(cosine(Vector{1, 0}, Vector{kInfinity, 0}), std::nullopt);
  EXPECT_EQ(cosine(Vector{}, Vector{}), std::nullopt);
}

}  // namespace
