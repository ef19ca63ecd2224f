// An HTTP client for a backend: many requests in flight on one thread, tried again where that makes
// sense, none sent to a service whose circuit breaker is open, and every wait ends within a
// fraction of a second when the query is cancelled.
//
//   net::HttpClient client(options, observer);
//   net::HttpCall call;
//   call.make = [&] { return net::HttpRequest{"GET", url, {}, {}}; };
//   net::HttpReply reply = client.perform(std::move(call));
//
// What fails at the other end is told in the reply, never thrown: only an interrupt, a lack of
// memory or a hook of the call's own throws. The hooks run in the caller's thread, outside libcurl,
// and must not use the client. A client belongs to one backend, and to one service.
#pragma once

#include "pg/postgres.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "net/http_loop.hpp"
#include "net/http_message.hpp"
#include "net/http_observer.hpp"

namespace net {

struct HttpOptions {
  std::string service;     // the server's name: for its breaker, and for the observer
  std::string request_id;  // sent as X-Request-ID, where there is one
  std::string ca_file;     // authorities to trust in place of the system's
  std::optional<std::chrono::seconds> timeout;  // otherwise bacmr.http_timeout
  std::optional<int> max_retries;               // otherwise bacmr.http_max_retries
  // How long a call bears being told to come back later (429): that counts neither as an attempt
  // nor against the service.
  std::chrono::milliseconds throttle_patience{120'000};
  // Limits that its requests keep within, spread evenly; 0: none. What a service says in its
  // x-ratelimit-… headers is kept to as well.
  double requests_per_minute = 0;
  double tokens_per_minute = 0;
  // Each is a connection, at least with HTTP/1.1; those beyond wait for their turn.
  std::size_t max_in_flight = 64;
  std::chrono::milliseconds first_delay{500};  // before the first retry; the next ones double it
  // False: waits run to their end (the calls' deadlines bound them). For cleaning up.
  bool interruptible = true;
};

enum class Verdict {
  kDone,       // what was asked for
  kFault,      // try again, and count it against the service
  kThrottled,  // try again later: the service is well
  kFail,       // trying again would bring the same
};

struct HttpCall {
  // Makes the request, anew for each attempt: signatures hold the time.
  std::function<HttpRequest()> make;
  // What to think of a reply that came whole. Without it, its status decides.
  std::function<Verdict(const HttpReply&)> judge;
  // Takes a body with status 2xx in pieces, in place of the reply's body. The reply's status and
  // headers are there. Returns whether that was something new: a call that makes progress may go on
  // trying.
  std::function<bool(const HttpReply&, std::string_view)> sink;
  std::size_t body_limit = std::size_t{1} << 20;

  std::optional<std::chrono::seconds> timeout;  // without progress; otherwise the client's
  // Of one attempt. Otherwise that is as long as `timeout` where neither a file is sent nor a sink
  // fed, and unlimited where one is.
  std::optional<std::chrono::milliseconds> attempt_limit;
  // Of all attempts together.
  std::optional<std::chrono::milliseconds> deadline;
  std::optional<int> max_retries;  // otherwise the client's
  double tokens = 0;               // that one attempt takes of tokens_per_minute
};

// The verdict by the status alone: 2xx is done, the rest as core::classify_status has it.
Verdict judge_by_status(const HttpReply& reply);

class HttpClient {
 public:
  using Id = std::uint64_t;

  // `observer` outlives the client.
  HttpClient(HttpOptions options, HttpObserver& observer);
  // One that shares `loop`, which outlives it, with others: whoever pumps or waits moves all on,
  // and a hook that throws does so there.
  HttpClient(HttpOptions options, HttpObserver& observer, HttpLoop& loop);
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  // Cancels what is under way.
  ~HttpClient();

  // Nothing moves before pump() or wait().
  Id start(HttpCall call);
  // Moves all calls on as far as they go without waiting.
  void pump();
  // Until that call is done; until any that has been started and not taken is.
  void wait(Id id);
  void wait_any();

  bool done(Id id) const;
  // The reply of a call that is done, once.
  HttpReply take(Id id);
  // Forgets a call; cuts it off if it is under way.
  void cancel(Id id) noexcept;

  HttpReply perform(HttpCall call);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace net
