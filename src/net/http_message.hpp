// A request and a reply of HTTP, as plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace net {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// A stretch of a file, read with pread as it is sent: no copy in memory, and a retry can read it
// again. The descriptor stays the caller's.
struct FileRange {
  int fd = -1;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

using HttpBody = std::variant<std::monostate, std::string, FileRange>;

struct HttpRequest {
  std::string method = "GET";
  std::string url;  // sent as it is, dots and all
  HttpHeaders headers;
  HttpBody body;
};

struct HttpReply {
  enum class Failure {
    kNone,      // the reply came whole, whatever its status
    kNetwork,   // no connection, or one that broke
    kTimeout,   // nothing moved for too long
    kTls,       // the certificate was refused
    kTooLarge,  // more of a body than the call allows
    kLocal,     // the file to be sent could not be read
    kRefused,   // the circuit breaker is open: not sent, or not sent again
  };

  Failure failure = Failure::kNone;
  std::string problem;  // what failed, for people, where something did; never a secret
  std::chrono::milliseconds wait{0};  // kRefused: how long until asking again makes sense

  // Of the last attempt. 0: no reply came.
  int status = 0;
  HttpHeaders headers;  // with names in lower case
  std::string body;     // without what went to a sink; of an error, at most the limit

  int attempts = 0;
  int unanswered = 0;  // of them, those that were sent, and brought no whole reply
  bool ok = false;     // the judge was content

  // Its first value, or ''. `name` in lower case.
  std::string_view header(std::string_view name) const;
};

// Throws 08006 (58030 for kLocal and kTooLarge) for a call whose `failure` is not kNone. `action`
// is the beginning of a message: `could not upload "x" to the blob store "dr"`.
[[noreturn]] void throw_failure(const std::string& action, const HttpReply& reply);

}  // namespace net
