// From Postgres to C++: errors that pass through C++ frames.
#include "pg/postgres.hpp"

#include <string>
#include <vector>

#include "core/error.hpp"
#include "pg/entry.hpp"
#include "pg/guard.hpp"
#include "pg/scope.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "witness.hpp"

extern "C" {
#include "utils/memutils.h"
}

namespace {

using test::Witness;

Datum text_datum(const std::string& text) { return pg::Param::text(text).value; }

std::string run(const std::string& sql) {
  const std::vector<Witness> inner(2);
  pg::Spi spi;
  const Witness innermost;
  const pg::Rows rows = spi.query(sql);
  return std::to_string(rows.size());
}

// Runs SQL and lets its error pass.
Datum run_sql(pg::Args args) {
  const Witness outer;
  const std::string rows = run(args.text(0, "sql"));
  return text_datum(rows);
}

// Runs SQL in a subtransaction; an error, but for a cancel, becomes the answer.
Datum catch_sql(pg::Args args) {
  const Witness outer;
  const std::string sql = args.text(0, "sql");
  std::string answer;
  try {
    pg::Subtransaction attempt;
    answer = "rows " + run(sql);
    attempt.commit();
  } catch (const pg::Error& e) {
    if (e.is_interrupt()) {
      throw;
    }
    answer = std::string(e.sqlstate()) + " " + e.summary();
  } catch (const core::Error& e) {
    answer = std::string(e.sqlstate()) + " " + e.message();
  }
  return text_datum(answer);
}

// Subtransactions in one another: each fails in its turn, after the one inside has failed.
void fail_in_levels(int depth, std::vector<std::string>& caught) {
  const Witness witness;
  pg::Subtransaction attempt;
  {
    pg::Spi spi;
    spi.query("INSERT INTO boundary_levels VALUES (" + std::to_string(depth) + ")");
  }
  if (depth > 0) {
    try {
      fail_in_levels(depth - 1, caught);
    } catch (const pg::Error& e) {
      caught.emplace_back(e.message());
    }
  }
  pg::call([depth] {
    if (depth >= 0) {
      ereport(ERROR, errmsg("level %d", depth));
    }
  });
  attempt.commit();
}

Datum catch_levels(pg::Args args) {
  const int depth = static_cast<int>(args.int8(0).value_or(0));
  std::vector<std::string> caught;
  try {
    fail_in_levels(depth, caught);
  } catch (const pg::Error& e) {
    caught.emplace_back(e.message());
  }
  std::string all;
  for (const std::string& each : caught) {
    all += (all.empty() ? "" : ", ") + each;
  }
  return text_datum(all);
}

void fail_with_every_field() {
  ereport(ERROR, errcode(ERRCODE_CHECK_VIOLATION), errmsg("nested: 100%% of %%s"),
          errdetail("Detail."), errhint("Hint."), errcontext("innermost context"));
}

// C++ calls Postgres calls C++ …, with an error at the bottom, each border crossed twice.
void descend(int depth) {
  const Witness witness;
  if (depth == 0) {
    pg::call([] { fail_with_every_field(); });
  }
  pg::call([depth] {
    check_stack_depth();
    pg::from_postgres([depth] { descend(depth - 1); });
  });
}

Datum nested(pg::Args args) {
  const Witness witness;
  descend(static_cast<int>(args.int8(0).value_or(0)));
  return pg::void_result();
}

void context_line(void* text) { errcontext("%s", static_cast<const char*>(text)); }

// An error that jumps over a context callback must take it off the list: the callback's frame is
// gone when the next error is reported.
Datum error_in_context(pg::Args) {
  try {
    pg::call([] {
      ErrorContextCallback callback;
      callback.previous = error_context_stack;
      callback.callback = context_line;
      callback.arg = const_cast<char*>("a frame that is gone");
      error_context_stack = &callback;
      ereport(ERROR, errmsg("first"));
    });
  } catch (const pg::Error& e) {
    if (e.data().context == nullptr ||
        std::string(e.data().context).find("a frame that is gone") == std::string::npos) {
      throw core::Error("XX000", "the first error lost its context");
    }
  }
  pg::call([] { ereport(ERROR, errmsg("second")); });
  return pg::void_result();
}

// Errors while an exception is on its way: a clean-up that fails, and one that catches for itself.
class FailingCleanup {
 public:
  FailingCleanup() = default;
  FailingCleanup(const FailingCleanup&) = delete;
  FailingCleanup& operator=(const FailingCleanup&) = delete;
  ~FailingCleanup() {
    const Witness witness;
    pg::cleanup([] { ereport(ERROR, errmsg("the clean-up failed")); });
    try {
      pg::call([] { ereport(ERROR, errmsg("the clean-up's own attempt failed")); });
    } catch (const pg::Error&) {
      const Witness inner;
    }
  }
};

Datum error_while_unwinding(pg::Args args) {
  const bool postgres = args.int8(0).value_or(0) != 0;
  const Witness witness;
  const FailingCleanup cleanup;
  if (postgres) {
    pg::call([] { fail_with_every_field(); });
  }
  throw core::Error("22023", "the first error", "Its detail.", "Its hint.");
}

// palloc of a size; `huge` as the server's own large arrays are allocated.
Datum allocate(pg::Args args) {
  const Witness witness;
  const auto bytes = static_cast<Size>(args.int8(0).value_or(0));
  const bool huge = args.int8(1).value_or(0) != 0;
  pg::call(
      [=] { pfree(huge ? MemoryContextAllocHuge(CurrentMemoryContext, bytes) : palloc(bytes)); });
  return pg::void_result();
}

}  // namespace

BACMR_FUNCTION(bacmr_test_run, run_sql);
BACMR_FUNCTION(bacmr_test_catch, catch_sql);
BACMR_FUNCTION(bacmr_test_catch_levels, catch_levels);
BACMR_FUNCTION(bacmr_test_nested, nested);
BACMR_FUNCTION(bacmr_test_error_in_context, error_in_context);
BACMR_FUNCTION(bacmr_test_error_while_unwinding, error_while_unwinding);
BACMR_FUNCTION(bacmr_test_allocate, allocate);
