// core::Error carries an SQLSTATE and three texts, and is an ordinary exception otherwise.
#include "core/error.hpp"

#include <gtest/gtest.h>

#include <exception>
#include <memory>
#include <string>

namespace {

TEST(Error, CarriesItsSqlstateAndTexts) {
  const core::Error error("42501", "permission denied", "Only the owner may.", "Ask the owner.");
  EXPECT_STREQ(error.sqlstate(), "42501");
  EXPECT_EQ(error.message(), "permission denied");
  EXPECT_EQ(error.detail(), "Only the owner may.");
  EXPECT_EQ(error.hint(), "Ask the owner.");
}

TEST(Error, DetailAndHintMayBeLeftOut) {
  const core::Error error(core::sqlstate::kInternalError, "broken");
  EXPECT_TRUE(error.detail().empty());
  EXPECT_TRUE(error.hint().empty());
}

TEST(Error, KeepsItsOwnCopyOfTheCode) {
  auto code = std::make_unique<std::string>("22023");
  const core::Error error(code->c_str(), "wrong");
  code.reset();
  EXPECT_STREQ(error.sqlstate(), "22023");
}

TEST(Error, IsCaughtAsAStandardExceptionWithItsMessage) {
  try {
    throw core::Error("22023", "100% wrong: %s");
  } catch (const std::exception& e) {
    EXPECT_STREQ(e.what(), "100% wrong: %s");
  }
}

TEST(Error, ACopyOutlivesTheOriginal) {
  auto original = std::make_unique<core::Error>("55000", std::string(1000, 'm'),
                                                std::string(1000, 'd'), std::string(1000, 'h'));
  const core::Error copy = *original;
  original.reset();
  EXPECT_STREQ(copy.sqlstate(), "55000");
  EXPECT_EQ(copy.message(), std::string(1000, 'm'));
  EXPECT_EQ(copy.detail(), std::string(1000, 'd'));
  EXPECT_EQ(copy.hint(), std::string(1000, 'h'));
}

}  // namespace
