// Locks on jobs and on job runs. They are locks on objects that do not exist, not advisory ones:
// pg_advisory_unlock_all() in a trigger would take those away. They end with the process that holds
// them, and show in pg_locks.
#pragma once

#include "pg/postgres.hpp"

#include <cstdint>
#include <string>

namespace pg {

// For the setting lock_timeout of our own work beside the application's: `limit_ms`, but half of
// deadlock_timeout at the most. Should somebody wait for us while we wait for them, our wait ends
// before their own look for deadlocks could end their transaction.
std::string yielding_lock_timeout(int limit_ms);

// Who holds it: this transaction, or this session across commits.
enum class LockSpan { kTransaction, kSession };

class JobLock {
 public:
  // One lock a job and database: `job` is a small number of the job's.
  static JobLock for_job(std::uint32_t job);
  // One lock a run and database: held while the run's process lives.
  static JobLock for_run(std::int64_t run_id);
  // One lock a reindex job: held by the one process that works on it.
  static JobLock for_reindex(std::int64_t job_id);

  // Waits for it, to the end of the transaction. What others have committed under it is seen then,
  // in the catalogue too.
  void acquire() const;
  // Never waits. With kSession, pair it with release().
  bool try_acquire(LockSpan span) const;
  void release() const;  // of kSession

 private:
  JobLock(std::uint16_t kind, std::uint64_t number) : kind_(kind), number_(number) {}
  std::uint16_t kind_;
  std::uint64_t number_;
};

}  // namespace pg
