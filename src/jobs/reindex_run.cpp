#include "pg/postgres.hpp"

#include "jobs/reindex_run.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "core/backoff.hpp"
#include "core/check.hpp"
#include "core/json.hpp"
#include "core/token_estimate.hpp"
#include "jobs/attempt.hpp"
#include "jobs/pause.hpp"
#include "jobs/reindex_intake.hpp"
#include "jobs/reindex_record.hpp"
#include "jobs/reindex_services.hpp"
#include "jobs/reindex_verify.hpp"
#include "metrics/at_commit.hpp"
#include "pg/log.hpp"
#include "pg/progress.hpp"
#include "pg/security.hpp"
#include "pg/snapshot.hpp"
#include "pg/wait.hpp"

extern "C" {
#include "common/pg_prng.h"
#include "pgstat.h"
}

namespace jobs {
namespace {

using Clock = std::chrono::steady_clock;

// How long nothing may move before the job's row is looked at again.
constexpr std::chrono::milliseconds kLook{500};
// How often changes of other namespaces are taken off the queue.
constexpr std::chrono::seconds kTidying{30};
// How long what is on its way may take to come in once the job is paused. After that, and at once
// when it is cancelled, it is cut off, and done again when the job goes on.
constexpr std::chrono::seconds kGrace{1};
// A service that fails is left alone for a while, again and again; then the job fails.
constexpr unsigned kMaxOutages = 8;
constexpr std::chrono::seconds kFirstRest{5};
constexpr std::chrono::minutes kLongestRest{5};
// After an error: how long what is on its way may take to come in, since it has been paid for.
constexpr std::chrono::seconds kLastGrace{5};
// How often a batch may fail, where others do not, before it is parted.
constexpr int kOwnFailures = 2;
// An answer that came, and could not be used.
constexpr const char* kProtocolViolation = "08P01";
// How often what the verification found too much is deleted before that counts as a failure.
constexpr int kMaxCorrections = 3;

std::int64_t to_us(Clock::duration span) {
  return std::chrono::duration_cast<std::chrono::microseconds>(span).count();
}

// What another session's work is the cause of: the same succeeds when that is over.
std::optional<providers::ServiceFailure> passing_conflict(const pg::Error& error) {
  switch (error.code()) {
    case ERRCODE_T_R_SERIALIZATION_FAILURE:
    case ERRCODE_T_R_DEADLOCK_DETECTED:
    case ERRCODE_LOCK_NOT_AVAILABLE:
      return providers::ServiceFailure{error.sqlstate(), error.summary(), {}, true};
    default:
      return std::nullopt;
  }
}

class Run {
 public:
  Run(pg::Spi& spi, const pg::Extension& extension, const ReindexJob& job,
      std::optional<int> max_batches)
      : spi_(spi), extension_(extension), job_(job), max_batches_(max_batches) {}
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void perform() {
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

 private:
  using Conflict = std::optional<providers::ServiceFailure>;

  void work_through() {
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

  // A transaction of its own, with the settings that our SQL relies on. What fails in it is undone,
  // and thrown.
  template <class Work>
  void step(Work work) {
    const ReindexJob before = job_;
    std::optional<Failure> failure;
    try {
      {
        const pg::TransactionSnapshot snapshot;
        const pg::PinnedSettings settings;
        failure = attempt(work);
      }
      spi_.commit();
    } catch (...) {
      job_ = before;
      throw;
    }
    if (failure) {
      job_ = before;
      std::rethrow_exception(failure->error);
    }
  }

  // A step of a unit's, which says what has failed at the service.
  template <class Work>
  void settle(ReindexUnit& unit, Work work) {
    Conflict failure;
    bool by_service = true;
    try {
      step([&] { failure = work(); });
    } catch (const pg::Error& e) {
      failure = passing_conflict(e);
      by_service = false;
      if (!failure) {
        throw;
      }
    }
    if (failure) {
      outage(unit, *failure, by_service);
    } else if (unit.phase == ReindexUnit::Phase::kDone) {
      recorded(unit);
    }
  }

  // On the way out: what has been paid for is not lost with the step that failed. What fails here
  // is logged, since the error that brought us here is the one to be raised.
  void rescue(bool patiently) {
    quietly([&] { await_embeddings(patiently); });
    for (const auto& unit : units_) {
      lost_tokens_ += std::exchange(unit->tokens, 0);
      quietly([&] { step([&] { keep_paid(*unit); }); });
    }
    quietly([this] { count_lost_tokens(); });
    quietly([this] { drop_listing(); });
  }

  template <class Work>
  void quietly(Work work) {
    std::string problem;
    try {
      work();
    } catch (const pg::Error& e) {
      problem = e.summary();
    } catch (const std::exception& e) {
      problem = e.what();
    }
    if (!problem.empty()) {
      pg::log_line(pg::LogLevel::kWarning,
                   "not all that a reindex job has paid for could be kept: " + problem,
                   core::JsonObject().number("job_id", job_.id).str(), job_.request_id);
    }
  }

  // Takes the answers that have come, or come soon; of the others it is unknown whether they will
  // be on the bill.
  void await_embeddings(bool patiently) {
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
        services_.loop.wait(kLook);
      } while (Clock::now() < deadline);
    } catch (...) {
      give_up_embeddings();
      throw;
    }
    give_up_embeddings();
  }

  void give_up_embeddings() {
    for (const auto& unit : units_) {
      if (unit->phase == ReindexUnit::Phase::kEmbedding && unit->ticket) {
        embedder_->cancel(*unit->ticket);
        lost_tokens_ += unit->estimated_tokens;
        unit->phase = ReindexUnit::Phase::kDone;
      }
    }
  }

  void open() {
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
      update_reindex_job(extension_, job_.id, "relation_oid = $2::oid",
                         {std::to_string(chunks.oid)});
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

  // What a repair has to do, and a job whose target failed a verification.
  void find_damage() {
    if (job_.verified) {
      return;
    }
    if (!job_.repair) {
      const VectorVerdict verdict = verify();
      step([&] { note_differences(verdict.check); });
      return;
    }
    const VectorCheck check = compare([this] { return waiting_chunks(extension_, job_); });
    step([&] {
      note_differences(check);
      job_.total = count_changes(extension_, job_.space);
      job_.processed = 0;
      update_reindex_job(extension_, job_.id, "total_chunks = $2::bigint, processed_chunks = 0",
                         {std::to_string(job_.total)});
    });
  }

  // Asks the store. One that is a table is asked in a step of its own; any other without a
  // snapshot, which would hold back VACUUM in the whole database.
  template <class Work>
  void ask_store(Work work) {
    if (store_->is_table()) {
      step([&] {
        const AsReindexRole role(job_);
        work();
      });
    } else {
      work();
    }
  }

  template <class Work>
  void step_as_role(Work work) {
    step([&] {
      const AsReindexRole role(job_);
      work();
    });
  }

  // The ids in the target go into a temporary table, which is dropped by drop_listing().
  void list_target() {
    drop_listing();
    step_as_role([] { begin_listing(ListingSpan::kSession); });
    listing_ = true;
    if (store_->is_table()) {
      step_as_role([this] { list_ids(*store_, job_.target, add_listed); });
    } else {
      list_ids(*store_, job_.target, [this](const std::vector<std::string>& ids) {
        step_as_role([&] { add_listed(ids); });
      });
    }
    step_as_role([] { finish_listing(); });
  }

  void drop_listing() {
    if (std::exchange(listing_, false)) {
      step_as_role([] { end_listing(); });
    }
  }

  VectorCheck compare(const std::function<std::vector<std::string>()>& left_out) {
    VectorCheck check;
    list_target();
    step_as_role([&] { check = compare_listed(*reader_, job_.space, left_out); });
    drop_listing();
    return check;
  }

  // One look at the target, and at a sample of it.
  VectorVerdict verify() {
    VectorVerdict verdict;
    std::vector<Chunk> sample;
    list_target();
    step_as_role([&] {
      verdict = compare_target(extension_, job_, *reader_, *store_);
      sample = choose_sample(extension_, job_, *reader_);
    });
    drop_listing();
    if (!verdict.may_come) {
      std::vector<providers::VectorRecord> found;
      ask_store([&] { found = store_->fetch(job_.target, ids_of(sample)); });
      step_as_role([&] {
        judge_sample(extension_, job_, sample, found, *embedder_, *store_, services_.loop, verdict);
      });
    }
    return verdict;
  }

  // One text alone, before batches of them: what the model answers tells the dimensions, and how
  // many tokens the service counts. It is not paid again: the cache has it then.
  void probe() {
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
        services_.loop.wait(kLook);
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

  // One round; false when there is nothing more to do here.
  bool work() {
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

  bool round() {
    look();
    cut_off();
    take_in();
    embedder_->pump();
    store_->pump();
    if (move_on()) {
      return true;
    }
    if (!units_.empty()) {
      services_.loop.wait(kLook);
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

  // What may happen to the job while it waits for others, once in a while.
  void look() {
    if (Clock::now() < next_look_) {
      return;
    }
    next_look_ = Clock::now() + kLook;
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

  // Whether somebody has paused or cancelled the job: then no batch is begun any more. In a step.
  void heed() {
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

  // What was read, and noted, must be what is attached now.
  void require_same_table() const {
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

  // What hangs must not keep a job at work that somebody has stopped.
  void cut_off() {
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

  // What has been paid for is paid for once, whatever became of its batch.
  void keep_paid(const ReindexUnit& unit) const {
    if (use_cache_) {
      record_paid(unit, *cache_);
    }
  }

  void report() {
    metrics::record_at_commit(
        metrics::Metric::kReindexProgress, {job_.space}, metrics::Change::kSet,
        job_.total > 0
            ? std::min(1.0, static_cast<double>(job_.processed) / static_cast<double>(job_.total))
            : 1);
    if (MyBackendType == B_BG_WORKER) {
      const std::string text = "reindex job " + std::to_string(job_.id) + ": " +
                               std::to_string(job_.processed) + " of " +
                               std::to_string(job_.total) + " chunks" + pace();
      pg::call([&] { pgstat_report_activity(STATE_RUNNING, text.c_str()); });
    }
    progress_.tell(static_cast<std::uint64_t>(job_.processed),
                   static_cast<std::uint64_t>(job_.total));
  }

  // ", 12 a second, 0:01:20 to go": as this process does, once it has done something.
  std::string pace() const {
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

  bool exhausted() const { return max_batches_ && begun_ >= *max_batches_; }

  void take_in() {
    if (resume_at_ && Clock::now() >= *resume_at_) {
      resume_at_.reset();
    }
    // With a budget, one batch alone until the service has said what it counts.
    const int at_once =
        job_.max_cost && job_.tokens == 0 && lost_tokens_ == 0 ? 1 : job_.concurrency;
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

  void begin(ReindexUnit& unit) {
    unit.begun = passed_;
    if (unit.to_embed.empty()) {
      store(unit);
    } else {
      start_embedding(unit);
    }
  }

  void start_embedding(ReindexUnit& unit) {
    std::vector<std::string> texts;
    for (const std::size_t index : unit.to_embed) {
      texts.push_back(unit.chunks[index].content);
    }
    unit.phase = ReindexUnit::Phase::kEmbedding;
    unit.ticket = embedder_->start(std::move(texts));
  }

  // Whether anything has moved.
  bool move_on() {
    bool moved = false;
    for (const auto& unit : units_) {
      moved = advance(*unit) || moved;
    }
    return std::erase_if(
               units_, [](const auto& unit) { return unit->phase == ReindexUnit::Phase::kDone; }) >
               0 ||
           moved;
  }

  bool advance(ReindexUnit& unit) {
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

  // Moves them into the unit, and counts what was paid for them; the rest is the result.
  providers::EmbedResult take_vectors(ReindexUnit& unit, providers::EmbedResult result) {
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

  void embedded(ReindexUnit& unit, providers::EmbedResult answer) {
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

  void check_dimensions(const std::vector<std::vector<float>>& vectors) {
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

  // A table gets its index in a step of its own: making it takes a lock that must not be held when
  // the first vectors are written.
  bool prepare(ReindexUnit& unit) {
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

  // A store in this database does its work, and is recorded, in one transaction.
  void store(ReindexUnit& unit) {
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

  // The following three are inside a step, and say what has failed at the store.
  Conflict stored(ReindexUnit& unit, const providers::StoreResult& result) {
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

  Conflict removed(ReindexUnit& unit, const providers::StoreResult& result) {
    if (!result.failure) {
      record(unit);
    }
    return result.failure;
  }

  void record(ReindexUnit& unit) {
    unit.phase = ReindexUnit::Phase::kDone;
    if (!record_unit(extension_, job_, unit, use_cache_ ? &*cache_ : nullptr,
                     std::chrono::duration<double>(Clock::now() - worked_until_).count())) {
      lost_tokens_ += std::exchange(unit.tokens, 0);
      keep_paid(unit);
      stopping_ = true;
    }
    end_outage();
  }

  // Once that is committed.
  void recorded(ReindexUnit& unit) {
    worked_ += std::chrono::duration<double>(Clock::now() - worked_until_).count();
    worked_until_ = Clock::now();
    unit.tokens = 0;
    unit.to_embed.clear();
    ++passed_.recorded;
    report();
    intake_->has_passed(unit);
    outages_.reset();
  }

  // A service has failed after all its retries, or another session is in the way: what was on its
  // way is done again. What cannot pass ends the run.
  void outage(ReindexUnit& unit, const providers::ServiceFailure& failure, bool by_service) {
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

  // The cause of what fails again and again has been narrowed down to one chunk.
  void fail_alone(ReindexUnit& unit, const std::string& reason) {
    unit.failed.assign({{0, reason}});
    unit.vectors.front().clear();
    unit.stored.clear();
    settle(unit, [&] { return stored(unit, {}); });
  }

  void fail_for_now(const providers::ServiceFailure& failure) {
    if (!failure.may_pass || outages_.failures() >= kMaxOutages) {
      failure_ = failure;
      stopping_ = true;
      return;
    }
    begin_rest(failure.message, failure.unasked);
  }

  // `unasked`: the service has failed before, and somebody else may have said why.
  void begin_rest(const std::string& reason, bool unasked) {
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
          " of " + std::to_string(kMaxOutages) + " failed)");
    });
  }

  // Who looks at the job sees why it stands still; "" once it moves. What it says when it has been
  // stopped stays.
  void say(const std::string& error) {
    update_reindex_job(extension_, job_.id,
                       "error = CASE WHEN status IN ('running', 'verifying') THEN nullif($2, '')"
                       " ELSE error END",
                       {error});
  }

  void end_outage() {
    outages_.reset();
    if (!reason_.empty()) {
      reason_.clear();
      say("");
    }
  }

  void rest() {
    const auto left = std::min<Clock::duration>(*resume_at_ - Clock::now(), kLook);
    if (left > Clock::duration::zero()) {
      pg::wait_interruptibly(to_us(left));
    }
    worked_until_ = Clock::now();
  }

  // Tokens of a batch that came to nothing were paid all the same. A step of its own.
  void count_lost_tokens() {
    if (lost_tokens_ > 0) {
      step([this] {
        job_.tokens += lost_tokens_;
        update_reindex_job(extension_, job_.id, "tokens_used = tokens_used + $2::bigint",
                           {std::to_string(lost_tokens_)});
      });
      lost_tokens_ = 0;
    }
  }

  void note_differences(const VectorCheck& check) {
    std::vector<std::string> ids = check.missing_ids;
    ids.insert(ids.end(), check.extra_ids.begin(), check.extra_ids.end());
    if (!ids.empty()) {
      add_changes(extension_, job_.space, ids);
    }
  }

  // After a swap, or a repair, the application itself keeps the active namespace up to date. Not
  // while somebody is writing: what they note would be lost. Then whoever works on the job next
  // tries again.
  void end_capture() {
    if (is_quiet(extension_, job_.space)) {
      update_reindex_job(extension_, job_.id, "capturing = false");
      stop_capture_if_idle(extension_);
    }
  }

  // Nothing is left to do: verify, and say so. False where that showed more to do.
  bool complete() {
    if (job_.status == "completed") {
      // A table that was truncated after the swap does not tell the ids that have to go.
      bool more = false;
      if (job_.swapped && intake_->walks_again()) {
        VectorCheck check = compare(nothing);
        check.missing_ids.clear();
        more = !check.extra_ids.empty() && corrections_++ < kMaxCorrections;
        step([&] { note_differences(check); });
      }
      if (!more) {
        step([this] {
          if (job_.swapped || job_.repair) {
            end_capture();
          }
        });
      }
      return !more;
    }
    VectorVerdict verdict;
    step([this] {
      require_same_table();
      update_reindex_job(extension_, job_.id,
                         "status = CASE status WHEN 'running' THEN 'verifying' ELSE status END");
    });
    Patience patience;
    for (;;) {
      try {
        verdict = verify();
      } catch (const core::Error& e) {
        // What is stored may wait for its verification as long as a batch may wait to be stored.
        if (std::string_view(e.sqlstate()) != core::sqlstate::kConnectionFailure ||
            outages_.failures() >= kMaxOutages) {
          throw;
        }
        begin_rest(e.message(), false);
        return false;
      }
      if (!verdict.may_come || patience.is_over()) {
        break;
      }
      pg::wait_interruptibly(std::min(patience.next_us(), to_us(kLook) * 4));
      look();
      if (stopping_) {
        return true;
      }
    }
    bool again = false;
    step([&] {
      end_outage();
      const bool changed = count_changes(extension_, job_.space) > 0;
      if (!verdict.ok()) {
        note_differences(verdict.check);
      }
      // What a repair finds is its work; of any other job, vectors that are missing are a store's
      // failure, which somebody has to hear of.
      const bool mends = job_.repair ? !verdict.ok() : verdict.only_extra();
      again = changed || (mends && corrections_++ < kMaxCorrections);
      if (again) {
        if (job_.repair) {
          job_.total = job_.processed + count_changes(extension_, job_.space);
        }
        update_reindex_job(extension_, job_.id,
                           "status = CASE status WHEN 'verifying' THEN 'running' ELSE status END,"
                           " total_chunks = $2::bigint",
                           {std::to_string(job_.total)});
      } else {
        record_verdict(extension_, job_, verdict);
        if (verdict.ok() && job_.repair) {
          end_capture();
        }
      }
    });
    if (!again && !verdict.ok()) {
      throw core::Error(core::sqlstate::kRaiseException, verdict.problem(job_), {},
                        "SELECT bacmr_reindex_resume(" + std::to_string(job_.id) +
                            ") puts that right and verifies again.");
    }
    return !again;
  }

  pg::Spi& spi_;
  const pg::Extension& extension_;
  ReindexJob job_;
  pg::Progress progress_{"reindex job " + std::to_string(job_.id), "chunks"};
  std::optional<int> max_batches_;
  ServiceContext services_;
  std::optional<ChunkReader> reader_;
  std::unique_ptr<providers::Embedder> embedder_;
  std::unique_ptr<providers::VectorStore> store_;
  std::optional<EmbeddingCache> cache_;
  bool use_cache_ = true;
  bool prepared_ = false;
  bool listing_ = false;
  std::optional<ReindexIntake> intake_;
  std::vector<std::unique_ptr<ReindexUnit>> units_;
  int begun_ = 0;
  bool stopping_ = false;
  Clock::time_point next_look_ = Clock::now();
  Clock::time_point next_tidying_ = Clock::now();
  Clock::time_point worked_until_ = Clock::now();
  double worked_ = 0;  // seconds, by this process
  std::int64_t processed_before_ = 0;
  core::Backoff outages_{kFirstRest, kLongestRest};
  std::string reason_;  // of the present outages
  std::optional<Clock::time_point> resume_at_;
  std::optional<Clock::time_point> cut_off_at_;
  std::optional<providers::ServiceFailure> failure_;
  std::int64_t lost_tokens_ = 0;
  // How many batches have passed so far, and had when one last failed.
  ReindexUnit::Passed passed_;
  ReindexUnit::Passed last_failure_;
  int corrections_ = 0;
};

}  // namespace

void run_reindex(pg::Spi& spi, const pg::Extension& extension, const ReindexJob& job,
                 std::optional<int> max_batches) {
  Run(spi, extension, job, max_batches).perform();
}

}  // namespace jobs
