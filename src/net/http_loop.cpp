#include "net/http_loop.hpp"

#include <algorithm>
#include <new>
#include <string>
#include <utility>

#include "core/error.hpp"
#include "net/curl_transfer.hpp"
#include "net/http_loop_impl.hpp"
#include "pg/guard.hpp"
#include "pg/wait.hpp"

namespace net {
namespace {

using Clock = LoopMember::Clock;
using std::chrono::milliseconds;

// After the fork, and only in a process that needs it.
void initialize_curl() {
  static bool done = false;
  if (!done) {
    const SignalsBlocked blocked;
    if (const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT); code != CURLE_OK) {
      if (code == CURLE_OUT_OF_MEMORY) {
        throw std::bad_alloc();
      }
      throw core::Error(core::sqlstate::kInternalError,
                        std::string("libcurl cannot start: ") + curl_easy_strerror(code));
    }
    done = true;
  }
}

}  // namespace

void HttpLoop::Impl::MultiCleanup::operator()(CURLM* multi) const noexcept {
  const SignalsBlocked blocked;
  curl_multi_cleanup(multi);
}

HttpLoop::Impl::Impl() {
  initialize_curl();
  multi_.reset(curl_multi_init());
  if (multi_ == nullptr) {
    throw std::bad_alloc();
  }
}

void HttpLoop::Impl::leave(LoopMember& member) noexcept {
  members_.erase(std::remove(members_.begin(), members_.end(), &member), members_.end());
}

void HttpLoop::Impl::pump() {
  for (LoopMember* member : members_) {
    member->start_due();
  }
  {
    int running = 0;
    const SignalsBlocked blocked;
    check(curl_multi_perform(multi_.get(), &running));
  }
  for (LoopMember* member : members_) {
    member->deliver();
  }
  collect();
}

void HttpLoop::Impl::collect() {
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
    if (message->msg != CURLMSG_DONE) {
      continue;
    }
    // The message is gone once its member has let go of the handle.
    CURL* const easy = message->easy_handle;
    const CURLcode code = message->data.result;
    for (LoopMember* member : members_) {
      if (member->end(easy, code)) {
        break;
      }
    }
  }
}

void HttpLoop::Impl::poll(milliseconds at_most) {
  const auto now = Clock::now();
  milliseconds wait = std::clamp(at_most, milliseconds(0), kLongestPoll);
  for (const LoopMember* member : members_) {
    if (const auto due = member->next_due()) {
      wait = std::clamp(std::chrono::ceil<milliseconds>(*due - now), milliseconds(0), wait);
    }
  }
  // Signals stay deliverable: they end the wait.
  check(curl_multi_poll(multi_.get(), nullptr, 0, static_cast<int>(wait.count()), nullptr));
}

bool HttpLoop::Impl::take_end() noexcept { return std::exchange(ended_, false); }

void HttpLoop::Impl::check(CURLMcode code) {
  if (code == CURLM_OUT_OF_MEMORY) {
    throw std::bad_alloc();
  }
  if (code != CURLM_OK) {
    throw core::Error(core::sqlstate::kInternalError,
                      std::string("libcurl failed: ") + curl_multi_strerror(code));
  }
}

HttpLoop::HttpLoop() : impl_(std::make_unique<Impl>()) {}
HttpLoop::~HttpLoop() = default;

void HttpLoop::wait(milliseconds at_most) {
  const auto until = Clock::now() + at_most;
  while (true) {
    impl_->pump();
    pg::check_for_interrupts();
    pg::leave_without_postmaster();
    const auto left = std::chrono::ceil<milliseconds>(until - Clock::now());
    if (impl_->take_end() || left <= milliseconds(0)) {
      return;
    }
    impl_->poll(left);
  }
}

}  // namespace net
