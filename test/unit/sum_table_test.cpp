// core::SumTable against std::map, and what it says when something does not fit.
#include "core/sum_table.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

namespace {

constexpr std::size_t kPlenty = std::size_t{64} << 20;
constexpr std::uint64_t kSeed = 0x5EED;
constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
constexpr std::uint32_t kMaxRows = std::numeric_limits<std::uint32_t>::max();

template <class Key>
Key make_key(std::uint64_t n);
template <>
std::int64_t make_key<std::int64_t>(std::uint64_t n) {
  return static_cast<std::int64_t>(n);
}
template <>
core::Uuid make_key<core::Uuid>(std::uint64_t n) {
  return {n * 0x9E3779B97F4A7C15ULL, ~n};
}

struct Less {
  bool operator()(std::int64_t a, std::int64_t b) const { return a < b; }
  bool operator()(const core::Uuid& a, const core::Uuid& b) const {
    return std::tie(a.high, a.low) < std::tie(b.high, b.low);
  }
};

struct Sum {
  std::int64_t sum = 0;
  std::uint32_t rows = 0;
  std::uint32_t nulls = 0;
  friend bool operator==(const Sum&, const Sum&) = default;
};

template <class Key>
using Model = std::map<Key, Sum, Less>;

template <class Key>
Sum sum_of(const typename core::SumTable<Key>::Entry& entry) {
  return {entry.sum, entry.rows, core::SumTable<Key>::null_rows(entry)};
}

template <class Key>
void expect_equal(core::SumTable<Key>& table, const Model<Key>& model) {
  ASSERT_EQ(table.size(), model.size());
  std::size_t visited = 0;
  table.for_each([&](const auto& entry) {
    ++visited;
    const auto expected = model.find(entry.key);
    ASSERT_NE(expected, model.end()) << "a key that was never added";
    ASSERT_EQ(sum_of<Key>(entry), expected->second);
  });
  ASSERT_EQ(visited, model.size());
  for (const auto& [key, sum] : model) {
    const auto* entry = table.find(key);
    ASSERT_NE(entry, nullptr);
    ASSERT_EQ(sum_of<Key>(*entry), sum);
  }
}

template <class Key>
class SumTable : public testing::Test {};
using Keys = testing::Types<std::int64_t, core::Uuid>;

struct KeyNames {
  template <class Key>
  static std::string GetName(int) {
    return std::is_same_v<Key, core::Uuid> ? "Uuid" : "Bigint";
  }
};
TYPED_TEST_SUITE(SumTable, Keys, KeyNames);

TYPED_TEST(SumTable, AnEmptyTableKnowsNobody) {
  core::SumTable<TypeParam> table(kPlenty, kSeed);
  table.prefetch(make_key<TypeParam>(1));
  EXPECT_EQ(table.find(make_key<TypeParam>(1)), nullptr);
  EXPECT_EQ(table.size(), 0U);
  table.for_each([](const auto&) { FAIL() << "no entry to visit"; });
}

TYPED_TEST(SumTable, HoldsWhatAMapWouldHold) {
  std::mt19937_64 random(3);
  for (std::uint64_t users : {1U, 10U, 639U, 640U, 641U, 1500U, 20'000U}) {
    core::SumTable<TypeParam> table(kPlenty, kSeed);
    Model<TypeParam> model;
    for (std::uint64_t i = 0; i < users * 3; ++i) {
      const auto key = make_key<TypeParam>(random() % users);
      const auto delta = static_cast<std::int64_t>(random() >> 20) - (std::int64_t{1} << 43);
      const std::uint32_t nulls = random() % 4 == 0 ? 1 : 0;
      table.prefetch(key);
      ASSERT_TRUE(table.add(key, delta, 1, nulls));
      Sum& sum = model[key];
      sum.sum += delta;
      ++sum.rows;
      sum.nulls += nulls;
    }
    expect_equal(table, model);
    EXPECT_EQ(table.find(make_key<TypeParam>(users + 1)), nullptr);
  }
}

TYPED_TEST(SumTable, MergingTablesEntryByEntryEqualsAddingEveryRow) {
  core::SumTable<TypeParam> whole(kPlenty, kSeed);
  core::SumTable<TypeParam> merged(kPlenty, kSeed);
  std::vector<core::SumTable<TypeParam>> parts;
  parts.reserve(3);
  for (int i = 0; i < 3; ++i) {
    parts.emplace_back(kPlenty, kSeed + i);
  }
  for (std::uint64_t i = 0; i < 9000; ++i) {
    const auto key = make_key<TypeParam>(i * i % 2003);
    const auto delta = static_cast<std::int64_t>(i) - 4000;
    ASSERT_TRUE(whole.add(key, delta, 1, i % 2));
    ASSERT_TRUE(parts[i % 3].add(key, delta, 1, i % 2));
  }
  for (const auto& part : parts) {
    part.for_each([&](const auto& entry) {
      ASSERT_TRUE(merged.add(entry.key, entry.sum, entry.rows, entry.nulls));
    });
  }
  Model<TypeParam> model;
  whole.for_each([&](const auto& entry) { model[entry.key] = sum_of<TypeParam>(entry); });
  expect_equal(merged, model);
}

TYPED_TEST(SumTable, TheSlotsHoldEveryEntryOnceAndAreOtherwiseFree) {
  core::SumTable<TypeParam> table(kPlenty, kSeed);
  for (std::uint64_t i = 0; i < 3000; ++i) {
    ASSERT_TRUE(table.add(make_key<TypeParam>(i), 1, 1, 0));
  }
  std::size_t taken = 0;
  for (std::size_t i = 0; i < table.capacity(); ++i) {
    taken += table.slots()[i].rows != 0 ? 1 : 0;
  }
  EXPECT_EQ(taken, 3000U);
}

TYPED_TEST(SumTable, NeverHoldsMoreThanItsLimitAndSaysSo) {
  using Table = core::SumTable<TypeParam>;
  for (std::size_t limit : {std::size_t{1} << 17, std::size_t{300'000}, std::size_t{1} << 20}) {
    Table table(limit, kSeed);
    std::uint64_t added = 0;
    while (table.add(make_key<TypeParam>(added), 5, 1, 0)) {
      ++added;
      ASSERT_LE(table.capacity() * sizeof(typename Table::Entry), limit);
      ASSERT_LT(added, limit) << "the limit is never reached";
    }
    // What was accepted before is still there: nothing is half done.
    EXPECT_GT(added, 0U);
    ASSERT_EQ(table.size(), added);
    for (std::uint64_t i = 0; i < added; ++i) {
      const auto* entry = table.find(make_key<TypeParam>(i));
      ASSERT_NE(entry, nullptr);
      ASSERT_EQ(entry->sum, 5);
    }
    EXPECT_EQ(table.find(make_key<TypeParam>(added)), nullptr);
  }
}

TYPED_TEST(SumTable, TheOldSlotsCountTowardsTheLimitWhileItGrows) {
  using Table = core::SumTable<TypeParam>;
  Table unbounded(kPlenty, kSeed);
  std::uint64_t n = 0;
  for (; unbounded.capacity() == 0 || n == 0; ++n) {
    ASSERT_TRUE(unbounded.add(make_key<TypeParam>(n), 1, 1, 0));
  }
  const std::size_t first = unbounded.capacity() * sizeof(typename Table::Entry);
  // Room for the doubled table alone, but not for both at once.
  Table bounded(2 * first, kSeed);
  std::uint64_t added = 0;
  while (bounded.add(make_key<TypeParam>(added), 1, 1, 0)) {
    ++added;
  }
  EXPECT_EQ(bounded.capacity() * sizeof(typename Table::Entry), first);
}

TYPED_TEST(SumTable, WithoutMemoryForOneEntryTheFirstAddSaysSo) {
  for (std::size_t limit : {0U, 1U, 100U}) {
    core::SumTable<TypeParam> table(limit, kSeed);
    EXPECT_FALSE(table.add(make_key<TypeParam>(1), 1, 1, 0));
    EXPECT_EQ(table.size(), 0U);
    EXPECT_EQ(table.find(make_key<TypeParam>(1)), nullptr);
  }
}

TYPED_TEST(SumTable, ASumBeyond64BitsIsSaid) {
  const auto key = make_key<TypeParam>(9);
  core::SumTable<TypeParam> up(kPlenty, kSeed);
  ASSERT_TRUE(up.add(key, kMax, 1, 0));
  ASSERT_TRUE(up.add(make_key<TypeParam>(10), kMax, 1, 0)) << "another user's sum is another sum";
  EXPECT_FALSE(up.add(key, 1, 1, 0));
  core::SumTable<TypeParam> down(kPlenty, kSeed);
  ASSERT_TRUE(down.add(key, kMin, 1, 0));
  EXPECT_FALSE(down.add(key, -1, 1, 0));
}

TYPED_TEST(SumTable, TheExtremesThemselvesAreNoOverflow) {
  const auto key = make_key<TypeParam>(9);
  core::SumTable<TypeParam> table(kPlenty, kSeed);
  ASSERT_TRUE(table.add(key, kMax - 1, 1, 0));
  ASSERT_TRUE(table.add(key, 1, 1, 0));
  ASSERT_EQ(table.find(key)->sum, kMax);
  ASSERT_TRUE(table.add(key, kMin, 1, 0));
  ASSERT_TRUE(table.add(key, -kMax, 1, 0));
  EXPECT_EQ(table.find(key)->sum, kMin);
}

TYPED_TEST(SumTable, ACountBeyond32BitsIsSaid) {
  const auto key = make_key<TypeParam>(9);
  core::SumTable<TypeParam> table(kPlenty, kSeed);
  ASSERT_TRUE(table.add(key, 0, kMaxRows, 0));
  EXPECT_EQ(table.find(key)->rows, kMaxRows);
  EXPECT_FALSE(table.add(key, 0, 1, 0));
}

TYPED_TEST(SumTable, NullRowsBeyond31BitsAreSaid) {
  const auto key = make_key<TypeParam>(9);
  core::SumTable<TypeParam> table(kPlenty, kSeed);
  ASSERT_TRUE(table.add(key, 0, 0x7FFFFFFF, 0x7FFFFFFF));
  EXPECT_EQ(core::SumTable<TypeParam>::null_rows(*table.find(key)), 0x7FFFFFFFU);
  EXPECT_FALSE(core::SumTable<TypeParam>::seen(*table.find(key)));
  EXPECT_FALSE(table.add(key, 0, 1, 1)) << "the 32nd bit is the mark";
}

TYPED_TEST(SumTable, TheSeenMarkLeavesTheNullRowsAlone) {
  using Table = core::SumTable<TypeParam>;
  Table table(kPlenty, kSeed);
  for (std::uint64_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(table.add(make_key<TypeParam>(i), 3, 9, static_cast<std::uint32_t>(i % 7)));
  }
  for (std::uint64_t i = 0; i < 100; i += 2) {
    Table::mark_seen(*table.find(make_key<TypeParam>(i)));
    Table::mark_seen(*table.find(make_key<TypeParam>(i)));
  }
  for (std::uint64_t i = 0; i < 100; ++i) {
    const auto& entry = *table.find(make_key<TypeParam>(i));
    EXPECT_EQ(Table::seen(entry), i % 2 == 0);
    EXPECT_EQ(Table::null_rows(entry), i % 7);
    EXPECT_EQ(entry.rows, 9U);
    EXPECT_EQ(entry.sum, 3);
  }
}

TYPED_TEST(SumTable, TheSeenMarkSurvivesGrowth) {
  using Table = core::SumTable<TypeParam>;
  Table table(kPlenty, kSeed);
  ASSERT_TRUE(table.add(make_key<TypeParam>(0), 1, 1, 0));
  Table::mark_seen(*table.find(make_key<TypeParam>(0)));
  for (std::uint64_t i = 1; i < 5000; ++i) {
    ASSERT_TRUE(table.add(make_key<TypeParam>(i), 1, 1, 0));
  }
  EXPECT_TRUE(Table::seen(*table.find(make_key<TypeParam>(0))));
  EXPECT_FALSE(Table::seen(*table.find(make_key<TypeParam>(1))));
}

// How far the entries lie from where their hash puts them, on average. Linear probing at 5/8 with
// a good hash: 0.83 (Knuth, TAOCP 3, 6.4).
template <class Key>
double average_displacement(const core::SumTable<Key>& table) {
  const std::size_t mask = table.capacity() - 1;
  double total = 0;
  for (std::size_t i = 0; i < table.capacity(); ++i) {
    if (table.slots()[i].rows != 0) {
      total += static_cast<double>((i - core::hash_key(table.slots()[i].key, kSeed)) & mask);
    }
  }
  return total / static_cast<double>(table.size());
}

template <class Key, class Make>
void expect_short_probes(const char* what, Make make) {
  constexpr std::uint64_t kUsers = 20'000;
  core::SumTable<Key> table(kPlenty, kSeed);
  for (std::uint64_t i = 0; i < kUsers; ++i) {
    ASSERT_TRUE(table.add(make(i), static_cast<std::int64_t>(i), 1, 0));
  }
  ASSERT_EQ(table.size(), kUsers) << what;
  EXPECT_LT(average_displacement(table), 2.0) << what;
}

TEST(SumTableHash, KeysWithAPatternDoNotCluster) {
  using core::Uuid;
  using Int = std::int64_t;
  expect_short_probes<Int>("an identity column", [](std::uint64_t i) { return Int(i); });
  expect_short_probes<Int>("negative numbers", [](std::uint64_t i) { return -Int(i) - 1; });
  for (int bits : {4, 10, 16, 32, 48}) {
    expect_short_probes<Int>("numbers with low bits of 0",
                             [bits](std::uint64_t i) { return Int(i << bits); });
    expect_short_probes<Uuid>("uuids that differ in the middle of one half",
                              [bits](std::uint64_t i) {
                                return Uuid{i << bits, 1};
                              });
    expect_short_probes<Uuid>("uuids that differ in the middle of the other half",
                              [bits](std::uint64_t i) {
                                return Uuid{1, i << bits};
                              });
  }
  expect_short_probes<Uuid>("equal halves", [](std::uint64_t i) { return Uuid{i, i}; });
  expect_short_probes<Uuid>("one millisecond's version-7 uuids", [](std::uint64_t i) {
    const unsigned char bytes[16] = {0x01,
                                     0x97,
                                     0x12,
                                     0x34,
                                     0x56,
                                     0x78,
                                     static_cast<unsigned char>(0x70 | (i >> 16 & 0x0F)),
                                     static_cast<unsigned char>(i >> 8),
                                     0x80,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     static_cast<unsigned char>(i)};
    return Uuid::from_bytes(bytes);
  });
}

TEST(SumTableHash, KeysThatAllCollideAreStillToldApart) {
  // Whoever knows the seed can make the hash the same for all of them; with another seed it is not.
  const auto colliding = [](std::uint64_t i) {
    return core::Uuid{i, 0xABCDEF ^ core::mix64(i ^ kSeed)};
  };
  ASSERT_EQ(core::hash_key(colliding(1), kSeed), core::hash_key(colliding(2), kSeed));
  ASSERT_NE(core::hash_key(colliding(1), ~kSeed), core::hash_key(colliding(2), ~kSeed));
  core::SumTable<core::Uuid> table(kPlenty, kSeed);
  for (std::uint64_t round = 0; round < 2; ++round) {
    for (std::uint64_t i = 0; i < 1500; ++i) {
      ASSERT_TRUE(table.add(colliding(i), static_cast<std::int64_t>(i), 1, 0));
    }
  }
  ASSERT_EQ(table.size(), 1500U);
  for (std::uint64_t i = 0; i < 1500; ++i) {
    ASSERT_EQ(table.find(colliding(i))->sum, static_cast<std::int64_t>(2 * i));
  }
  EXPECT_EQ(table.find(colliding(1500)), nullptr);
}

TEST(SumTableHash, SpecialKeysAreKeysLikeOthers) {
  core::SumTable<std::int64_t> numbers(kPlenty, kSeed);
  for (std::int64_t key : {std::int64_t{0}, std::int64_t{-1}, kMin, kMax}) {
    EXPECT_EQ(numbers.find(key), nullptr);
    ASSERT_TRUE(numbers.add(key, key, 1, 0));
    EXPECT_EQ(numbers.find(key)->sum, key);
  }
  core::SumTable<core::Uuid> uuids(kPlenty, kSeed);
  const core::Uuid nil{};
  ASSERT_TRUE(uuids.add({1, 0}, 7, 1, 0));
  EXPECT_EQ(uuids.find(nil), nullptr);
  ASSERT_TRUE(uuids.add(nil, 3, 1, 1));
  EXPECT_EQ(uuids.find(nil)->sum, 3);
}

}  // namespace
