// What shows the metrics of this database: the view's rows, series with whole histograms for the
// exporters, Prometheus' text, and JSON.
#include "pg/postgres.hpp"

#include <ctime>

#include "core/json.hpp"
#include "metrics/label_text.hpp"
#include "metrics/registry.hpp"
#include "pg/encoding.hpp"
#include "pg/entry.hpp"
#include "pg/result.hpp"

namespace metrics {
namespace {

using core::MetricFamily;
using core::MetricType;
using core::Sample;

pg::Value labels_value(const std::vector<core::Label>& labels) {
  core::JsonObject object;
  for (const auto& [name, value] : labels) {
    object.text(name, value);
  }
  return pg::Value::jsonb(pg::to_database_encoding(object.str()));
}

Datum samples_function(pg::Args args) {
  pg::ResultSet result(args);
  if (!available()) {
    return pg::void_result();
  }
  for (const FamilyCopy& family : read(MyDatabaseId)) {
    const std::string name = family.family.name;
    const pg::Value type = pg::Value::text(core::name_of(family.family.type));
    const auto row = [&](const std::string& sample_name, const std::vector<core::Label>& labels,
                         double value) {
      result.row(
          {pg::Value::text(sample_name), type, labels_value(labels), pg::Value::float8(value)});
    };
    for (const Sample& sample : family.samples()) {
      if (family.family.type != MetricType::kHistogram) {
        row(name, sample.labels, sample.value);
        continue;
      }
      std::vector<core::Label> labels = sample.labels;
      labels.emplace_back("le", "");
      for (std::size_t i = 0; i < sample.histogram.cumulative.size(); ++i) {
        const std::string bound = i < family.family.bound_count
                                      ? core::metric_number(family.family.bounds[i])
                                      : std::string("+Inf");
        labels.back().second = bound;
        row(name + "_bucket", labels, static_cast<double>(sample.histogram.cumulative[i]));
      }
      row(name + "_sum", sample.labels, sample.histogram.sum);
      row(name + "_count", sample.labels, static_cast<double>(sample.histogram.count));
    }
  }
  return pg::void_result();
}

Datum series_function(pg::Args args) {
  const auto only = args.text(0);
  pg::ResultSet result(args);
  if (!available()) {
    return pg::void_result();
  }
  for (const FamilyCopy& family :
       read(MyDatabaseId, only ? std::optional<std::string_view>(*only) : std::nullopt)) {
    const bool histogram = family.family.type == MetricType::kHistogram;
    for (const Sample& sample : family.samples()) {
      // The bucket that ends at +Inf is the count: exporters add it themselves.
      std::vector<std::int64_t> buckets;
      for (std::size_t i = 0; i < family.family.bound_count; ++i) {
        buckets.push_back(static_cast<std::int64_t>(sample.histogram.cumulative[i]));
      }
      result.row({pg::Value::text(family.family.name),
                  pg::Value::text(core::name_of(family.family.type)), labels_value(sample.labels),
                  histogram ? pg::Value{} : pg::Value::float8(sample.value),
                  histogram ? pg::Value::float8_array(family.family.buckets()) : pg::Value{},
                  histogram ? pg::Value::int8_array(buckets) : pg::Value{},
                  histogram ? pg::Value::float8(sample.histogram.sum) : pg::Value{},
                  histogram ? pg::Value::int8(static_cast<std::int64_t>(sample.histogram.count))
                            : pg::Value{}});
    }
  }
  return pg::void_result();
}

Datum prometheus_function(pg::Args) {
  core::PrometheusText text;
  if (available()) {
    for (const FamilyCopy& family : read(MyDatabaseId)) {
      text.family(family.family, family.samples());
    }
  }
  return pg::Value::text(pg::to_database_encoding(text.take())).datum;
}

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char timestamp[32];
  std::strftime(timestamp, sizeof timestamp, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return timestamp;
}

Datum json_function(pg::Args) {
  core::MetricsJson json;
  if (available()) {
    for (const FamilyCopy& family : read(MyDatabaseId)) {
      json.family(family.family, family.samples());
    }
  }
  return pg::Value::jsonb(pg::to_database_encoding(json.finish(now_text()))).datum;
}

// A database that was made or dropped this very moment has no name here: its series wait for the
// next scrape.
void leave_out_nameless(std::vector<Sample>& samples) {
  std::erase_if(samples, [](const Sample& sample) { return sample.labels.front().second.empty(); });
}

auto name_finder(const DatabaseNames& names) {
  return [&names](Oid database) {
    const auto found = names.find(database);
    return found == names.end() ? std::string_view("") : std::string_view(found->second);
  };
}

}  // namespace

std::string all_as_prometheus(const DatabaseNames& names) {
  core::PrometheusText text;
  const std::vector<FamilyCopy> families = read(InvalidOid);
  for (std::size_t i = 0; i < families.size();) {
    // Two databases may have defined the same name: one family then, of the type that comes first.
    const MetricFamily& head = families[i].family;
    std::vector<Sample> samples;
    for (; i < families.size() && std::string_view(families[i].family.name) == head.name; ++i) {
      if (families[i].family.same_shape(head)) {
        for (Sample& sample : families[i].samples(name_finder(names))) {
          samples.push_back(std::move(sample));
        }
      }
    }
    leave_out_nameless(samples);
    text.family(head, samples);
  }
  return text.take();
}

std::string all_as_json(const DatabaseNames& names) {
  core::MetricsJson json;
  for (const FamilyCopy& family : read(InvalidOid)) {
    std::vector<Sample> samples = family.samples(name_finder(names));
    leave_out_nameless(samples);
    json.family(family.family, samples);
  }
  return json.finish(now_text());
}

}  // namespace metrics

BACMR_FUNCTION(bacmr_metric_samples, metrics::samples_function);
BACMR_FUNCTION(bacmr_metric_series, metrics::series_function);
BACMR_FUNCTION(bacmr_metrics_prometheus, metrics::prometheus_function);
BACMR_FUNCTION(bacmr_metrics_json, metrics::json_function);
