// What a metric is: its name, type, help text, label names and, for a histogram, its buckets. Plain
// data of a fixed size, since families that a user defines live in shared memory.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace core {

enum class MetricType : std::uint8_t { kCounter, kGauge, kHistogram };

const char* name_of(MetricType type);
std::optional<MetricType> parse_metric_type(std::string_view name);

struct MetricFamily {
  static constexpr std::size_t kNameBytes = 64;  // as an identifier of Postgres
  static constexpr std::size_t kHelpBytes = 256;
  static constexpr std::size_t kMaxLabels = 8;
  static constexpr std::size_t kMaxBounds = 30;

  MetricType type = MetricType::kCounter;
  std::uint8_t label_count = 0;
  std::uint8_t bound_count = 0;
  char name[kNameBytes] = {};
  char help[kHelpBytes] = {};
  char labels[kMaxLabels][kNameBytes] = {};
  double bounds[kMaxBounds] = {};  // upper bounds, ascending, all finite; +Inf follows

  std::span<const double> buckets() const { return {bounds, bound_count}; }

  // The same metric, help text apart.
  bool same_shape(const MetricFamily& other) const;
};

// For durations in seconds: from 5 ms to 5 minutes, so that alerts on a p99 of 30 s and beyond can
// fire (histogram_quantile never exceeds the highest finite bound).
std::span<const double> default_buckets();

// Checks everything and throws 22023, with a hint, for what Prometheus or the limits above do not
// allow. A trailing infinite bound is dropped; no bounds mean the default ones.
MetricFamily make_family(std::string_view name, MetricType type, std::string_view help,
                         const std::vector<std::string>& labels,
                         const std::vector<double>& bounds = {});

}  // namespace core
