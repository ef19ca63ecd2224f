// Which HTTP answers are worth another try, and how long the server asks to wait for it.
#pragma once

#include <chrono>
#include <ctime>
#include <optional>
#include <string_view>

namespace core {

enum class RetryClass {
  kFinal,      // asking again would bring the same
  kFault,      // the service is unwell: try again, and count it against the service
  kThrottled,  // the service is well and asks for patience
};

// By the status alone. Where a service gives 409 or 400 a special meaning, its client knows.
RetryClass classify_status(int status) noexcept;

// What the headers Retry-After (seconds, or a date in one of HTTP's three forms) and retry-after-ms
// ask for, both possibly empty; the second, finer one wins. Nothing where neither can be read; a
// date in the past is no wait at all.
std::optional<std::chrono::milliseconds> parse_retry_after(std::string_view retry_after,
                                                           std::string_view retry_after_ms,
                                                           std::time_t now);

// An HTTP date in one of its three forms.
std::optional<std::time_t> parse_http_date(std::string_view text);

}  // namespace core
