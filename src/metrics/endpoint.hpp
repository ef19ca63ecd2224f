// The HTTP endpoint: /metrics/prometheus, /metrics/json and /healthz, by libmicrohttpd, without
// threads: the caller waits for wait_fd() and calls run().
//
// Whoever can reach it may be slow, greedy or malicious: connections are few, short and small.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

struct MHD_Daemon;
struct MHD_Connection;

namespace metrics {

class Endpoint {
 public:
  struct Content {
    std::function<std::string()> prometheus;
    std::function<std::string()> json;
  };

  static constexpr unsigned kMaxConnections = 128;
  static constexpr unsigned kIdleSeconds = 3;
  static constexpr std::int64_t kLongestMs = 15'000;  // a connection, however busy
  static constexpr unsigned kConnectionBytes = 16 * 1024;

  // `listen`: host:port, the host an address ([…] for IPv6). `token`: what a request for metrics
  // must bring as bearer token, or ''. Throws core::Error where it cannot listen.
  Endpoint(const std::string& listen, std::string token, Content content);
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  int wait_fd() const;
  // How long there is nothing to do but wait for wait_fd(), in milliseconds.
  std::int64_t patience_ms() const;
  void run();

 private:
  struct Callbacks;
  int answer(MHD_Connection* connection, const std::string& url, const std::string& method);
  int respond(MHD_Connection* connection, unsigned status, const std::string& body,
              const char* type) const;
  bool may_read(MHD_Connection* connection) const;

  MHD_Daemon* daemon_ = nullptr;
  std::string token_;
  Content content_;
  std::map<int, std::int64_t> began_;  // by socket
};

}  // namespace metrics
