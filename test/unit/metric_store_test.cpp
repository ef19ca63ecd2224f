// core/metric_store and core/metric_file: series in one block of memory, and the way through a
// file.
#include "core/metric_store.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/metric_file.hpp"

namespace {

using core::Change;
using core::LabelValues;
using core::MetricFamily;
using core::MetricStore;
using core::MetricType;
using core::Series;
using core::SeriesKey;

const std::vector<MetricFamily>& catalog() {
  static const std::vector<MetricFamily> families = {
      core::make_family("counted_total", MetricType::kCounter, "", {"who"}),
      core::make_family("level", MetricType::kGauge, "", {}),
      core::make_family("took_seconds", MetricType::kHistogram, "", {"who"}, {0.1, 1})};
  return families;
}
constexpr std::uint32_t kCounted = 0;
constexpr std::uint32_t kLevel = 1;
constexpr std::uint32_t kTook = 2;

class Store {
 public:
  explicit Store(std::uint32_t max_series = 100)
      : memory_(MetricStore::bytes(max_series) / 8 + 1, 0),
        store_(MetricStore::create(memory_.data(), max_series)) {}
  MetricStore* operator->() { return store_; }
  MetricStore& operator*() { return *store_; }

  bool record(std::uint32_t database, std::uint32_t family, const std::string& who, Change change,
              double amount, bool own = false) {
    LabelValues labels;
    const bool fits = catalog()[family].label_count == 0 || labels.add(who);
    const SeriesKey key{database, family, labels.bytes()};
    Series* series = fits ? store_->find_or_insert(key, catalog()[family].type, own) : nullptr;
    if (series != nullptr) {
      store_->record(*series, change, amount, catalog()[family]);
    }
    return series != nullptr;
  }
  const Series* find(std::uint32_t database, std::uint32_t family, const std::string& who) {
    LabelValues labels;
    if (catalog()[family].label_count > 0 && !labels.add(who)) {
      return nullptr;
    }
    return store_->find({database, family, labels.bytes()});
  }
  double value(std::uint32_t database, std::uint32_t family, const std::string& who) {
    const Series* series = find(database, family, who);
    return series == nullptr ? -1 : series->value.load();
  }

 private:
  std::vector<std::uint64_t> memory_;
  MetricStore* store_;
};

TEST(MetricStore, KeepsDatabasesFamiliesAndLabelsApart) {
  Store store;
  EXPECT_TRUE(store.record(1, kCounted, "a", Change::kAdd, 2));
  EXPECT_TRUE(store.record(1, kCounted, "a", Change::kAdd, 3));
  EXPECT_TRUE(store.record(1, kCounted, "b", Change::kAdd, 7));
  EXPECT_TRUE(store.record(2, kCounted, "a", Change::kAdd, 11));
  EXPECT_TRUE(store.record(1, kLevel, "", Change::kSet, 13));
  EXPECT_EQ(store.value(1, kCounted, "a"), 5);
  EXPECT_EQ(store.value(1, kCounted, "b"), 7);
  EXPECT_EQ(store.value(2, kCounted, "a"), 11);
  EXPECT_EQ(store.value(1, kLevel, ""), 13);
  EXPECT_EQ(store.find(2, kLevel, ""), nullptr);
  EXPECT_EQ(store->in_use(), 4U);
}

TEST(MetricStore, LabelsThatRunTogetherAreNotTheSame) {
  LabelValues a;
  LabelValues b;
  EXPECT_TRUE(a.add("ab") && a.add("c"));
  EXPECT_TRUE(b.add("a") && b.add("bc"));
  EXPECT_NE(a.bytes(), b.bytes());
  EXPECT_EQ(core::unpack_label_values(a.bytes()), (std::vector<std::string_view>{"ab", "c"}));
  LabelValues full;
  EXPECT_FALSE(full.add(std::string(LabelValues::kMaxBytes, 'x')));
  EXPECT_TRUE(full.bytes().empty());
}

TEST(MetricStore, AHistogramCountsEachValueInItsBucket) {
  Store store;
  for (const double value : {0.05, 0.1, 0.11, 1.0, 5.0}) {
    EXPECT_TRUE(store.record(1, kTook, "a", Change::kObserve, value));
  }
  const auto& histogram = store->histogram(*store.find(1, kTook, "a"));
  EXPECT_EQ(histogram.buckets[0].load(), 2U);  // a bound belongs to its bucket
  EXPECT_EQ(histogram.buckets[1].load(), 2U);
  EXPECT_EQ(histogram.buckets[2].load(), 1U);
  EXPECT_DOUBLE_EQ(histogram.sum.load(), 6.26);
  EXPECT_EQ(histogram.lowest.load(), 0.05);
  EXPECT_EQ(histogram.highest.load(), 5);
}

TEST(MetricStore, NoMetricTakesAllRoomAndTheExtensionsOwnIsKept) {
  Store store(100);
  int made = 0;
  for (int i = 0; i < 1000; ++i) {
    made += store.record(1, kCounted, std::to_string(i), Change::kAdd, 1) ? 1 : 0;
  }
  EXPECT_EQ(made, 25);
  for (std::uint32_t database = 2; database < 50; ++database) {
    for (int i = 0; i < 30; ++i) {
      store.record(database, kCounted, std::to_string(i), Change::kAdd, 1);
    }
  }
  EXPECT_EQ(store->in_use(), 75U);
  EXPECT_FALSE(store.record(99, kLevel, "", Change::kSet, 1));
  EXPECT_TRUE(store.record(99, kLevel, "", Change::kSet, 1, true)) << "own room";
  // What is there already is recorded all the same.
  EXPECT_TRUE(store.record(1, kCounted, "0", Change::kAdd, 1));
  EXPECT_EQ(store.value(1, kCounted, "0"), 2);
}

TEST(MetricStore, HistogramsAreAQuarterAndComeBackEmpty) {
  Store store(100);
  int made = 0;
  for (int i = 0; i < 100; ++i) {
    made += store.record(1, kTook, std::to_string(i), Change::kObserve, 1) ? 1 : 0;
  }
  EXPECT_EQ(made, 7);
  store->erase_if([](const Series& series) { return series.database == 1; });
  EXPECT_EQ(store->in_use(), 0U);
  EXPECT_EQ(store.find(1, kTook, "0"), nullptr);
  EXPECT_TRUE(store.record(1, kTook, "0", Change::kObserve, 2));
  EXPECT_EQ(store->histogram(*store.find(1, kTook, "0")).buckets[1].load(), 0U);
  EXPECT_EQ(store->histogram(*store.find(1, kTook, "0")).buckets[2].load(), 1U);
}

TEST(MetricStore, WhatIsLeftIsFoundAfterAnErasure) {
  Store store(1000);
  for (int i = 0; i < 200; ++i) {
    store.record(1, kCounted, std::to_string(i), Change::kAdd, i);
    store.record(2, kCounted, std::to_string(i), Change::kAdd, i);
  }
  store->erase_databases([](std::uint32_t database) { return database == 1; });
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(store.find(1, kCounted, std::to_string(i)), nullptr);
    EXPECT_EQ(store.value(2, kCounted, std::to_string(i)), i);
  }
}

TEST(MetricStore, ManyAtOnceLoseNothing) {
  Store store;
  ASSERT_TRUE(store.record(1, kCounted, "a", Change::kAdd, 0));
  ASSERT_TRUE(store.record(1, kTook, "a", Change::kObserve, 1));
  constexpr int kThreads = 4;
  constexpr int kRounds = 20000;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&store] {
      for (int i = 0; i < kRounds; ++i) {
        store.record(1, kCounted, "a", Change::kAdd, 1);
        store.record(1, kTook, "a", Change::kObserve, 0.5);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(store.value(1, kCounted, "a"), kThreads * kRounds);
  const auto& histogram = store->histogram(*store.find(1, kTook, "a"));
  EXPECT_EQ(histogram.buckets[1].load(), kThreads * kRounds + 1U);
  EXPECT_EQ(histogram.sum.load(), kThreads * kRounds * 0.5 + 1);
}

TEST(MetricStore, UsersFamiliesBelongToTheirDatabase) {
  Store store;
  const MetricFamily family = core::make_family("mine", MetricType::kGauge, "", {});
  const std::uint32_t number = store->define(1, family);
  ASSERT_NE(number, 0U);
  EXPECT_EQ(store->define(1, family), number);
  EXPECT_EQ(store->find_family(1, "mine"), number);
  EXPECT_EQ(store->find_family(2, "mine"), 0U);
  Series* series = store->find_or_insert({1, number, {}}, MetricType::kGauge, false);
  ASSERT_NE(series, nullptr);
  // Another shape is another metric.
  const MetricFamily other = core::make_family("mine", MetricType::kCounter, "", {"a"});
  EXPECT_EQ(store->define(1, other), number);
  EXPECT_EQ(store->in_use(), 0U);
  store->undefine(1, "mine");
  EXPECT_EQ(store->find_family(1, "mine"), 0U);
  for (std::uint32_t i = 0; i < MetricStore::kMaxUserFamilies; ++i) {
    EXPECT_NE(store->define(i + 1, family), 0U);
  }
  EXPECT_EQ(store->define(9999, family), 0U) << "no room";
  store->erase_databases([](std::uint32_t database) { return database < 3; });
  EXPECT_NE(store->define(9999, family), 0U) << "room again";
}

// --- the file ------------------------------------------------------------------------------------

void fill(Store& store) {
  store.record(1, kCounted, "سؤال", Change::kAdd, 2.5);
  store.record(1, kLevel, "", Change::kSet, -3, true);
  for (const double value : {0.05, 0.5, 50.0}) {
    store.record(2, kTook, "a", Change::kObserve, value);
  }
  const std::uint32_t number =
      store->define(2, core::make_family("mine", MetricType::kGauge, "Mine.", {}));
  Series* series = store->find_or_insert({2, number, {}}, MetricType::kGauge, false);
  store->record(*series, Change::kSet, 42, store->user_family(number));
}

TEST(MetricFile, ComesBackAsItWas) {
  Store before;
  fill(before);
  const std::string bytes = core::save_metrics(*before, catalog());
  Store after;
  ASSERT_TRUE(core::load_metrics(*after, bytes, catalog()));
  EXPECT_EQ(after.value(1, kCounted, "سؤال"), 2.5);
  EXPECT_EQ(after.value(1, kLevel, ""), -3);
  EXPECT_EQ(after->in_use(), before->in_use());
  EXPECT_EQ(core::save_metrics(*after, catalog()), bytes);
  EXPECT_STREQ(after->user_family(after->find_family(2, "mine")).help, "Mine.");
}

TEST(MetricFile, AnythingCutOffOrAppendedIsDamage) {
  Store before;
  fill(before);
  const std::string bytes = core::save_metrics(*before, catalog());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    Store after;
    EXPECT_FALSE(core::load_metrics(*after, bytes.substr(0, size), catalog())) << size;
  }
  Store after;
  EXPECT_FALSE(core::load_metrics(*after, bytes + "x", catalog()));
}

// The checksum finds such damage; the reader must not fall over it all the same.
TEST(MetricFile, NoByteCanMakeTheReaderMisbehave) {
  Store before;
  fill(before);
  const std::string bytes = core::save_metrics(*before, catalog());
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    for (const char flip : {'\x01', '\x80', '\xFF'}) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ flip);
      Store after;
      const bool loaded = core::load_metrics(*after, damaged, catalog());
      EXPECT_TRUE(!loaded || after->in_use() <= 100);
    }
  }
}

TEST(MetricFile, WhatHasAnotherShapeNowIsLeftOut) {
  Store before;
  fill(before);
  const std::string bytes = core::save_metrics(*before, catalog());
  std::vector<MetricFamily> changed = catalog();
  changed[kTook] = core::make_family("took_seconds", MetricType::kHistogram, "", {"who"}, {0.2, 1});
  changed[kCounted] = core::make_family("counted_total", MetricType::kGauge, "", {"who"});
  Store after;
  ASSERT_TRUE(core::load_metrics(*after, bytes, changed));
  EXPECT_EQ(after.find(1, kCounted, "سؤال"), nullptr);
  EXPECT_EQ(after.value(1, kLevel, ""), -3);
}

}  // namespace
