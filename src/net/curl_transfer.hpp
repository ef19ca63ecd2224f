// One attempt at one request: a libcurl handle with its options, and what comes back. Only
// http_client.cpp and its own source know of it.
//
// libcurl calls back into C++ through its C frames: the callbacks neither throw nor raise, they
// only move bytes and note what went wrong.
#pragma once

#include <curl/curl.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "net/http_message.hpp"

namespace net {

// Signals of the server's must reach its own thread: libcurl's resolver thread inherits the mask
// that is in force when it starts. Faults of the thread's own stay deliverable.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept;
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked();

 private:
  sigset_t before_;
};

struct TransferLimits {
  std::chrono::milliseconds connect{0};
  std::chrono::seconds stall{0};       // without progress
  std::chrono::milliseconds total{0};  // 0: none
  std::size_t body = 0;                // bytes of a reply's body that are kept
  bool streamed = false;               // a body with status 2xx is taken piece by piece: no limit
};

class CurlTransfer {
 public:
  // Starts it: `multi` moves it on, and outlives it. Throws core::Error.
  CurlTransfer(CURLM* multi, HttpRequest request, const std::string& user_agent,
               const std::string& request_id, const std::string& ca_file,
               const TransferLimits& limits);
  CurlTransfer(const CurlTransfer&) = delete;
  CurlTransfer& operator=(const CurlTransfer&) = delete;
  ~CurlTransfer();

  CURL* handle() const { return easy_.get(); }
  // Whether a body with status 2xx is coming in, and what has come of it since the last call.
  bool streams() const { return limits_.streamed && status_ok(); }
  std::string take_received();
  // The reply so far; its headers are complete once streams().
  const HttpReply& reply() const { return reply_; }
  // Whether the whole request is on its way, or has arrived; asked where no whole reply has come.
  bool was_sent() const;
  // It has ended with `code`. Throws std::bad_alloc where it was our memory that did not suffice.
  HttpReply finish(CURLcode code);

 private:
  struct EasyCleanup {
    void operator()(CURL* easy) const noexcept { curl_easy_cleanup(easy); }
  };
  struct ListCleanup {
    void operator()(curl_slist* list) const noexcept { curl_slist_free_all(list); }
  };

  template <class Value>
  void set(CURLoption option, Value value);
  void add_header(const std::string& line);
  void set_common(const std::string& user_agent, const std::string& ca_file);
  void set_method();

  bool status_ok() const { return reply_.status >= 200 && reply_.status < 300; }
  std::size_t read(char* buffer, std::size_t capacity) noexcept;
  bool seek(std::int64_t offset) noexcept;
  bool receive(const char* data, std::size_t length) noexcept;
  bool receive_header(std::string_view line) noexcept;

  static std::size_t on_read(char* buffer, std::size_t size, std::size_t count,
                             void* self) noexcept;
  static int on_seek(void* self, curl_off_t offset, int origin) noexcept;
  static std::size_t on_body(char* data, std::size_t size, std::size_t count, void* self) noexcept;
  static std::size_t on_header(char* data, std::size_t size, std::size_t count,
                               void* self) noexcept;

  CURLM* multi_;
  HttpRequest request_;
  TransferLimits limits_;
  std::unique_ptr<curl_slist, ListCleanup> headers_;
  std::array<char, CURL_ERROR_SIZE> error_text_{};
  std::uint64_t sent_ = 0;  // of the body
  std::string received_;
  std::size_t header_bytes_ = 0;
  HttpReply reply_;
  bool too_large_ = false;
  bool out_of_memory_ = false;
  int read_errno_ = 0;
  bool short_file_ = false;
  // Last: it goes first, since it uses the others.
  std::unique_ptr<CURL, EasyCleanup> easy_;
};

}  // namespace net
