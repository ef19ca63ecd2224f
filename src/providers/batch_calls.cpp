#include "pg/postgres.hpp"

#include "providers/batch_calls.hpp"

#include <algorithm>
#include <utility>

namespace providers {
namespace {

// Of fewer the cause may as well be a few long ones, and requests of one item are slow and dear.
constexpr std::size_t kLeastLearnt = 8;

}  // namespace

BatchCalls::BatchCalls(net::HttpOptions options, net::HttpObserver& observer, net::HttpLoop& loop,
                       Owner& owner)
    : owner_(owner), client_(std::move(options), observer, loop) {}

Ticket BatchCalls::begin() {
  batches_.try_emplace(++last_ticket_);
  return last_ticket_;
}

void BatchCalls::send(Ticket ticket, Items items) {
  Batch& batch = batches_.at(ticket);
  batch.sent += items.size();
  start(ticket, batch, {std::move(items), nullptr, false});
}

void BatchCalls::refuse(Ticket ticket, std::size_t index, std::string reason) {
  batches_.at(ticket).end.refused.push_back({index, std::move(reason)});
}

void BatchCalls::start(Ticket ticket, Batch& batch, Request request) {
  const auto id = client_.start(owner_.make_call(ticket, request.items));
  batch.under_way.emplace(id, std::move(request));
}

void BatchCalls::pump() {
  client_.pump();
  bool started = false;
  for (auto& [ticket, batch] : batches_) {
    // Halves are put behind: those of them that are done already wait for the next round.
    for (auto each = batch.under_way.begin(); each != batch.under_way.end();) {
      if (!client_.done(each->first)) {
        ++each;
        continue;
      }
      const net::HttpReply reply = client_.take(each->first);
      Request request = std::move(each->second);
      each = batch.under_way.erase(each);
      const std::size_t before = batch.under_way.size();
      settle(ticket, batch, std::move(request), reply);
      started = started || batch.under_way.size() > before;
    }
  }
  if (started) {
    client_.pump();
  }
}

void BatchCalls::settle(Ticket ticket, Batch& batch, Request request, const net::HttpReply& reply) {
  const Outcome outcome = owner_.take_reply(ticket, request.items, reply);
  switch (outcome.kind) {
    case Outcome::Kind::kTaken:
      if (request.half_of != nullptr && ++request.half_of->taken == 2) {
        learnt_limit_ = std::min(learnt_limit_, std::max(request.half_of->larger, kLeastLearnt));
      }
      return;
    case Outcome::Kind::kFailed:
      if (!batch.end.failure || !outcome.failure.may_pass) {
        batch.end.failure = outcome.failure;
      }
      return;
    case Outcome::Kind::kAgain:
      if (!std::exchange(request.again, true)) {
        start(ticket, batch, std::move(request));
        return;
      }
      break;
    case Outcome::Kind::kTooLarge:
    case Outcome::Kind::kAtFault:
      break;
  }
  const bool too_large = outcome.kind == Outcome::Kind::kTooLarge;
  if (request.items.size() > 1) {
    halve(ticket, batch, request, too_large);
  } else if (too_large) {
    refuse(ticket, request.items.front(), outcome.reason);
  } else {
    blame(batch, request.items.front(), outcome);
  }
}

void BatchCalls::halve(Ticket ticket, Batch& batch, const Request& request, bool too_large) {
  if (batch.end.failure) {
    return;  // nothing more is paid for a batch that will be sent again
  }
  const auto middle =
      request.items.begin() + static_cast<std::ptrdiff_t>((request.items.size() + 1) / 2);
  std::shared_ptr<Halves> halves;
  if (too_large) {
    halves = std::make_shared<Halves>();
    halves->larger = static_cast<std::size_t>(middle - request.items.begin());
  }
  start(ticket, batch, {Items(request.items.begin(), middle), halves, false});
  start(ticket, batch, {Items(middle, request.items.end()), halves, false});
}

void BatchCalls::blame(Batch& batch, std::size_t index, const Outcome& outcome) {
  batch.same_cause =
      batch.same_cause && (batch.at_fault == 0 || batch.last_fault.cause == outcome.cause);
  batch.last_fault = outcome;
  ++batch.at_fault;
  batch.end.refused.push_back({index, outcome.reason});
}

bool BatchCalls::done(Ticket ticket) const { return batches_.at(ticket).under_way.empty(); }

BatchCalls::End BatchCalls::take(Ticket ticket) {
  const auto found = batches_.find(ticket);
  Batch batch = std::move(found->second);
  batches_.erase(found);
  // What all of them are refused for, each by itself, is not theirs: a parameter, say.
  if (batch.sent > 1 && batch.at_fault == batch.sent && batch.same_cause && !batch.end.failure) {
    batch.end.failure = std::move(batch.last_fault.failure);
    batch.end.refused.clear();
  }
  std::sort(batch.end.refused.begin(), batch.end.refused.end(),
            [](const Refusal& a, const Refusal& b) { return a.index < b.index; });
  return std::move(batch.end);
}

void BatchCalls::cancel(Ticket ticket) noexcept {
  const auto found = batches_.find(ticket);
  if (found == batches_.end()) {
    return;
  }
  for (const auto& [id, request] : found->second.under_way) {
    client_.cancel(id);
  }
  batches_.erase(found);
}

}  // namespace providers
