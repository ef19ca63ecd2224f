#include "core/exposition.hpp"

#include <charconv>
#include <cmath>

#include "core/json.hpp"

namespace core {
namespace {

void append_escaped(std::string& out, std::string_view text, bool quotes) {
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || (quotes && c == '"')) {
      out += '\\';
    }
    out += c;
  }
}

void append_labels(std::string& out, std::span<const Label> labels) {
  if (labels.empty()) {
    return;
  }
  out += '{';
  for (const auto& [name, value] : labels) {
    if (out.back() != '{') {
      out += ',';
    }
    out.append(name).append("=\"");
    append_escaped(out, value, true);
    out += '"';
  }
  out += '}';
}

std::string json_number(double value) {
  return std::isfinite(value) ? metric_number(value) : json_string(metric_number(value));
}

}  // namespace

std::string metric_number(double value) {
  if (std::isnan(value)) {
    return "NaN";
  }
  if (std::isinf(value)) {
    return value > 0 ? "+Inf" : "-Inf";
  }
  // A whole number is easier to read without an exponent, as long as it is exact.
  constexpr double kExact = 9007199254740992.0;
  char buffer[32];
  const auto end =
      value == std::trunc(value) && std::fabs(value) < kExact
          ? std::to_chars(buffer, buffer + sizeof buffer, static_cast<long long>(value))
          : std::to_chars(buffer, buffer + sizeof buffer, value);
  return {buffer, end.ptr};
}

std::string series_name(std::string_view name, std::span<const Label> labels) {
  std::string out(name);
  append_labels(out, labels);
  return out;
}

void PrometheusText::line(std::string_view name, const char* suffix, std::span<const Label> labels,
                          std::string_view value) {
  text_.append(name).append(suffix);
  append_labels(text_, labels);
  text_.append(" ").append(value).append("\n");
}

void PrometheusText::family(const MetricFamily& family, std::span<const Sample> samples) {
  if (samples.empty()) {
    return;
  }
  text_.append("# HELP ").append(family.name).append(" ");
  append_escaped(text_, family.help, false);
  text_.append("\n# TYPE ")
      .append(family.name)
      .append(" ")
      .append(name_of(family.type))
      .append("\n");
  for (const Sample& sample : samples) {
    if (family.type != MetricType::kHistogram) {
      line(family.name, "", sample.labels, metric_number(sample.value));
      continue;
    }
    const HistogramSample& histogram = sample.histogram;
    std::vector<Label> labels = sample.labels;
    labels.emplace_back("le", "");
    for (std::size_t i = 0; i < histogram.cumulative.size(); ++i) {
      const std::string bound =
          i < family.bound_count ? metric_number(family.bounds[i]) : std::string("+Inf");
      labels.back().second = bound;
      line(family.name, "_bucket", labels, std::to_string(histogram.cumulative[i]));
    }
    line(family.name, "_sum", sample.labels, metric_number(histogram.sum));
    line(family.name, "_count", sample.labels, std::to_string(histogram.count));
  }
}

void MetricsJson::member(std::string& object, const std::string& name, const std::string& value) {
  if (!object.empty()) {
    object += ',';
  }
  append_json_string(object, name);
  object.append(":").append(value);
}

void MetricsJson::family(const MetricFamily& family, std::span<const Sample> samples) {
  for (const Sample& sample : samples) {
    const std::string name = series_name(family.name, sample.labels);
    if (family.type != MetricType::kHistogram) {
      member(family.type == MetricType::kCounter ? counters_ : gauges_, name,
             json_number(sample.value));
      continue;
    }
    const HistogramSample& h = sample.histogram;
    member(histograms_, name,
           JsonObject()
               .raw("count", std::to_string(h.count))
               .raw("sum", json_number(h.sum))
               .raw("min", json_number(h.lowest))
               .raw("max", json_number(h.highest))
               .raw("mean", json_number(h.sum / static_cast<double>(h.count)))
               .raw("p50", json_number(h.p50))
               .raw("p95", json_number(h.p95))
               .raw("p99", json_number(h.p99))
               .str());
  }
}

std::string MetricsJson::finish(std::string_view timestamp) const {
  return JsonObject()
      .text("timestamp", timestamp)
      .raw("counters", "{" + counters_ + "}")
      .raw("histograms", "{" + histograms_ + "}")
      .raw("gauges", "{" + gauges_ + "}")
      .str();
}

}  // namespace core
