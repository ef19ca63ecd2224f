// Which jobs are worked on, and what is written down when that ends.
#include "pg/postgres.hpp"

#include "jobs/reindex_work.hpp"

#include <climits>
#include <exception>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/attempt.hpp"
#include "jobs/gauges.hpp"
#include "jobs/job_run.hpp"
#include "jobs/pause.hpp"
#include "jobs/reindex_changes.hpp"
#include "jobs/reindex_job.hpp"
#include "jobs/reindex_run.hpp"
#include "pg/encoding.hpp"
#include "pg/log.hpp"
#include "pg/security.hpp"
#include "pg/snapshot.hpp"

extern "C" {
#include "utils/timestamp.h"
}

namespace jobs {
namespace {

// Whether the job may be worked on, by its row.
bool has_something_to_do(const ReindexJob& job) {
  return job.status == "queued" || job.status == "running" || job.status == "verifying" ||
         (job.status == "completed" && job.capturing);
}

// What came of working on a job.
enum class Outcome {
  kBusy,     // another process works on it
  kNothing,  // it is paused, cancelled, done
  kWorked,   // as far as `max_batches`, or to its end
};

// What ended a run is written down before it is raised. A cancel leaves the job to the next one who
// works on it.
void record_failure(const pg::Extension& extension, const ReindexJob& job, const Failure& failure) {
  if (is_interrupt(failure)) {
    update_reindex_job(extension, job.id,
                       "status = CASE WHEN status IN ('running', 'verifying') THEN 'queued'"
                       " ELSE status END");
    return;
  }
  update_reindex_job(extension, job.id,
                     "status = CASE WHEN status IN ('completed', 'cancelled') THEN status"
                     " ELSE 'failed' END,"
                     " error = $2, finished_at = clock_timestamp()",
                     {failure.text});
  pg::log_line(pg::LogLevel::kError, "a reindex job failed",
               core::JsonObject().number("job_id", job.id).text("error", failure.text).str(),
               job.request_id);
}

// A row in bacmr_job_run for a job that has come to an end, one way or the other.
void record_end(const pg::Extension& extension, const ReindexJob& before, std::int64_t started_at) {
  const ReindexJob job = load_reindex_job(extension, before.id);
  if (job.status == before.status || (job.status != "completed" && job.status != "failed")) {
    return;
  }
  RunResult result;
  result.detail = core::JsonObject()
                      .number("job_id", job.id)
                      .text("namespace", pg::to_utf8(job.space).value_or("?"))
                      .text("target_namespace", pg::to_utf8(job.target).value_or("?"))
                      .text("model", pg::to_utf8(job.model).value_or("?"))
                      .number("processed_chunks", job.processed)
                      .number("tokens_used", job.tokens)
                      .str();
  if (job.status == "failed") {
    result.status = RunStatus::kFailed;
    result.error = job.error;
  }
  record_run(extension, Job::kReindex, job.request_id, started_at, result);
  publish_last_success(extension);
}

// `failure`: what has ended the job's run, where something has. It is recorded by then.
Outcome run_job(pg::Spi& spi, const pg::Extension& extension, std::int64_t job_id,
                std::optional<int> max_batches, std::optional<Failure>& failure) {
  const SessionLock lock(pg::JobLock::for_reindex(job_id));
  if (!lock.held()) {
    return Outcome::kBusy;
  }
  const std::int64_t started_at = GetCurrentTimestamp();
  ReindexJob job;
  {
    const pg::TransactionSnapshot snapshot;
    const pg::PinnedSettings settings;
    job = load_reindex_job(extension, job_id);
    require_reindex_rights(job);
  }
  spi.commit();
  if (!has_something_to_do(job)) {
    return Outcome::kNothing;
  }
  try {
    run_reindex(spi, extension, job, max_batches);
  } catch (const pg::Error& e) {
    failure = Failure{e.summary(), std::current_exception()};
  } catch (const core::Error& e) {
    failure = Failure{e.hint().empty() ? e.message() : e.message() + " (" + e.hint() + ")",
                      std::current_exception()};
  } catch (const std::bad_alloc&) {
    failure = Failure{"out of memory", std::current_exception()};
  }
  {
    const pg::TransactionSnapshot snapshot;
    const pg::PinnedSettings settings;
    if (failure) {
      record_failure(extension, job, *failure);
    }
    record_end(extension, job, started_at);
  }
  spi.commit();
  return Outcome::kWorked;
}

void say(const std::string& job, Outcome outcome) {
  if (outcome == Outcome::kBusy) {
    pg::notice_client("another session works on reindex job " + job);
  } else if (outcome == Outcome::kNothing) {
    pg::notice_client("reindex job " + job + " has nothing to do",
                      "SELECT * FROM bacmr_reindex_status shows what it is waiting for.");
  }
}

// The first failure of several jobs' says how many there were.
[[noreturn]] void raise(const Failure& first, const std::vector<std::int64_t>& failed) {
  if (failed.size() > 1) {
    const std::string text = std::to_string(failed.size()) +
                             " reindex jobs failed; the first of them, " +
                             std::to_string(failed.front()) + ": ";
    try {
      std::rethrow_exception(first.error);
    } catch (pg::Error& e) {
      e.prepend(text);
      throw;
    } catch (const core::Error& e) {
      throw core::Error(e.sqlstate(), text + e.message(), e.detail(), e.hint());
    }
  }
  std::rethrow_exception(first.error);
}

}  // namespace

std::optional<int> checked_max_batches(std::optional<std::int64_t> max_batches) {
  if (!max_batches) {
    return std::nullopt;
  }
  if (*max_batches < 1 || *max_batches > INT_MAX) {
    throw core::Error(core::sqlstate::kInvalidParameterValue, "max_batches must be at least 1", {},
                      "Leave it out to work until nothing is left.");
  }
  return static_cast<int>(*max_batches);
}

void work_on_reindex_jobs(pg::Spi& spi, const pg::Extension& extension,
                          std::optional<std::int64_t> job_id, std::optional<int> max_batches) {
  std::optional<std::string> paused;
  std::optional<std::int64_t> job = job_id;
  std::set<std::int64_t> done;
  const auto choose = [&] {
    const pg::TransactionSnapshot snapshot;
    const pg::PinnedSettings settings;
    retire_foreign_jobs(extension);
    paused = pause_reason(extension, "reindex");
    return paused ? std::nullopt : job_id ? job_id : next_reindex_job(extension, done);
  };
  job = choose();
  spi.commit();
  if (!job) {
    pg::notice_client(paused ? "reindexing is paused: " + *paused
                             : std::string("there is no reindex job to work on"));
    return;
  }
  // One that cannot go on must not keep the others waiting: each has its turn, once, and the first
  // error is raised in the end.
  std::vector<std::int64_t> failed;
  std::optional<Failure> first;
  while (job) {
    std::optional<Failure> failure;
    const Outcome outcome = run_job(spi, extension, *job, max_batches, failure);
    if (failure && (job_id || max_batches || is_interrupt(*failure))) {
      std::rethrow_exception(failure->error);
    }
    if (job_id || max_batches) {
      say(std::to_string(*job), outcome);
      return;
    }
    if (failure) {
      failed.push_back(*job);
      first = first ? first : failure;
    }
    done.insert(*job);
    job = choose();
    spi.commit();
  }
  if (first) {
    raise(*first, failed);
  }
}

}  // namespace jobs
