// AWS Signature Version 4 in an Authorization header, as S3 and the stores that speak its language
// want it: the path is signed as it is sent, neither normalised nor encoded twice.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace core {

using NameValues = std::vector<std::pair<std::string, std::string>>;

// The SHA-256 sum of nothing, for requests without a body.
inline constexpr std::string_view kEmptySha256 =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct SigV4Request {
  std::string method;  // in capitals
  std::string host;    // exactly as the Host header says it: Url::host_header()
  std::string path;    // percent-encoded as it is sent: encode_path()
  NameValues query;    // unencoded, in any order; a parameter without value has an empty one
  NameValues headers;  // all of them are signed; Host and what signing adds must not be there
  std::string payload_sha256;  // the body's SHA-256 in hexadecimal
};

struct SigV4Credentials {
  std::string access_key;
  std::string secret_key;
  std::string session_token;  // empty where there is none
};

struct SigV4Scope {
  std::string region;
  std::time_t time = 0;
  std::string service = "s3";
  // S3 demands the header x-amz-content-sha256; other services do without.
  bool payload_header = true;
};

struct SigV4Signature {
  // To be sent besides the request's own, with names in lower case: authorization, x-amz-date,
  // x-amz-content-sha256 if the scope wants it, x-amz-security-token if there is a token.
  NameValues headers;
  // What was signed. A server that disagrees often returns its own, to be compared with these.
  std::string canonical_request;
  std::string string_to_sign;
};

// Throws core::Error: 22023 for a control character in what becomes a header (no text of the error
// holds a value), XX000 for a header that is not the caller's to give.
SigV4Signature sign_v4(const SigV4Request& request, const SigV4Credentials& credentials,
                       const SigV4Scope& scope);

// The query in the order and encoding that is signed, without "?". Sending it in this form too
// leaves a server nothing to read differently.
std::string canonical_query(const NameValues& query);

}  // namespace core
