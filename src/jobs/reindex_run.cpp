#include "pg/postgres.hpp"

#include "jobs/reindex_run.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "jobs/pause.hpp"
#include "jobs/reindex_run_impl.hpp"
#include "metrics/at_commit.hpp"

extern "C" {
#include "pgstat.h"
}

namespace jobs {
namespace {

// How often changes of other namespaces are taken off the queue.
constexpr std::chrono::seconds kTidying{30};
// How long what is on its way may take to come in once the job is paused. After that, and at once
// when it is cancelled, it is cut off, and done again when the job goes on.
constexpr std::chrono::seconds kGrace{1};
// After an error: how long what is on its way may take to come in, since it has been paid for.
constexpr std::chrono::seconds kLastGrace{5};

}  // namespace

ReindexRun::Conflict ReindexRun::passing_conflict(const pg::Error& error) {
  switch (error.code()) {
    case ERRCODE_T_R_SERIALIZATION_FAILURE:
    case ERRCODE_T_R_DEADLOCK_DETECTED:
    case ERRCODE_LOCK_NOT_AVAILABLE:
      return providers::ServiceFailure{error.sqlstate(), error.summary(), {}, true};
    default:
      return std::nullopt;
  }
}

void ReindexRun::perform() {
  try {
    work_through();
  } catch (const pg::Error& e) {
    rescue(!e.is_interrupt());
    throw;
  } catch (...) {
    rescue(true);
    throw;
  }
  count_lost_tokens();
  if (failure_) {
    throw core::Error(failure_->sqlstate.c_str(), failure_->message, {}, failure_->hint);
  }
}

void ReindexRun::work_through() {
  step([this] { open(); });
  if (stopping_) {
    return;
  }
  if (job_.repair || (job_.walked && job_.expected && !job_.verified)) {
    find_damage();
  }
  processed_before_ = job_.processed;
  probe();
  while (work()) {
  }
}

void ReindexRun::rescue(bool patiently) {
  quietly([&] { await_embeddings(patiently); });
  for (const auto& unit : units_) {
    lost_tokens_ += std::exchange(unit->tokens, 0);
    quietly([&] { step([&] { keep_paid(*unit); }); });
  }
  quietly([this] { count_lost_tokens(); });
  quietly([this] { drop_listing(); });
}

void ReindexRun::await_embeddings(bool patiently) {
  const auto is_out = [](const auto& unit) {
    return unit->phase == ReindexUnit::Phase::kEmbedding && unit->ticket;
  };
  try {
    const Clock::time_point deadline = Clock::now() + kLastGrace;
    do {
      for (const auto& unit : units_) {
        if (is_out(unit) && embedder_->done(*unit->ticket)) {
          take_vectors(*unit, embedder_->take(*unit->ticket));
          unit->phase = ReindexUnit::Phase::kDone;
        }
      }
      if (!patiently || std::ranges::none_of(units_, is_out)) {
        break;
      }
      embedder_->pump();
      services_.loop.wait(kReindexLook);
    } while (Clock::now() < deadline);
  } catch (...) {
    give_up_embeddings();
    throw;
  }
  give_up_embeddings();
}

void ReindexRun::give_up_embeddings() {
  for (const auto& unit : units_) {
    if (unit->phase == ReindexUnit::Phase::kEmbedding && unit->ticket) {
      embedder_->cancel(*unit->ticket);
      lost_tokens_ += unit->estimated_tokens;
      unit->phase = ReindexUnit::Phase::kDone;
    }
  }
}

void ReindexRun::open() {
  const AsReindexRole role(job_);
  const sources::Sources all = sources::Sources::load(extension_);
  const sources::Source& chunks = all.require("chunks", "reindex");
  const bool first = start_capture(extension_, chunks);
  if (OidIsValid(job_.relation) && (first || job_.relation != chunks.oid)) {
    // It is another table than the job has read, or it lost its triggers: nobody has noted what
    // changed, so all of it is read again.
    forget_progress(extension_, job_);
    job_.walked = true;
    job_.last_id.reset();
  }
  if (job_.relation != chunks.oid) {
    job_.relation = chunks.oid;
    update_reindex_job(extension_, job_.id, "relation_oid = $2::oid", {std::to_string(chunks.oid)});
  }
  reader_.emplace(chunks);
  embedder_ = open_embedder(services_, job_.embedder, job_.model, job_.request_id);
  store_ = open_vector_store(services_, job_.vector_store, job_.request_id);
  cache_.emplace(extension_, embedder_->model());
  // What is embedded here costs nothing: a cache of it would only be in the way.
  use_cache_ = !embeds_here(job_.embedder);
  intake_.emplace(extension_, job_, *reader_, *store_, use_cache_ ? &*cache_ : nullptr);
  // Somebody may have stopped it since its row was read.
  stopping_ = !update_reindex_job_if(
      extension_, job_.id, kAtWork,
      "status = CASE WHEN status = 'completed' THEN status ELSE 'running' END,"
      " error = CASE WHEN status = 'completed' THEN error END,"
      " started_at = coalesce(started_at, clock_timestamp())");
  if (stopping_) {
    stop_capture_if_idle(extension_);
  }
}

void ReindexRun::probe() {
  if (!use_cache_ || job_.tokens > 0 || embedder_->dimensions()) {
    return;
  }
  units_.push_back(std::make_unique<ReindexUnit>());
  ReindexUnit& unit = *units_.back();
  bool pays = false;
  step([&] { pays = intake_->first(unit); });
  if (pays) {
    start_embedding(unit);
    while (!embedder_->done(*unit.ticket)) {
      look();
      if (stopping_) {
        give_up_embeddings();
        units_.clear();
        return;
      }
      embedder_->pump();
      services_.loop.wait(kReindexLook);
    }
    const providers::EmbedResult& result = take_vectors(unit, embedder_->take(*unit.ticket));
    unit.phase = ReindexUnit::Phase::kDone;
    if (result.tokens > 0 && unit.estimated_tokens > 0) {
      job_.token_ratio = std::clamp(job_.token_ratio * static_cast<double>(result.tokens) /
                                        static_cast<double>(unit.estimated_tokens),
                                    0.2, 5.0);
    }
    lost_tokens_ += std::exchange(unit.tokens, 0);
    step([&] { keep_paid(unit); });
    check_dimensions(unit.vectors);  // what has failed, the batches will meet, and deal with
  }
  units_.clear();
}

bool ReindexRun::work() {
  try {
    return round();
  } catch (const pg::Error& e) {
    const Conflict conflict = passing_conflict(e);
    if (!conflict) {
      throw;
    }
    fail_for_now(*conflict);
    return true;
  }
}

bool ReindexRun::round() {
  look();
  cut_off();
  take_in();
  embedder_->pump();
  store_->pump();
  if (move_on()) {
    return true;
  }
  if (!units_.empty()) {
    services_.loop.wait(kReindexLook);
    return true;
  }
  if (stopping_) {
    return false;
  }
  if (resume_at_) {
    rest();
    return true;
  }
  if (exhausted()) {
    step([this] {
      update_reindex_job(extension_, job_.id,
                         "status = CASE status WHEN 'running' THEN 'queued' ELSE status END");
    });
    return false;
  }
  return !complete();
}

void ReindexRun::look() {
  if (Clock::now() < next_look_) {
    return;
  }
  next_look_ = Clock::now() + kReindexLook;
  count_lost_tokens();
  step([this] {
    heed();
    report();
    if (Clock::now() >= next_tidying_) {
      next_tidying_ = Clock::now() + kTidying;
      forget_unwanted_changes(extension_);
    }
  });
}

void ReindexRun::heed() {
  const ReindexJob now = load_reindex_job(extension_, job_.id);
  job_.max_cost = now.max_cost;
  if ((now.status != "running" && now.status != "verifying" && now.status != "completed") ||
      !now.capturing) {  // a newer job of the namespace has taken its place
    stopping_ = true;
    if (!cut_off_at_) {
      cut_off_at_ = Clock::now();
      if (now.status == "paused") {
        *cut_off_at_ += kGrace;
      }
    }
  } else if (const auto reason = pause_reason(extension_, "reindex")) {
    // Not paused itself: bacmr_unpause() lets it go on.
    update_reindex_job(extension_, job_.id,
                       "status = CASE WHEN status IN ('running', 'verifying') THEN 'queued'"
                       " ELSE status END,"
                       " error = $2",
                       {*reason});
    stopping_ = true;
    if (!cut_off_at_) {
      cut_off_at_ = Clock::now() + kGrace;
    }
  }
}

void ReindexRun::require_same_table() const {
  const sources::Sources all = sources::Sources::load(extension_);
  if (all.require("chunks", "reindex").oid != job_.relation) {
    throw core::Error(
        core::sqlstate::kObjectNotInPrerequisiteState,
        "another table is attached as chunks than reindex job " + std::to_string(job_.id) +
            " has read",
        {},
        "SELECT bacmr_reindex_resume(" + std::to_string(job_.id) + ") reads it from the start.");
  }
}

void ReindexRun::cut_off() {
  if (!cut_off_at_ || Clock::now() < *cut_off_at_ || units_.empty()) {
    return;
  }
  give_up_embeddings();
  for (const auto& unit : units_) {
    if (unit->phase != ReindexUnit::Phase::kDone && unit->ticket) {
      store_->cancel(*unit->ticket);
    }
    lost_tokens_ += std::exchange(unit->tokens, 0);
    step([&] { keep_paid(*unit); });
  }
  units_.clear();
}

void ReindexRun::keep_paid(const ReindexUnit& unit) const {
  if (use_cache_) {
    record_paid(unit, *cache_);
  }
}

void ReindexRun::report() {
  metrics::record_at_commit(metrics::Metric::kReindexProgress, {job_.space}, metrics::Change::kSet,
                            job_.total > 0 ? std::min(1.0, static_cast<double>(job_.processed) /
                                                               static_cast<double>(job_.total))
                                           : 1);
  if (MyBackendType == B_BG_WORKER) {
    const std::string text = "reindex job " + std::to_string(job_.id) + ": " +
                             std::to_string(job_.processed) + " of " + std::to_string(job_.total) +
                             " chunks" + pace();
    pg::call([&] { pgstat_report_activity(STATE_RUNNING, text.c_str()); });
  }
  progress_.tell(static_cast<std::uint64_t>(job_.processed),
                 static_cast<std::uint64_t>(job_.total));
}

std::string ReindexRun::pace() const {
  const std::int64_t done = job_.processed - processed_before_;
  if (done <= 0 || worked_ <= 0) {
    return {};
  }
  const double rate = static_cast<double>(done) / worked_;
  const auto left = static_cast<std::int64_t>(std::ceil(
      static_cast<double>(std::max<std::int64_t>(job_.total - job_.processed, 0)) / rate));
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), ", %.*f a second, %lld:%02d:%02d to go",
                rate < 10 ? 1 : 0, rate, static_cast<long long>(left / 3600),
                static_cast<int>(left / 60 % 60), static_cast<int>(left % 60));
  return text.data();
}

void ReindexRun::take_in() {
  if (resume_at_ && Clock::now() >= *resume_at_) {
    resume_at_.reset();
  }
  // With a budget, one batch alone until the service has said what it counts.
  const int at_once = job_.max_cost && job_.tokens == 0 && lost_tokens_ == 0 ? 1 : job_.concurrency;
  while (!stopping_ && !resume_at_ && !exhausted() && static_cast<int>(units_.size()) < at_once) {
    auto unit = std::make_unique<ReindexUnit>();
    std::int64_t in_flight = lost_tokens_;
    for (const auto& other : units_) {
      in_flight += other->estimated_tokens;
    }
    Intake found = Intake::kNothing;
    step([&] {
      heed();
      if (stopping_) {
        return;
      }
      found = intake_->next(*unit, in_flight, units_.empty());
      if (found == Intake::kOverBudget) {
        update_reindex_job_if(extension_, job_.id, kAtWork, "status = 'paused', error = $2",
                              {"the next batch might exceed max_cost"});
      }
    });
    stopping_ = stopping_ || found == Intake::kOverBudget || found == Intake::kSuperseded;
    if (found != Intake::kUnit) {
      return;
    }
    intake_->has_begun(*unit);
    ++begun_;
    units_.push_back(std::move(unit));
    begin(*units_.back());
  }
}

void run_reindex(pg::Spi& spi, const pg::Extension& extension, const ReindexJob& job,
                 std::optional<int> max_batches) {
  ReindexRun(spi, extension, job, max_batches).perform();
}

}  // namespace jobs
