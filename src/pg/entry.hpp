// Entry points: where Postgres calls C++.
//
//   BACMR_FUNCTION(bacmr_reconcile, jobs::reconcile_function)
//
// defines the C symbol `bacmr_reconcile` for a function `Datum f(pg::Args)`. No C++ exception gets
// out: each becomes an ERROR, raised only after every C++ object is gone.
#pragma once

#include "pg/postgres.hpp"

#include "pg/args.hpp"

namespace pg {

// An exception turned into plain data, waiting to be raised. Trivially destructible, since the jump
// that raises it skips destructors.
struct PendingError {
  ErrorData* data = nullptr;  // an error of Postgres', with all its fields
  int code = 0;               // otherwise: an SQLSTATE and texts in the caller's memory context
  const char* message = nullptr;
  const char* detail = nullptr;
  const char* hint = nullptr;
};

// Fills `pending` from the exception that is being handled.
void catch_exception(PendingError& pending, MemoryContext owner) noexcept;
[[noreturn]] void raise(const PendingError& pending);

// Runs `body`, C++ code, from a place where Postgres expects C: entry points, callbacks, hooks.
template <auto Raise = raise, class Body>
auto from_postgres(Body&& body) -> decltype(body()) {
  PendingError pending;
  MemoryContext const owner = CurrentMemoryContext;
  try {
    return body();
  } catch (...) {
    catch_exception(pending, owner);
  }
  Raise(pending);
}

}  // namespace pg

#define BACMR_FUNCTION(name, body)                                         \
  extern "C" {                                                             \
  PG_FUNCTION_INFO_V1(name);                                               \
  Datum name(PG_FUNCTION_ARGS) {                                           \
    return pg::from_postgres([fcinfo] { return body(pg::Args(fcinfo)); }); \
  }                                                                        \
  }                                                                        \
  static_assert(true)
