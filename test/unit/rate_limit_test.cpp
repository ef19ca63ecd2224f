// core::RateLimit, core::parse_reset.
#include "core/rate_limit.hpp"

#include <gtest/gtest.h>

#include <optional>

namespace {

using core::parse_reset;
using core::RateLimit;
using std::chrono::milliseconds;

constexpr milliseconds at(int ms) { return milliseconds(1'000'000 + ms); }

TEST(ParseReset, ReadsDurations) {
  EXPECT_EQ(parse_reset("1s"), milliseconds(1000));
  EXPECT_EQ(parse_reset("6m0s"), milliseconds(360'000));
  EXPECT_EQ(parse_reset("120ms"), milliseconds(120));
  EXPECT_EQ(parse_reset("1h2m3.5s"), milliseconds(3'723'500));
  EXPECT_EQ(parse_reset("1m0.25s"), milliseconds(60'250));
  EXPECT_EQ(parse_reset("0s"), milliseconds(0));
  EXPECT_EQ(parse_reset("17"), milliseconds(17'000)) << "seconds, as Azure writes them";
  EXPECT_EQ(parse_reset("500us"), milliseconds(1));
  EXPECT_EQ(parse_reset("9d"), milliseconds(24 * 3600 * 1000)) << "a day at the most";
}

TEST(ParseReset, RefusesWhatIsNoDuration) {
  for (const char* text :
       {"", "s", "1x", "-1s", "1s2", "1 s", ".", "1..5s", "nan", "1e3", "soon"}) {
    EXPECT_EQ(parse_reset(text), std::nullopt) << text;
  }
}

TEST(RateLimit, TheStricterOfTheDeclaredLimitsDecides) {
  RateLimit limit(60, 6000);
  limit.take(200, at(0));
  EXPECT_EQ(limit.wait(50, at(0)), milliseconds(1500)) << "tokens: a debt of 100, and 50 more";
  EXPECT_EQ(limit.wait(0, at(0)), milliseconds(1000));
}

TEST(RateLimit, WithoutLimitsOrHeadersNothingWaits) {
  RateLimit limit(0, 0);
  limit.hear_requests("", "", "", at(0));
  limit.hear_tokens("", "abc", "1s", at(0));
  for (int i = 0; i < 1000; ++i) {
    limit.take(1e6, at(0));
  }
  EXPECT_EQ(limit.wait(1e6, at(0)), milliseconds(0));
}

TEST(RateLimit, SpendsWhatTheServiceSaysIsLeft) {
  RateLimit limit(0, 0);
  limit.hear_requests("100", "2", "49s", at(0));  // 98 come back in 49 s: 2 a second
  EXPECT_EQ(limit.wait(0, at(0)), milliseconds(0));
  limit.take(0, at(0));
  limit.take(0, at(0));
  EXPECT_EQ(limit.wait(0, at(0)), milliseconds(500));
  EXPECT_EQ(limit.wait(0, at(500)), milliseconds(0));
}

TEST(RateLimit, WithoutAnOverallLimitItWaitsForTheReset) {
  RateLimit limit(0, 0);
  limit.hear_tokens("", "1000", "20s", at(0));
  EXPECT_EQ(limit.wait(1000, at(0)), milliseconds(0));
  EXPECT_EQ(limit.wait(1001, at(0)), milliseconds(20'000));
  EXPECT_EQ(limit.wait(1001, at(20'000)), milliseconds(0));
}

TEST(RateLimit, ARequestLargerThanTheLimitGoesOutWhenAllIsThere) {
  RateLimit limit(0, 0);
  limit.hear_tokens("1000", "500", "5s", at(0));
  EXPECT_EQ(limit.wait(1e6, at(0)), milliseconds(5000));
  EXPECT_EQ(limit.wait(1e6, at(5000)), milliseconds(0));
}

TEST(RateLimit, HoldsWhenTheServiceAsksForPatience) {
  RateLimit limit(0, 0);
  limit.hold(at(3000));
  limit.hold(at(2000));
  EXPECT_EQ(limit.wait(0, at(0)), milliseconds(3000));
  EXPECT_EQ(limit.wait(0, at(3000)), milliseconds(0));
}

TEST(RateLimit, NeverWaitsLongerThanAMinuteAtATime) {
  RateLimit limit(1, 0);
  limit.hear_requests("1", "0", "6h", at(0));
  EXPECT_EQ(limit.wait(0, at(0)), milliseconds(60'000));
}

}  // namespace
