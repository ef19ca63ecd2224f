#include "pg/worker_transaction.hpp"

#include "pg/guard.hpp"

extern "C" {
#include "access/xact.h"
#include "pgstat.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
}

namespace pg {

WorkerTransaction::WorkerTransaction(Oid user) {
  GetUserIdAndSecContext(&own_user_, &own_context_);
  try {
    call([user, this] {
      SetCurrentStatementStartTimestamp();
      StartTransactionCommand();
      if (OidIsValid(user)) {
        SetUserIdAndSecContext(user, own_context_ | SECURITY_LOCAL_USERID_CHANGE);
      }
      PushActiveSnapshot(GetTransactionSnapshot());
    });
  } catch (...) {
    // For want of memory, say. What has begun by half would stand in the way of every later one.
    abort();
    throw;
  }
}

void WorkerTransaction::commit() {
  call([] {
    PopActiveSnapshot();
    CommitTransactionCommand();
  });
  open_ = false;
  restore_user();
  call([] {
    // A trigger may have changed settings for the session; the next transaction is somebody else's.
    ResetAllOptions();
    pgstat_report_stat(true);
  });
}

WorkerTransaction::~WorkerTransaction() {
  if (open_) {
    abort();
  }
}

void WorkerTransaction::abort() noexcept {
  try {
    call([] { AbortCurrentTransaction(); });
  } catch (...) {
    ereport(FATAL, errcode(ERRCODE_INTERNAL_ERROR),
            errmsg("bacmr_ops worker could not roll back its transaction"));
  }
  restore_user();
}

void WorkerTransaction::restore_user() noexcept { SetUserIdAndSecContext(own_user_, own_context_); }

}  // namespace pg
