// bacmr_reindex_run, and what steers a job: pause, resume, cancel, retry of what failed.
#include "pg/postgres.hpp"

#include <optional>
#include <string>

#include "core/error.hpp"
#include "jobs/reindex_changes.hpp"
#include "jobs/reindex_job.hpp"
#include "jobs/reindex_work.hpp"
#include "pg/entry.hpp"
#include "pg/isolation.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/transaction_end.hpp"
#include "sources/identity.hpp"

namespace jobs {
namespace {

Datum run_function(pg::Args args) {
  pg::require_commit_allowed(args.fcinfo(), "bacmr_reindex_run");
  const std::optional<int> max_batches = checked_max_batches(args.int4(1));
  pg::Spi spi(pg::Spi::Commit::kAllowed);
  const pg::Extension extension = pg::require_extension();
  {
    const pg::PinnedSettings settings;
    sources::settle_identity(extension);
  }
  spi.commit();
  work_on_reindex_jobs(spi, extension, args.int8(0), max_batches);
  return pg::void_result();
}

// Looks at a job, with its row locked, and acts.
template <class Action>
Datum steer(const pg::Args& args, Action action) {
  const std::int64_t id = reindex_job_argument(args);
  const pg::Extension extension = pg::require_extension();
  {
    const pg::PinnedSettings settings;
    const pg::Spi spi;
    const ReindexJob job = lock_reindex_job(extension, id);
    require_reindex_rights(job);
    action(extension, job);
  }
  pg::wake_worker_at_commit();
  return pg::void_result();
}

Datum pause_job(pg::Args args) {
  return steer(args, [](const pg::Extension& extension, const ReindexJob& job) {
    if (job.status != "queued" && job.status != "running" && job.status != "verifying") {
      throw wrong_reindex_status(job, "paused", "Only a job that is queued or at work can be.");
    }
    update_reindex_job(extension, job.id, "status = 'paused', error = NULL");
  });
}

// A repair looks for what is missing when it begins; any other job has to have followed the changes
// without a gap.
void open_again(const pg::Extension& extension, const ReindexJob& job, const std::string& set) {
  if (!job.repair) {
    require_followed(job);
  }
  require_no_other_job(extension, job.space, job.id);
  refuse_another_job(job.space, job.target,
                     [&] { update_reindex_job(extension, job.id, set + ", capturing = true"); });
}

Datum resume_job(pg::Args args) {
  const std::optional<double> max_cost = args.numeric(1);
  if (max_cost && !(*max_cost >= 0)) {
    throw core::Error(core::sqlstate::kInvalidParameterValue, "max_cost must not be negative", {},
                      "Give it in the unit of the server's price_per_million_tokens.");
  }
  return steer(args, [&](const pg::Extension& extension, const ReindexJob& job) {
    if (job.elsewhere) {
      throw wrong_reindex_status(
          job, "resumed here",
          "It belongs to the database that this one is a copy of: cancel it, "
          "and queue a new one.");
    }
    if (job.status != "paused" && job.status != "failed") {
      throw wrong_reindex_status(job, "resumed", "Only a job that is paused or failed can be.");
    }
    open_again(extension, job, "status = 'queued', error = NULL, finished_at = NULL");
    if (max_cost) {
      update_reindex_job(extension, job.id, "max_cost = $2::numeric", {std::to_string(*max_cost)});
    }
  });
}

Datum cancel_job(pg::Args args) {
  pg::require_read_committed(
      "a reindex job can only be cancelled in a READ COMMITTED transaction",
      "In a fixed snapshot, another job that needs the triggers would not be seen.");
  return steer(args, [](const pg::Extension& extension, const ReindexJob& job) {
    const bool waits_for_swap = job.status == "completed" && !job.swapped && !job.repair;
    if (!job.is_open() && job.status != "failed" && !waits_for_swap) {
      throw wrong_reindex_status(job, "cancelled", "It has ended already.");
    }
    update_reindex_job(extension, job.id,
                       "status = 'cancelled', capturing = false, finished_at = clock_timestamp()");
    stop_capture_if_idle(extension);
  });
}

Datum retry_job(pg::Args args) {
  return steer(args, [](const pg::Extension& extension, const ReindexJob& job) {
    if (job.status == "cancelled" || job.swapped) {
      throw wrong_reindex_status(job, "tried again",
                                 "Queue a new one, or repair the active namespace: SELECT "
                                 "bacmr_vectors_repair(namespace).");
    }
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    const pg::Rows rows = spi.query("DELETE FROM " + extension.object("bacmr_reindex_failure") +
                                        " WHERE job_id = $1 RETURNING chunk_id",
                                    {pg::Param::int8(job.id)});
    std::vector<std::string> ids;
    for (std::uint64_t i = 0; i < rows.size(); ++i) {
      ids.push_back(rows.text(i, 0));
    }
    add_changes(extension, job.space, ids);
    if (job.status == "completed" || job.status == "failed") {
      open_again(extension, job, "status = 'queued', verified_at = NULL, finished_at = NULL");
    }
  });
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_reindex_run, jobs::run_function);
BACMR_FUNCTION(bacmr_reindex_pause, jobs::pause_job);
BACMR_FUNCTION(bacmr_reindex_resume, jobs::resume_job);
BACMR_FUNCTION(bacmr_reindex_cancel, jobs::cancel_job);
BACMR_FUNCTION(bacmr_reindex_retry_failed, jobs::retry_job);
