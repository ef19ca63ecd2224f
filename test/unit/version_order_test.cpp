// core/version_order: which version is the older.
#include "core/version_order.hpp"

#include <gtest/gtest.h>

namespace {

TEST(VersionOrder, ByNumbersNotByCharacters) {
  EXPECT_TRUE(core::is_older("0.9.0", "0.10.0"));
  EXPECT_FALSE(core::is_older("0.10.0", "0.9.0"));
  EXPECT_TRUE(core::is_older("0.1.0", "0.1.1"));
  EXPECT_TRUE(core::is_older("0.1.9", "1.0.0"));
  EXPECT_FALSE(core::is_older("1.0.0", "0.99.99"));
}

TEST(VersionOrder, TheSameIsNotOlder) {
  EXPECT_FALSE(core::is_older("0.1.0", "0.1.0"));
  EXPECT_FALSE(core::is_older("", ""));
}

TEST(VersionOrder, WhatIsMissingCountsAsZero) {
  EXPECT_FALSE(core::is_older("1.0", "1.0.0"));
  EXPECT_FALSE(core::is_older("1.0.0", "1.0"));
  EXPECT_TRUE(core::is_older("1.0", "1.0.1"));
  EXPECT_TRUE(core::is_older("", "0.0.1"));
}

TEST(VersionOrder, WhatIsNoNumberPlaysNoPart) {
  EXPECT_FALSE(core::is_older("1.0.0-rc1", "1.0.0"));
  EXPECT_TRUE(core::is_older("unpackaged", "0.1.0"));
  EXPECT_FALSE(core::is_older("99999999999999999999", "0.1.0"));
}

}  // namespace
