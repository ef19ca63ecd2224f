// core/exposition: Prometheus' text and the document's JSON, byte for byte.
#include "core/exposition.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace {

using core::HistogramSample;
using core::metric_number;
using core::MetricType;
using core::Sample;

TEST(MetricNumber, IsShortAndReadsBackTheSame) {
  EXPECT_EQ(metric_number(0), "0");
  EXPECT_EQ(metric_number(42), "42");
  EXPECT_EQ(metric_number(-1.5), "-1.5");
  EXPECT_EQ(metric_number(0.1), "0.1");
  EXPECT_EQ(metric_number(1764068400.25), "1764068400.25");
  EXPECT_EQ(metric_number(9007199254740993.0 * 4), "36028797018963968");
  EXPECT_EQ(metric_number(INFINITY), "+Inf");
  EXPECT_EQ(metric_number(-INFINITY), "-Inf");
  EXPECT_EQ(metric_number(NAN), "NaN");
}

Sample sample(std::vector<core::Label> labels, double value) {
  return {std::move(labels), value, {}};
}

TEST(PrometheusText, WritesEachFamilyOnceWithItsHead) {
  core::PrometheusText text;
  text.family(core::make_family("a_total", MetricType::kCounter, "First\\ line\nsecond", {"x"}),
              std::vector{sample({{"x", "one"}}, 1), sample({{"x", "a\"b\\c\nd"}}, 2)});
  text.family(core::make_family("b", MetricType::kGauge, "", {}), std::vector{sample({}, 0.5)});
  text.family(core::make_family("absent", MetricType::kGauge, "", {}), std::vector<Sample>{});
  EXPECT_EQ(text.take(),
            "# HELP a_total First\\\\ line\\nsecond\n"
            "# TYPE a_total counter\n"
            "a_total{x=\"one\"} 1\n"
            "a_total{x=\"a\\\"b\\\\c\\nd\"} 2\n"
            "# HELP b \n"
            "# TYPE b gauge\n"
            "b 0.5\n");
}

Sample histogram() {
  HistogramSample h;
  h.sum = 6.5;
  h.lowest = 0.5;
  h.highest = 5;
  h.count = 3;
  h.cumulative = {1, 2, 3};
  h.p50 = 1;
  h.p95 = 5;
  h.p99 = 5;
  return {{{"lang", "عربي"}}, 0, h};
}

TEST(PrometheusText, AHistogramEndsAtInfinityWithItsCount) {
  core::PrometheusText text;
  text.family(core::make_family("h", MetricType::kHistogram, "H.", {"lang"}, {0.5, 1}),
              std::vector{histogram()});
  EXPECT_EQ(text.take(),
            "# HELP h H.\n"
            "# TYPE h histogram\n"
            "h_bucket{lang=\"عربي\",le=\"0.5\"} 1\n"
            "h_bucket{lang=\"عربي\",le=\"1\"} 2\n"
            "h_bucket{lang=\"عربي\",le=\"+Inf\"} 3\n"
            "h_sum{lang=\"عربي\"} 6.5\n"
            "h_count{lang=\"عربي\"} 3\n");
}

TEST(MetricsJson, HasTheDocumentsShape) {
  core::MetricsJson json;
  json.family(core::make_family("t_total", MetricType::kCounter, "", {"status"}),
              std::vector{sample({{"status", "ready\""}}, 42)});
  json.family(core::make_family("g", MetricType::kGauge, "", {}), std::vector{sample({}, NAN)});
  json.family(core::make_family("h", MetricType::kHistogram, "", {"lang"}, {0.5, 1}),
              std::vector{histogram()});
  const auto parsed = nlohmann::json::parse(json.finish("2026-02-17T16:30:00Z"));
  EXPECT_EQ(parsed, nlohmann::json::parse(R"json({
    "timestamp": "2026-02-17T16:30:00Z",
    "counters": {"t_total{status=\"ready\\\"\"}": 42},
    "histograms": {"h{lang=\"عربي\"}": {"count": 3, "sum": 6.5, "min": 0.5, "max": 5,
        "mean": 2.1666666666666665, "p50": 1, "p95": 5, "p99": 5}},
    "gauges": {"g": "NaN"}})json"));
}

TEST(MetricsJson, IsAnObjectWithNothingRecorded) {
  EXPECT_EQ(core::MetricsJson().finish("x"),
            R"({"timestamp":"x","counters":{},"histograms":{},"gauges":{}})");
}

}  // namespace
