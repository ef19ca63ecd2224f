// core::PartPlan: sizes, order, ends and limits of the parts of an upload.
#include "core/part_plan.hpp"

#include <gtest/gtest.h>

#include <string>

#include "core/error.hpp"

namespace {

using core::PartPlan;

constexpr std::uint64_t kMiB = 1 << 20;

TEST(PartPlan, GivesNothingBeforeAWholePartIsThere) {
  PartPlan plan(8 * kMiB);
  EXPECT_FALSE(plan.next(0, false));
  EXPECT_FALSE(plan.next(8 * kMiB - 1, false));
  const auto part = plan.next(8 * kMiB, false);
  ASSERT_TRUE(part);
  EXPECT_EQ(part->number, 1U);
  EXPECT_EQ(part->offset, 0U);
  EXPECT_EQ(part->length, 8 * kMiB);
  EXPECT_FALSE(plan.next(8 * kMiB, false));
  EXPECT_FALSE(plan.next(8 * kMiB, true)) << "nothing is left";
  EXPECT_EQ(plan.count(), 1U);
}

TEST(PartPlan, TheLastPartIsWhatIsLeft) {
  PartPlan plan(8 * kMiB);
  ASSERT_TRUE(plan.next(20 * kMiB, false));
  ASSERT_TRUE(plan.next(20 * kMiB, false));
  EXPECT_FALSE(plan.next(20 * kMiB, false));
  const auto last = plan.next(20 * kMiB, true);
  ASSERT_TRUE(last);
  EXPECT_EQ(last->number, 3U);
  EXPECT_EQ(last->offset, 16 * kMiB);
  EXPECT_EQ(last->length, 4 * kMiB);
  EXPECT_FALSE(plan.next(20 * kMiB, true));
}

TEST(PartPlan, BringsTheBaseIntoRange) {
  EXPECT_EQ(PartPlan(0).base(), PartPlan::kSmallestPart);
  EXPECT_EQ(PartPlan(~std::uint64_t{0}).base(), PartPlan::kLargestPart);
}

TEST(PartPlan, TheFirstThousandPartsAreEqualThenTheyDouble) {
  const PartPlan plan(8 * kMiB);
  EXPECT_EQ(plan.size_of(1), 8 * kMiB);
  EXPECT_EQ(plan.size_of(1000), 8 * kMiB);
  EXPECT_EQ(plan.size_of(1001), 16 * kMiB);
  EXPECT_EQ(plan.size_of(10'000), 8 * kMiB << 9);
  EXPECT_EQ(PartPlan(PartPlan::kLargestPart).size_of(10'000), PartPlan::kLargestPart);
}

TEST(PartPlan, ReachesTheLargestObjectInTenThousandParts) {
  for (const std::uint64_t base : {5 * kMiB, 8 * kMiB, 64 * kMiB, PartPlan::kLargestPart}) {
    PartPlan plan(base);
    const std::uint64_t size = plan.capacity();
    EXPECT_GE(size, std::uint64_t{5'000'000'000'000}) << base;
    EXPECT_LE(size, PartPlan::kLargestObject);
    std::uint64_t offset = 0;
    while (const auto part = plan.next(size, true)) {
      ASSERT_EQ(part->offset, offset);
      ASSERT_LE(part->length, PartPlan::kLargestPart);
      offset += part->length;
    }
    EXPECT_EQ(offset, size);
    EXPECT_LE(plan.count(), PartPlan::kMaxParts);
  }
}

TEST(PartPlan, RefusesWhatNoStoreHolds) {
  PartPlan plan(8 * kMiB);
  try {
    plan.next(PartPlan::kLargestObject + 1, true);
    FAIL() << "it was taken";
  } catch (const core::Error& error) {
    EXPECT_EQ(std::string(error.sqlstate()), "54000");
  }
}

}  // namespace
