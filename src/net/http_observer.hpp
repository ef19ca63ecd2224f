// Who wants to know what an HTTP client does: the jobs, which keep metrics of it. Its functions are
// called outside callbacks of libcurl, and must not throw.
#pragma once

#include <string>

namespace net {

enum class BreakerState { kClosed = 0, kOpen = 1, kHalfOpen = 2 };

class HttpObserver {
 public:
  virtual ~HttpObserver() = default;

  // One request has ended. `outcome`: the status as text ("200", "503"), or "timeout", "network",
  // "cancelled".
  virtual void request(const std::string& service, const std::string& outcome, double seconds) = 0;
  // A request is going to be tried again.
  virtual void retry(const std::string& service) = 0;
  virtual void breaker(const std::string& service, BreakerState state) = 0;
};

}  // namespace net
