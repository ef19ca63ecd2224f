// core::TokenBucket.
#include "core/token_bucket.hpp"

#include <gtest/gtest.h>

namespace {

using core::TokenBucket;
using std::chrono::milliseconds;

constexpr milliseconds at(int ms) { return milliseconds(1'000'000 + ms); }

TEST(TokenBucket, WithoutALimitNothingWaits) {
  TokenBucket bucket(0);
  bucket.take(1e12, at(0));
  EXPECT_EQ(bucket.wait(1e12, at(0)), milliseconds(0));
}

TEST(TokenBucket, SpreadsRequestsEvenly) {
  TokenBucket bucket(60);
  int sent = 0;
  for (int ms = 0; ms < 60'000; ++ms) {
    if (bucket.wait(1, at(ms)) == milliseconds(0)) {
      bucket.take(1, at(ms));
      ++sent;
    }
  }
  EXPECT_EQ(sent, 60);
}

TEST(TokenBucket, SaysHowLongToWait) {
  TokenBucket bucket(60);
  bucket.take(1, at(0));
  EXPECT_EQ(bucket.wait(1, at(0)), milliseconds(1000));
  EXPECT_EQ(bucket.wait(1, at(400)), milliseconds(600));
  EXPECT_EQ(bucket.wait(1, at(1000)), milliseconds(0));
}

TEST(TokenBucket, SavesUpNoMoreThanASecond) {
  TokenBucket bucket(6000);
  bucket.take(0, at(0));
  EXPECT_EQ(bucket.wait(100, at(3'600'000)), milliseconds(0));
  bucket.take(100, at(3'600'000));
  EXPECT_EQ(bucket.wait(1, at(3'600'000)), milliseconds(10));
}

TEST(TokenBucket, LetsALargeAmountThroughAndCollectsTheDebt) {
  TokenBucket bucket(6000);  // 100 a second
  EXPECT_EQ(bucket.wait(1000, at(0)), milliseconds(0)) << "the bucket is full";
  bucket.take(1000, at(0));
  EXPECT_EQ(bucket.wait(1, at(0)), milliseconds(9010));
  EXPECT_EQ(bucket.wait(1000, at(0)), milliseconds(10'000));
  EXPECT_EQ(bucket.wait(1, at(9010)), milliseconds(0));
}

TEST(TokenBucket, LimitsBelowOneASecondStillLetOneThrough) {
  TokenBucket bucket(1);
  EXPECT_EQ(bucket.wait(1, at(0)), milliseconds(0));
  bucket.take(1, at(0));
  EXPECT_EQ(bucket.wait(1, at(0)), milliseconds(60'000));
}

TEST(TokenBucket, AClockThatStandsStillGivesNothing) {
  TokenBucket bucket(60);
  bucket.take(1, at(0));
  bucket.take(1, at(-5000));
  EXPECT_EQ(bucket.wait(1, at(0)), milliseconds(2000));
}

}  // namespace
