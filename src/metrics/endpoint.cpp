#include "metrics/endpoint.hpp"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "core/error.hpp"
#include "core/exposition.hpp"

namespace metrics {
namespace {

constexpr const char* kText = "text/plain; charset=utf-8";
constexpr const char* kJson = "application/json";

std::int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Takes as long for a guess that is nearly right as for any other.
bool same_secret(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |=
        static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i % (b.size() + 1)]);
  }
  return difference == 0;
}

[[noreturn]] void cannot_listen(const std::string& listen, const std::string& why) {
  throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                    "cannot serve metrics at \"" + listen + "\": " + why, {},
                    "Set bacmr.metrics_listen to an address of this machine and a free port.");
}

sockaddr_storage parse(const std::string& listen) {
  sockaddr_storage address{};
  const std::size_t colon = listen.rfind(':');
  std::string host = listen.substr(0, colon);
  const auto port = htons(static_cast<std::uint16_t>(std::stoi(listen.substr(colon + 1))));
  if (host == "localhost") {
    host = "127.0.0.1";
  }
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = port;
    if (::inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &v6->sin6_addr) != 1) {
      cannot_listen(listen, "\"" + host + "\" is no IPv6 address");
    }
  } else {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address);
    v4->sin_family = AF_INET;
    v4->sin_port = port;
    if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) != 1) {
      cannot_listen(listen, "\"" + host + "\" is no IP address");
    }
  }
  return address;
}

}  // namespace

// What libmicrohttpd calls. It is C: no exception may pass through it.
struct Endpoint::Callbacks {
  static MHD_Result handle(void* self, MHD_Connection* connection, const char* url,
                           const char* method, const char*, const char*, std::size_t* upload_size,
                           void**) noexcept {
    *upload_size = 0;
    try {
      return static_cast<MHD_Result>(static_cast<Endpoint*>(self)->answer(connection, url, method));
    } catch (...) {
      return MHD_NO;  // closes the connection
    }
  }

  static void notify(void* self, MHD_Connection* connection, void**,
                     MHD_ConnectionNotificationCode code) noexcept {
    const auto* info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    auto& began = static_cast<Endpoint*>(self)->began_;
    try {
      if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        began[info->connect_fd] = now_ms();
      } else {
        began.erase(info->connect_fd);
      }
    } catch (...) {
      return;  // without memory the connection has no deadline but its idle time
    }
  }
};

Endpoint::Endpoint(const std::string& listen, std::string token, Content content)
    : token_(std::move(token)), content_(std::move(content)) {
  const sockaddr_storage address = parse(listen);
  errno = 0;
  daemon_ = MHD_start_daemon(
      MHD_USE_EPOLL | (address.ss_family == AF_INET6 ? MHD_USE_IPv6 : 0), 0, nullptr, nullptr,
      &Callbacks::handle, this, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_CONNECTION_LIMIT,
      kMaxConnections, MHD_OPTION_CONNECTION_TIMEOUT, kIdleSeconds,
      MHD_OPTION_CONNECTION_MEMORY_LIMIT, static_cast<std::size_t>(kConnectionBytes),
      MHD_OPTION_NOTIFY_CONNECTION, &Callbacks::notify, this, MHD_OPTION_END);
  if (daemon_ == nullptr) {
    cannot_listen(listen, errno != 0 ? std::strerror(errno) : "the HTTP server did not start");
  }
}

Endpoint::~Endpoint() { MHD_stop_daemon(daemon_); }

int Endpoint::wait_fd() const {
  return MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
}

std::int64_t Endpoint::patience_ms() const {
  constexpr std::int64_t kRest = 10'000;
  constexpr std::int64_t kWhileConnected = 500;
  MHD_UNSIGNED_LONG_LONG timeout = 0;
  std::int64_t patience = began_.empty() ? kRest : kWhileConnected;
  if (MHD_get_timeout(daemon_, &timeout) == MHD_YES) {
    patience = std::min(patience, static_cast<std::int64_t>(timeout));
  }
  return patience;
}

void Endpoint::run() {
  // One that sends a byte now and then is never idle: its time is over all the same.
  const std::int64_t oldest = now_ms() - kLongestMs;
  for (const auto& [socket, began] : began_) {
    if (began < oldest) {
      ::shutdown(socket, SHUT_RDWR);
    }
  }
  MHD_run(daemon_);
}

bool Endpoint::may_read(MHD_Connection* connection) const {
  if (token_.empty()) {
    return true;
  }
  const char* given = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization");
  return given != nullptr && same_secret(given, "Bearer " + token_);
}

int Endpoint::answer(MHD_Connection* connection, const std::string& url,
                     const std::string& method) {
  if (method != MHD_HTTP_METHOD_GET && method != MHD_HTTP_METHOD_HEAD) {
    return respond(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n", kText);
  }
  if (url == "/healthz") {
    return respond(connection, MHD_HTTP_OK, "ok\n", kText);
  }
  if (url != "/metrics/prometheus" && url != "/metrics/json") {
    return respond(connection, MHD_HTTP_NOT_FOUND,
                   "try /metrics/prometheus, /metrics/json or /healthz\n", kText);
  }
  if (!may_read(connection)) {
    return respond(connection, MHD_HTTP_UNAUTHORIZED, "a bearer token is needed\n", kText);
  }
  return url == "/metrics/json" ? respond(connection, MHD_HTTP_OK, content_.json(), kJson)
                                : respond(connection, MHD_HTTP_OK, content_.prometheus(),
                                          core::kPrometheusContentType);
}

int Endpoint::respond(MHD_Connection* connection, unsigned status, const std::string& body,
                      const char* type) const {
  MHD_Response* response = MHD_create_response_from_buffer(
      body.size(), const_cast<char*>(body.data()), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) {
    return MHD_NO;
  }
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
  if (status == MHD_HTTP_UNAUTHORIZED) {
    MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
  }
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED) {
    MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
  }
  const MHD_Result queued = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return queued;
}

}  // namespace metrics
