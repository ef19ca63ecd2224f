// A snapshot that is active for the life of the object.
#pragma once

#include "pg/scope.hpp"

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

}  // namespace pg
