// Batches that go out as requests: one batch as several, several batches at once, and a request
// that the service finds fault with in two halves, down to the one item that is at fault. What the
// requests say, and what the replies mean, is their owner's.
#pragma once

#include "net/http_client.hpp"

#include <cstddef>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "providers/batch_result.hpp"

namespace providers {

class BatchCalls {
 public:
  using Items = std::vector<std::size_t>;  // by their places in the batch

  struct Outcome {
    enum class Kind {
      kTaken,     // as wanted
      kTooLarge,  // too many, or too long, for one request
      kAtFault,   // the service refuses it for something in it
      kFailed,    // for reasons that are not in the request
      kAgain,     // the owner would now put it another way; asked once a request
    };
    Kind kind = Kind::kTaken;
    std::string reason;      // kTooLarge, kAtFault: of a single item's refusal
    std::string cause;       // kAtFault: the reason without what differs from reply to reply
    ServiceFailure failure;  // kFailed; kAtFault, where it turns out to be about the whole batch
  };

  class Owner {
   public:
    virtual ~Owner() = default;
    virtual net::HttpCall make_call(Ticket ticket, const Items& items) = 0;
    // Reads the reply, and keeps what is in it. Single items may be refused by refuse().
    virtual Outcome take_reply(Ticket ticket, const Items& items, const net::HttpReply& reply) = 0;
  };

  struct End {
    std::vector<Refusal> refused;
    std::optional<ServiceFailure> failure;
  };

  // `owner` outlives it.
  BatchCalls(net::HttpOptions options, net::HttpObserver& observer, net::HttpLoop& loop,
             Owner& owner);

  net::HttpClient& client() { return client_; }

  // A new batch, of what is then sent or refused; perhaps of nothing.
  Ticket begin();
  void send(Ticket ticket, Items items);
  void refuse(Ticket ticket, std::size_t index, std::string reason);
  void pump();
  bool done(Ticket ticket) const;
  End take(Ticket ticket);
  void cancel(Ticket ticket) noexcept;

  // How many items a request may have at the most, as far as that was learnt from halving.
  std::size_t learnt_limit() const { return learnt_limit_; }

 private:
  // The two halves of a request that was too large.
  struct Halves {
    std::size_t larger = 0;
    int taken = 0;
  };
  struct Request {
    Items items;
    std::shared_ptr<Halves> half_of;
    bool again = false;
  };
  struct Batch {
    std::map<net::HttpClient::Id, Request> under_way;
    std::size_t sent = 0;      // items
    std::size_t at_fault = 0;  // of them, refused one by one for something other than their size
    bool same_cause = true;
    Outcome last_fault;
    End end;
  };

  void start(Ticket ticket, Batch& batch, Request request);
  void settle(Ticket ticket, Batch& batch, Request request, const net::HttpReply& reply);
  void halve(Ticket ticket, Batch& batch, const Request& request, bool too_large);
  static void blame(Batch& batch, std::size_t index, const Outcome& outcome);

  Owner& owner_;
  Ticket last_ticket_ = 0;
  std::size_t learnt_limit_ = std::numeric_limits<std::size_t>::max();
  std::map<Ticket, Batch> batches_;
  // Last: it goes first, and its calls refer to the owner.
  net::HttpClient client_;
};

}  // namespace providers
