#include "pg/postgres.hpp"

#include "jobs/reindex_run.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string_view>

#include "core/backoff.hpp"
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
// A service that does not answer, or whose requests were repeated often enough.
constexpr const char* kConnectionFailure = "08006";
// How often what the verification found too much is deleted before that counts as a failure.
constexpr int kMaxCorrections = 3;

std::int64_t to_us(Clock::duration span) {
  return std::chrono::duration_cast<std::chrono::microseconds>(span).count();
}

class Run {
 public:
  Run(pg::Spi& spi, const pg::Extension& extension, const ReindexJob& job,
      std::optional<int> max_batches)
      : spi_(spi), extension_(extension), job_(job), max_batches_(max_batches) {}
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void perform() {
    step([this] { open(); });
    if (job_.repair || (job_.walked && job_.expected && !job_.verified)) {
      step([this] { find_damage(); });
    }
    probe();
    while (work()) {
    }
    step([this] { count_lost_tokens(); });
    if (failure_) {
      throw core::Error(failure_->sqlstate.c_str(), failure_->message, {}, failure_->hint);
    }
  }

 private:
  // A transaction of its own, with the settings that our SQL relies on. What fails in it is undone,
  // and thrown.
  template <class Work>
  void step(Work work) {
    std::optional<Failure> failure;
    {
      const pg::TransactionSnapshot snapshot;
      const pg::PinnedSettings settings;
      failure = attempt(work);
    }
    spi_.commit();
    if (failure) {
      std::rethrow_exception(failure->error);
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
    use_cache_ = !embedder_->model().starts_with("local-");
    intake_.emplace(extension_, job_, *reader_, *store_, use_cache_ ? &*cache_ : nullptr);
    if (job_.status != "completed") {
      // Who has paused or cancelled it since it was read has the last word.
      update_reindex_job(extension_, job_.id,
                         "status = CASE WHEN status IN ('queued', 'verifying') THEN 'running'"
                         " ELSE status END, error = CASE WHEN status IN ('queued', 'running',"
                         " 'verifying') THEN NULL ELSE error END,"
                         " started_at = coalesce(started_at, clock_timestamp())");
    }
  }

  // What a repair has to do, and a job whose target failed a verification: in a transaction of its
  // own, without the lock that open() may hold.
  void find_damage() {
    if (!job_.verified && count_changes(extension_, job_.space) == 0) {
      VectorCheck check;
      {
        const AsReindexRole role(job_);
        check = job_.repair
                    ? check_vectors(*reader_, job_.space, *store_, job_.target, nothing)
                    : verify_once(extension_, job_, *reader_, *embedder_, *store_, services_.loop)
                          .check;
      }
      note_differences(check);
    }
  }

  // One text alone, before batches of them: what the model answers tells the dimensions, and how
  // many tokens the service counts. It is not paid again: the cache has it then.
  void probe() {
    if (!use_cache_ || job_.tokens > 0 || embedder_->dimensions()) {
      return;
    }
    std::vector<Chunk> first;
    step([&] {
      const AsReindexRole role(job_);
      first = reader_->next(job_.space, std::nullopt, 1);
    });
    if (first.empty()) {
      return;
    }
    const std::string key = EmbeddingCache::key_of(first.front().content);
    bool known = false;
    step([&] { known = !cache_->find({key}, job_.dimensions).front().empty(); });
    if (known) {
      return;
    }
    const providers::Ticket ticket = embedder_->start({first.front().content});
    while (!embedder_->done(ticket)) {
      look();
      if (stopping_) {
        embedder_->cancel(ticket);
        return;
      }
      embedder_->pump();
      services_.loop.wait(kLook);
    }
    providers::EmbedResult result = embedder_->take(ticket);
    lost_tokens_ += static_cast<std::int64_t>(result.tokens);
    if (result.failure || result.vectors.empty() || result.vectors.front().empty()) {
      return;  // the batches will meet the same, and deal with it
    }
    const auto guessed = static_cast<double>(core::estimate_tokens(first.front().content));
    if (result.tokens > 0 && guessed > 0) {
      job_.token_ratio = std::clamp(static_cast<double>(result.tokens) / guessed, 0.2, 5.0);
    }
    step([&] { cache_->add({key}, {result.vectors.front()}); });
    check_dimensions(result.vectors);
  }

  // One round; false when there is nothing more to do here.
  bool work() {
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
    step([this] {
      count_lost_tokens();
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
    for (const auto& unit : units_) {
      if (unit->phase == ReindexUnit::Phase::kEmbedding) {
        embedder_->cancel(*unit->ticket);
      } else {
        store_->cancel(*unit->ticket);
      }
      lost_tokens_ += unit->tokens;
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
                               std::to_string(job_.total) + " chunks";
      pg::call([&] { pgstat_report_activity(STATE_RUNNING, text.c_str()); });
    }
    progress_.tell(static_cast<std::uint64_t>(job_.processed),
                   static_cast<std::uint64_t>(job_.total));
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
          update_reindex_job(extension_, job_.id,
                             "status = CASE status WHEN 'running' THEN 'paused' ELSE status END,"
                             " error = $2",
                             {"the next batch might exceed max_cost"});
        }
      });
      stopping_ = stopping_ || found == Intake::kOverBudget;
      if (found != Intake::kUnit) {
        return;
      }
      ++begun_;
      units_.push_back(std::move(unit));
      begin(*units_.back());
    }
  }

  void begin(ReindexUnit& unit) {
    if (unit.to_embed.empty()) {
      store(unit);
      return;
    }
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
        step([&] { stored(unit, store_->take(*unit.ticket)); });
        return true;
      case ReindexUnit::Phase::kRemoving:
        if (!store_->done(*unit.ticket)) {
          return false;
        }
        step([&] { removed(unit, store_->take(*unit.ticket)); });
        return true;
      case ReindexUnit::Phase::kDone:
        return false;
    }
    return false;
  }

  void embedded(ReindexUnit& unit, providers::EmbedResult result) {
    unit.tokens += static_cast<std::int64_t>(result.tokens);
    for (std::size_t i = 0; i < unit.to_embed.size(); ++i) {
      unit.vectors[unit.to_embed[i]] = std::move(result.vectors[i]);
    }
    if (result.failure) {
      step([&] { outage(unit, *result.failure); });
      return;
    }
    for (const providers::Refusal& refusal : result.refused) {
      unit.failed.emplace_back(unit.to_embed[refusal.index], refusal.reason);
    }
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
        job_.dimensions = dimensions;
        step([&] {
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

  // A store in this database does its work, and is recorded, in one transaction.
  void store(ReindexUnit& unit) {
    step([&] {
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
      if (store_->done(*unit.ticket)) {
        stored(unit, store_->take(*unit.ticket));
      }
    });
  }

  // The following three are inside a step.
  void stored(ReindexUnit& unit, const providers::StoreResult& result) {
    if (result.failure) {
      outage(unit, *result.failure);
      return;
    }
    for (const providers::Refusal& refusal : result.refused) {
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
      return;
    }
    unit.phase = ReindexUnit::Phase::kRemoving;
    {
      const AsReindexRole role(job_);
      role.defer_nothing();
      unit.ticket = store_->remove(job_.target, unit.gone);
    }
    if (store_->done(*unit.ticket)) {
      removed(unit, store_->take(*unit.ticket));
    }
  }

  void removed(ReindexUnit& unit, const providers::StoreResult& result) {
    if (result.failure) {
      outage(unit, *result.failure);
    } else {
      record(unit);
    }
  }

  void record(ReindexUnit& unit) {
    const Clock::time_point now = Clock::now();
    const double worked = std::chrono::duration<double>(now - worked_until_).count();
    worked_until_ = now;
    record_unit(extension_, job_, unit, use_cache_ ? &*cache_ : nullptr, worked);
    unit.phase = ReindexUnit::Phase::kDone;
    end_outage();
    report();
  }

  // A service has failed after all its retries: what was on its way is done again. What cannot pass
  // ends the run.
  void outage(ReindexUnit& unit, const providers::ServiceFailure& failure) {
    lost_tokens_ += unit.tokens;
    keep_paid(unit);
    intake_->put_back(unit);
    unit.phase = ReindexUnit::Phase::kDone;
    --begun_;
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
    say(reason_ + " (tried again by itself; attempt " + std::to_string(outages_.failures()) +
        " of " + std::to_string(kMaxOutages) + " failed)");
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

  // Tokens of a batch that came to nothing were paid all the same.
  void count_lost_tokens() {
    if (lost_tokens_ > 0) {
      job_.tokens += lost_tokens_;
      update_reindex_job(extension_, job_.id, "tokens_used = tokens_used + $2::bigint",
                         {std::to_string(lost_tokens_)});
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
        step([&] {
          VectorCheck check;
          {
            const AsReindexRole role(job_);
            check = check_vectors(*reader_, job_.space, *store_, job_.target, nothing);
          }
          check.missing_ids.clear();
          more = !check.extra_ids.empty() && corrections_++ < kMaxCorrections;
          note_differences(check);
        });
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
    // Each look in a transaction of its own: nothing is held while the store catches up.
    Patience patience;
    for (;;) {
      try {
        step([&] {
          const AsReindexRole role(job_);
          verdict = verify_once(extension_, job_, *reader_, *embedder_, *store_, services_.loop);
        });
      } catch (const core::Error& e) {
        // What is stored may wait for its verification as long as a batch may wait to be stored.
        if (std::string_view(e.sqlstate()) != kConnectionFailure ||
            outages_.failures() >= kMaxOutages) {
          throw;
        }
        step([&] { begin_rest(e.message(), false); });
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
      again = changed || (verdict.only_extra() && corrections_++ < kMaxCorrections);
      if (again) {
        update_reindex_job(extension_, job_.id,
                           "status = CASE status WHEN 'verifying' THEN 'running' ELSE status END");
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
  std::optional<ReindexIntake> intake_;
  std::vector<std::unique_ptr<ReindexUnit>> units_;
  int begun_ = 0;
  bool stopping_ = false;
  Clock::time_point next_look_ = Clock::now();
  Clock::time_point next_tidying_ = Clock::now();
  Clock::time_point worked_until_ = Clock::now();
  core::Backoff outages_{kFirstRest, kLongestRest};
  std::string reason_;  // of the present outages
  std::optional<Clock::time_point> resume_at_;
  std::optional<Clock::time_point> cut_off_at_;
  std::optional<providers::ServiceFailure> failure_;
  std::int64_t lost_tokens_ = 0;
  int corrections_ = 0;
};

}  // namespace

void run_reindex(pg::Spi& spi, const pg::Extension& extension, const ReindexJob& job,
                 std::optional<int> max_batches) {
  Run(spi, extension, job, max_batches).perform();
}

}  // namespace jobs
