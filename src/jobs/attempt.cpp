#include "pg/postgres.hpp"

#include "jobs/attempt.hpp"

#include "core/json.hpp"
#include "pg/log.hpp"
#include "pg/security.hpp"

extern "C" {
#include "utils/timestamp.h"
}

namespace jobs {

bool is_interrupt(const Failure& failure) {
  try {
    std::rethrow_exception(failure.error);
  } catch (const pg::Error& e) {
    return e.is_interrupt();
  } catch (...) {
    return false;
  }
}

void tidy_history(const pg::Extension& extension, const std::string& request_id) {
  const auto failure = attempt([&] {
    const pg::PinnedSettings settings;
    prune_history(extension);
  });
  if (!failure) {
    return;
  }
  if (is_interrupt(*failure)) {
    std::rethrow_exception(failure->error);
  }
  pg::log_line(pg::LogLevel::kWarning, "old job runs could not be deleted",
               core::JsonObject().text("error", failure->text).str(), request_id);
}

void skip_run(const pg::Extension& extension, Job job, const std::string& reason) {
  record_run(extension, job, new_request_id(), GetCurrentTimestamp(),
             {RunStatus::kSkipped, core::JsonObject().text("reason", reason).str(), std::nullopt});
  pg::notice_client(std::string("the job \"") + name_of(job) + "\" was skipped: " + reason);
}

RecordedRun::RecordedRun(pg::Spi& spi, const pg::Extension& extension, Job job)
    : spi_(spi), extension_(extension), job_(job), job_lock_(lock_of(job)) {
  {
    const pg::PinnedSettings settings;
    if (!job_lock_.held()) {
      skip_run(extension_, job_, "it is already running");
    } else {
      request_id_ = new_request_id();
      fail_dead_runs(extension_);
      run_id_ = start_run(extension_, job_, request_id_);
    }
  }
  if (job_lock_.held()) {
    // Taken before the row can be seen: a visible run without its lock counts as dead.
    run_lock_.emplace(pg::JobLock::for_run(run_id_));
  }
  spi_.commit();
}

// In a subtransaction: what follows goes on in this transaction. Where not even this can be
// written, on a full disk for instance, the log has it, and the next run marks this one as failed:
// its lock is free.
void RecordedRun::record_failure(const std::string& text, const std::string& detail) {
  const auto lost = attempt([&] {
    const pg::PinnedSettings settings;
    finish_run(extension_, run_id_, {RunStatus::kFailed, detail, text});
  });
  core::JsonObject fields;
  fields.number("run_id", run_id_).text("error", text);
  if (lost) {
    fields.text("not_recorded", lost->text);
  }
  pg::log_line(pg::LogLevel::kError, std::string("the job ") + name_of(job_) + " failed",
               fields.str(), request_id_);
}

void RecordedRun::commit() {
  try {
    spi_.commit();
  } catch (const pg::Error& e) {
    // Everything since the last commit is undone, and the next transaction has begun.
    record_failure(e.summary(), "{}");
    spi_.commit();
    throw;
  }
}

void RecordedRun::fail(const Failure& failure, const std::string& detail) {
  record_failure(failure.text, detail);
  commit();
  tidy_history(extension_, request_id_);
  spi_.commit();
  std::rethrow_exception(failure.error);
}

void RecordedRun::perform(const std::function<void()>& work) {
  std::optional<Failure> failure;
  {
    const pg::PinnedSettings settings;
    failure = attempt(work);
  }
  if (failure) {
    fail(*failure);
  }
  commit();
  tidy_history(extension_, request_id_);
  spi_.commit();
}

}  // namespace jobs
