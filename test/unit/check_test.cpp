// core::ensure: a check that stays on, and what it says where it fails.
#include "core/check.hpp"

#include <gtest/gtest.h>

#include <string>

#include "core/error.hpp"

namespace {

TEST(Check, SaysNothingWhileItHolds) { EXPECT_NO_THROW(core::ensure(true, "one is one")); }

TEST(Check, FailsAsAnInternalErrorThatNamesThePlace) {
  try {
    core::ensure(false, "each row counts once");
    FAIL() << "nothing was thrown";
  } catch (const core::Error& e) {
    EXPECT_STREQ(e.sqlstate(), "XX000");
    EXPECT_EQ(e.message(), "a check of bacmr_ops failed: each row counts once");
    EXPECT_NE(e.detail().find("check_test.cpp:16."), std::string::npos) << e.detail();
  }
}

TEST(Check, NamesThePathFromTheCheckoutOn) {
  try {
    core::ensure(false, "it holds", "/home/somebody/src/bacmr_ops/src/jobs/expire.cpp", 12);
    FAIL() << "nothing was thrown";
  } catch (const core::Error& e) {
    EXPECT_EQ(e.detail(), "At src/jobs/expire.cpp:12.");
  }
}

}  // namespace
