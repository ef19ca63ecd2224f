// What several HttpClients share, so that one thread can wait for all of them at once: an embedder
// and a vector store, say.
//
//   net::HttpLoop loop;
//   net::HttpClient embedder(options, observer, loop), store(options2, observer, loop);
//   … start calls of both …
//   loop.wait(std::chrono::milliseconds(500));
//
// A client without a loop makes one of its own.
#pragma once

#include "pg/postgres.hpp"

#include <chrono>
#include <memory>

namespace net {

class HttpLoop {
 public:
  HttpLoop();
  HttpLoop(const HttpLoop&) = delete;
  HttpLoop& operator=(const HttpLoop&) = delete;
  // After all its clients.
  ~HttpLoop();

  // Moves the calls of all clients on, and returns when one has ended since the last wait, or the
  // time is over. Checks for interrupts.
  void wait(std::chrono::milliseconds at_most);

  class Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace net
