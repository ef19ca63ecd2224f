// core/namespace_version: what follows a name, whatever it ends in.
#include "core/namespace_version.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/error.hpp"

namespace {

TEST(NamespaceVersion, CountsOn) {
  EXPECT_EQ(core::next_version("grade-12-math"), "grade-12-math-v2");
  EXPECT_EQ(core::next_version("grade-12-math-v2"), "grade-12-math-v3");
  EXPECT_EQ(core::next_version("grade-12-math-v9"), "grade-12-math-v10");
  EXPECT_EQ(core::next_version("grade-12-math-v99"), "grade-12-math-v100");
  EXPECT_EQ(core::next_version("x-v1"), "x-v2");
  EXPECT_EQ(core::next_version("x-v2-v3"), "x-v2-v4");
}

TEST(NamespaceVersion, WhatIsNoVersionIsPartOfTheName) {
  for (const std::string name :
       {"x-v0", "x-v01", "x-v", "x-v-2", "x-v+2", "x-v2a", "x-v 2", "x-V2", "xv2", "x_v2", "-v7",
        "", "v2", "-", "x-v٢", "x-v1234567890123456"}) {
    EXPECT_EQ(core::next_version(name), name + "-v2");
  }
}

TEST(NamespaceVersion, LongNumbers) {
  EXPECT_EQ(core::next_version("x-v9999999999"), "x-v10000000000");
  EXPECT_EQ(core::next_version("x-v4294967295"), "x-v4294967296");
  EXPECT_EQ(core::next_version("x-v999999999999999"), "x-v1000000000000000");
}

TEST(NamespaceVersion, AnyName) {
  EXPECT_EQ(core::next_version("رياضيات-الصف-١٢"), "رياضيات-الصف-١٢-v2");
  EXPECT_EQ(core::next_version("رياضيات-v2"), "رياضيات-v3");
  EXPECT_EQ(core::next_version("maths/terminale"), "maths/terminale-v2");
  EXPECT_EQ(core::next_version("a/-v5"), "a/-v6");
  EXPECT_EQ(core::next_version("l'été \"x\""), "l'été \"x\"-v2");
}

TEST(NamespaceVersion, SkipsWhatIsTaken) {
  const std::set<std::string> taken = {"m-v2", "m-v3", "m-v5"};
  const auto is_taken = [&](const std::string& name) { return taken.contains(name); };
  EXPECT_EQ(core::next_version("m", is_taken), "m-v4");
  EXPECT_EQ(core::next_version("m-v4", is_taken), "m-v6");
  EXPECT_EQ(core::next_version("n", is_taken), "n-v2");
}

TEST(NamespaceVersion, GivesUpWhereAllAreTaken) {
  try {
    core::next_version("m", [](const std::string&) { return true; });
    FAIL();
  } catch (const core::Error& error) {
    EXPECT_STREQ(error.sqlstate(), "54000");
    EXPECT_EQ(error.message(), "no free version of namespace \"m\" was found");
  }
}

}  // namespace
