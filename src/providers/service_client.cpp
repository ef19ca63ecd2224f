#include "pg/postgres.hpp"

#include "providers/service_client.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/option_value.hpp"
#include "core/uri.hpp"
#include "net/service_options.hpp"

namespace providers {
namespace {

// Under these headers services say which request it was.
std::string_view request_id_in(const net::HttpReply& reply) {
  for (const char* name : {"x-request-id", "apim-request-id", "x-pinecone-request-id"}) {
    const std::string_view id = reply.header(name);
    const bool plain = id.size() <= 200 && std::all_of(id.begin(), id.end(),
                                                       [](char c) { return c > ' ' && c <= '~'; });
    if (!id.empty() && plain) {
      return id;
    }
  }
  return {};
}

}  // namespace

net::HttpOptions http_options(const net::Service& service, const std::string& request_id) {
  net::HttpOptions options;
  options.service = service.name;
  options.request_id = request_id;
  options.ca_file = service.option("ca_file");
  if (service.has("timeout")) {
    options.timeout = std::chrono::seconds(net::number_option(service, "timeout", 0));
  }
  if (service.has("max_retries")) {
    options.max_retries = static_cast<int>(net::number_option(service, "max_retries", 0));
  }
  options.requests_per_minute =
      static_cast<double>(net::number_option(service, "requests_per_minute", 0));
  options.tokens_per_minute =
      static_cast<double>(net::number_option(service, "tokens_per_minute", 0));
  return options;
}

std::string service_url(const net::Service& service, const char* option) {
  std::string text = service.option(option);
  const core::Url url = core::parse_url(text);
  if (url.scheme != "https" && !net::flag_option(service, "allow_http") &&
      !core::is_loopback(url.host)) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "server \"" + service.name + "\" would be reached without encryption", {},
                      std::string("Give an https URL as its option ") + option +
                          ", or set its option allow_http to 'true'.");
  }
  while (text.ends_with('/')) {
    text.pop_back();
  }
  return text;
}

std::string secret_of(const net::Service& service, const char* name) {
  const auto found = service.secrets.find(name);
  return found == service.secrets.end() ? std::string() : found->second;
}

std::string printable(std::string_view text, const std::string& secret) {
  constexpr std::size_t kLongest = 600;
  constexpr std::string_view kHidden = "***";
  std::string result(text);
  if (!secret.empty()) {
    for (auto at = result.find(secret); at != std::string::npos;
         at = result.find(secret, at + kHidden.size())) {
      result.replace(at, secret.size(), kHidden);
    }
  }
  if (result.size() > kLongest) {
    std::size_t end = kLongest;
    // Not in the middle of a character.
    while (end > 0 && (static_cast<unsigned char>(result[end]) & 0xC0) == 0x80) {
      --end;
    }
    result.resize(end);
    result += " …";
  }
  std::replace_if(
      result.begin(), result.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, ' ');
  return result;
}

std::string with_status(const std::string& reason, const net::HttpReply& reply) {
  std::string status = "HTTP " + std::to_string(reply.status);
  if (const std::string_view id = request_id_in(reply); !id.empty()) {
    status.append(", request id ").append(id);
  }
  return reason.empty() ? status : reason + " (" + status + ")";
}

ServiceFailure connection_failure(const std::string& action, const net::HttpReply& reply) {
  try {
    net::throw_failure(action, reply);
  } catch (const core::Error& error) {
    using Failure = net::HttpReply::Failure;
    const bool passes = reply.failure == Failure::kNetwork || reply.failure == Failure::kTimeout ||
                        reply.failure == Failure::kRefused;
    std::string hint = error.detail();
    if (!error.hint().empty()) {
      hint += (hint.empty() ? "" : " ") + error.hint();
    }
    return {error.sqlstate(), error.message(), hint, passes,
            reply.failure == Failure::kRefused && reply.attempts == 0};
  }
}

bool describe_refusal(const core::ServiceError& error, bool has_key, const std::string& limits,
                      ServiceFailure& failure) {
  switch (error.kind) {
    case core::ServiceErrorKind::kQuota:
      failure.sqlstate = core::sqlstate::kConfigurationLimitExceeded;
      failure.hint = "What was paid for at the service is used up: raise its limit there.";
      return true;
    case core::ServiceErrorKind::kAuth:
      failure.sqlstate = core::sqlstate::kInvalidAuthorization;
      failure.hint =
          has_key ? "Check the user mapping's api_key or api_key_file, and what that key may do."
                  : "CREATE USER MAPPING FOR CURRENT_USER SERVER … OPTIONS (api_key_file '…').";
      return true;
    case core::ServiceErrorKind::kRateLimit:
      failure.sqlstate = core::sqlstate::kConnectionFailure;
      failure.may_pass = true;
      failure.hint = "It asked for patience for too long: " + limits +
                     " of the server keeps the requests below its limits.";
      return true;
    case core::ServiceErrorKind::kTooLarge:
    case core::ServiceErrorKind::kOther:
      return false;
  }
  return false;
}

void throw_failure(const ServiceFailure& failure) {
  throw core::Error(failure.sqlstate.c_str(), failure.message, {}, failure.hint);
}

}  // namespace providers
