#include "pg/postgres.hpp"

#include "jobs/job_run.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "metrics/at_commit.hpp"
#include "pg/encoding.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "utils/timestamp.h"
}

namespace jobs {
namespace {

constexpr Job kJobs[] = {Job::kReconcile, Job::kExpire, Job::kExport, Job::kImport,
                         Job::kVerify,    Job::kDrill,  Job::kReindex};

// A run that is over, for the metrics; `seconds`: how long it took.
void count_run(const std::string& job, RunStatus status, double seconds) {
  using metrics::Change;
  using metrics::Metric;
  metrics::record_at_commit(Metric::kJobRuns, {job, name_of(status)}, Change::kAdd, 1);
  if (status != RunStatus::kSkipped) {
    metrics::record_at_commit(Metric::kJobDuration, {job}, Change::kObserve,
                              std::max(seconds, 0.0));
  }
}

std::string table(const pg::Extension& extension) { return extension.object("bacmr_job_run"); }

}  // namespace

const char* name_of(Job job) {
  switch (job) {
    case Job::kReconcile:
      return "reconcile";
    case Job::kExpire:
      return "expire";
    case Job::kExport:
      return "export";
    case Job::kImport:
      return "import";
    case Job::kVerify:
      return "verify";
    case Job::kDrill:
      return "drill";
    case Job::kReindex:
      return "reindex";
  }
  return "";
}

Job parse_job(const std::string& name) {
  for (const Job job : kJobs) {
    if (name == name_of(job)) {
      return job;
    }
  }
  std::string list;
  for (const Job job : kJobs) {
    list.append(list.empty() ? "" : ", ").append(name_of(job));
  }
  throw core::Error(core::sqlstate::kInvalidParameterValue, "unknown job \"" + name + "\"", {},
                    "The jobs are: " + list + ".");
}

pg::JobLock lock_of(Job job) { return pg::JobLock::for_job(static_cast<std::uint32_t>(job)); }

core::Error already_running(Job job) {
  return {core::sqlstate::kLockNotAvailable,
          std::string("the job \"") + name_of(job) + "\" is already running in this database",
          {},
          "Wait for it (SELECT * FROM bacmr_status), or end its session."};
}

const char* name_of(RunStatus status) {
  switch (status) {
    case RunStatus::kRunning:
      return "running";
    case RunStatus::kSucceeded:
      return "succeeded";
    case RunStatus::kDiscrepancies:
      return "discrepancies";
    case RunStatus::kFailed:
      return "failed";
    case RunStatus::kSkipped:
      return "skipped";
  }
  return "";
}

std::string new_request_id() {
  std::string id = pg::settings::request_id();
  if (id.empty()) {
    pg::Spi spi;
    id = spi.query("SELECT pg_catalog.gen_random_uuid()::pg_catalog.text").text(0, 0);
  }
  return id;
}

std::int64_t start_run(const pg::Extension& extension, Job job, const std::string& request_id) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows =
      spi.query("INSERT INTO " + table(extension) +
                    " (job, status, started_at, request_id)"
                    " VALUES ($1, 'running', clock_timestamp(), $2) RETURNING run_id",
                {pg::Param::text(name_of(job)), pg::Param::text(request_id)});
  return rows.int8(0, 0);
}

void finish_run(const pg::Extension& extension, std::int64_t run_id, const RunResult& result) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "UPDATE " + table(extension) +
          " SET status = $2, finished_at = clock_timestamp(), detail = $3::jsonb, error = $4"
          " WHERE run_id = $1 RETURNING job, extract(epoch FROM finished_at - started_at)::float8",
      {pg::Param::int8(run_id), pg::Param::text(name_of(result.status)),
       pg::Param::text(pg::to_database_text(result.detail)), pg::Param::text(result.error)});
  if (!rows.empty()) {
    count_run(rows.text(0, 0), result.status, DatumGetFloat8(rows.datum(0, 1)));
  }
}

FunctionRun start_function_run(const pg::Extension& extension, Job job) {
  if (!lock_of(job).try_acquire(pg::LockSpan::kTransaction)) {
    throw already_running(job);
  }
  fail_dead_runs(extension);
  FunctionRun run;
  run.request_id = new_request_id();
  run.id = start_run(extension, job, run.request_id);
  return run;
}

std::int64_t record_run(const pg::Extension& extension, Job job, const std::string& request_id,
                        std::int64_t started_at, const RunResult& result,
                        std::optional<std::int64_t> finished_at) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "INSERT INTO " + table(extension) +
          " (job, status, started_at, finished_at, request_id, detail, error)"
          " VALUES ($1, $2, $3, $7, $4, $5::jsonb, $6) RETURNING run_id,"
          " extract(epoch FROM finished_at - started_at)::float8",
      {pg::Param::text(name_of(job)), pg::Param::text(name_of(result.status)),
       pg::Param::timestamptz(started_at), pg::Param::text(request_id),
       pg::Param::text(pg::to_database_text(result.detail)), pg::Param::text(result.error),
       pg::Param::timestamptz(finished_at.value_or(GetCurrentTimestamp()))});
  count_run(name_of(job), result.status, DatumGetFloat8(rows.datum(0, 1)));
  return rows.int8(0, 0);
}

void fail_dead_runs(const pg::Extension& extension) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query("SELECT run_id, job FROM " + table(extension) +
                                  " WHERE status = 'running' ORDER BY run_id");
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    const pg::JobLock lock = pg::JobLock::for_run(rows.int8(i, 0));
    if (!lock.try_acquire(pg::LockSpan::kTransaction)) {
      continue;  // its process lives
    }
    spi.query("UPDATE " + table(extension) +
                  " SET status = 'failed', finished_at = clock_timestamp(),"
                  " error = 'the process that ran this job is gone (crash, restart or kill)'"
                  " WHERE run_id = (SELECT run_id FROM " +
                  table(extension) +
                  " WHERE run_id = $1 AND status = 'running' FOR UPDATE SKIP LOCKED)",
              {pg::Param::int8(rows.int8(i, 0))});
    metrics::record_at_commit(metrics::Metric::kJobRuns,
                              {rows.text(i, 1), name_of(RunStatus::kFailed)}, metrics::Change::kAdd,
                              1);
  }
}

void prune_history(const pg::Extension& extension) {
  const int retention = pg::settings::history_retention_s();
  if (retention == 0) {
    return;
  }
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  // SKIP LOCKED: two who prune never wait for each other, nor for somebody's open transaction.
  spi.query("WITH old AS MATERIALIZED (SELECT run_id FROM " + table(extension) +
                " r WHERE r.finished_at < clock_timestamp() - make_interval(secs => $1::float8)"
                "  AND EXISTS (SELECT FROM " +
                table(extension) +
                " later WHERE later.job = r.job AND later.status = r.status"
                "   AND later.run_id > r.run_id) FOR UPDATE SKIP LOCKED),"
                " gone AS (DELETE FROM " +
                table(extension) +
                " r USING old WHERE r.run_id = old.run_id RETURNING r.run_id)"
                " DELETE FROM " +
                extension.object("bacmr_discrepancy") +
                " d USING gone WHERE d.run_id = gone.run_id",
            {pg::Param::int8(std::int64_t{retention})});
}

}  // namespace jobs
