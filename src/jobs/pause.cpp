#include "pg/postgres.hpp"

#include "jobs/pause.hpp"

#include "core/error.hpp"
#include "pg/entry.hpp"
#include "pg/lock.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/transaction_end.hpp"
#include "sources/identity.hpp"

namespace jobs {
namespace {

Datum pause_function(pg::Args args) {
  const std::string job = args.text(0, "job");
  const std::optional<std::string> reason = args.text(1);
  parse_job(job);
  const pg::PinnedSettings settings;
  const pg::Extension extension = pg::require_extension();
  const std::string caller = pg::role_name(GetUserId());
  sources::settle_identity(extension);
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const std::string table = extension.object("bacmr_job_pause");
  // The table has no key: of two who pause a job at once, the second replaces the first one's row.
  constexpr std::uint32_t kPause = 1002;
  pg::JobLock::for_job(kPause).acquire();
  spi.query("DELETE FROM " + table + " WHERE job = $1", {pg::Param::text(job)});
  spi.query("INSERT INTO " + table +
                " (job, reason, paused_by) VALUES ($1, coalesce($2, 'paused by ' || $3), $3)",
            {pg::Param::text(job), pg::Param::text(reason), pg::Param::text(caller)});
  pg::wake_worker_at_commit();
  return pg::void_result();
}

Datum unpause_function(pg::Args args) {
  const std::string job = args.text(0, "job");
  parse_job(job);
  const pg::PinnedSettings settings;
  const pg::Extension extension = pg::require_extension();
  // First the question whether this is a copy: the answer pauses, and is then overruled.
  sources::settle_identity(extension);
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows gone =
      spi.query("DELETE FROM " + extension.object("bacmr_job_pause") + " WHERE job = $1",
                {pg::Param::text(job)});
  if (gone.empty()) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "the job \"" + job + "\" is not paused", {},
                      "SELECT * FROM bacmr_status shows the state of each job.");
  }
  pg::wake_worker_at_commit();
  return pg::void_result();
}

}  // namespace

std::optional<std::string> pause_reason(const pg::Extension& extension, const std::string& job) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows =
      spi.query("SELECT reason FROM " + extension.object("bacmr_job_pause") + " WHERE job = $1",
                {pg::Param::text(job)});
  if (rows.empty()) {
    return std::nullopt;
  }
  return rows.text(0, 0);
}

}  // namespace jobs

BACMR_FUNCTION(bacmr_pause, jobs::pause_function);
BACMR_FUNCTION(bacmr_unpause, jobs::unpause_function);
