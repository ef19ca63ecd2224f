// A subtransaction as a scope: what fails inside it can be caught and lived with.
//
//   try {
//     pg::Subtransaction attempt;
//     …
//     attempt.commit();
//   } catch (const pg::Error& e) { … everything the attempt did is undone, locks included … }
#pragma once

#include "pg/scope.hpp"

extern "C" {
#include "access/xact.h"
#include "utils/resowner.h"
}

namespace pg {

class Subtransaction {
 public:
  Subtransaction() : context_(CurrentMemoryContext), owner_(CurrentResourceOwner) {
    const int level = GetCurrentTransactionNestLevel();
    try {
      call([] { BeginInternalSubTransaction(nullptr); });
    } catch (...) {
      // Begun by half, for want of memory, say: only the end of the whole transaction undoes that,
      // and who catches this goes on with it.
      if (GetCurrentTransactionNestLevel() != level) {
        ereport(FATAL, errcode(ERRCODE_OUT_OF_MEMORY),
                errmsg("bacmr_ops could not begin a subtransaction"));
      }
      throw;
    }
    // As plpgsql does: work goes on in the caller's context, so that results outlive the scope.
    MemoryContextSwitchTo(context_);
  }
  Subtransaction(const Subtransaction&) = delete;
  Subtransaction& operator=(const Subtransaction&) = delete;

  void commit() {
    call([] { ReleaseCurrentSubTransaction(); });
    finish();
  }

  // Rolls back unless committed. A rollback that fails leaves nothing that could be relied on:
  // it is raised to FATAL, which ends this session and no other.
  ~Subtransaction() {
    if (!open_) {
      return;
    }
    try {
      call([] { RollbackAndReleaseCurrentSubTransaction(); });
    } catch (...) {
      ereport(FATAL, errcode(ERRCODE_INTERNAL_ERROR),
              errmsg("bacmr_ops could not roll back a subtransaction"));
    }
    finish();
  }

 private:
  void finish() {
    open_ = false;
    MemoryContextSwitchTo(context_);
    CurrentResourceOwner = owner_;
  }

  MemoryContext context_;
  ResourceOwner owner_;
  bool open_ = true;
};

}  // namespace pg
