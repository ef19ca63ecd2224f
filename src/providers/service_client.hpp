// What the clients of embedding services and vector stores have in common: how a declared server
// becomes options of an HTTP client, and what becomes of a reply that is an error.
#pragma once

#include "core/service_error.hpp"
#include "net/http_client.hpp"
#include "net/service.hpp"

#include <string>
#include <string_view>

#include "providers/batch_result.hpp"

namespace providers {

// By the server's options timeout, max_retries, ca_file, requests_per_minute, tokens_per_minute.
net::HttpOptions http_options(const net::Service& service, const std::string& request_id);

// The URL in the server's option of that name, without a slash at the end. 22023 where it would be
// reached without encryption, but for loopback and `allow_http`.
std::string service_url(const net::Service& service, const char* option);

// The mapping's secret; '' without one.
std::string secret_of(const net::Service& service, const char* name);

// A service's text as part of a message: one line, not too long, and without the secret that the
// service may have repeated.
std::string printable(std::string_view text, const std::string& secret);

// `reason (HTTP 400, request id …)`, whatever of it there is.
std::string with_status(const std::string& reason, const net::HttpReply& reply);

// For a reply whose `failure` is not kNone. `action` begins the message: `embedding server "x"
// failed`.
ServiceFailure connection_failure(const std::string& action, const net::HttpReply& reply);

// For a reply that says no: what every service means by a used-up quota, a key that is refused, and
// its patience having an end. True where it was one of these. `limits`: the server's options that
// keep the requests below the service's limits.
bool describe_refusal(const core::ServiceError& error, bool has_key, const std::string& limits,
                      ServiceFailure& failure);

[[noreturn]] void throw_failure(const ServiceFailure& failure);

}  // namespace providers
