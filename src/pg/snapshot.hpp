// A snapshot that is active for the life of the object.
#pragma once

#include "pg/scope.hpp"

#include <optional>

extern "C" {
#include "access/xact.h"
#include "utils/snapmgr.h"
}

namespace pg {

// Takes a snapshot of now (under READ COMMITTED; the transaction's own above that), which also
// sees what this transaction has done so far, and makes it the active one. Read-only SPI queries
// inside see exactly this snapshot, all of them the same.
class ActiveSnapshot : Scope {
 public:
  ActiveSnapshot() {
    call([] {
      CommandCounterIncrement();
      PushActiveSnapshot(GetTransactionSnapshot());
    });
  }
  ~ActiveSnapshot() {
    if (!unwinding()) {
      cleanup([] { PopActiveSnapshot(); });
    }
  }
};

// What SQL in a procedure gets from the portal that runs it: a snapshot beneath those of its
// queries, until the next commit. A background worker has no portal, and no SQL runs there without
// this.
class TransactionSnapshot {
 public:
  TransactionSnapshot() {
    if (!call([] { return ActiveSnapshotSet(); })) {
      snapshot_.emplace();
    }
  }

 private:
  std::optional<ActiveSnapshot> snapshot_;
};

}  // namespace pg
