// bacmr_worker_status: launcher and worker as rows.
#include "pg/postgres.hpp"

#include "pg/entry.hpp"
#include "pg/guard.hpp"
#include "pg/library.hpp"
#include "pg/result.hpp"
#include "pg/settings.hpp"
#include "worker/shared.hpp"

extern "C" {
#include "commands/dbcommands.h"
}

namespace worker {
namespace {

std::optional<std::int64_t> time_or_null(TimestampTz when) {
  return when == 0 ? std::nullopt : std::optional<std::int64_t>(when);
}

pg::Value pid_or_null(int pid) {
  return pid == 0 ? pg::Value{} : pg::Value{Int32GetDatum(pid), false};
}

std::string why_absent() {
  const std::string database = pg::call([] { return get_database_name(MyDatabaseId); });
  if (!pg::settings::worker_enabled()) {
    return "off (bacmr.worker_enabled)";
  }
  if (!pg::settings::works_on(database)) {
    return "off (bacmr.databases)";
  }
  return shared::start_problem().empty() ? "starting" : "cannot start";
}

Datum worker_status(pg::Args args) {
  pg::ResultSet result(args);
  if (!pg::preloaded()) {
    return pg::void_result();
  }
  const int launcher = shared::launcher_pid();
  result.row({pg::Value::text("launcher"),
              pid_or_null(launcher),
              pg::Value::text(launcher != 0 ? "running" : "not running"),
              {},
              {},
              {},
              {}});
  const auto slot = shared::view(MyDatabaseId);
  if (!slot || slot->pid == 0) {
    const std::string problem = !shared::start_problem().empty() ? shared::start_problem()
                                : slot                           ? slot->last_error
                                                                 : "";
    result.row({pg::Value::text("worker"),
                {},
                pg::Value::text(why_absent()),
                {},
                {},
                {},
                problem.empty() ? pg::Value{} : pg::Value::text(problem)});
    return pg::void_result();
  }
  result.row({pg::Value::text("worker"), pid_or_null(slot->pid),
              pg::Value::text(name_of(slot->state)),
              pg::Value::timestamptz(time_or_null(slot->last_tick)),
              pg::Value::timestamptz(time_or_null(slot->next_tick)),
              pg::Value::timestamptz(time_or_null(slot->last_expired)),
              slot->last_error.empty() ? pg::Value{} : pg::Value::text(slot->last_error)});
  return pg::void_result();
}

}  // namespace
}  // namespace worker

BACMR_FUNCTION(bacmr_worker_status, worker::worker_status);
