// Talking to a Pinecone index: its requests' headers, which answers to try again, what an answer
// that is an error means, and the log positions by which it tells what has become visible.
#pragma once

#include "net/http_client.hpp"
#include "net/service.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "providers/batch_calls.hpp"

namespace providers {

class PineconeConnection {
 public:
  PineconeConnection(const net::Service& service, const std::string& request_id);

  const net::HttpOptions& options() const { return options_; }
  const std::string& server() const { return options_.service; }

  // `path` with its query, encoded. A `body` is JSON; '' for none.
  net::HttpCall call(const char* method, const std::string& path, std::string body = {}) const;

  // What a reply means that did not bring what was asked for. `action` is the beginning of a
  // message.
  BatchCalls::Outcome outcome(const std::string& action, const net::HttpReply& reply) const;
  ServiceFailure failure(const std::string& action, const net::HttpReply& reply) const {
    return outcome(action, reply).failure;
  }
  // For a reply with status 200 that cannot be read.
  ServiceFailure unreadable(const std::string& action, const net::HttpReply& reply) const;
  // `list ids of the vector store "x"`.
  std::string action(const char* what) const;

 private:
  net::HttpOptions options_;
  std::string host_;
  std::string api_key_;
};

// How far the index has got with what was written to each namespace.
class PineconeProgress {
 public:
  void note_written(const std::string& space, const net::HttpReply& reply);
  void note_read(const std::string& space, const net::HttpReply& reply);
  std::optional<bool> caught_up(const std::string& space) const;

 private:
  struct Positions {
    std::optional<std::uint64_t> written;
    std::optional<std::uint64_t> visible;
  };
  std::map<std::string, Positions> spaces_;
};

}  // namespace providers
