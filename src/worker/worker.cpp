// The worker of one database: expires reservations when they fall due.
#include "pg/postgres.hpp"

#include <algorithm>
#include <chrono>
#include <initializer_list>
#include <new>
#include <optional>
#include <string>
#include <string_view>

#include "core/backoff.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/attempt.hpp"
#include "jobs/expire.hpp"
#include "jobs/gauges.hpp"
#include "jobs/job_run.hpp"
#include "jobs/pacing.hpp"
#include "jobs/pause.hpp"
#include "jobs/reindex_changes.hpp"
#include "jobs/reindex_job.hpp"
#include "metrics/at_commit.hpp"
#include "pg/background_worker.hpp"
#include "pg/entry.hpp"
#include "pg/lock.hpp"
#include "pg/log.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"
#include "pg/wait.hpp"
#include "pg/worker_transaction.hpp"
#include "sources/identity.hpp"
#include "sources/source.hpp"
#include "worker/shared.hpp"

extern "C" {
#include "commands/dbcommands.h"
#include "common/pg_prng.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
}

namespace worker {
namespace {

using std::chrono::microseconds;
using std::chrono::seconds;

// What is done when: a wall clock that is set back must not put the work off.
using Clock = std::chrono::steady_clock;

// Two ticks are never closer than this.
constexpr seconds kShortestRest{1};
// Nobody's forgotten transaction may hold up the book-keeping, and with it everything else.
constexpr int kLockTimeoutMs = 1000;
// Gauges are at most this old, a scrape interval; or a hundred times what it takes to read them.
constexpr seconds kRefreshEvery{10};
constexpr int kRefreshFactor = 100;
// Finished runs are pruned this often.
constexpr std::chrono::hours kPruneEvery{1};

void yield_locks(pg::PinnedSettings& settings) {
  settings.set("lock_timeout", pg::yielding_lock_timeout(kLockTimeoutMs).c_str());
}

[[noreturn]] void leave(Departure departure) {
  shared::set_departure(departure);
  proc_exit(0);
}

// What the worker finds at the beginning of a tick.
struct Situation {
  pg::Extension extension;
  State state = State::kIdle;    // kIdle: there is work to look for
  std::string obstacle;          // kUnfit: why nothing can be expired
  bool other_version = false;    // nor anything else: library and SQL objects do not fit
  Oid table_owner = InvalidOid;  // of the reservations, where they are attached
};

// That nothing can be written into the history, on a full disk for instance, is no reason to leave
// the reservations as they are.
void note_dead_runs(const pg::Extension& extension) {
  const auto failure = jobs::attempt([&] { jobs::fail_dead_runs(extension); });
  if (!failure) {
    return;
  }
  if (jobs::is_interrupt(*failure)) {
    std::rethrow_exception(failure->error);
  }
  pg::log_line(pg::LogLevel::kWarning, "runs whose process is gone could not be marked as failed",
               core::JsonObject().text("error", failure->text).str());
}

Situation look_around() {
  pg::WorkerTransaction transaction;
  const auto extension = pg::find_extension();
  if (!extension) {
    transaction.commit();
    metrics::forget_this_database();
    leave(Departure::kNoExtension);
  }
  Situation result;
  result.extension = *extension;
  if (const auto problem = pg::version_problem(*extension)) {
    result.state = State::kUnfit;
    result.obstacle = problem->finding + ". " + problem->hint;
    result.other_version = true;
    transaction.commit();
    return result;
  }
  {
    pg::PinnedSettings settings;
    yield_locks(settings);
    sources::settle_identity(*extension);
    note_dead_runs(*extension);
    const sources::Sources all = sources::Sources::load(*extension);
    const sources::Source* reservations = all.find("reservations");
    if (reservations != nullptr) {
      result.table_owner = reservations->owner;
    }
    if (jobs::pause_reason(*extension, "expire")) {
      result.state = State::kPaused;
    } else if (reservations == nullptr) {
      result.state = State::kUnattached;
    } else if (result.obstacle = jobs::expiry_obstacle(all); !result.obstacle.empty()) {
      result.state = State::kUnfit;
    }
  }
  transaction.commit();
  return result;
}

void record(const Situation& situation, const std::string& request_id, std::int64_t started_at,
            const jobs::RunResult& result, const jobs::ExpiryTotals& totals) {
  pg::WorkerTransaction transaction;
  std::int64_t run_id = 0;
  {
    pg::PinnedSettings settings;
    yield_locks(settings);
    run_id =
        jobs::record_run(situation.extension, jobs::Job::kExpire, request_id, started_at, result);
  }
  transaction.commit();
  core::JsonObject fields;
  fields.number("run_id", run_id).raw("totals", totals.detail());
  if (result.error) {
    fields.text("error", *result.error);
  }
  pg::log_line(result.error ? pg::LogLevel::kError : pg::LogLevel::kInfo,
               result.error ? "reservation expiry failed" : "reservations expired", fields.str(),
               request_id);
}

class Worker {
 public:
  [[noreturn]] void run() {
    State state = State::kStarting;
    Clock::time_point next{};
    for (;;) {
      if (const Clock::time_point began = Clock::now(); began >= next) {
        state = tick_or_fail(next);
        next = std::max(next, began + kShortestRest);
      }
      refresh_gauges();
      rest(state, next);
    }
  }

 private:
  static std::int64_t in_us(Clock::duration duration) {
    return std::chrono::duration_cast<microseconds>(duration).count();
  }

  static seconds interval() { return seconds(pg::settings::expire_interval_s()); }

  State tick_or_fail(Clock::time_point& next) {
    next = Clock::now() + interval();
    try {
      const State state = tick(next);
      if (state != State::kBackingOff) {
        failures_.reset();
      }
      return state;
    } catch (const pg::Error& e) {
      next = after_failure(e.sqlstate(), e.summary());
    } catch (const core::Error& e) {
      next = after_failure(e.sqlstate(), e.message());
    } catch (const std::bad_alloc&) {
      next = after_failure(core::sqlstate::kOutOfMemory, "out of memory");
    }
    return State::kBackingOff;
  }

  // So that a scrape reads no table, and needs no right to. Counting the open reservations may take
  // long: it has a hundredth of one processor at the most.
  void refresh_gauges() {
    const Clock::time_point began = Clock::now();
    if (began < gauges_due_) {
      return;
    }
    gauges_due_ = began + kRefreshEvery;
    if (!situation_) {
      return;  // the first tick failed
    }
    begin_work();
    try {
      {
        pg::WorkerTransaction transaction;
        {
          pg::PinnedSettings settings;
          yield_locks(settings);
          jobs::publish_findings(situation_->extension);
          jobs::publish_last_success(situation_->extension);
          jobs::publish_exports(situation_->extension);
        }
        transaction.commit();
      }
      if (OidIsValid(situation_->table_owner)) {
        pg::WorkerTransaction transaction(situation_->table_owner);
        {
          pg::PinnedSettings settings;
          yield_locks(settings);
          jobs::publish_reservations(situation_->extension);
        }
        transaction.commit();
      } else {
        metrics::forget(metrics::Metric::kActiveReservations);
        metrics::forget(metrics::Metric::kStaleReservations);
      }
    } catch (const pg::Error& e) {
      pg::log_line(pg::LogLevel::kDebug, "gauges could not be refreshed",
                   core::JsonObject().text("error", e.summary()).str());
    } catch (const core::Error& e) {
      pg::log_line(pg::LogLevel::kDebug, "gauges could not be refreshed",
                   core::JsonObject().text("error", e.message()).str());
    } catch (const std::bad_alloc&) {
      pg::log_line(pg::LogLevel::kDebug, "gauges could not be refreshed: out of memory");
    }
    const Clock::time_point now = Clock::now();
    gauges_due_ = now + std::max<Clock::duration>(kRefreshEvery, (now - began) * kRefreshFactor);
  }

  // Counters that begin at 0: the first increase would otherwise show as no increase.
  static void begin_counters() {
    const auto begin = [](metrics::Metric metric, std::initializer_list<std::string_view> labels) {
      metrics::record_at_commit(metric, labels, metrics::Change::kAdd, 0);
    };
    pg::WorkerTransaction transaction;
    begin(metrics::Metric::kWalletReservations, {"expired"});
    begin(metrics::Metric::kExpiredReservations, {});
    begin(metrics::Metric::kRefundedTokens, {});
    begin(metrics::Metric::kSeriesDropped, {});
    for (const jobs::Job job : {jobs::Job::kReconcile, jobs::Job::kExpire}) {
      for (const jobs::RunStatus status : {jobs::RunStatus::kSucceeded, jobs::RunStatus::kFailed}) {
        begin(metrics::Metric::kJobRuns, {jobs::name_of(job), jobs::name_of(status)});
      }
    }
    transaction.commit();
  }

  Clock::time_point retry_at() {
    const Clock::duration delay = failures_.next(pg_prng_uint32(&pg_global_prng_state));
    return Clock::now() + std::min<Clock::duration>(delay, interval());
  }

  // The tick itself broke off: a lock that took too long, a table that is gone, a right that is
  // missing. Its transaction has been rolled back.
  Clock::time_point after_failure(const std::string& sqlstate, const std::string& message) {
    pg::log_line(pg::LogLevel::kError, "reservation expiry failed",
                 core::JsonObject().text("sqlstate", sqlstate).text("error", message).str());
    shared::publish_tick(GetCurrentTimestamp(), false, message);
    return retry_at();
  }

  // One round; `next` is when the next one is due.
  State tick(Clock::time_point& next) {
    begin_work();
    const Situation situation = look_around();
    if (situation.other_version) {
      // Its tables are not touched. ALTER EXTENSION wakes this worker, a restart ends it.
      situation_.reset();
      report_obstacle(situation.obstacle);
      shared::publish_tick(GetCurrentTimestamp(), false, situation.obstacle);
      return situation.state;
    }
    situation_ = situation;
    if (!counters_begun_) {
      begin_counters();
      counters_begun_ = true;
    }
    start_reindexer(situation.extension);
    if (situation.state != State::kIdle) {
      report_obstacle(situation.obstacle);
      shared::publish_tick(GetCurrentTimestamp(), false, situation.obstacle);
      prune(situation.extension);
      return situation.state;
    }
    report_obstacle("");
    pg::call([] { pgstat_report_activity(STATE_RUNNING, "expiring reservations"); });
    const Clock::time_point began = Clock::now();
    const std::int64_t started_at = GetCurrentTimestamp();
    std::string request_id;
    std::optional<jobs::ExpiryTick> tick;
    jobs::RunResult result;
    bool asked_to_leave = false;
    try {
      jobs::Pacing pacing;
      for (bool more = true; more && !asked_to_leave;) {
        pacing.begin();
        pg::WorkerTransaction transaction(situation.table_owner);
        // Who pauses in the middle of a backlog means now.
        if (tick && jobs::pause_reason(situation.extension, "expire")) {
          transaction.commit();
          break;
        }
        if (!tick) {
          request_id = jobs::new_request_id();
          tick.emplace(situation.extension, request_id, std::nullopt, jobs::Deferred::kWithBatch);
        }
        more = tick->step();
        transaction.commit();
        tick->confirm();
        asked_to_leave = shared::must_leave() || reload_ends_work();
        if (more && !asked_to_leave) {
          pacing.rest();
        }
      }
      result = jobs::run_result(tick->totals());
    } catch (const pg::Error& e) {
      if (e.is_interrupt()) {
        throw;
      }
      result = {jobs::RunStatus::kFailed, "{}", e.summary()};
    } catch (const core::Error& e) {
      result = {jobs::RunStatus::kFailed, "{}", e.message()};
    } catch (const std::bad_alloc&) {
      // The batches before are committed: their run has to say so.
      result = {jobs::RunStatus::kFailed, "{}", "out of memory"};
    }
    const jobs::ExpiryTotals totals = tick ? tick->totals() : jobs::ExpiryTotals();
    result.detail = totals.detail();
    if (totals.did_something() || result.error) {
      record(situation, request_id, started_at, result, totals);
    }
    shared::publish_tick(started_at, totals.expired > 0, result.error.value_or(""));
    if (asked_to_leave) {
      leave(Departure::kAsked);
    }
    if (result.error) {
      next = retry_at();
      return State::kBackingOff;
    }
    note_success();
    next = next_tick(situation, totals, began, started_at);
    prune(situation.extension);
    return State::kIdle;
  }

  // A process of its own: a service that is slow must not make the reservations wait.
  void start_reindexer(const pg::Extension& extension) {
    if (shared::has_reindexer() || Clock::now() < reindexer_due_) {
      return;
    }
    bool wanted = false;
    {
      pg::WorkerTransaction transaction;
      {
        pg::PinnedSettings settings;
        yield_locks(settings);
        jobs::retire_foreign_jobs(extension);
        wanted = !jobs::pause_reason(extension, "reindex") && jobs::has_reindex_work(extension);
      }
      transaction.commit();
    }
    if (!wanted) {
      reindexer_rest_.reset();
      return;
    }
    BackgroundWorker process =
        pg::describe_worker("bacmr_reindex_main", "bacmr_ops reindex",
                            "bacmr_ops reindex of database " + std::to_string(MyDatabaseId),
                            BgWorkerStart_RecoveryFinished, ObjectIdGetDatum(MyDatabaseId));
    if (!pg::call([&] { return RegisterDynamicBackgroundWorker(&process, nullptr); })) {
      pg::log_line(pg::LogLevel::kWarning,
                   "no background worker slot is free for a reindex job: raise "
                   "max_worker_processes and restart");
    }
    // One that ran for long did not end for the same reason as the one before.
    const Clock::time_point now = Clock::now();
    if (now - reindexer_started_ > std::chrono::minutes(1)) {
      reindexer_rest_.reset();
    }
    reindexer_started_ = now;
    reindexer_due_ = now + reindexer_rest_.next(pg_prng_uint32(&pg_global_prng_state));
  }

  // A tick that found nothing due leaves no run, but it worked.
  static void note_success() {
    constexpr double kMicro = 1e-6;
    constexpr std::int64_t kEpochGap =
        (std::int64_t{POSTGRES_EPOCH_JDATE} - UNIX_EPOCH_JDATE) * SECS_PER_DAY;
    metrics::LabelValues labels;
    if (labels.add(jobs::name_of(jobs::Job::kExpire))) {
      metrics::record(
          metrics::Metric::kJobLastSuccess, labels, metrics::Change::kSet,
          static_cast<double>(GetCurrentTimestamp()) * kMicro + static_cast<double>(kEpochGap));
    }
  }

  // `began` and `now`: the beginning of the tick, by both clocks.
  Clock::time_point next_tick(const Situation& situation, const jobs::ExpiryTotals& totals,
                              Clock::time_point began, std::int64_t now) {
    // The interval bounds how far a reservation's time is trusted: the wall clock may be set.
    Clock::duration rest = interval();
    pg::WorkerTransaction transaction(situation.table_owner);
    if (const auto due = jobs::next_due(situation.extension, now)) {
      const std::int64_t most = microseconds(interval()).count();
      rest = std::min<Clock::duration>(
          rest, microseconds(*due < now + most ? std::max<std::int64_t>(*due - now, 0) : most));
    }
    transaction.commit();
    if (totals.locked > 0) {
      // Somebody held these for a moment: try again soon, then less and less often.
      rest = std::min<Clock::duration>(rest, held_.next(pg_prng_uint32(&pg_global_prng_state)));
    } else {
      held_.reset();
    }
    return began + rest;
  }

  // After the work, never before: what is old can wait, and must not make the reservations wait.
  void prune(const pg::Extension& extension) {
    if (Clock::now() < prune_due_) {
      return;
    }
    prune_due_ = Clock::now() + kPruneEvery;
    try {
      pg::WorkerTransaction transaction;
      jobs::prune_history(extension);
      // A dump of the schema alone brings the triggers of a job, and not the job.
      jobs::stop_capture_if_idle(extension);
      transaction.commit();
    } catch (const pg::Error& e) {
      if (e.is_interrupt()) {
        throw;
      }
      pg::log_line(pg::LogLevel::kWarning, "old job runs could not be deleted",
                   core::JsonObject().text("error", e.summary()).str());
    }
  }

  // Says why nothing can be expired once, not at every tick.
  void report_obstacle(const std::string& obstacle) {
    if (obstacle != obstacle_ && !obstacle.empty()) {
      pg::log_line(pg::LogLevel::kWarning, "reservations cannot be expired here: " + obstacle);
    }
    obstacle_ = obstacle;
  }

  // From here on a command that needs the database interrupts; one that came before has left word.
  static void begin_work() {
    shared::publish(State::kExpiring, 0);
    leave_if_asked();
  }

  static void leave_if_asked() {
    if (shared::must_leave()) {
      leave(Departure::kAsked);
    }
  }

  // Sleeps until `next`; a wake-up or a shorter interval brings that forward.
  void rest(State state, Clock::time_point& next) {
    const Clock::time_point earliest = Clock::now() + kShortestRest;
    shared::publish(state, GetCurrentTimestamp() + in_us(next - Clock::now()));
    pg::call([state] { pgstat_report_activity(STATE_IDLE, name_of(state)); });
    for (Clock::time_point now = Clock::now(); now < std::min(next, gauges_due_);
         now = Clock::now()) {
      pg::wait_for_latch(in_us(std::min(next, gauges_due_) - now) / 1000 + 1);
      if (ConfigReloadPending) {
        if (reload_ends_work()) {
          leave(Departure::kAsked);
        }
        next = std::min<Clock::time_point>(next, Clock::now() + interval());
      }
      leave_if_asked();
      if (shared::take_wake()) {
        next = std::min(next, earliest);
        reindexer_rest_.reset();
        reindexer_due_ = {};
        gauges_due_ = std::min(gauges_due_, earliest);
        counters_begun_ = false;  // somebody may have reset them
      }
    }
  }

  // Takes in a changed configuration; true where that says that no worker belongs here.
  static bool reload_ends_work() {
    if (!ConfigReloadPending) {
      return false;
    }
    ConfigReloadPending = false;
    pg::call([] { ProcessConfigFile(PGC_SIGHUP); });
    std::string name;
    {
      pg::WorkerTransaction transaction;
      const char* found = pg::call([] { return get_database_name(MyDatabaseId); });
      name = found != nullptr ? found : "";
      transaction.commit();
    }
    return !pg::settings::worker_enabled() || !pg::settings::works_on(name);
  }

  core::Backoff failures_{seconds(1), std::chrono::minutes(5)};
  core::Backoff held_{seconds(1), seconds(30)};
  std::optional<Situation> situation_;  // of the latest tick
  Clock::time_point gauges_due_{};
  core::Backoff reindexer_rest_{seconds(1), std::chrono::minutes(5)};
  Clock::time_point reindexer_due_{};
  Clock::time_point reindexer_started_{};
  bool counters_begun_ = false;
  Clock::time_point prune_due_{};
  std::string obstacle_;
};

void worker_main(Oid database) {
  pg::call([database] {
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    if (!shared::claim(database)) {
      proc_exit(0);
    }
    before_shmem_exit([](int, Datum) { shared::release(); }, static_cast<Datum>(0));
    if (shared::is_held(database)) {
      shared::set_departure(Departure::kAsked);
      proc_exit(0);
    }
    BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
    pgstat_report_appname("bacmr_ops worker");
    // Never wait or see an old snapshot because of what the configuration gives to sessions.
    SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
    SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
  });
  Worker().run();
}

}  // namespace
}  // namespace worker

extern "C" {
PGDLLEXPORT void bacmr_worker_main(Datum argument);
void bacmr_worker_main(Datum argument) {
  pg::from_postgres([argument] { worker::worker_main(DatumGetObjectId(argument)); });
}
}
