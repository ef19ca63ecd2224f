// Keeps the metrics of the extension's HTTP clients. They count whatever becomes of the
// transaction: the requests were made.
#pragma once

#include "pg/postgres.hpp"

#include "net/http_observer.hpp"

namespace jobs {

class HttpMetrics : public net::HttpObserver {
 public:
  void request(const std::string& service, const std::string& outcome, double seconds) override;
  void retry(const std::string& service) override;
  void breaker(const std::string& service, net::BreakerState state) override;
};

}  // namespace jobs
