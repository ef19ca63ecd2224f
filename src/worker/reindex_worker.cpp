// The process that works on a database's reindex jobs: started on demand by the database's worker,
// so that a slow service never delays an expiry, and gone when nothing is left to do.
#include "pg/postgres.hpp"

#include <optional>

#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/reindex_work.hpp"
#include "pg/entry.hpp"
#include "pg/guard.hpp"
#include "pg/log.hpp"
#include "pg/snapshot.hpp"
#include "pg/spi.hpp"
#include "worker/shared.hpp"

extern "C" {
#include "access/xact.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
}

namespace worker {
namespace {

void work() {
  pg::Spi spi(pg::Spi::Commit::kAllowed);
  std::optional<pg::Extension> extension;
  {
    const pg::TransactionSnapshot snapshot;
    extension = pg::find_extension();
  }
  if (extension && !pg::version_problem(*extension)) {
    jobs::work_on_reindex_jobs(spi, *extension, std::nullopt, std::nullopt);
  }
}

void reindex_main(Oid database) {
  pg::call([database] {
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    if (!shared::claim_reindexer(database)) {
      proc_exit(0);
    }
    before_shmem_exit([](int, Datum) { shared::release_reindexer(); }, static_cast<Datum>(0));
    if (shared::is_held(database)) {
      proc_exit(0);
    }
    BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
    pgstat_report_appname("bacmr_ops reindex");
    SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
    SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
  });
  try {
    work();
  } catch (const pg::Error& e) {
    if (e.is_interrupt()) {
      throw;
    }
    // The job's row says it too; the transaction ends with this process.
    pg::log_line(pg::LogLevel::kError, "reindexing stopped",
                 core::JsonObject().text("error", e.summary()).str());
    pg::call([] { AbortCurrentTransaction(); });
    return;
  } catch (const core::Error& e) {
    pg::log_line(pg::LogLevel::kError, "reindexing stopped",
                 core::JsonObject().text("error", e.message()).str());
    pg::call([] { AbortCurrentTransaction(); });
    return;
  }
  pg::call([] { CommitTransactionCommand(); });
}

}  // namespace
}  // namespace worker

extern "C" {
PGDLLEXPORT void bacmr_reindex_main(Datum argument);
void bacmr_reindex_main(Datum argument) {
  pg::from_postgres([argument] { worker::reindex_main(DatumGetObjectId(argument)); });
}
}
