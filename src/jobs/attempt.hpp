// What the procedures that commit have in common: a session's lock, and work whose failure is kept
// until the book-keeping is done.
#pragma once

#include "pg/postgres.hpp"

#include "core/error.hpp"
#include "jobs/job_run.hpp"
#include "pg/lock.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"

#include <cstdint>
#include <exception>
#include <functional>
#include <new>
#include <optional>
#include <string>

namespace jobs {

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
  } catch (const std::bad_alloc&) {
    return Failure{"out of memory", std::current_exception()};
  } catch (const std::exception& e) {
    return Failure{e.what(), std::current_exception()};
  }
}

// A cancel or a shutdown, which nobody tries again after.
bool is_interrupt(const Failure& failure);

// Deletes old runs. That they cannot be deleted is logged, and takes nothing back of the run that
// is under way: procedures call it when that is committed.
void tidy_history(const pg::Extension& extension, const std::string& request_id);

// A run of a job whose row is committed as `running` before anything is done. Where another run of
// the job is under way, it records a skipped run and does nothing.
class RecordedRun {
 public:
  RecordedRun(pg::Spi& spi, const pg::Extension& extension, Job job);

  bool begun() const { return run_lock_.has_value(); }
  std::int64_t id() const { return run_id_; }
  const std::string& request_id() const { return request_id_; }

  // Does `work`, which finishes the run's row by itself, and commits. A failure is recorded, and
  // then raised.
  void perform(const std::function<void()>& work);
  // Records the failure, commits and raises it. `detail`: what was done until then, as JSON.
  [[noreturn]] void fail(const Failure& failure, const std::string& detail = "{}");
  // Commits; where that fails the run's row says so, and the error is raised.
  void commit();

 private:
  void record_failure(const std::string& text, const std::string& detail);

  pg::Spi& spi_;
  const pg::Extension& extension_;
  Job job_;
  SessionLock job_lock_;
  std::int64_t run_id_ = 0;
  std::string request_id_;
  std::optional<SessionLock> run_lock_;
};

// A row for a run that does not take place, and a NOTICE that says why.
void skip_run(const pg::Extension& extension, Job job, const std::string& reason);

}  // namespace jobs
