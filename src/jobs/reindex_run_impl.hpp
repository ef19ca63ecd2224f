// The work on one reindex job, whose parts lie in three files: the loop (reindex_run.cpp), what
// becomes of a batch (reindex_batches.cpp), and how the job ends (reindex_completion.cpp). For
// these alone.
#pragma once

#include "pg/postgres.hpp"

#include "core/backoff.hpp"
#include "core/json.hpp"
#include "jobs/attempt.hpp"
#include "jobs/reindex_changes.hpp"
#include "jobs/reindex_intake.hpp"
#include "jobs/reindex_record.hpp"
#include "jobs/reindex_services.hpp"
#include "jobs/reindex_verify.hpp"
#include "pg/log.hpp"
#include "pg/progress.hpp"
#include "pg/security.hpp"
#include "pg/snapshot.hpp"
#include "pg/spi.hpp"

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace jobs {

// How long nothing may move before the job's row is looked at again.
inline constexpr std::chrono::milliseconds kReindexLook{500};
// A service that fails is left alone for a while, again and again; then the job fails.
inline constexpr unsigned kReindexMaxOutages = 8;
inline constexpr std::chrono::seconds kReindexFirstRest{5};
inline constexpr std::chrono::minutes kReindexLongestRest{5};

inline std::int64_t to_microseconds(std::chrono::steady_clock::duration span) {
  return std::chrono::duration_cast<std::chrono::microseconds>(span).count();
}

class ReindexRun {
 public:
  ReindexRun(pg::Spi& spi, const pg::Extension& extension, const ReindexJob& job,
             std::optional<int> max_batches)
      : spi_(spi), extension_(extension), job_(job), max_batches_(max_batches) {}
  ReindexRun(const ReindexRun&) = delete;
  ReindexRun& operator=(const ReindexRun&) = delete;

  void perform();

 private:
  using Clock = std::chrono::steady_clock;
  using Conflict = std::optional<providers::ServiceFailure>;

  // What another session's work is the cause of: the same succeeds when that is over.
  static Conflict passing_conflict(const pg::Error& error);

  void work_through();

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
  void rescue(bool patiently);

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
  void await_embeddings(bool patiently);

  void give_up_embeddings();

  void open();

  // What a repair has to do, and a job whose target failed a verification.
  void find_damage();

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
  void list_target();

  void drop_listing();

  VectorCheck compare(const std::function<std::vector<std::string>()>& left_out);

  // One look at the target, and at a sample of it.
  VectorVerdict verify();

  // One text alone, before batches of them: what the model answers tells the dimensions, and how
  // many tokens the service counts. It is not paid again: the cache has it then.
  void probe();

  // One round; false when there is nothing more to do here.
  bool work();

  bool round();

  // What may happen to the job while it waits for others, once in a while.
  void look();

  // Whether somebody has paused or cancelled the job: then no batch is begun any more. In a step.
  void heed();

  // What was read, and noted, must be what is attached now.
  void require_same_table() const;

  // What hangs must not keep a job at work that somebody has stopped.
  void cut_off();

  // What has been paid for is paid for once, whatever became of its batch.
  void keep_paid(const ReindexUnit& unit) const;

  void report();

  // ", 12 a second, 0:01:20 to go": as this process does, once it has done something.
  std::string pace() const;

  bool exhausted() const { return max_batches_ && begun_ >= *max_batches_; }

  void take_in();

  void begin(ReindexUnit& unit);

  void start_embedding(ReindexUnit& unit);

  // Whether anything has moved.
  bool move_on();

  bool advance(ReindexUnit& unit);

  // Moves them into the unit, and counts what was paid for them; the rest is the result.
  providers::EmbedResult take_vectors(ReindexUnit& unit, providers::EmbedResult result);

  void embedded(ReindexUnit& unit, providers::EmbedResult answer);

  void check_dimensions(const std::vector<std::vector<float>>& vectors);

  // A table gets its index in a step of its own: making it takes a lock that must not be held when
  // the first vectors are written.
  bool prepare(ReindexUnit& unit);

  // A store in this database does its work, and is recorded, in one transaction.
  void store(ReindexUnit& unit);

  // The following three are inside a step, and say what has failed at the store.
  Conflict stored(ReindexUnit& unit, const providers::StoreResult& result);

  Conflict removed(ReindexUnit& unit, const providers::StoreResult& result);

  void record(ReindexUnit& unit);

  // Once that is committed.
  void recorded(ReindexUnit& unit);

  // A service has failed after all its retries, or another session is in the way: what was on its
  // way is done again. What cannot pass ends the run.
  void outage(ReindexUnit& unit, const providers::ServiceFailure& failure, bool by_service);

  // The cause of what fails again and again has been narrowed down to one chunk.
  void fail_alone(ReindexUnit& unit, const std::string& reason);

  void fail_for_now(const providers::ServiceFailure& failure);

  // `unasked`: the service has failed before, and somebody else may have said why.
  void begin_rest(const std::string& reason, bool unasked);

  // Who looks at the job sees why it stands still; "" once it moves. What it says when it has been
  // stopped stays.
  void say(const std::string& error);

  void end_outage();

  void rest();

  // Tokens of a batch that came to nothing were paid all the same. A step of its own.
  void count_lost_tokens();

  void note_differences(const VectorCheck& check);

  // After a swap, or a repair, the application itself keeps the active namespace up to date. Not
  // while somebody is writing: what they note would be lost. Then whoever works on the job next
  // tries again.
  void end_capture();

  // Nothing is left to do: verify, and say so. False where that showed more to do.
  bool complete();

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
  core::Backoff outages_{kReindexFirstRest, kReindexLongestRest};
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

}  // namespace jobs
