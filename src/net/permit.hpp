// A breaker's leave for one request, as a scope. Only http_client.cpp uses it.
#pragma once

#include "net/breakers.hpp"

#include <string>
#include <utility>

namespace net {

// Unless an outcome is reported, the request ends without one. `service` outlives it.
class Permit {
 public:
  Permit() = default;
  Permit(const std::string& service, BreakerPermit permit) : service_(&service), permit_(permit) {}
  Permit(Permit&& other) noexcept
      : service_(std::exchange(other.service_, nullptr)), permit_(other.permit_) {}
  Permit& operator=(Permit&& other) noexcept {
    std::swap(service_, other.service_);
    std::swap(permit_, other.permit_);
    return *this;
  }
  ~Permit() {
    if (service_ != nullptr) {
      report_abandoned(*service_, permit_);
    }
  }
  void succeeded() noexcept {
    if (const auto* service = std::exchange(service_, nullptr)) {
      report_success(*service, permit_);
    }
  }
  void failed() noexcept {
    if (const auto* service = std::exchange(service_, nullptr)) {
      report_failure(*service, permit_);
    }
  }

 private:
  const std::string* service_ = nullptr;
  BreakerPermit permit_;
};

}  // namespace net
