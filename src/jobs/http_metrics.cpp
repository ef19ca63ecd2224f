#include "jobs/http_metrics.hpp"

#include "metrics/registry.hpp"

namespace jobs {
namespace {

void record(metrics::Metric metric, std::initializer_list<std::string_view> labels,
            metrics::Change change, double amount) {
  metrics::LabelValues values;
  for (const std::string_view label : labels) {
    if (!values.add(label)) {
      metrics::reject("too_long");
      return;
    }
  }
  metrics::record(metric, values, change, amount);
}

}  // namespace

using metrics::Change;
using metrics::Metric;

void HttpMetrics::request(const std::string& service, const std::string& outcome, double seconds) {
  record(Metric::kHttpRequests, {service, outcome}, Change::kAdd, 1);
  record(Metric::kHttpDuration, {service}, Change::kObserve, seconds);
}

void HttpMetrics::retry(const std::string& service) {
  record(Metric::kHttpRetries, {service}, Change::kAdd, 1);
}

void HttpMetrics::breaker(const std::string& service, net::BreakerState state) {
  record(Metric::kBreakerState, {service}, Change::kSet, static_cast<double>(state));
}

}  // namespace jobs
