#include "pg/remote_sql.hpp"

#include <cstring>

#include "core/error.hpp"
#include "pg/background_worker.hpp"
#include "pg/entry.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "access/xact.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "pgstat.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
}

namespace pg {
namespace {

constexpr std::size_t kTextBytes = 16 * 1024;

enum class Outcome : std::int32_t { kNone, kAnswer, kError };

// What lies in the shared segment. The asker writes, starts the worker, waits for its end, reads:
// there is never more than one side at it.
struct Exchange {
  Oid database;
  Oid role;
  Outcome outcome;
  char sqlstate[6];
  char sql[kTextBytes];
  char parameter[kTextBytes];
  char text[kTextBytes];  // the answer, or the error's message
};

void put(char (&target)[kTextBytes], const std::string& text) {
  if (text.size() >= kTextBytes) {
    throw core::Error(
        "54000", "text too long for another database: " + std::to_string(text.size()) + " bytes");
  }
  std::memcpy(target, text.c_str(), text.size() + 1);
}

void answer(Exchange& exchange) {
  Spi spi;
  PinnedSettings settings;
  settings.set("row_security", "on");  // as for any session of the role
  const Rows rows = spi.query(exchange.sql, {Param::text(std::string_view(exchange.parameter))});
  put(exchange.text, rows.empty() ? "" : rows.text(0, 0));
  exchange.outcome = Outcome::kAnswer;
}

void report(Exchange& exchange, const char* sqlstate, const std::string& message) {
  std::memcpy(exchange.sqlstate, sqlstate, sizeof exchange.sqlstate);
  const int room = static_cast<int>(kTextBytes) - 1;
  const int length = static_cast<int>(message.size());
  // Not in the middle of a character.
  put(exchange.text, length <= room ? message
                                    : message.substr(0, static_cast<std::size_t>(pg_mbcliplen(
                                                            message.c_str(), length, room))));
  exchange.outcome = Outcome::kError;
}

void worker_main(dsm_handle handle) {
  auto* exchange = call([handle] {
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    CurrentResourceOwner = ResourceOwnerCreate(nullptr, "bacmr_ops remote query");
    dsm_segment* segment = dsm_attach(handle);
    if (segment == nullptr) {
      proc_exit(1);  // the asker has given up
    }
    dsm_pin_mapping(segment);
    auto* found = static_cast<Exchange*>(dsm_segment_address(segment));
    BackgroundWorkerInitializeConnectionByOid(found->database, found->role, 0);
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    PushActiveSnapshot(GetTransactionSnapshot());
    pgstat_report_activity(STATE_RUNNING, found->sql);
    return found;
  });
  try {
    answer(*exchange);
    call([] {
      PopActiveSnapshot();
      CommitTransactionCommand();
    });
  } catch (const Error& e) {
    report(*exchange, e.sqlstate(), e.message());
    call([] { AbortCurrentTransaction(); });
  } catch (const core::Error& e) {
    report(*exchange, e.sqlstate(), e.message());
    call([] { AbortCurrentTransaction(); });
  }
}

}  // namespace

std::string query_in_database(const std::string& database, Oid role, const std::string& sql,
                              const std::string& parameter) {
  dsm_segment* segment = call([] { return dsm_create(sizeof(Exchange), 0); });
  auto* exchange = static_cast<Exchange*>(call([&] { return dsm_segment_address(segment); }));
  exchange->database = call([&] { return get_database_oid(database.c_str(), false); });
  exchange->role = role;
  exchange->outcome = Outcome::kNone;
  put(exchange->sql, sql);
  put(exchange->parameter, parameter);

  BackgroundWorker worker =
      describe_worker("bacmr_remote_sql_main", "bacmr_ops remote query", "bacmr_ops remote query",
                      BgWorkerStart_ConsistentState, UInt32GetDatum(dsm_segment_handle(segment)));
  worker.bgw_notify_pid = MyProcPid;
  const bool started = call([&] {
    BackgroundWorkerHandle* handle = nullptr;
    if (!RegisterDynamicBackgroundWorker(&worker, &handle)) {
      return false;
    }
    WaitForBackgroundWorkerShutdown(handle);
    return true;
  });
  if (!started) {
    throw core::Error("53400", "no background worker slot is free", {},
                      "Raise max_worker_processes, or try again later.");
  }
  const Outcome outcome = exchange->outcome;
  std::string text = outcome == Outcome::kNone ? "" : exchange->text;
  const std::string sqlstate = outcome == Outcome::kError ? exchange->sqlstate : "";
  call([&] { dsm_detach(segment); });
  switch (outcome) {
    case Outcome::kAnswer:
      return text;
    case Outcome::kError:
      throw core::Error(sqlstate.c_str(), "in database \"" + database + "\": " + text);
    case Outcome::kNone:
      break;
  }
  throw core::Error(
      "08001",
      "could not work in database \"" + database + "\" as the role \"" + role_name(role) + "\"",
      "The server's log says why.",
      "The role must exist, be allowed to log in, and have CONNECT on that "
      "database.");
}

}  // namespace pg

extern "C" {
PGDLLEXPORT void bacmr_remote_sql_main(Datum argument);
void bacmr_remote_sql_main(Datum argument) {
  pg::from_postgres([argument] { pg::worker_main(DatumGetUInt32(argument)); });
}
}
