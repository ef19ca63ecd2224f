// What becomes of the batches of a reindex job: embedded, stored, recorded; or put back when a
// service fails, and parted when they themselves may be the cause.
#include "pg/postgres.hpp"

#include <algorithm>

#include "core/check.hpp"
#include "jobs/reindex_run_impl.hpp"
#include "pg/wait.hpp"

extern "C" {
#include "common/pg_prng.h"
}

namespace jobs {
namespace {

// How often a batch may fail, where others do not, before it is parted.
constexpr int kOwnFailures = 2;
// An answer that came, and could not be used.
constexpr const char* kProtocolViolation = "08P01";

}  // namespace

void ReindexRun::begin(ReindexUnit& unit) {
  unit.begun = passed_;
  if (unit.to_embed.empty()) {
    store(unit);
  } else {
    start_embedding(unit);
  }
}

void ReindexRun::start_embedding(ReindexUnit& unit) {
  std::vector<std::string> texts;
  for (const std::size_t index : unit.to_embed) {
    texts.push_back(unit.chunks[index].content);
  }
  unit.phase = ReindexUnit::Phase::kEmbedding;
  unit.ticket = embedder_->start(std::move(texts));
}

bool ReindexRun::move_on() {
  bool moved = false;
  for (const auto& unit : units_) {
    moved = advance(*unit) || moved;
  }
  return std::erase_if(units_,
                       [](const auto& unit) { return unit->phase == ReindexUnit::Phase::kDone; }) >
             0 ||
         moved;
}

bool ReindexRun::advance(ReindexUnit& unit) {
  switch (unit.phase) {
    case ReindexUnit::Phase::kEmbedding:
      if (!embedder_->done(*unit.ticket)) {
        return false;
      }
      embedded(unit, embedder_->take(*unit.ticket));
      return true;
    case ReindexUnit::Phase::kStoring:
      if (!store_->done(*unit.ticket)) {
        return false;
      }
      settle(unit, [&] { return stored(unit, store_->take(*unit.ticket)); });
      return true;
    case ReindexUnit::Phase::kRemoving:
      if (!store_->done(*unit.ticket)) {
        return false;
      }
      settle(unit, [&] { return removed(unit, store_->take(*unit.ticket)); });
      return true;
    case ReindexUnit::Phase::kDone:
      return false;
  }
  return false;
}

providers::EmbedResult ReindexRun::take_vectors(ReindexUnit& unit, providers::EmbedResult result) {
  unit.tokens += static_cast<std::int64_t>(result.tokens);
  lost_tokens_ += static_cast<std::int64_t>(result.unanswered_tokens);
  core::ensure(result.vectors.size() == unit.to_embed.size(),
               "a batch of texts gets as many embeddings");
  for (std::size_t i = 0; i < unit.to_embed.size(); ++i) {
    unit.vectors[unit.to_embed[i]] = std::move(result.vectors[i]);
  }
  result.vectors.clear();
  return result;
}

void ReindexRun::embedded(ReindexUnit& unit, providers::EmbedResult answer) {
  const providers::EmbedResult result = take_vectors(unit, std::move(answer));
  if (result.failure) {
    outage(unit, *result.failure, true);
    return;
  }
  ++passed_.embedded;
  for (const providers::Refusal& refusal : result.refused) {
    core::ensure(refusal.index < unit.to_embed.size(), "a refused text is one of the batch");
    unit.failed.emplace_back(unit.to_embed[refusal.index], refusal.reason);
  }
  unit.phase = ReindexUnit::Phase::kStoring;
  unit.ticket.reset();
  check_dimensions(unit.vectors);
  store(unit);
}

void ReindexRun::check_dimensions(const std::vector<std::vector<float>>& vectors) {
  for (const std::vector<float>& vector : vectors) {
    if (vector.empty()) {
      continue;
    }
    const int dimensions = static_cast<int>(vector.size());
    if (!job_.dimensions) {
      step([&] {
        job_.dimensions = dimensions;
        update_reindex_job(extension_, job_.id, "dimensions = $2::int",
                           {std::to_string(dimensions)});
      });
    }
    if (dimensions != *job_.dimensions) {
      throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                        "the model \"" + job_.model + "\" answered with " +
                            std::to_string(dimensions) + " dimensions instead of " +
                            std::to_string(*job_.dimensions),
                        {}, "Discard the job, and queue one with a model that fits.");
    }
  }
}

bool ReindexRun::prepare(ReindexUnit& unit) {
  const auto made = std::ranges::find_if(unit.vectors, [](const auto& v) { return !v.empty(); });
  if (prepared_ || made == unit.vectors.end()) {
    return true;
  }
  settle(unit, [&]() -> Conflict {
    const AsReindexRole role(job_);
    role.defer_nothing();
    store_->prepare(job_.target, static_cast<int>(made->size()));
    return std::nullopt;
  });
  prepared_ = unit.phase != ReindexUnit::Phase::kDone;
  return prepared_;
}

void ReindexRun::store(ReindexUnit& unit) {
  unit.phase = ReindexUnit::Phase::kStoring;
  if (!prepare(unit)) {
    return;
  }
  settle(unit, [&]() -> Conflict {
    std::vector<providers::VectorRecord> records;
    for (std::size_t i = 0; i < unit.chunks.size(); ++i) {
      if (!unit.vectors[i].empty()) {
        unit.stored.push_back(i);
        records.push_back({unit.chunks[i].id, unit.vectors[i], unit.chunks[i].metadata});
      }
    }
    unit.phase = ReindexUnit::Phase::kStoring;
    {
      const AsReindexRole role(job_);
      role.defer_nothing();
      unit.ticket = store_->upsert(job_.target, std::move(records));
    }
    return store_->done(*unit.ticket) ? stored(unit, store_->take(*unit.ticket)) : std::nullopt;
  });
}

ReindexRun::Conflict ReindexRun::stored(ReindexUnit& unit, const providers::StoreResult& result) {
  if (result.failure) {
    return result.failure;
  }
  unit.refused = result.refused.size();
  for (const providers::Refusal& refusal : result.refused) {
    core::ensure(refusal.index < unit.stored.size(), "a refused vector is one of the batch");
    unit.failed.emplace_back(unit.stored[refusal.index], refusal.reason);
  }
  // A chunk that fails now may have been good before: its older vector goes.
  if (!unit.batch || intake_->walks_again()) {
    for (const auto& [index, reason] : unit.failed) {
      unit.gone.push_back(unit.chunks[index].id);
    }
  }
  if (unit.gone.empty()) {
    record(unit);
    return std::nullopt;
  }
  unit.phase = ReindexUnit::Phase::kRemoving;
  {
    const AsReindexRole role(job_);
    role.defer_nothing();
    unit.ticket = store_->remove(job_.target, unit.gone);
  }
  return store_->done(*unit.ticket) ? removed(unit, store_->take(*unit.ticket)) : std::nullopt;
}

ReindexRun::Conflict ReindexRun::removed(ReindexUnit& unit, const providers::StoreResult& result) {
  if (!result.failure) {
    record(unit);
  }
  return result.failure;
}

void ReindexRun::record(ReindexUnit& unit) {
  unit.phase = ReindexUnit::Phase::kDone;
  if (!record_unit(extension_, job_, unit, use_cache_ ? &*cache_ : nullptr,
                   std::chrono::duration<double>(Clock::now() - worked_until_).count())) {
    lost_tokens_ += std::exchange(unit.tokens, 0);
    keep_paid(unit);
    stopping_ = true;
  }
  end_outage();
}

void ReindexRun::recorded(ReindexUnit& unit) {
  worked_ += std::chrono::duration<double>(Clock::now() - worked_until_).count();
  worked_until_ = Clock::now();
  unit.tokens = 0;
  unit.to_embed.clear();
  ++passed_.recorded;
  report();
  intake_->has_passed(unit);
  outages_.reset();
}

void ReindexRun::outage(ReindexUnit& unit, const providers::ServiceFailure& failure,
                        bool by_service) {
  const ReindexUnit::Phase phase = std::exchange(unit.phase, ReindexUnit::Phase::kDone);
  lost_tokens_ += std::exchange(unit.tokens, 0);
  if (!by_service && unit.ticket) {
    store_->cancel(*unit.ticket);
  }
  const bool unusable = failure.sqlstate == kProtocolViolation;
  const auto passed_since = [&](const ReindexUnit::Passed& then) {
    return phase == ReindexUnit::Phase::kEmbedding ? passed_.embedded > then.embedded
                                                   : passed_.recorded > then.recorded;
  };
  // Where the service works for others, or where it has answered, the batch may be the cause.
  const bool own = by_service && failure.may_pass && phase != ReindexUnit::Phase::kRemoving &&
                   (unusable || passed_since(unit.begun));
  if (own && ++unit.trouble.failures == 1) {
    unit.trouble.first = passed_;
  }
  const bool parts = own && unit.trouble.failures >= kOwnFailures;
  if (parts && unit.chunks.size() == 1 && passed_since(unit.trouble.first)) {
    step([&] { keep_paid(unit); });
    fail_alone(unit, failure.message);
    return;
  }
  intake_->put_back(unit);
  --begun_;
  const bool others_pass = passed_since(std::exchange(last_failure_, passed_));
  if (!own || !unusable || !others_pass) {
    fail_for_now(failure);
  }
  step([&] { keep_paid(unit); });
  if (parts) {
    step([&] { intake_->part(unit); });
  }
}

void ReindexRun::fail_alone(ReindexUnit& unit, const std::string& reason) {
  unit.failed.assign({{0, reason}});
  unit.vectors.front().clear();
  unit.stored.clear();
  settle(unit, [&] { return stored(unit, {}); });
}

void ReindexRun::fail_for_now(const providers::ServiceFailure& failure) {
  if (!failure.may_pass || outages_.failures() >= kReindexMaxOutages) {
    failure_ = failure;
    stopping_ = true;
    return;
  }
  begin_rest(failure.message, failure.unasked);
}

void ReindexRun::begin_rest(const std::string& reason, bool unasked) {
  if (!resume_at_) {
    resume_at_ = Clock::now() + outages_.next(pg_prng_uint32(&pg_global_prng_state));
    pg::log_line(pg::LogLevel::kWarning, "reindexing rests for a while: " + reason,
                 core::JsonObject().number("job_id", job_.id).str(), job_.request_id);
  }
  if (reason_.empty() || !unasked) {
    reason_ = reason;
  }
  step([this] {
    say(reason_ + " (tried again by itself; attempt " + std::to_string(outages_.failures()) +
        " of " + std::to_string(kReindexMaxOutages) + " failed)");
  });
}

void ReindexRun::say(const std::string& error) {
  update_reindex_job(extension_, job_.id,
                     "error = CASE WHEN status IN ('running', 'verifying') THEN nullif($2, '')"
                     " ELSE error END",
                     {error});
}

void ReindexRun::end_outage() {
  outages_.reset();
  if (!reason_.empty()) {
    reason_.clear();
    say("");
  }
}

void ReindexRun::rest() {
  const auto left = std::min<Clock::duration>(*resume_at_ - Clock::now(), kReindexLook);
  if (left > Clock::duration::zero()) {
    pg::wait_interruptibly(to_microseconds(left));
  }
  worked_until_ = Clock::now();
}

void ReindexRun::count_lost_tokens() {
  if (lost_tokens_ > 0) {
    step([this] {
      job_.tokens += lost_tokens_;
      update_reindex_job(extension_, job_.id, "tokens_used = tokens_used + $2::bigint",
                         {std::to_string(lost_tokens_)});
    });
    lost_tokens_ = 0;
  }
}

}  // namespace jobs
