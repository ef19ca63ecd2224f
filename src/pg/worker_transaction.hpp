// A transaction of a background worker, as a scope: rolled back unless committed.
#pragma once

#include "pg/postgres.hpp"

namespace pg {

class WorkerTransaction {
 public:
  // `user`: whose rights to use, InvalidOid for the worker's own (a superuser's).
  //
  // The transaction COMMITS as that user too: deferred triggers and held cursors run at commit, and
  // they are the table owner's code, which must not run as the superuser.
  explicit WorkerTransaction(Oid user = InvalidOid);
  WorkerTransaction(const WorkerTransaction&) = delete;
  WorkerTransaction& operator=(const WorkerTransaction&) = delete;
  ~WorkerTransaction();

  void commit();

 private:
  void abort() noexcept;
  void restore_user() noexcept;

  Oid own_user_ = InvalidOid;
  int own_context_ = 0;
  bool open_ = true;
};

}  // namespace pg
