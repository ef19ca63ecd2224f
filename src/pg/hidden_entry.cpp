#include "pg/hidden_entry.hpp"

namespace pg {

void raise_without_statement(const PendingError& pending) {
  // Whoever catches the error sets its own stack of callbacks again; without ours, nobody adds the
  // statement to the context that the client and the log would get.
  error_context_stack = nullptr;
  if (pending.data != nullptr) {
    pending.data->hide_stmt = true;
    pending.data->hide_ctx = true;
    pending.data->context = nullptr;
    ReThrowError(pending.data);
  }
  ereport(ERROR, errcode(pending.code),
          errmsg_internal("%s", pending.message != nullptr ? pending.message : "unknown error"),
          pending.detail != nullptr ? errdetail_internal("%s", pending.detail) : 0,
          pending.hint != nullptr ? errhint("%s", pending.hint) : 0, errhidestmt(true),
          errhidecontext(true));
  pg_unreachable();
}

}  // namespace pg
