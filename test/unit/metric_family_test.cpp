// core/metric_family: what may be a metric.
#include "core/metric_family.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace {

using core::make_family;
using core::MetricFamily;
using core::MetricType;

void expect_refused(const std::function<void()>& make, const std::string& word) {
  try {
    make();
    ADD_FAILURE() << "accepted: " << word;
  } catch (const core::Error& e) {
    EXPECT_STREQ(e.sqlstate(), "22023");
    EXPECT_NE(e.message().find(word), std::string::npos) << e.message();
    EXPECT_FALSE(e.hint().empty()) << e.message();
  }
}

TEST(MetricFamily, KeepsWhatItIsGiven) {
  const MetricFamily family = make_family("http:requests_2xx", MetricType::kHistogram, "Requests.",
                                          {"path", "le_"}, {1, 2});
  EXPECT_STREQ(family.name, "http:requests_2xx");
  EXPECT_STREQ(family.help, "Requests.");
  EXPECT_EQ(family.label_count, 2);
  EXPECT_STREQ(family.labels[1], "le_");
  EXPECT_EQ(std::vector<double>(family.buckets().begin(), family.buckets().end()),
            (std::vector<double>{1, 2}));
}

TEST(MetricFamily, TheDefaultBucketsReachFiveMinutes) {
  const MetricFamily family = make_family("h", MetricType::kHistogram, "", {});
  EXPECT_EQ(family.buckets().back(), 300);
  EXPECT_GT(family.buckets()[family.bound_count - 3], 30);
}

TEST(MetricFamily, AnInfiniteBucketAtTheEndGoesWithoutSaying) {
  EXPECT_EQ(make_family("h", MetricType::kHistogram, "", {}, {1, INFINITY}).bound_count, 1);
}

TEST(MetricFamily, RefusesWhatPrometheusWouldNotRead) {
  for (const char* name : {"", "1st", "with space", "tiret-bas", "é", "a\"b"}) {
    expect_refused([&] { make_family(name, MetricType::kGauge, "", {}); }, "invalid metric name");
  }
  expect_refused([] { make_family(std::string(64, 'x'), MetricType::kGauge, "", {}); }, "invalid");
  for (const char* label : {"", "a:b", "__name", "9", "a b"}) {
    expect_refused([&] { make_family("m", MetricType::kGauge, "", {label}); }, "invalid label");
  }
  expect_refused([] { make_family("m", MetricType::kHistogram, "", {"le"}); }, "reserved");
  expect_refused([] { make_family("m", MetricType::kGauge, "", {"datname"}); }, "reserved");
  expect_refused([] { make_family("m", MetricType::kGauge, "", {"a", "a"}); }, "twice");
  expect_refused([] { make_family("m", MetricType::kGauge, "", std::vector<std::string>(9, "a")); },
                 "at most");
  expect_refused([] { make_family("m", MetricType::kGauge, std::string(256, 'h'), {}); }, "help");
  expect_refused([] { make_family("m", MetricType::kHistogram, "", {}, {2, 1}); }, "ascending");
  expect_refused([] { make_family("m", MetricType::kHistogram, "", {}, {1, 1}); }, "ascending");
  expect_refused([] { make_family("m", MetricType::kHistogram, "", {}, {NAN}); }, "finite");
  expect_refused(
      [] {
        make_family("m", MetricType::kHistogram, "", {}, {-INFINITY, 1});
      },
      "finite");
  expect_refused([] { make_family("m", MetricType::kHistogram, "", {}, {INFINITY}); }, "from 1 to");
  expect_refused([] { make_family("m", MetricType::kCounter, "", {}, {1}); }, "no buckets");
}

}  // namespace
