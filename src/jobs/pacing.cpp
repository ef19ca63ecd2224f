#include "jobs/pacing.hpp"

#include <unistd.h>

#include <algorithm>

#include "pg/compat.hpp"
#include "pg/guard.hpp"
#include "pg/wait.hpp"

extern "C" {
#include "utils/backend_status.h"
}

namespace jobs {
namespace {

constexpr int kRestFactor = 19;
constexpr std::chrono::seconds kLongestRest{1};

// Client sessions that run a command at this moment, this one left out.
int busy_sessions() {
  return pg::call([] {
    pgstat_clear_backend_activity_snapshot();
    int busy = 0;
    for (int i = 1; i <= pgstat_fetch_stat_numbackends(); ++i) {
      const PgBackendStatus& session = pg::session_status(i);
      busy += session.st_backendType == B_BACKEND && session.st_state == STATE_RUNNING &&
                      session.st_procpid != MyProcPid
                  ? 1
                  : 0;
    }
    return busy;
  });
}

bool machine_is_busy() {
  static const long processors = ::sysconf(_SC_NPROCESSORS_ONLN);
  return busy_sessions() >= processors;
}

}  // namespace

void Pacing::begin() { began_ = Clock::now(); }

void Pacing::rest() const {
  if (machine_is_busy()) {
    const auto rest =
        std::min<Clock::duration>((Clock::now() - began_) * kRestFactor, kLongestRest);
    pg::wait_interruptibly(std::chrono::duration_cast<std::chrono::microseconds>(rest).count());
  }
}

}  // namespace jobs
