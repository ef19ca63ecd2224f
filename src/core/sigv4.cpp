#include "core/sigv4.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>

#include "core/error.hpp"
#include "core/sha256.hpp"
#include "core/uri.hpp"

namespace core {

namespace {

constexpr const char* kAlgorithm = "AWS4-HMAC-SHA256";

// A key of the chain that leads from the secret to the signature; it leaves no trace in memory.
class SigningKey {
 public:
  SigningKey() = default;
  SigningKey(const SigningKey&) = delete;
  SigningKey& operator=(const SigningKey&) = delete;
  ~SigningKey() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

  void derive(const void* key, std::size_t key_length, std::string_view message) {
    unsigned int length = 0;
    if (HMAC(EVP_sha256(), key, static_cast<int>(key_length),
             reinterpret_cast<const unsigned char*>(message.data()), message.size(), bytes_.data(),
             &length) == nullptr ||
        length != bytes_.size()) {
      throw Error(sqlstate::kInternalError, "could not compute an HMAC",
                  "OpenSSL refused the algorithm or had no memory left.");
    }
  }
  void derive(const SigningKey& key, std::string_view message) {
    derive(key.bytes_.data(), key.bytes_.size(), message);
  }
  std::string hex() const { return to_hex(bytes_.data(), bytes_.size()); }

 private:
  std::array<unsigned char, 32> bytes_{};
};

// With a line break somebody could add headers of their own to the request.
void check_no_control(std::string_view value, std::string_view what) {
  if (std::any_of(value.begin(), value.end(),
                  [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '\x7F'; })) {
    throw Error(sqlstate::kInvalidParameterValue, "cannot sign a request for object storage",
                "There is a control character in: " + std::string(what) + ".");
  }
}

std::string header_name(std::string_view name) {
  static constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  std::string lower;
  for (char c : name) {
    if (c >= 'A' && c <= 'Z') {
      c = static_cast<char>(c - 'A' + 'a');
    }
    if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') &&
        kOthers.find(c) == std::string_view::npos) {
      lower.clear();
      break;
    }
    lower += c;
  }
  if (lower.empty()) {
    throw Error(sqlstate::kInternalError, "cannot sign a header with an invalid name");
  }
  return lower;
}

// Without blanks around it, and none but single ones inside.
std::string header_value(std::string_view value) {
  std::string out;
  out.reserve(value.size());
  for (const char c : value) {
    if (c != ' ' || (!out.empty() && out.back() != ' ')) {
      out += c;
    }
  }
  if (!out.empty() && out.back() == ' ') {
    out.pop_back();
  }
  return out;
}

std::string timestamp(std::time_t time) {
  std::tm utc{};
  std::array<char, sizeof "YYYYMMDDThhmmssZ"> text;
  if (time < 0 || gmtime_r(&time, &utc) == nullptr ||
      std::strftime(text.data(), text.size(), "%Y%m%dT%H%M%SZ", &utc) != text.size() - 1) {
    throw Error(sqlstate::kInvalidParameterValue, "cannot sign a request for object storage",
                "The clock is outside the years 1970 to 9999.");
  }
  return text.data();
}

// Sorted by name, as the canonical request lists them. The values of a name given several times
// keep their order.
using Headers = std::map<std::string, std::string>;

Headers own_headers(const NameValues& given) {
  Headers headers;
  for (const auto& [name, value] : given) {
    std::string key = header_name(name);
    if (key == "host" || key == "authorization" || key == "x-amz-date" ||
        key == "x-amz-content-sha256" || key == "x-amz-security-token") {
      throw Error(sqlstate::kInternalError, "signing adds the header " + key + " itself");
    }
    check_no_control(value, "header " + key);
    auto [place, is_new] = headers.try_emplace(std::move(key), header_value(value));
    if (!is_new) {
      place->second += "," + header_value(value);
    }
  }
  return headers;
}

std::string signature(const std::string& secret, std::string_view date, const SigV4Scope& scope,
                      std::string_view string_to_sign) {
  std::string start;
  // In one piece, so that no smaller buffer with half the secret is given back to the heap.
  start.reserve(4 + secret.size());
  start.append("AWS4").append(secret);
  SigningKey of_date;
  SigningKey of_region;
  SigningKey of_service;
  SigningKey of_request;
  SigningKey result;
  of_date.derive(start.data(), start.size(), date);
  OPENSSL_cleanse(start.data(), start.size());
  of_region.derive(of_date, scope.region);
  of_service.derive(of_region, scope.service);
  of_request.derive(of_service, "aws4_request");
  result.derive(of_request, string_to_sign);
  return result.hex();
}

}  // namespace

std::string canonical_query(const NameValues& query) {
  NameValues encoded;
  encoded.reserve(query.size());
  for (const auto& [name, value] : query) {
    encoded.emplace_back(encode_query_component(name), encode_query_component(value));
  }
  std::sort(encoded.begin(), encoded.end());
  std::string out;
  for (const auto& [name, value] : encoded) {
    if (!out.empty()) {
      out += '&';
    }
    out.append(name).append("=").append(value);
  }
  return out;
}

SigV4Signature sign_v4(const SigV4Request& request, const SigV4Credentials& credentials,
                       const SigV4Scope& scope) {
  check_no_control(request.method, "method");
  check_no_control(request.host, "host");
  check_no_control(request.path, "path");
  check_no_control(request.payload_sha256, "payload sum");
  check_no_control(credentials.access_key, "access key");
  check_no_control(credentials.session_token, "session token");
  check_no_control(scope.region, "region");
  check_no_control(scope.service, "service");

  const std::string now = timestamp(scope.time);
  const std::string date = now.substr(0, 8);

  SigV4Signature result;
  result.headers.emplace_back("x-amz-date", now);
  if (scope.payload_header) {
    result.headers.emplace_back("x-amz-content-sha256", request.payload_sha256);
  }
  if (!credentials.session_token.empty()) {
    result.headers.emplace_back("x-amz-security-token", credentials.session_token);
  }

  Headers headers = own_headers(request.headers);
  headers.emplace("host", header_value(request.host));
  for (const auto& [name, value] : result.headers) {
    headers.emplace(name, header_value(value));
  }

  std::string names;
  std::string lines;
  for (const auto& [name, value] : headers) {
    if (!names.empty()) {
      names += ';';
    }
    names += name;
    lines.append(name).append(":").append(value).append("\n");
  }

  const std::string credential_scope =
      date + "/" + scope.region + "/" + scope.service + "/aws4_request";
  result.canonical_request = request.method + "\n" + (request.path.empty() ? "/" : request.path) +
                             "\n" + canonical_query(request.query) + "\n" + lines + "\n" + names +
                             "\n" + request.payload_sha256;
  result.string_to_sign = std::string(kAlgorithm) + "\n" + now + "\n" + credential_scope + "\n" +
                          sha256_hex(result.canonical_request);
  result.headers.emplace_back(
      "authorization", std::string(kAlgorithm) + " Credential=" + credentials.access_key + "/" +
                           credential_scope + ", SignedHeaders=" + names + ", Signature=" +
                           signature(credentials.secret_key, date, scope, result.string_to_sign));
  return result;
}

}  // namespace core
