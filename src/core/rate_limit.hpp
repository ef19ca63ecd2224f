// When the next request to a rate-limited service may go out: by the limits that its user has
// declared, by what the service itself says in its x-ratelimit-… headers, and by its requests to
// come back later. Has no clock of its own; the caller brings the time.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

#include "core/token_bucket.hpp"

namespace core {

// "1s", "6m0s", "120ms", "1h2m3.5s", "2d": at most a day. A number without a unit is in seconds.
std::optional<std::chrono::milliseconds> parse_reset(std::string_view text);

class RateLimit {
 public:
  using Time = TokenBucket::Time;

  // Per minute; 0: no limit.
  RateLimit(double requests, double tokens) noexcept : requests_(requests), tokens_(tokens) {}

  // How long until a request that costs `tokens` may go out. 0: now. Never longer than a minute:
  // ask again then.
  std::chrono::milliseconds wait(double tokens, Time now) noexcept;
  // It goes out.
  void take(double tokens, Time now) noexcept;
  // The service asked for patience: nothing goes out before `until`.
  void hold(Time until) noexcept;

  // What a reply's headers say: x-ratelimit-limit-…, -remaining-… and -reset-…, each possibly
  // empty.
  void hear_requests(std::string_view limit, std::string_view remaining, std::string_view reset,
                     Time now) noexcept;
  void hear_tokens(std::string_view limit, std::string_view remaining, std::string_view reset,
                   Time now) noexcept;

 private:
  // What the service has told of one of its limits; in force until it is full again.
  struct Told {
    double remaining = 0;
    double per_ms = 0;  // at which it fills; 0: unknown, then all comes back at the end
    double most = 0;    // that it ever lets through at once; 0: unknown
    Time at{0};
    Time full{0};

    std::chrono::milliseconds wait(double amount, Time now) const noexcept;
    void take(double amount) noexcept { remaining -= amount; }
    void hear(std::string_view limit, std::string_view left, std::string_view reset,
              Time now) noexcept;
  };

  TokenBucket requests_;
  TokenBucket tokens_;
  Told told_requests_;
  Told told_tokens_;
  Time held_until_{0};
};

}  // namespace core
