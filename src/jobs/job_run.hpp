// The book-keeping of job runs: one row in bacmr_job_run a run, written as the extension's owner.
#pragma once

#include "core/error.hpp"
#include "pg/extension.hpp"
#include "pg/lock.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace jobs {

enum class Job : std::uint32_t {
  kReconcile = 1,
  kExpire = 2,
  kExport = 3,
  kImport = 4,
  kVerify = 5,
  kDrill = 6,
  kReindex = 7,
};

const char* name_of(Job job);
// Throws 22023 for a name that is no job's.
Job parse_job(const std::string& name);
// Held by the one run of a job that a database may have at a time. Expiry does not take it: any
// number of sessions may expire.
pg::JobLock lock_of(Job job);
core::Error already_running(Job job);

enum class RunStatus { kRunning, kSucceeded, kDiscrepancies, kFailed, kSkipped };
const char* name_of(RunStatus status);

// bacmr.request_id, or a fresh uuid: what ties log lines, job runs and ledger rows together.
std::string new_request_id();

// What stands in the row when the run is over. `detail`: a JSON object in UTF-8; `error`: in the
// database's encoding.
struct RunResult {
  RunStatus status = RunStatus::kSucceeded;
  std::string detail = "{}";
  std::optional<std::string> error;
};

// The functions below need a transaction; they connect to SPI themselves.

// A row with the status `running`; returns its run_id.
std::int64_t start_run(const pg::Extension& extension, Job job, const std::string& request_id);
void finish_run(const pg::Extension& extension, std::int64_t run_id, const RunResult& result);
// What a plain function, which cannot commit, begins with: the job's lock for this transaction
// (55P03 where another run holds it), dead runs failed, and a row of its own.
struct FunctionRun {
  std::int64_t id = 0;
  std::string request_id;
};
FunctionRun start_function_run(const pg::Extension& extension, Job job);
// A row for a run that is over already: just now, or when `finished_at` says.
std::int64_t record_run(const pg::Extension& extension, Job job, const std::string& request_id,
                        std::int64_t started_at, const RunResult& result,
                        std::optional<std::int64_t> finished_at = std::nullopt);

// Turns `running` rows whose process is gone into `failed` ones.
void fail_dead_runs(const pg::Extension& extension);
// Deletes runs that ended longer ago than bacmr.history_retention, but the latest of each job and
// status, which the views need.
void prune_history(const pg::Extension& extension);

}  // namespace jobs
