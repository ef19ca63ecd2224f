// Talking to an S3 store: signed requests, which answers to try again, and what an answer that is
// an error means to the user.
#pragma once

#include "net/http_client.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/s3_reply.hpp"
#include "core/sigv4.hpp"
#include "providers/s3_config.hpp"

namespace providers {

// A request before it is signed.
struct S3Request {
  std::string method;
  std::string key;  // of the object, with the store's prefix; '' means the bucket
  core::NameValues query;
  core::NameValues headers;
  net::HttpBody body;
  std::string sha256{core::kEmptySha256};  // of the body

  // With a text as its body.
  void set_body(std::string text);
};

class S3Connection {
 public:
  S3Connection(S3Config config, std::string request_id, net::HttpObserver& observer);

  const S3Config& config() const { return config_; }
  // A client for this store. `interruptible`: see net::HttpOptions.
  net::HttpClient make_client(bool interruptible = true) const;

  // Signs anew for each attempt. The connection outlives the call.
  net::HttpCall call(S3Request request) const;
  net::HttpRequest sign(const S3Request& request) const;

  std::string key(const std::string& name) const { return config_.prefix + name; }
  std::string url(const std::string& name) const;

  // Throws what the reply to a request means. `action` begins the message: `upload "name"`.
  [[noreturn]] void fail(const std::string& action, const net::HttpReply& reply) const;

 private:
  std::string redacted(std::string text) const;
  std::string message(const std::string& action) const;

  S3Config config_;
  std::string request_id_;
  net::HttpObserver& observer_;
};

// The error in a reply's body, if it holds one.
std::optional<core::S3Error> s3_error_in(const net::HttpReply& reply);
// By status and code: with S3, some answers with status 409, 400 or even 200 are passing faults.
net::Verdict judge_s3(const net::HttpReply& reply);

// What a reply says of an object's size. Nothing where it does not.
std::optional<std::uint64_t> content_length(const net::HttpReply& reply);

}  // namespace providers
