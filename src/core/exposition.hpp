// The two forms in which metrics leave the server: Prometheus' text format 0.0.4, and the JSON of
// the Phase F document. Texts are UTF-8.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/metric_family.hpp"

namespace core {

inline constexpr const char* kPrometheusContentType = "text/plain; version=0.0.4; charset=utf-8";

using Label = std::pair<std::string_view, std::string_view>;

// What a reader has copied out of the store.
struct HistogramSample {
  double sum = 0;
  double lowest = 0;
  double highest = 0;
  std::uint64_t count = 0;
  std::vector<std::uint64_t> cumulative;  // a count for each bound, then +Inf
  double p50 = 0;
  double p95 = 0;
  double p99 = 0;
};

struct Sample {
  std::vector<Label> labels;
  double value = 0;           // of a counter or gauge
  HistogramSample histogram;  // of a histogram
};

// As Prometheus writes numbers: the shortest form that reads back the same, +Inf, -Inf, NaN.
std::string metric_number(double value);

// name{label="value",…}, with \, " and newline escaped.
std::string series_name(std::string_view name, std::span<const Label> labels);

// One family after the other, each once: HELP, TYPE, samples.
class PrometheusText {
 public:
  void family(const MetricFamily& family, std::span<const Sample> samples);
  std::string take() { return std::move(text_); }

 private:
  void line(std::string_view name, const char* suffix, std::span<const Label> labels,
            std::string_view value);
  std::string text_;
};

// {"timestamp": …, "counters": {…}, "histograms": {…}, "gauges": {…}}
class MetricsJson {
 public:
  void family(const MetricFamily& family, std::span<const Sample> samples);
  // `timestamp`: ISO 8601.
  std::string finish(std::string_view timestamp) const;

 private:
  static void member(std::string& object, const std::string& name, const std::string& value);
  std::string counters_;
  std::string histograms_;
  std::string gauges_;
};

}  // namespace core
