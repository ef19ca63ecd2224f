// bacmr_metric_inc, _set and _observe: any metric by its name. Unlike the helpers of the Phase F
// document these raise on bad input.
#include "pg/postgres.hpp"

#include <cmath>

#include "core/error.hpp"
#include "metrics/definitions.hpp"
#include "metrics/label_text.hpp"
#include "pg/entry.hpp"
#include "pg/guard.hpp"
#include "pg/transaction_end.hpp"

extern "C" {
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
}

namespace metrics {
namespace {

using core::MetricFamily;
using core::MetricType;

[[noreturn]] void invalid(const std::string& message, const std::string& hint) {
  throw core::Error(core::sqlstate::kInvalidParameterValue, message, {}, hint);
}

std::string label_list(const MetricFamily& family) {
  std::string list;
  for (int i = 0; i < family.label_count; ++i) {
    list.append(i == 0 ? "" : ", ").append(family.labels[i]);
  }
  return list.empty() ? "It has no labels." : "Its labels are: " + list + ".";
}

// The text of a label's value; nullptr data where it is absent or no scalar.
std::string_view value_of(Jsonb* json, const char* name) {
  JsonbValue buffer;
  const JsonbValue* value = pg::call([&] {
    return getKeyJsonValueFromContainer(&json->root, name, static_cast<int>(strlen(name)), &buffer);
  });
  if (value == nullptr) {
    return {};
  }
  switch (value->type) {
    case jbvString:
      return {value->val.string.val != nullptr ? value->val.string.val : "",
              static_cast<std::size_t>(value->val.string.len)};
    case jbvNumeric:
      return pg::call([&] {
        return DatumGetCString(
            DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
      });
    case jbvBool:
      return value->val.boolean ? "true" : "false";
    default:
      return {};
  }
}

LabelValues read_labels(const pg::Args& args, int i, const MetricFamily& family) {
  LabelValues labels;
  if (args.is_null(i)) {
    invalid("argument \"labels\" must not be NULL", "Give '{}' for a metric without labels.");
  }
  Jsonb* json = pg::call([&] { return DatumGetJsonbP(args.datum(i)); });
  const std::string name = family.name;
  if (!JB_ROOT_IS_OBJECT(json) || JB_ROOT_COUNT(json) != family.label_count) {
    invalid("the labels do not fit the metric \"" + name + "\"", label_list(family));
  }
  for (int n = 0; n < family.label_count; ++n) {
    const std::string label = family.labels[n];
    const std::string_view value = value_of(json, family.labels[n]);
    if (value.data() == nullptr) {
      invalid("the metric \"" + name + "\" needs a value for the label \"" + label +
                  "\": a string, a number or a boolean",
              label_list(family));
    }
    if (add_label(labels, value) != nullptr) {
      invalid("the value of the label \"" + label + "\" is too long, or has no form in UTF-8",
              "The values of a series' labels have " +
                  std::to_string(LabelValues::kMaxBytes - MetricFamily::kMaxLabels * 2) +
                  " bytes together at the most.");
    }
  }
  return labels;
}

double read_number(const pg::Args& args, int i, const char* name) {
  if (args.is_null(i)) {
    throw core::Error(core::sqlstate::kNullValueNotAllowed,
                      std::string("argument \"") + name + "\" must not be NULL", {},
                      "Give a number.");
  }
  const double value = DatumGetFloat8(args.datum(i));
  if (!std::isfinite(value)) {
    invalid(std::string("argument \"") + name + "\" must be a finite number", "Give a number.");
  }
  return value;
}

void require_type(const MetricFamily& family, bool fits, const char* what) {
  if (!fits) {
    throw core::Error(
        core::sqlstate::kWrongObjectType,
        std::string("the metric \"") + family.name + "\" is a " + core::name_of(family.type) +
            ", which cannot be " + what,
        {},
        "bacmr_metric_inc() is for counters and gauges, bacmr_metric_set() for gauges, "
        "bacmr_metric_observe() for histograms.");
  }
}

void require_not_negative(double value, const char* what) {
  if (value < 0) {
    invalid(std::string(what) + " must not be negative", "Give a number that is not below 0.");
  }
}

void require_open(const Definition& definition) {
  if (definition.number < kMetricCount && is_own(static_cast<Metric>(definition.number))) {
    invalid(std::string("the metric \"") + definition.family.name +
                "\" is recorded by bacmr_ops itself",
            "SELECT bacmr_metric_define(...) makes a metric of your own.");
  }
}

// Again where somebody defines the metric anew at this very moment.
template <class Prepare>
Datum record_by_name(const pg::Args& args, Prepare prepare) {
  if (!available()) {
    return pg::void_result();
  }
  const std::string name = args.text(0, "name");
  for (;;) {
    const Definition definition = require_definition(name);
    require_open(definition);
    const auto [change, amount] = prepare(definition.family);
    if (record(definition, read_labels(args, 1, definition.family), change, amount)) {
      return pg::void_result();
    }
  }
}

Datum inc(pg::Args args) {
  return record_by_name(args, [&](const MetricFamily& family) {
    require_type(family, family.type != MetricType::kHistogram, "increased");
    const double by = read_number(args, 2, "by");
    if (family.type == MetricType::kCounter) {
      require_not_negative(by, "the increase of a counter");
    }
    return std::pair(Change::kAdd, by);
  });
}

Datum set(pg::Args args) {
  return record_by_name(args, [&](const MetricFamily& family) {
    require_type(family, family.type == MetricType::kGauge, "set");
    return std::pair(Change::kSet, read_number(args, 2, "value"));
  });
}

Datum observe(pg::Args args) {
  return record_by_name(args, [&](const MetricFamily& family) {
    require_type(family, family.type == MetricType::kHistogram, "observed");
    const double value = read_number(args, 2, "value");
    require_not_negative(value, "an observation");
    return std::pair(Change::kObserve, value);
  });
}

Datum reset_function(pg::Args) {
  if (available()) {
    reset();
    pg::wake_worker_at_commit();  // it brings the gauges back
  }
  return pg::void_result();
}

}  // namespace
}  // namespace metrics

BACMR_FUNCTION(bacmr_metric_inc, metrics::inc);
BACMR_FUNCTION(bacmr_metric_set, metrics::set);
BACMR_FUNCTION(bacmr_metric_observe, metrics::observe);
BACMR_FUNCTION(bacmr_metrics_reset, metrics::reset_function);
