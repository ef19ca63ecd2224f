// What turns texts into vectors: one small interface, a file for each implementation
// (openai_embedder.cpp, local_embedder.cpp), and the list of them in embedder.cpp.
//
// Work is asynchronous, so that several batches can be in flight on one thread: start() hands it
// over, pump() moves everything on without waiting, take() fetches what is done. A provider splits
// a batch as its service demands (count, tokens, bytes), halves it where the service calls it too
// large, and fails one bad text alone. Secrets never appear in an error.
#pragma once

#include "net/http_loop.hpp"
#include "net/http_observer.hpp"
#include "net/service.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "providers/batch_result.hpp"

namespace providers {

struct EmbedResult {
  // In the order of the texts; empty for those that were refused. Where `failure` is set, those
  // that came before it, which have been paid for; the others are empty.
  std::vector<std::vector<float>> vectors;
  std::uint64_t tokens = 0;  // that the service counted, whatever failed later
  // Estimated, of requests that were sent and brought no count: they may be on the bill.
  std::uint64_t unanswered_tokens = 0;
  std::vector<Refusal> refused;
  std::optional<ServiceFailure> failure;
};

class Embedder {
 public:
  Embedder() = default;
  Embedder(const Embedder&) = delete;
  Embedder& operator=(const Embedder&) = delete;
  virtual ~Embedder() = default;

  virtual const std::string& model() const = 0;
  // As configured; nothing where only an answer tells.
  virtual std::optional<int> dimensions() const = 0;
  // Of the server's option price_per_million_tokens; 0 where it has none.
  virtual double price_per_million_tokens() const = 0;

  // The texts are UTF-8.
  virtual Ticket start(std::vector<std::string> texts) = 0;
  virtual void pump() = 0;
  virtual bool done(Ticket ticket) const = 0;
  virtual EmbedResult take(Ticket ticket) = 0;
  virtual void cancel(Ticket ticket) noexcept = 0;
};

// `loop`: what the caller waits on, shared by the providers of one job. `model`: '' for the
// server's own. `request_id` is sent along as X-Request-ID.
std::unique_ptr<Embedder> open_embedder(const net::Service& service, const std::string& model,
                                        const std::string& request_id, net::HttpLoop& loop,
                                        net::HttpObserver& observer);

}  // namespace providers
