#include "pg/postgres.hpp"

#include "providers/pinecone_connection.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include "core/error.hpp"
#include "core/pinecone_messages.hpp"
#include "core/service_error.hpp"
#include "providers/service_client.hpp"

namespace providers {
namespace {

using Outcome = BatchCalls::Outcome;

constexpr const char* kProtocolViolation = "08P01";

net::Verdict judge(const net::HttpReply& reply) {
  const net::Verdict by_status = net::judge_by_status(reply);
  if (by_status == net::Verdict::kDone) {
    return by_status;
  }
  switch (core::read_service_error(reply.status, reply.body).kind) {
    case core::ServiceErrorKind::kTooLarge:
    case core::ServiceErrorKind::kQuota:
    case core::ServiceErrorKind::kAuth:
      return net::Verdict::kFail;
    case core::ServiceErrorKind::kRateLimit:
    case core::ServiceErrorKind::kOther:
      break;
  }
  return by_status;
}

// A position in the index' log, under one of two names.
std::optional<std::uint64_t> position(const net::HttpReply& reply, const char* name,
                                      const char* other_name) {
  for (const char* each : {name, other_name}) {
    const std::string_view text = reply.header(each);
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (!text.empty() && error == std::errc() && end == text.data() + text.size()) {
      return number;
    }
  }
  return std::nullopt;
}

void raise_to(std::optional<std::uint64_t>& highest, std::optional<std::uint64_t> seen) {
  if (seen) {
    highest = std::max(highest.value_or(0), *seen);
  }
}

}  // namespace

PineconeConnection::PineconeConnection(const net::Service& service, const std::string& request_id)
    : options_(http_options(service, request_id)),
      host_(service_url(service, "host")),
      api_key_(secret_of(service, "api_key")) {}

std::string PineconeConnection::action(const char* what) const {
  return std::string("could not ") + what + " the vector store \"" + server() + "\"";
}

net::HttpCall PineconeConnection::call(const char* method, const std::string& path,
                                       std::string body) const {
  net::HttpRequest request;
  request.method = method;
  request.url = host_ + path;
  request.headers = {{"X-Pinecone-Api-Version", std::string(core::kPineconeApiVersion)},
                     {"Accept", "application/json"}};
  if (!api_key_.empty()) {
    request.headers.emplace_back("Api-Key", api_key_);
  }
  if (!body.empty()) {
    request.headers.emplace_back("Content-Type", "application/json");
    request.body = std::move(body);
  }
  net::HttpCall call;
  call.make = [request = std::move(request)] { return request; };
  call.judge = judge;
  return call;
}

Outcome PineconeConnection::outcome(const std::string& action, const net::HttpReply& reply) const {
  Outcome outcome;
  outcome.kind = Outcome::Kind::kFailed;
  if (reply.failure != net::HttpReply::Failure::kNone) {
    outcome.failure = connection_failure(action, reply);
    return outcome;
  }
  const core::ServiceError error = core::read_service_error(reply.status, reply.body);
  outcome.reason = with_status(printable(error.message, api_key_), reply);
  outcome.cause = error.message;
  ServiceFailure& failure = outcome.failure;
  failure.message = action + ": " + outcome.reason;
  failure.may_pass = false;
  if (error.kind == core::ServiceErrorKind::kTooLarge) {
    outcome.kind = Outcome::Kind::kTooLarge;
    failure.sqlstate = core::sqlstate::kProgramLimitExceeded;
    return outcome;
  }
  if (describe_refusal(error, !api_key_.empty(), "the option requests_per_minute", failure)) {
    return outcome;
  }
  if (reply.status == 400 || reply.status == 422) {
    failure.sqlstate = core::sqlstate::kInvalidParameterValue;
    if (error.message.find("does not match the dimension") == std::string::npos) {
      outcome.kind = Outcome::Kind::kAtFault;
    } else {
      failure.hint =
          "An index takes vectors of one dimension: choose a model or an index that fits.";
    }
    return outcome;
  }
  if (reply.status == 404) {
    failure.sqlstate = core::sqlstate::kUndefinedObject;
    failure.hint = "Check the server's option host.";
    return outcome;
  }
  failure.sqlstate = core::sqlstate::kConnectionFailure;
  failure.may_pass = reply.status >= 500 || reply.status == 408;
  return outcome;
}

ServiceFailure PineconeConnection::unreadable(const std::string& action,
                                              const net::HttpReply& reply) const {
  return {kProtocolViolation,
          action + ": " + with_status("its answer is not what was asked for", reply),
          {},
          true};
}

void PineconeProgress::note_written(const std::string& space, const net::HttpReply& reply) {
  raise_to(spaces_[space].written,
           position(reply, "x-pinecone-request-lsn", "x-pinecone-lsn-committed"));
}

void PineconeProgress::note_read(const std::string& space, const net::HttpReply& reply) {
  raise_to(spaces_[space].visible,
           position(reply, "x-pinecone-max-indexed-lsn", "x-pinecone-lsn-reconciled"));
}

std::optional<bool> PineconeProgress::caught_up(const std::string& space) const {
  const auto found = spaces_.find(space);
  if (found == spaces_.end() || !found->second.written || !found->second.visible) {
    return std::nullopt;
  }
  return *found->second.visible >= *found->second.written;
}

}  // namespace providers
