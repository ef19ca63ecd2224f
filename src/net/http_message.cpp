#include "net/http_message.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace net {
namespace {

std::string attempts_text(int attempts) {
  return attempts > 1 ? "It was tried " + std::to_string(attempts) + " times." : std::string();
}

}  // namespace

std::string_view HttpReply::header(std::string_view name) const {
  const auto found = std::find_if(headers.begin(), headers.end(),
                                  [&](const auto& each) { return each.first == name; });
  return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

void throw_failure(const std::string& action, const HttpReply& reply) {
  const std::string message = action + ": " + reply.problem;
  switch (reply.failure) {
    case HttpReply::Failure::kRefused: {
      const auto seconds = std::max<std::int64_t>((reply.wait.count() + 999) / 1000, 1);
      throw core::Error(
          core::sqlstate::kConnectionFailure, message,
          "After failures in a row no request is sent to it for another " +
              std::to_string(seconds) + " s (its circuit breaker is open).",
          "Try again then. bacmr.breaker_threshold and bacmr.breaker_cooldown steer the "
          "breaker.");
    }
    case HttpReply::Failure::kTls:
      throw core::Error(core::sqlstate::kConnectionFailure, message, {},
                        "Where an authority of your own has signed its certificate, name that "
                        "authority's file in the server's option ca_file.");
    case HttpReply::Failure::kTimeout:
      throw core::Error(core::sqlstate::kConnectionFailure, message, attempts_text(reply.attempts),
                        "bacmr.http_timeout says how long a request may stand still.");
    case HttpReply::Failure::kLocal:
    case HttpReply::Failure::kTooLarge:
      throw core::Error(core::sqlstate::kIoError, message);
    case HttpReply::Failure::kNetwork:
    case HttpReply::Failure::kNone:
      break;
  }
  throw core::Error(core::sqlstate::kConnectionFailure, message, attempts_text(reply.attempts));
}

}  // namespace net
