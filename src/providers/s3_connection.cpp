#include "pg/postgres.hpp"

#include "providers/s3_connection.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>
#include <utility>

#include "core/error.hpp"
#include "core/sha256.hpp"

namespace providers {
namespace {

// Codes whose request is worth another try, whatever their status.
bool is_passing(std::string_view code) {
  constexpr std::array<std::string_view, 6> kCodes = {"InternalError",      "SlowDown",
                                                      "ServiceUnavailable", "RequestTimeout",
                                                      "OperationAborted",   "Throttling"};
  return std::find(kCodes.begin(), kCodes.end(), code) != kCodes.end();
}

struct Advice {
  std::string_view code;
  const char* sqlstate;
  const char* hint;
};

constexpr Advice kAdvice[] = {
    {"InvalidAccessKeyId", core::sqlstate::kInvalidAuthorization,
     "The store does not know the user mapping's access_key_id."},
    {"SignatureDoesNotMatch", core::sqlstate::kInvalidAuthorization,
     "Check the user mapping's secret_access_key, and the server's region."},
    {"RequestTimeTooSkewed", core::sqlstate::kInvalidAuthorization,
     "The clocks of this machine and of the store differ too much: set this machine's by NTP."},
    {"AccessDenied", core::sqlstate::kInvalidAuthorization,
     "Let these credentials list the bucket, and read, write and delete objects in it "
     "(s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload)."},
    {"ExpiredToken", core::sqlstate::kInvalidAuthorization,
     "The temporary credentials of the user mapping have expired: put new ones in."},
    {"InvalidToken", core::sqlstate::kInvalidAuthorization,
     "Check the user mapping's session_token."},
    {"NoSuchBucket", core::sqlstate::kUndefinedFile,
     "Create the bucket, or correct the server's option bucket, region or endpoint."},
    {"InvalidBucketName", core::sqlstate::kInvalidParameterValue,
     "Correct the server's option bucket."},
    {"InvalidStorageClass", core::sqlstate::kInvalidParameterValue,
     "Correct the server's option storage_class."},
    {"InvalidEncryptionAlgorithmError", core::sqlstate::kInvalidParameterValue,
     "Correct the server's option server_side_encryption."},
    {"KMS.NotFoundException", core::sqlstate::kInvalidParameterValue,
     "Correct the server's option kms_key_id."},
    {"KMS.DisabledException", core::sqlstate::kInvalidParameterValue,
     "Enable the key that the server's option kms_key_id names."},
    {"EntityTooSmall", core::sqlstate::kInvalidParameterValue,
     "This store wants larger parts: raise the server's option part_size."},
    {"EntityTooLarge", core::sqlstate::kProgramLimitExceeded,
     "This store wants smaller parts: lower the server's option part_size."},
};

const Advice* find_advice(std::string_view code) {
  const auto* found = std::find_if(std::begin(kAdvice), std::end(kAdvice),
                                   [&](const Advice& each) { return each.code == code; });
  return found == std::end(kAdvice) ? nullptr : found;
}

const char* sqlstate_of(int status) {
  switch (status) {
    case 401:
    case 403:
      return core::sqlstate::kInvalidAuthorization;
    case 404:
      return core::sqlstate::kUndefinedFile;
    case 408:
    case 429:
      return core::sqlstate::kConnectionFailure;
    default:
      return status >= 500 ? core::sqlstate::kConnectionFailure : core::sqlstate::kIoError;
  }
}

// What the store says, in one line.
std::string describe(const std::optional<core::S3Error>& error, const net::HttpReply& reply) {
  std::string text;
  if (error) {
    text = error->code;
    if (!error->message.empty()) {
      text += (text.empty() ? "" : ": ") + error->message;
    }
    constexpr std::size_t kLongest = 1000;
    if (text.size() > kLongest) {
      std::size_t end = kLongest;
      // Not in the middle of a character.
      while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
        --end;
      }
      text.resize(end);
    }
    std::replace_if(
        text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, ' ');
    text += " ";
  }
  std::string id(error && !error->request_id.empty() ? std::string_view(error->request_id)
                                                     : reply.header("x-amz-request-id"));
  const bool printable = id.size() <= 200 && std::all_of(id.begin(), id.end(), [](char c) {
                           return c > ' ' && c <= '~';
                         });
  std::string status = "HTTP " + std::to_string(reply.status);
  if (!id.empty() && printable) {
    status += ", request id " + id;
  }
  return error ? text + "(" + status + ")" : status;
}

// Of what a server says about itself, only what can be part of a host's name.
std::string host_name_of(std::string_view text) {
  const bool plain = text.size() <= 255 && std::all_of(text.begin(), text.end(), [](char c) {
                       return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                              (c >= '0' && c <= '9') || c == '.' || c == '-';
                     });
  return plain ? std::string(text) : std::string();
}

// Where the bucket is instead, for an answer that says it is elsewhere; '' for any other.
std::string elsewhere(const std::optional<core::S3Error>& error, const net::HttpReply& reply) {
  const bool redirect = reply.status >= 300 && reply.status < 400 && reply.status != 304;
  const bool wrong_region =
      error &&
      (error->code == "AuthorizationHeaderMalformed" || error->code == "PermanentRedirect" ||
       error->code == "TemporaryRedirect" || error->code == "IllegalLocationConstraintException");
  std::string region = host_name_of(reply.header("x-amz-bucket-region"));
  if (region.empty() && error) {
    region = host_name_of(error->region);
  }
  const std::string endpoint = error ? host_name_of(error->endpoint) : std::string();
  if (!redirect && !(wrong_region && !(region.empty() && endpoint.empty()))) {
    return {};
  }
  if (!region.empty()) {
    return "The bucket's region is \"" + region + "\": set the server's option region to it.";
  }
  if (!endpoint.empty()) {
    return "The bucket's endpoint is \"" + endpoint + "\": set the server's option endpoint to it.";
  }
  return "The bucket is somewhere else: correct the server's option region or endpoint.";
}

}  // namespace

void S3Request::set_body(std::string text) {
  sha256 = core::sha256_hex(text);
  body = std::move(text);
}

std::optional<core::S3Error> s3_error_in(const net::HttpReply& reply) {
  if (auto parsed = core::read_s3_reply(reply.body)) {
    if (auto* error = std::get_if<core::S3Error>(&*parsed)) {
      return std::move(*error);
    }
  }
  return std::nullopt;
}

net::Verdict judge_s3(const net::HttpReply& reply) {
  const net::Verdict by_status = net::judge_by_status(reply);
  if (by_status == net::Verdict::kFail) {
    const auto error = s3_error_in(reply);
    return error && is_passing(error->code) ? net::Verdict::kFault : net::Verdict::kFail;
  }
  return by_status;
}

std::optional<std::uint64_t> content_length(const net::HttpReply& reply) {
  const std::string_view text = reply.header("content-length");
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

S3Connection::S3Connection(S3Config config, std::string request_id, net::HttpObserver& observer)
    : config_(std::move(config)), request_id_(std::move(request_id)), observer_(observer) {}

net::HttpClient S3Connection::make_client(bool interruptible) const {
  net::HttpOptions options;
  options.service = config_.service;
  options.request_id = request_id_;
  options.ca_file = config_.ca_file;
  options.timeout = config_.timeout;
  options.max_retries = config_.max_retries;
  options.interruptible = interruptible;
  return net::HttpClient(std::move(options), observer_);
}

net::HttpRequest S3Connection::sign(const S3Request& request) const {
  const std::string host = config_.host();
  const std::string path = config_.path(request.key);
  const core::SigV4Signature signature =
      core::sign_v4({request.method, host, path, request.query, request.headers, request.sha256},
                    config_.credentials, {config_.region, std::time(nullptr)});
  net::HttpRequest result;
  result.method = request.method;
  result.url = config_.endpoint.scheme + "://" + host + path;
  if (!request.query.empty()) {
    result.url += "?" + core::canonical_query(request.query);
  }
  result.headers = request.headers;
  result.headers.insert(result.headers.end(), signature.headers.begin(), signature.headers.end());
  result.body = request.body;
  return result;
}

net::HttpCall S3Connection::call(S3Request request) const {
  net::HttpCall call;
  call.make = [this, request = std::move(request)] { return sign(request); };
  call.judge = judge_s3;
  return call;
}

std::string S3Connection::url(const std::string& name) const {
  return "s3://" + config_.bucket + "/" + key(name);
}

std::string S3Connection::redacted(std::string text) const {
  const auto& [access_key, secret_key, session_token] = config_.credentials;
  for (const std::string& secret : {secret_key, session_token}) {
    for (auto at = secret.empty() ? std::string::npos : text.find(secret); at != std::string::npos;
         at = text.find(secret, at)) {
      text.replace(at, secret.size(), "…");
    }
  }
  return text;
}

std::string S3Connection::message(const std::string& action) const {
  return "could not " + action + " the blob store \"" + config_.service + "\"";
}

void S3Connection::fail(const std::string& action, const net::HttpReply& reply) const {
  const auto error = s3_error_in(reply);
  if (reply.failure != net::HttpReply::Failure::kNone) {
    if (reply.failure == net::HttpReply::Failure::kRefused && error) {
      // It has been sent, and was not to be sent again: the store's own words say more.
      net::HttpReply told = reply;
      told.problem = redacted(describe(error, reply));
      net::throw_failure(message(action), told);
    }
    net::throw_failure(message(action), reply);
  }
  const char* sqlstate = sqlstate_of(reply.status);
  std::string hint = elsewhere(error, reply);
  std::string detail;
  if (!hint.empty()) {
    sqlstate = core::sqlstate::kInvalidParameterValue;
  } else if (const Advice* advice = error ? find_advice(error->code) : nullptr) {
    sqlstate = advice->sqlstate;
    hint = advice->hint;
  } else if (reply.status == 401 || reply.status == 403) {
    hint = "Check the user mapping's credentials, and what they allow.";
  }
  if (reply.attempts > 1) {
    detail = "It was tried " + std::to_string(reply.attempts) + " times.";
  }
  throw core::Error(sqlstate, message(action) + ": " + redacted(describe(error, reply)), detail,
                    hint);
}

}  // namespace providers
