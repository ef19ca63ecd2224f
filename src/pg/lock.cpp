#include "pg/lock.hpp"

#include <algorithm>

#include "pg/compat.hpp"
#include "pg/guard.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/inval.h"
}

namespace pg {
namespace {

// The last field of the tag (objsubid in pg_locks), which the server's own locks on objects leave
// at 0; the view bacmr_status knows these numbers.
constexpr std::uint16_t kJob = 16970;      // "BJ"
constexpr std::uint16_t kRun = 16978;      // "BR"
constexpr std::uint16_t kReindex = 16984;  // "BX"

LOCKTAG make_tag(std::uint16_t kind, std::uint64_t number) {
  LOCKTAG tag;
  SET_LOCKTAG_OBJECT(tag, MyDatabaseId, static_cast<std::uint32_t>(number >> 32),
                     static_cast<std::uint32_t>(number), kind);
  return tag;
}

}  // namespace

std::string yielding_lock_timeout(int limit_ms) {
  return std::to_string(std::max(1, std::min(limit_ms, DeadlockTimeout / 2)));
}

JobLock JobLock::for_job(std::uint32_t job) { return {kJob, job}; }

JobLock JobLock::for_run(std::int64_t run_id) { return {kRun, static_cast<std::uint64_t>(run_id)}; }

JobLock JobLock::for_reindex(std::int64_t job_id) {
  return {kReindex, static_cast<std::uint64_t>(job_id)};
}

void JobLock::acquire() const {
  call([&] {
    const LOCKTAG tag = make_tag(kind_, number_);
    LockAcquire(&tag, ExclusiveLock, false, false);
    AcceptInvalidationMessages();
  });
}

bool JobLock::try_acquire(LockSpan span) const {
  return call([&] {
    PreventCommandDuringRecovery("a job of bacmr_ops");
    const LOCKTAG tag = make_tag(kind_, number_);
    return LockAcquire(&tag, ExclusiveLock, span == LockSpan::kSession, true) !=
           LOCKACQUIRE_NOT_AVAIL;
  });
}

void JobLock::release() const {
  call([&] {
    const LOCKTAG tag = make_tag(kind_, number_);
    // An abort of the whole transaction has released it already.
    if (holds_lock(tag, ExclusiveLock)) {
      LockRelease(&tag, ExclusiveLock, true);
    }
  });
}

}  // namespace pg
