#include "pg/postgres.hpp"

#include "worker/launcher.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/backoff.hpp"
#include "metrics/registry.hpp"
#include "pg/background_worker.hpp"
#include "pg/entry.hpp"
#include "pg/guard.hpp"
#include "pg/log.hpp"
#include "pg/settings.hpp"
#include "pg/transaction_end.hpp"
#include "pg/utility_hook.hpp"
#include "pg/wait.hpp"
#include "worker/databases.hpp"
#include "worker/shared.hpp"

extern "C" {
#include "common/pg_prng.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
}

namespace worker {
namespace {

// How often the list of databases is read: CREATE DATABASE … TEMPLATE tells nobody.
constexpr std::int64_t kLookAgainMs = 10'000;
constexpr std::int64_t kSettlingMs = 100;
// Workers that have not yet said whether their database has the extension, at a time: after a start
// with many databases the worker slots of the server must not all be taken.
constexpr int kMaxUnconfirmed = 2;
constexpr std::chrono::seconds kFirstBackoff{1};
constexpr std::chrono::minutes kLongestBackoff{5};
constexpr int kLauncherRestartSeconds = 5;
constexpr const char* kNoSlot =
    "no background worker slot is free: raise max_worker_processes and restart";
constexpr std::chrono::minutes kRepeatAfter{10};

// Back-offs: a wall clock that is set back must not make them last longer.
using Clock = std::chrono::steady_clock;

// How long it is until then, rounded up; not above 0 when it is over.
std::int64_t ms_until(Clock::time_point then) {
  return std::chrono::ceil<std::chrono::milliseconds>(then - Clock::now()).count();
}

// A worker that was started, or is to be started again later.
struct Charge {
  BackgroundWorkerHandle* handle = nullptr;  // nullptr: none is running
  bool without_extension = false;            // looked, found none
  bool without_slot = false;                 // the server had no room for it
  core::Backoff backoff{kFirstBackoff, kLongestBackoff};
  Clock::time_point not_before{};
  Clock::time_point started_at{};
};

class Launcher {
 public:
  [[noreturn]] void run() {
    for (;;) {
      reload();
      shared::drop_stale_holds();
      if (shared::take_all_changed()) {
        for (auto& [database, charge] : charges_) {
          charge.without_extension = false;
        }
      }
      while (const auto changed = shared::take_changed()) {
        charges_[*changed].without_extension = false;
        charges_[*changed].not_before = {};
      }
      const std::int64_t rest = look_after_endpoint();
      pg::wait_for_latch(std::min(rest, look_after(read_databases())));
    }
  }

 private:
  void reload() {
    if (ConfigReloadPending) {
      ConfigReloadPending = false;
      pg::call([] { ProcessConfigFile(PGC_SIGHUP); });
      // What was wrong may be right now.
      endpoint_.backoff.reset();
      endpoint_.not_before = {};
    }
  }

  // Starts what is missing; returns how long there is nothing to do, in milliseconds.
  std::int64_t look_after(const std::vector<Database>& databases) {
    std::int64_t rest = kLookAgainMs;
    std::set<Oid> present;
    int unconfirmed = 0;
    for (const Database& database : databases) {
      present.insert(database.oid);
      Charge& charge = charges_[database.oid];
      settle(charge, database.oid);
      if (charge.handle != nullptr && !is_confirmed(database.oid)) {
        ++unconfirmed;
      }
    }
    metrics::forget_databases_except(present);
    std::erase_if(charges_, [&](const auto& entry) {
      return !present.contains(entry.first) && entry.second.handle == nullptr;
    });
    for (const Database& database : databases) {
      Charge& charge = charges_[database.oid];
      if (!database.connectable || charge.handle != nullptr || charge.without_extension ||
          !pg::settings::worker_enabled() || !pg::settings::works_on(database.name) ||
          shared::is_held(database.oid) || is_served(database.oid)) {
        continue;
      }
      if (const std::int64_t wait = ms_until(charge.not_before); wait > 0) {
        rest = std::min(rest, wait);
      } else if (unconfirmed < kMaxUnconfirmed) {
        unconfirmed += start(charge, database) ? 1 : 0;
      }
    }
    report_shortage();
    // A worker says that it has settled in shared memory, not by a signal.
    return unconfirmed > 0 ? std::min(rest, kSettlingMs) : rest;
  }

  // One process for the whole server; it ends by itself when the setting changes.
  // Returns how long there is nothing to do for it, in milliseconds.
  std::int64_t look_after_endpoint() {
    if (endpoint_.handle != nullptr) {
      pid_t pid = 0;
      if (GetBackgroundWorkerPid(endpoint_.handle, &pid) != BGWH_STOPPED) {
        return kLookAgainMs;
      }
      pfree(endpoint_.handle);
      endpoint_.handle = nullptr;
      back_off(endpoint_);
    }
    if (pg::settings::metrics_listen().empty()) {
      return kLookAgainMs;
    }
    if (const std::int64_t wait = ms_until(endpoint_.not_before); wait > 0) {
      return std::min(kLookAgainMs, wait);
    }
    start(endpoint_, pg::describe_worker("bacmr_endpoint_main", "bacmr_ops endpoint",
                                         "bacmr_ops metrics endpoint",
                                         BgWorkerStart_RecoveryFinished, static_cast<Datum>(0)));
    return kLookAgainMs;
  }

  // Says that slots are short when that begins, and again now and then while it lasts.
  void report_shortage() {
    const bool shortage =
        endpoint_.without_slot ||
        std::ranges::any_of(charges_, [](const auto& entry) { return entry.second.without_slot; });
    shared::set_start_problem(shortage ? kNoSlot : "");
    if (shortage && Clock::now() >= shortage_report_due_) {
      pg::log_line(pg::LogLevel::kWarning, std::string("a worker cannot start: ") + kNoSlot);
      shortage_report_due_ = Clock::now() + kRepeatAfter;
    }
  }

  // A worker is confirmed once it has looked around and does its rounds.
  static bool is_confirmed(Oid database) {
    const auto slot = shared::view(database);
    return slot && slot->pid != 0 && slot->state != State::kStarting;
  }

  // A launcher before this one has started it; there is no handle, but it will show when it is
  // gone.
  static bool is_served(Oid database) {
    const auto slot = shared::view(database);
    return slot && slot->pid != 0;
  }

  // Notices that a worker has ended, and decides when the next may start.
  static void settle(Charge& charge, Oid database) {
    pid_t pid = 0;
    if (charge.handle == nullptr || GetBackgroundWorkerPid(charge.handle, &pid) != BGWH_STOPPED) {
      return;
    }
    pfree(charge.handle);
    charge.handle = nullptr;
    switch (shared::take_departure(database)) {
      case Departure::kNoExtension:
        charge.without_extension = true;
        break;
      case Departure::kAsked:
        charge.backoff.reset();
        break;
      case Departure::kNone:
        back_off(charge);
        break;
    }
  }

  static void back_off(Charge& charge) {
    // One that ran for long did not fail for the same reason as the one before.
    if (Clock::now() - charge.started_at > kLongestBackoff) {
      charge.backoff.reset();
    }
    charge.not_before = Clock::now() + charge.backoff.next(pg_prng_uint32(&pg_global_prng_state));
  }

  static bool start(Charge& charge, const Database& database) {
    return start(charge, pg::describe_worker("bacmr_worker_main", "bacmr_ops worker",
                                             "bacmr_ops worker for " + database.name,
                                             BgWorkerStart_RecoveryFinished,
                                             ObjectIdGetDatum(database.oid)));
  }

  static bool start(Charge& charge, BackgroundWorker worker) {
    worker.bgw_notify_pid = MyProcPid;
    const bool started =
        pg::call([&] { return RegisterDynamicBackgroundWorker(&worker, &charge.handle); });
    charge.without_slot = !started;
    if (started) {
      charge.started_at = Clock::now();
    } else {
      charge.handle = nullptr;
      back_off(charge);
    }
    return started;
  }

  std::map<Oid, Charge> charges_;
  Charge endpoint_;
  Clock::time_point shortage_report_due_{};
};

void launcher_main() {
  pg::call([] {
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    // No database of its own: the shared catalogs are enough, and it is in nobody's way.
    BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
    before_shmem_exit([](int, Datum) { shared::set_launcher(0); }, static_cast<Datum>(0));
    pgstat_report_appname("bacmr_ops launcher");
  });
  shared::set_launcher(MyProcPid);
  Launcher().run();
}

void register_launcher() {
  // On a standby it starts with the promotion.
  BackgroundWorker worker =
      pg::describe_worker("bacmr_launcher_main", "bacmr_ops launcher", "bacmr_ops launcher",
                          BgWorkerStart_RecoveryFinished, static_cast<Datum>(0));
  worker.bgw_restart_time = kLauncherRestartSeconds;
  RegisterBackgroundWorker(&worker);
}

bool is_up(Oid database) {
  const auto slot = shared::view(database);
  return slot && slot->pid != 0 && slot->state != State::kStarting;
}

}  // namespace

void install() {
  shared::install();
  metrics::set_worker_probe(is_up);
  pg::set_wake(shared::wake);
  pg::set_release(shared::unhold_all);
  pg::watch_utility({shared::hold, pg::wake_worker_at_commit});
  // pg_upgrade starts servers to read what is there, and to make what will be replaced.
  if (!IsBinaryUpgrade) {
    register_launcher();
  }
}

}  // namespace worker

extern "C" {
PGDLLEXPORT void bacmr_launcher_main(Datum argument);
void bacmr_launcher_main(Datum) {
  pg::from_postgres([] { worker::launcher_main(); });
}
}
