// The inside of an HttpLoop: libcurl's multi handle, and the clients on it. Only http_loop.cpp and
// http_client.cpp know of it.
#pragma once

#include "net/http_loop.hpp"

#include <curl/curl.h>

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

namespace net {

// A client, as the loop sees it.
class LoopMember {
 public:
  using Clock = std::chrono::steady_clock;

  LoopMember() = default;
  LoopMember(const LoopMember&) = delete;
  LoopMember& operator=(const LoopMember&) = delete;
  virtual ~LoopMember() = default;

  // Starts the attempts whose time has come.
  virtual void start_due() = 0;
  // Hands on what has been received.
  virtual void deliver() = 0;
  // Whether the attempt is one of its own; it is then ended, with `code`.
  virtual bool end(CURL* easy, CURLcode code) = 0;
  // When the next attempt is to start, where one waits for its time.
  virtual std::optional<Clock::time_point> next_due() const = 0;
};

class HttpLoop::Impl {
 public:
  // Longer than that no wait lasts without a look at interrupts.
  static constexpr std::chrono::milliseconds kLongestPoll{100};

  Impl();

  CURLM* multi() const { return multi_.get(); }
  void join(LoopMember& member) { members_.push_back(&member); }
  void leave(LoopMember& member) noexcept;

  // Moves all members' calls on as far as they go without waiting.
  void pump();
  // Until something moves, an attempt is due, or `at_most` (or kLongestPoll) is over.
  void poll(std::chrono::milliseconds at_most);

  // A call has ended. Waiting may end once for any number of them.
  void note_end() noexcept { ended_ = true; }
  bool take_end() noexcept;

 private:
  struct MultiCleanup {
    void operator()(CURLM* multi) const noexcept;
  };

  void collect();
  static void check(CURLMcode code);

  std::unique_ptr<CURLM, MultiCleanup> multi_;
  std::vector<LoopMember*> members_;
  bool ended_ = false;
};

}  // namespace net
