// bacmr_schedule and bacmr_unschedule: this database's jobs in pg_cron, wherever that lives.
//
// pg_cron keeps one table for the cluster, in the database that cron.database_name names, keyed by
// job name and user. So a job's name carries the database, and all statements find jobs by name and
// database together.
#include "pg/postgres.hpp"

#include "jobs/schedule.hpp"

#include <optional>
#include <string>

#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/job_run.hpp"
#include "pg/entry.hpp"
#include "pg/library.hpp"
#include "pg/lock.hpp"
#include "pg/log.hpp"
#include "pg/remote_sql.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "sources/source.hpp"

extern "C" {
#include "commands/dbcommands.h"
#include "utils/guc.h"
}

namespace jobs {
namespace {

// $1: [{"jobname", "schedule", "command", "database"}, …]. Returns the same with jobid.
constexpr const char* kScheduleQuery =
    "WITH want AS (SELECT * FROM jsonb_to_recordset($1::jsonb)"
    "  AS w(jobname text, schedule text, command text, database text)),"
    " done AS MATERIALIZED (SELECT w.*, CASE"
    "  WHEN j.jobid IS NULL"
    "   THEN cron.schedule_in_database(w.jobname, w.schedule, w.command, w.database)"
    "  WHEN cron.alter_job(j.jobid, w.schedule, w.command, w.database, NULL, true) IS NULL"
    "   THEN j.jobid ELSE j.jobid END AS jobid"
    "  FROM want w LEFT JOIN cron.job j ON j.jobname = w.jobname AND j.database = w.database"
    "   AND j.username = current_user)"
    " SELECT coalesce(jsonb_agg(to_jsonb(done)), '[]')::text FROM done";

// The same in pg_cron's own database, with the one function that everybody may call there.
constexpr const char* kScheduleHereQuery =
    "WITH done AS MATERIALIZED (SELECT w.*, cron.schedule(w.jobname, w.schedule, w.command) AS "
    "jobid"
    "  FROM jsonb_to_recordset($1::jsonb)"
    "  AS w(jobname text, schedule text, command text, database text))"
    " SELECT coalesce(jsonb_agg(to_jsonb(done)), '[]')::text FROM done";

// $1: {"database": …, "jobnames": […]}. Returns how many there were.
constexpr const char* kUnscheduleQuery =
    "SELECT count(*) FILTER (WHERE gone)::text FROM (SELECT cron.unschedule(jobid) AS gone"
    " FROM cron.job WHERE database = $1::jsonb->>'database'"
    "  AND $1::jsonb->'jobnames' ? jobname) j";

constexpr const char* kInstalledQuery =
    "SELECT (EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') AND $1 = '')::text";

// $1: {"database": …, "jobname": …}.
constexpr const char* kScheduledQuery =
    "SELECT EXISTS (SELECT FROM cron.job WHERE active AND database = $1::jsonb->>'database'"
    " AND jobname = $1::jsonb->>'jobname')::text";

std::string current_database() {
  return pg::call([] { return get_database_name(MyDatabaseId); });
}

// The database that holds pg_cron.
std::string cron_database() {
  const char* name = pg::call([] { return GetConfigOption("cron.database_name", true, false); });
  if (name == nullptr) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "pg_cron is not loaded in this server", {},
                      "Add pg_cron to shared_preload_libraries, restart, and run CREATE EXTENSION "
                      "pg_cron in the database postgres.");
  }
  return name;
}

// Says which rights a role needs that is refused.
void lacks_rights(const std::string& home, const std::string& sqlstate,
                  const std::string& message) {
  if (sqlstate == core::sqlstate::kInsufficientPrivilege) {
    throw core::Error(core::sqlstate::kInsufficientPrivilege, message, {},
                      "In the database \"" + home +
                          "\", grant the role USAGE ON SCHEMA cron and, where that is not this "
                          "database, EXECUTE ON FUNCTION cron.schedule_in_database and "
                          "cron.alter_job.");
  }
}

std::string ask_cron(const std::string& query, const std::string& parameter) {
  const std::string home = cron_database();
  try {
    if (home != current_database()) {
      return pg::query_in_database(home, GetUserId(), query, parameter);
    }
    // pg_cron's table shows each role its own jobs by a policy, which is what is wanted here.
    pg::PinnedSettings settings;
    settings.set("row_security", "on");
    pg::Spi spi;
    return spi.query(query, {pg::Param::text(parameter)}).text(0, 0);
  } catch (const core::Error& e) {
    lacks_rights(home, e.sqlstate(), e.message());
    throw;
  } catch (const pg::Error& e) {
    lacks_rights(home, e.sqlstate(), e.message());
    throw;
  }
}

void require_cron() {
  if (ask_cron(kInstalledQuery, "") != "true") {
    throw core::Error(
        core::sqlstate::kObjectNotInPrerequisiteState,
        "the extension pg_cron is not installed in the database \"" + cron_database() + "\"", {},
        "Run CREATE EXTENSION pg_cron there: cron.database_name names it.");
  }
}

std::string job_name(const char* job) {
  return std::string("bacmr-") + job + "@" + current_database();
}

void add_job(core::JsonArray& list, const pg::Extension& extension, const char* job,
             const std::string& schedule) {
  list.raw(core::JsonObject()
               .text("jobname", job_name(job))
               .text("schedule", schedule)
               .text("command", "CALL " + extension.object("bacmr_run_job") + "('" + job + "')")
               .text("database", current_database())
               .str());
}

std::int64_t unschedule(const std::vector<const char*>& job_list) {
  core::JsonArray names;
  for (const char* job : job_list) {
    names.text(job_name(job));
  }
  return std::stoll(ask_cron(
      kUnscheduleQuery,
      core::JsonObject().text("database", current_database()).raw("jobnames", names.str()).str()));
}

bool worker_expires_here() {
  return pg::preloaded() && pg::settings::worker_enabled() &&
         pg::settings::works_on(current_database());
}

// pg_cron finds a job, and then alters it: it must not be gone in between.
void one_at_a_time() {
  constexpr std::uint32_t kSchedule = 1003;
  pg::JobLock::for_job(kSchedule).acquire();
}

Datum schedule_function(pg::Args args) {
  const std::optional<std::string> reconcile = args.text(0);
  const std::optional<std::string> export_schedule = args.text(1);
  std::optional<std::string> expire = args.text(2);
  std::string scheduled;
  {
    const pg::PinnedSettings settings;
    const pg::Extension extension = pg::require_extension();
    require_cron();
    one_at_a_time();
    core::JsonArray wanted;
    std::vector<const char*> unwanted;
    if (reconcile) {
      add_job(wanted, extension, "reconcile", *reconcile);
    } else {
      unwanted.push_back("reconcile");
    }
    if (!expire && !worker_expires_here()) {
      expire = "* * * * *";
    }
    if (expire) {
      add_job(wanted, extension, "expire", *expire);
    } else {
      unwanted.push_back("expire");
    }
    if (export_schedule) {
      add_job(wanted, extension, "export", *export_schedule);
      if (sources::Sources::load(extension).find("chunks") == nullptr) {
        pg::notice_client("no chunks are attached: the scheduled export will fail",
                          "Attach them with bacmr_attach, or leave the export out: SELECT * FROM "
                          "bacmr_schedule(export => NULL).");
      }
    } else {
      unwanted.push_back("export");
    }
    // First what can be refused: a schedule that pg_cron does not understand changes nothing.
    scheduled = ask_cron(
        cron_database() == current_database() ? kScheduleHereQuery : kScheduleQuery, wanted.str());
    if (!unwanted.empty()) {
      unschedule(unwanted);
    }
  }
  pg::ResultSet result(args);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT jobid, jobname, schedule, command FROM pg_catalog.jsonb_to_recordset"
      "($1::pg_catalog.jsonb) AS j(jobid bigint, jobname text, schedule text, command text)",
      {pg::Param::text(scheduled)});
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    result.row({pg::Value::int8(rows.int8(i, 0)), pg::Value::text(rows.text(i, 1)),
                pg::Value::text(rows.text(i, 2)), pg::Value::text(rows.text(i, 3))});
  }
  return pg::void_result();
}

Datum unschedule_function(pg::Args) {
  const pg::PinnedSettings settings;
  require_cron();
  one_at_a_time();
  return Int32GetDatum(static_cast<std::int32_t>(unschedule({"reconcile", "export", "expire"})));
}

}  // namespace

std::optional<ScheduleProblem> schedule_problem() {
  const std::string then = "SELECT * FROM bacmr_schedule()";
  try {
    require_cron();
    const std::string scheduled =
        ask_cron(kScheduledQuery, core::JsonObject()
                                      .text("database", current_database())
                                      .text("jobname", job_name("reconcile"))
                                      .str());
    if (scheduled == "true") {
      return std::nullopt;
    }
    return ScheduleProblem{"pg_cron does not reconcile the wallets of this database", then};
  } catch (const core::Error& e) {
    return ScheduleProblem{e.message(), e.hint() + " Then " + then};
  }
}

}  // namespace jobs

BACMR_FUNCTION(bacmr_schedule, jobs::schedule_function);
BACMR_FUNCTION(bacmr_unschedule, jobs::unschedule_function);
