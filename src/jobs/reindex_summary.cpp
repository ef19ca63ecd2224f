// bacmr_reindex_summary(): what a job has done, for people, and what they can do next.
#include "pg/postgres.hpp"

#include <string>

#include "jobs/reindex_job.hpp"
#include "pg/entry.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

std::string grouped(std::int64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t i = text.size(); i > 3; i -= 3) {
    text.insert(i - 3, ",");
  }
  return text;
}

std::string next_steps(const ReindexJob& job, bool rolled_back) {
  const std::string id = std::to_string(job.id);
  if (job.elsewhere) {
    return "  1. It belongs to the database that this one is a copy of: SELECT "
           "bacmr_reindex_cancel(" +
           id + "), if it is open, and queue a new one";
  }
  if (job.repair) {
    return job.status == "completed" ? "The active namespace is complete." : "Let the job run.";
  }
  if (rolled_back) {
    return "  1. It was rolled back. When you are sure, delete its target: SELECT "
           "bacmr_reindex_discard(" +
           id + ")";
  }
  if (job.swapped) {
    return "  1. Watch the search quality in " + job.target +
           "\n  2. To go back: SELECT bacmr_reindex_rollback(" + pg::quote_literal(job.space) +
           ")\n  3. When you are sure, delete the old namespace: SELECT bacmr_reindex_cleanup(" +
           id + ")";
  }
  if (job.status == "completed") {
    return "  1. Compare the search quality: SELECT * FROM bacmr_reindex_compare(" + id +
           ")\n  2. Make " + job.target + " active: SELECT bacmr_reindex_swap(" + id +
           ")\n  3. Delete the old namespace: SELECT bacmr_reindex_cleanup(" + id + ")";
  }
  if (job.status == "failed" || job.status == "paused") {
    return "  1. Mend the cause" + (job.error.empty() ? "" : ": " + job.error) +
           "\n  2. SELECT bacmr_reindex_resume(" + id + ")";
  }
  if (job.status == "cancelled" && job.cleaned) {
    return "  1. Nothing: what it has written is deleted";
  }
  if (job.status == "cancelled") {
    return "  1. Delete what it has written: SELECT bacmr_reindex_discard(" + id + ")";
  }
  return "  1. Let it work: the worker does, or CALL bacmr_reindex_run(" + id + ")";
}

Datum summary_function(pg::Args args) {
  const std::int64_t id = reindex_job_argument(args);
  const pg::Extension extension = pg::require_extension();
  std::string text;
  {
    const pg::PinnedSettings settings;
    const pg::Spi spi;
    const ReindexJob job = load_reindex_job(extension, id);
    require_reindex_rights(job);
    std::int64_t failed = 0;
    {
      const pg::AsExtensionOwner owner(extension.owner);
      pg::Spi books;
      failed = books
                   .query("SELECT count(*) FROM " + extension.object("bacmr_reindex_failure") +
                              " WHERE job_id = $1",
                          {pg::Param::int8(id)})
                   .int8(0, 0);
    }
    text = "Reindex Summary:\n  Job: " + std::to_string(id) + " (" + job.status +
           ")\n  Old namespace: " + job.old + "\n  New namespace: " + job.target +
           "\n  Model: " + job.model + "\n  Chunks processed: " + grouped(job.processed) +
           "\n  Chunks failed: " + grouped(failed) +
           "\n  Vectors upserted: " + grouped(job.upserted) + "\n  Verified count: " +
           (job.verified && job.actual ? grouped(*job.actual) : "not verified") +
           "\n  Tokens used: " + grouped(job.tokens) + "\n\nNext steps:\n" +
           next_steps(job, was_rolled_back(extension, job));
  }
  return pg::Value::text(text).datum;
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_reindex_summary, jobs::summary_function);
