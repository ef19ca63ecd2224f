// core::CircuitBreaker: closed, open, half-open, with one probe at a time.
#include "core/circuit_breaker.hpp"

#include <gtest/gtest.h>

namespace {

using core::CircuitBreaker;
using State = CircuitBreaker::State;

constexpr CircuitBreaker::Limits kLimits{3, 1000};

CircuitBreaker opened_at(CircuitBreaker::Time now) {
  CircuitBreaker breaker;
  for (int i = 0; i < kLimits.threshold; ++i) {
    breaker.failed(breaker.admit(now, kLimits), now, kLimits);
  }
  return breaker;
}

TEST(CircuitBreaker, OpensAfterFailuresInARow) {
  CircuitBreaker breaker;
  for (int i = 1; i < kLimits.threshold; ++i) {
    breaker.failed(breaker.admit(0, kLimits), 0, kLimits);
    EXPECT_EQ(breaker.state(), State::kClosed);
    EXPECT_EQ(breaker.failures(), i);
  }
  breaker.failed(breaker.admit(0, kLimits), 0, kLimits);
  EXPECT_EQ(breaker.state(), State::kOpen);
}

TEST(CircuitBreaker, ASuccessStartsTheCountAnew) {
  CircuitBreaker breaker;
  for (int round = 0; round < 10; ++round) {
    breaker.failed({}, 0, kLimits);
    breaker.failed({}, 0, kLimits);
    breaker.succeeded({});
    EXPECT_TRUE(breaker.blank());
  }
}

TEST(CircuitBreaker, RefusesForTheCooldownAndSaysHowLong) {
  CircuitBreaker breaker = opened_at(5000);
  const auto permit = breaker.admit(5400, kLimits);
  EXPECT_FALSE(permit.granted);
  EXPECT_EQ(permit.wait, 600);
  EXPECT_FALSE(breaker.admit(5999, kLimits).granted);
  EXPECT_TRUE(breaker.admit(6000, kLimits).granted);
  EXPECT_EQ(breaker.state(), State::kHalfOpen);
}

TEST(CircuitBreaker, LetsOneProbeThroughAtATime) {
  CircuitBreaker breaker = opened_at(0);
  const auto probe = breaker.admit(1000, kLimits);
  EXPECT_TRUE(probe.granted);
  EXPECT_NE(probe.probe, 0U);
  EXPECT_FALSE(breaker.admit(1001, kLimits).granted);
  breaker.succeeded(probe);
  EXPECT_TRUE(breaker.blank());
  EXPECT_TRUE(breaker.admit(1002, kLimits).granted);
}

TEST(CircuitBreaker, AFailedProbeOpensItAgain) {
  CircuitBreaker breaker = opened_at(0);
  breaker.failed(breaker.admit(1000, kLimits), 1500, kLimits);
  EXPECT_EQ(breaker.state(), State::kOpen);
  EXPECT_FALSE(breaker.admit(2499, kLimits).granted);
  EXPECT_TRUE(breaker.admit(2500, kLimits).granted);
}

TEST(CircuitBreaker, WhatWasUnderWayBeforeHasNoSay) {
  CircuitBreaker breaker;
  const auto early = breaker.admit(0, kLimits);
  breaker = opened_at(0);
  breaker.succeeded(early);
  EXPECT_EQ(breaker.state(), State::kOpen);
  const auto probe = breaker.admit(1000, kLimits);
  breaker.failed(early, 1001, kLimits);
  EXPECT_EQ(breaker.state(), State::kHalfOpen);
  breaker.succeeded(early);
  EXPECT_EQ(breaker.state(), State::kHalfOpen);
  breaker.abandoned(early);
  EXPECT_FALSE(breaker.admit(1002, kLimits).granted) << "the probe is still out";
  breaker.succeeded(probe);
  EXPECT_EQ(breaker.state(), State::kClosed);
}

TEST(CircuitBreaker, AnAbandonedProbeMakesRoomForTheNext) {
  CircuitBreaker breaker = opened_at(0);
  breaker.abandoned(breaker.admit(1000, kLimits));
  EXPECT_EQ(breaker.state(), State::kHalfOpen);
  EXPECT_TRUE(breaker.admit(1001, kLimits).granted);
}

TEST(CircuitBreaker, AProbeOfAProcessThatIsGoneIsReplaced) {
  CircuitBreaker breaker = opened_at(0);
  const auto lost = breaker.admit(1000, kLimits);
  const auto next = breaker.admit(2000, kLimits);
  EXPECT_TRUE(next.granted);
  EXPECT_NE(next.probe, lost.probe);
  breaker.succeeded(lost);
  EXPECT_EQ(breaker.state(), State::kHalfOpen) << "it came too late";
  breaker.succeeded(next);
  EXPECT_EQ(breaker.state(), State::kClosed);
}

TEST(CircuitBreaker, WhatFailsTogetherCountsOnce) {
  CircuitBreaker breaker;
  for (CircuitBreaker::Time now = 0; now < 20; now += 10) {
    const auto first = breaker.admit(now, kLimits);
    const auto second = breaker.admit(now, kLimits);
    breaker.failed(first, now + 5, kLimits);
    breaker.failed(second, now + 6, kLimits);
  }
  EXPECT_EQ(breaker.failures(), 2);
  EXPECT_EQ(breaker.state(), State::kClosed);
  breaker.failed(breaker.admit(20, kLimits), 25, kLimits);
  EXPECT_EQ(breaker.state(), State::kOpen);
}

TEST(CircuitBreaker, WithoutAThresholdItNeverOpens) {
  CircuitBreaker breaker;
  for (int i = 0; i < 1000; ++i) {
    breaker.failed(breaker.admit(i, {0, 1000}), i, {0, 1000});
  }
  EXPECT_TRUE(breaker.admit(1000, {0, 1000}).granted);
}

}  // namespace
