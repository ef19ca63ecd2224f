// The module: its magic, and what the tests measure.
#include "pg/postgres.hpp"

#include <malloc.h>

#include <cstdint>

#include "pg/entry.hpp"
#include "pg/guard.hpp"
#include "witness.hpp"

extern "C" {
#include "executor/executor.h"
#include "utils/timeout.h"
}

extern "C" {
#ifdef __SANITIZE_ADDRESS__
// Not every compiler brings the header that declares it.
std::size_t __sanitizer_get_current_allocated_bytes();
#endif
PG_MODULE_MAGIC;
}

namespace {

Datum alive(pg::Args) { return Int32GetDatum(test::Witness::alive()); }

Datum destroyed(pg::Args) { return Int32GetDatum(test::Witness::destroyed()); }

// Bytes that malloc has handed out: the C++ heap, and the blocks of every memory context.
Datum heap_bytes(pg::Args) {
#ifdef __SANITIZE_ADDRESS__
  return Int64GetDatum(static_cast<std::int64_t>(__sanitizer_get_current_allocated_bytes()));
#else
  const struct mallinfo2 info = ::mallinfo2();
  return Int64GetDatum(static_cast<std::int64_t>(info.uordblks + info.hblkhd));
#endif
}

// Whether the module, and the extension with it, is built with AddressSanitizer (scripts/asan.sh).
Datum sanitized(pg::Args) {
#ifdef __SANITIZE_ADDRESS__
  return BoolGetDatum(true);
#else
  return BoolGetDatum(false);
#endif
}

// Arms the session's own statement_timeout to strike so many milliseconds from now, rather than
// from the statement's start; 0 disarms it.
Datum statement_timeout(pg::Args args) {
  const int milliseconds = static_cast<int>(args.int8(0).value_or(0));
  pg::call([milliseconds] {
    if (milliseconds > 0) {
      enable_timeout_after(STATEMENT_TIMEOUT, milliseconds);
    } else {
      disable_timeout(STATEMENT_TIMEOUT, false);
    }
  });
  return pg::void_result();
}

ExecutorStart_hook_type previous_executor_start = nullptr;

// A query without parameters has no list of them; other extensions that hook in here rely on it.
void check_parameters(QueryDesc* query, int flags) {
  if (query->params != nullptr && query->params->numParams == 0) {
    ereport(ERROR, errmsg("an empty list of parameters"));
  }
  if (previous_executor_start != nullptr) {
    previous_executor_start(query, flags);
  } else {
    standard_ExecutorStart(query, flags);
  }
}

// From here on every query of this session is checked.
Datum watch_parameters(pg::Args) {
  if (ExecutorStart_hook != check_parameters) {
    previous_executor_start = ExecutorStart_hook;
    ExecutorStart_hook = check_parameters;
  }
  return pg::void_result();
}

}  // namespace

BACMR_FUNCTION(bacmr_test_watch_parameters, watch_parameters);
BACMR_FUNCTION(bacmr_test_alive, alive);
BACMR_FUNCTION(bacmr_test_destroyed, destroyed);
BACMR_FUNCTION(bacmr_test_heap_bytes, heap_bytes);
BACMR_FUNCTION(bacmr_test_sanitized, sanitized);
BACMR_FUNCTION(bacmr_test_statement_timeout, statement_timeout);

// For the benchmark: what a call costs by itself.
extern "C" {
PG_FUNCTION_INFO_V1(bacmr_test_nothing);
Datum bacmr_test_nothing(PG_FUNCTION_ARGS) {
  (void)fcinfo;
  return static_cast<Datum>(0);
}
}
