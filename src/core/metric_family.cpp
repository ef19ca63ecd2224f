#include "core/metric_family.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/error.hpp"

namespace core {
namespace {

constexpr std::array<double, 16> kDefaultBuckets = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                                    2.5,   5,    10,    20,   30,  60,   120, 300};

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The grammar of the exposition format: letters, digits and underscores; colons in metric names.
bool is_name(std::string_view name, bool colons) {
  return !name.empty() && name.size() < MetricFamily::kNameBytes && !is_digit(name.front()) &&
         std::all_of(name.begin(), name.end(), [colons](char c) {
           return is_letter(c) || is_digit(c) || (colons && c == ':');
         });
}

[[noreturn]] void invalid(const std::string& message, const std::string& hint) {
  throw Error(sqlstate::kInvalidParameterValue, message, {}, hint);
}

void copy(char* target, std::string_view text) {
  std::memcpy(target, text.data(), text.size());
  target[text.size()] = '\0';
}

void set_labels(MetricFamily& family, const std::vector<std::string>& labels) {
  if (labels.size() > MetricFamily::kMaxLabels) {
    invalid("a metric has at most " + std::to_string(MetricFamily::kMaxLabels) + " labels",
            "Each combination of label values is a series of its own: few labels with few values "
            "serve best.");
  }
  for (const std::string& label : labels) {
    if (!is_name(label, false) || label.starts_with("__")) {
      invalid("invalid label name \"" + label + "\"",
              "Letters, digits and underscores, not beginning with a digit or with \"__\", up to "
              "63 bytes.");
    }
    if (label == "datname" || (label == "le" && family.type == MetricType::kHistogram)) {
      invalid("the label name \"" + label + "\" is reserved",
              "\"le\" names the buckets of a histogram, \"datname\" the database.");
    }
    if (std::any_of(family.labels, family.labels + family.label_count,
                    [&](const char* taken) { return label == taken; })) {
      invalid("the label \"" + label + "\" is given twice", "Name each label once.");
    }
    copy(family.labels[family.label_count++], label);
  }
}

void set_bounds(MetricFamily& family, std::span<const double> bounds) {
  if (!bounds.empty() && std::isinf(bounds.back()) && bounds.back() > 0) {
    bounds = bounds.first(bounds.size() - 1);
  }
  constexpr const char* kHint =
      "Give the upper bounds of the buckets in ascending order, for example '{0.1, 1, 10}'; the "
      "last, +Inf, follows by itself.";
  if (bounds.empty() || bounds.size() > MetricFamily::kMaxBounds) {
    invalid("a histogram has from 1 to " + std::to_string(MetricFamily::kMaxBounds) +
                " buckets below +Inf",
            kHint);
  }
  for (const double bound : bounds) {
    if (!std::isfinite(bound) ||
        (family.bound_count > 0 && bound <= family.bounds[family.bound_count - 1])) {
      invalid("the buckets of a histogram must be finite and ascending", kHint);
    }
    family.bounds[family.bound_count++] = bound;
  }
}

}  // namespace

const char* name_of(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      return "histogram";
  }
  return "untyped";
}

std::optional<MetricType> parse_metric_type(std::string_view name) {
  for (const MetricType type : {MetricType::kCounter, MetricType::kGauge, MetricType::kHistogram}) {
    if (name == name_of(type)) {
      return type;
    }
  }
  return std::nullopt;
}

bool MetricFamily::same_shape(const MetricFamily& other) const {
  return type == other.type && std::strcmp(name, other.name) == 0 &&
         label_count == other.label_count &&
         std::equal(labels, labels + label_count, other.labels,
                    [](const char* a, const char* b) { return std::strcmp(a, b) == 0; }) &&
         std::ranges::equal(buckets(), other.buckets());
}

std::span<const double> default_buckets() { return kDefaultBuckets; }

MetricFamily make_family(std::string_view name, MetricType type, std::string_view help,
                         const std::vector<std::string>& labels,
                         const std::vector<double>& bounds) {
  MetricFamily family;
  family.type = type;
  if (!is_name(name, true)) {
    invalid("invalid metric name \"" + std::string(name) + "\"",
            "Letters, digits, underscores and colons, not beginning with a digit, up to 63 bytes.");
  }
  copy(family.name, name);
  if (help.size() >= MetricFamily::kHelpBytes) {
    invalid("the help text of a metric has at most " +
                std::to_string(MetricFamily::kHelpBytes - 1) + " bytes",
            "Say in one sentence what is measured, and in which unit.");
  }
  copy(family.help, help);
  set_labels(family, labels);
  if (type == MetricType::kHistogram) {
    set_bounds(family, bounds.empty() ? default_buckets() : std::span<const double>(bounds));
  } else if (!bounds.empty()) {
    invalid(std::string("a ") + name_of(type) + " has no buckets",
            "Leave buckets out, or define a histogram.");
  }
  return family;
}

}  // namespace core
