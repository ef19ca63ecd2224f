// core::Backoff: the n-th delay lies between half of min(cap, first * 2^n) and all of it.
#include "core/backoff.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <set>

namespace {

using Duration = core::Backoff::Duration;
using Rep = Duration::rep;

constexpr std::uint32_t kMostRandom = std::numeric_limits<std::uint32_t>::max();

// The n-th delay, n from 0.
Duration nth(core::Backoff backoff, unsigned n, std::uint32_t random) {
  for (unsigned i = 0; i < n; ++i) {
    backoff.next(0);
  }
  return backoff.next(random);
}

TEST(Backoff, LiesBetweenHalfAndAllOfTheDoublingDelay) {
  std::mt19937 random(1);
  for (unsigned n = 0; n < 12; ++n) {
    const Rep full = std::min<Rep>(60'000, 100 << n);
    for (int i = 0; i < 1000; ++i) {
      const Rep delay =
          nth({Duration(100), Duration(60'000)}, n, static_cast<std::uint32_t>(random())).count();
      ASSERT_GE(delay * 2, full) << "delay " << n;
      ASSERT_LE(delay, full) << "delay " << n;
    }
  }
}

TEST(Backoff, ReachesBothEndsOfItsRange) {
  std::set<Rep> delays;
  for (std::uint32_t random = 0; random < 1000; ++random) {
    delays.insert(nth({Duration(100), Duration(60'000)}, 0, random).count());
  }
  EXPECT_EQ(*delays.begin(), 50);
  EXPECT_EQ(*delays.rbegin(), 100);
  EXPECT_EQ(delays.size(), 51U) << "every delay in between comes up";
}

TEST(Backoff, NeverExceedsTheCapHoweverManyFailures) {
  core::Backoff backoff(Duration(1000), Duration(300'000));
  for (int i = 0; i < 10'000; ++i) {
    const Duration delay = backoff.next(static_cast<std::uint32_t>(i) * 2654435761U);
    ASSERT_LE(delay, Duration(300'000));
    if (i > 10) {
      ASSERT_GE(delay, Duration(150'000)) << "it stays at the cap";
    }
  }
  EXPECT_EQ(backoff.failures(), 10'000U);
}

TEST(Backoff, StartsAnewAfterAReset) {
  core::Backoff backoff(Duration(100), Duration(60'000));
  for (int i = 0; i < 8; ++i) {
    backoff.next(0);
  }
  EXPECT_EQ(backoff.failures(), 8U);
  backoff.reset();
  EXPECT_EQ(backoff.failures(), 0U);
  EXPECT_LE(backoff.next(kMostRandom), Duration(100));
}

TEST(Backoff, ACapBelowTheFirstDelayHolds) {
  EXPECT_LE(nth({Duration(5000), Duration(200)}, 0, kMostRandom), Duration(200));
  EXPECT_GE(nth({Duration(5000), Duration(200)}, 0, 0), Duration(100));
}

TEST(Backoff, SurvivesTheLargestFirstDelayAndCap) {
  for (unsigned n : {0U, 1U, 30U, 31U, 63U, 64U, 200U}) {
    for (std::uint32_t random : {0U, 1U, kMostRandom}) {
      const Duration delay = nth({Duration::max(), Duration::max()}, n, random);
      EXPECT_GE(delay, Duration::max() / 2) << n;
      EXPECT_LE(delay, Duration::max()) << n;
    }
  }
}

TEST(Backoff, SurvivesManyDoublingsBelowAHugeCap) {
  Rep before = 0;
  for (unsigned n = 0; n <= 30; ++n) {
    const Rep delay = nth({Duration(1), Duration::max()}, n, 0).count();
    EXPECT_GE(delay * 2, Rep{1} << n) << n;
    EXPECT_LE(delay, Rep{1} << n) << n;
    EXPECT_GE(delay, before);
    before = delay;
  }
  EXPECT_GE(nth({Duration(1), Duration::max()}, 1000, 0).count(), before)
      << "it never becomes shorter again";
}

TEST(Backoff, AFirstDelayOfNothingIsNoTightLoop) {
  EXPECT_GE(nth({Duration(0), Duration(60'000)}, 0, 0), Duration(1));
  EXPECT_GE(nth({Duration(-5), Duration(60'000)}, 20, 0), Duration(1000));
}

TEST(Backoff, ACapOfNothingMeansNoDelay) {
  for (std::uint32_t random : {0U, 7U, kMostRandom}) {
    EXPECT_EQ(nth({Duration(100), Duration(0)}, 3, random), Duration(0));
  }
}

}  // namespace
