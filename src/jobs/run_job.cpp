// CALL bacmr_run_job(…): a job with its book-keeping committed step by step, so that a crash, a
// failure and a finding all leave a row; the error that tells pg_cron comes last.
#include "pg/postgres.hpp"

#include <exception>
#include <optional>
#include <string>

#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/expire.hpp"
#include "jobs/job_run.hpp"
#include "jobs/pacing.hpp"
#include "jobs/pause.hpp"
#include "jobs/reconcile.hpp"
#include "pg/entry.hpp"
#include "pg/log.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "sources/identity.hpp"

extern "C" {
#include "utils/timestamp.h"
}

namespace jobs {
namespace {

// A session's lock survives aborts, so it has to be let go on every way out.
class SessionLock {
 public:
  explicit SessionLock(pg::JobLock lock)
      : lock_(lock), held_(lock.try_acquire(pg::LockSpan::kSession)) {}
  SessionLock(const SessionLock&) = delete;
  SessionLock& operator=(const SessionLock&) = delete;
  ~SessionLock() {
    if (held_) {
      pg::cleanup([this] { lock_.release(); });
    }
  }
  bool held() const { return held_; }

 private:
  pg::JobLock lock_;
  bool held_;
};

// The arguments of a job, by name, from a JSON object.
struct Arguments {
  std::optional<std::int64_t> recheck_after_us;
  std::optional<std::int64_t> max_reservations;
};

[[noreturn]] void unknown_argument(Job job, const std::string& key) {
  throw core::Error(core::sqlstate::kInvalidParameterValue,
                    std::string("the job \"") + name_of(job) + "\" has no argument \"" + key + "\"",
                    {},
                    std::string("Its argument is: ") +
                        (job == Job::kReconcile ? "recheck_after" : "max_reservations") + ".");
}

Arguments parse_arguments(Job job, const std::string& json) {
  const pg::PinnedSettings settings;
  pg::Spi spi;
  const pg::Param given = pg::Param::text(json);
  if (spi.query("SELECT jsonb_typeof($1::jsonb)", {given}).text(0, 0) != "object") {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "argument \"arguments\" must be a JSON object", {},
                      "For example: '{\"recheck_after\": \"5 seconds\"}'.");
  }
  Arguments result;
  const pg::Rows rows = spi.query("SELECT key, value FROM jsonb_each_text($1::jsonb)", {given});
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    const std::string key = rows.text(i, 0);
    const pg::Param value = pg::Param::text(rows.maybe_text(i, 1));
    if (job == Job::kReconcile && key == "recheck_after") {
      const pg::Rows span =
          spi.query("SELECT (extract(epoch FROM $1::interval) * 1000000)::bigint", {value});
      result.recheck_after_us = span.is_null(0, 0) ? std::nullopt : std::optional(span.int8(0, 0));
      checked_recheck_after(result.recheck_after_us);
    } else if (job == Job::kExpire && key == "max_reservations") {
      const pg::Rows number = spi.query("SELECT $1::bigint", {value});
      result.max_reservations =
          checked_limit(number.is_null(0, 0) ? std::nullopt : std::optional(number.int8(0, 0)));
    } else {
      unknown_argument(job, key);
    }
  }
  return result;
}

void skip(const pg::Extension& extension, Job job, const std::string& reason) {
  record_run(extension, job, new_request_id(), GetCurrentTimestamp(),
             {RunStatus::kSkipped, core::JsonObject().text("reason", reason).str(), std::nullopt});
  pg::notice_client(std::string("the job \"") + name_of(job) + "\" was skipped: " + reason);
}

bool is_paused(const pg::Extension& extension, Job job) {
  return pause_reason(extension, name_of(job)).has_value();
}

// What went wrong in a run: as text for its row, and as it was, to be raised in the end.
struct Failure {
  std::string text;
  std::exception_ptr error;
};

// Runs `work` in a subtransaction, which is rolled back if it fails. A cancel is a failure like any
// other here: it ends the run, is recorded, and is raised again.
template <class Work>
std::optional<Failure> attempt(Work work) {
  try {
    pg::Subtransaction subtransaction;
    work();
    subtransaction.commit();
    return std::nullopt;
  } catch (const pg::Error& e) {
    return Failure{e.summary(), std::current_exception()};
  } catch (const core::Error& e) {
    return Failure{e.detail().empty() ? e.message() : e.message() + " (" + e.detail() + ")",
                   std::current_exception()};
  } catch (const std::exception& e) {
    return Failure{e.what(), std::current_exception()};
  }
}

void run_reconcile(pg::Spi& spi, const pg::Extension& extension, const Arguments& arguments) {
  const SessionLock job_lock(lock_of(Job::kReconcile));
  if (!job_lock.held()) {
    const pg::PinnedSettings settings;
    skip(extension, Job::kReconcile, "it is already running");
    spi.commit();
    return;
  }
  std::int64_t run_id = 0;
  const std::string request_id = new_request_id();
  {
    const pg::PinnedSettings settings;
    fail_dead_runs(extension);
    run_id = start_run(extension, Job::kReconcile, request_id);
  }
  // Taken before the row can be seen: a visible run without its lock counts as dead.
  const SessionLock run_lock(pg::JobLock::for_run(run_id));
  spi.commit();

  Reconciliation result;
  std::optional<Failure> failure;
  {
    const pg::PinnedSettings settings;
    failure = attempt([&] {
      result = reconcile(extension, run_id, arguments.recheck_after_us.value_or(0));
      conclude(extension, result, request_id);
    });
    if (failure) {
      finish_run(extension, run_id, {RunStatus::kFailed, "{}", failure->text});
      pg::log_line(pg::LogLevel::kError, "reconciliation failed",
                   core::JsonObject().number("run_id", run_id).text("error", failure->text).str(),
                   request_id);
    }
    prune_history(extension);
  }
  try {
    spi.commit();
  } catch (const pg::Error& e) {
    // Everything since the start of the run is undone, and the next transaction has begun.
    finish_run(extension, run_id, {RunStatus::kFailed, "{}", e.summary()});
    spi.commit();
    throw;
  }
  if (failure) {
    std::rethrow_exception(failure->error);
  }
  if (result.discrepancies > 0) {
    throw core::Error(core::sqlstate::kRaiseException, summary(result),
                      "By kind: " + result.kinds + "." +
                          (result.report_path.empty() ? "" : " Report: " + result.report_path),
                      "SELECT * FROM bacmr_discrepancy WHERE run_id = " + std::to_string(run_id));
  }
}

void run_expire(pg::Spi& spi, const pg::Extension& extension, const Arguments& arguments) {
  const std::int64_t started_at = GetCurrentTimestamp();
  const std::string request_id = new_request_id();
  ExpiryTick tick(extension, request_id, arguments.max_reservations, Deferred::kWithBatch);
  std::optional<Failure> failure;
  Pacing pacing;
  for (bool more = true; more && !failure;) {
    pacing.begin();
    failure = attempt([&] {
      // Who pauses in the middle of a backlog means now.
      more = !is_paused(extension, Job::kExpire) && tick.step();
    });
    try {
      spi.commit();
      tick.confirm();
    } catch (const pg::Error& e) {
      // A commit that fails has rolled back and begun the next transaction.
      failure = Failure{e.summary(), std::current_exception()};
    }
    if (more && !failure) {
      pacing.rest();
    }
  }
  RunResult result = run_result(tick.totals());
  if (failure) {
    result.status = RunStatus::kFailed;
    result.error = failure->text;
  }
  std::int64_t run_id = 0;
  if (tick.totals().did_something() || failure) {
    const pg::PinnedSettings settings;
    run_id = record_run(extension, Job::kExpire, request_id, started_at, result);
    prune_history(extension);
  }
  spi.commit();
  if (failure) {
    std::rethrow_exception(failure->error);
  }
  if (result.error) {
    throw core::Error(core::sqlstate::kRaiseException, *result.error, {},
                      "The others have been expired. SELECT * FROM bacmr_job_run WHERE run_id = " +
                          std::to_string(run_id));
  }
}

Datum run_job(pg::Args args) {
  pg::require_commit_allowed(args.fcinfo(), "bacmr_run_job");
  const Job job = parse_job(args.text(0, "job"));
  const std::string json = args.json(1).value_or("{}");
  const Arguments arguments = parse_arguments(job, json);
  pg::Spi spi(pg::Spi::Commit::kAllowed);
  const pg::Extension extension = pg::require_extension();
  std::optional<std::string> paused;
  {
    const pg::PinnedSettings settings;
    sources::settle_identity(extension);
    paused = pause_reason(extension, name_of(job));
    if (paused) {
      skip(extension, job, "it is paused: " + *paused);
    }
  }
  spi.commit();
  if (paused) {
    return pg::void_result();
  }
  if (job == Job::kReconcile) {
    run_reconcile(spi, extension, arguments);
  } else {
    run_expire(spi, extension, arguments);
  }
  return pg::void_result();
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_run_job, jobs::run_job);
