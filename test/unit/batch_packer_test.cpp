// core/batch_packer: every item in one batch, in order, and no batch beyond its limits.
#include "core/batch_packer.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace {

std::vector<core::ItemSize> equal_items(std::size_t count, std::uint64_t bytes,
                                        std::uint64_t tokens) {
  return std::vector<core::ItemSize>(count, {bytes, tokens});
}

std::string counts(const std::vector<core::Batch>& batches) {
  std::string out;
  for (const core::Batch& batch : batches) {
    out += (out.empty() ? "" : " ") + std::to_string(batch.count) + (batch.too_large ? "!" : "");
  }
  return out;
}

std::string packed(const std::vector<core::ItemSize>& items, const core::BatchLimits& limits) {
  return counts(core::pack_batches(items, limits));
}

TEST(BatchPacker, ByCount) {
  core::BatchLimits limits;
  limits.max_items = 100;
  EXPECT_EQ(packed(equal_items(250, 1, 1), limits), "100 100 50");
  EXPECT_EQ(packed(equal_items(100, 1, 1), limits), "100");
  EXPECT_EQ(packed({}, limits), "");
}

TEST(BatchPacker, ByTokens) {
  core::BatchLimits limits;
  limits.max_tokens = 10;
  EXPECT_EQ(packed(equal_items(5, 0, 4), limits), "2 2 1");
  EXPECT_EQ(packed(equal_items(4, 0, 5), limits), "2 2");
}

TEST(BatchPacker, ByBytesWithFrameAndSeparators) {
  core::BatchLimits limits;
  limits.max_bytes = 100;
  limits.frame_bytes = 20;
  limits.separator_bytes = 2;
  // 20 + 26 + 2 + 26 + 2 + 24 = 100
  const auto batches =
      core::pack_batches(std::vector<core::ItemSize>{{26, 0}, {26, 0}, {24, 0}}, limits);
  ASSERT_EQ(counts(batches), "3");
  EXPECT_EQ(batches[0].bytes, 100U);
  EXPECT_EQ(packed({{26, 0}, {26, 0}, {25, 0}}, limits), "2 1");
}

TEST(BatchPacker, AnItemTooLargeIsAlone) {
  core::BatchLimits limits;
  limits.max_tokens = 10;
  EXPECT_EQ(packed({{0, 3}, {0, 11}, {0, 3}, {0, 3}}, limits), "1 1! 2");
  EXPECT_EQ(packed({{0, 11}, {0, 12}}, limits), "1! 1!");
  EXPECT_EQ(packed({{0, 10}}, limits), "1");
}

TEST(BatchPacker, LimitsOfZero) {
  core::BatchLimits limits;
  limits.max_items = 0;
  EXPECT_EQ(packed(equal_items(3, 0, 0), limits), "1 1 1");
  limits.max_bytes = 0;
  EXPECT_EQ(packed(equal_items(2, 1, 0), limits), "1! 1!");
}

TEST(BatchPacker, HugeSizesDoNotWrapAround) {
  constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();
  core::BatchLimits limits;
  limits.max_bytes = 1000;
  EXPECT_EQ(packed({{10, 1}, {kHuge, 1}, {kHuge - 5, 1}, {10, 1}}, limits), "1 1! 1! 1");
}

TEST(BatchPacker, AnyItems) {
  std::mt19937 random(4);
  for (int round = 0; round < 500; ++round) {
    std::vector<core::ItemSize> items(random() % 60);
    for (core::ItemSize& item : items) {
      item = {random() % 120, random() % 60};
    }
    core::BatchLimits limits;
    limits.max_items = 1 + random() % 8;
    limits.max_tokens = random() % 100;
    limits.max_bytes = random() % 200;
    limits.frame_bytes = random() % 10;
    limits.separator_bytes = random() % 3;
    std::size_t next = 0;
    for (const core::Batch& batch : core::pack_batches(items, limits)) {
      ASSERT_EQ(batch.first, next);
      ASSERT_GE(batch.count, 1U);
      std::uint64_t bytes = limits.frame_bytes + (batch.count - 1) * limits.separator_bytes;
      std::uint64_t tokens = 0;
      for (std::size_t i = 0; i < batch.count; ++i) {
        bytes += items[next + i].bytes;
        tokens += items[next + i].tokens;
      }
      ASSERT_EQ(batch.bytes, bytes);
      ASSERT_EQ(batch.tokens, tokens);
      const bool fits = batch.count <= limits.max_items && tokens <= limits.max_tokens &&
                        bytes <= limits.max_bytes;
      ASSERT_EQ(batch.too_large, !fits);
      if (!fits) {
        ASSERT_EQ(batch.count, 1U);
      }
      next += batch.count;
    }
    ASSERT_EQ(next, items.size());
  }
}

TEST(BatchPacker, Halves) {
  core::BatchLimits limits;
  limits.frame_bytes = 5;
  limits.separator_bytes = 1;
  const auto items = equal_items(7, 10, 3);
  const auto batches = core::pack_batches(items, limits);
  ASSERT_EQ(counts(batches), "7");
  const auto [left, right] = core::halve_batch(batches[0], items, limits);
  EXPECT_EQ(left.first, 0U);
  EXPECT_EQ(left.count, 3U);
  EXPECT_EQ(left.bytes, 5U + 30 + 2);
  EXPECT_EQ(left.tokens, 9U);
  EXPECT_EQ(right.first, 3U);
  EXPECT_EQ(right.count, 4U);
  const auto [first, second] =
      core::halve_batch(core::halve_batch(left, items, limits).second, items, limits);
  EXPECT_EQ(first.first, 1U);
  EXPECT_EQ(first.count, 1U);
  EXPECT_EQ(second.first, 2U);
  EXPECT_EQ(second.count, 1U);
}

}  // namespace
