// The guard: the only way from C++ into a Postgres function that can raise an error.
//
//   Relation rel = pg::call([&] { return table_open(oid, AccessShareLock); });
//
// An ERROR inside becomes a pg::Error, which runs destructors on its way as any exception does.
// The callable holds Postgres calls and plain data only: an error jumps out of it without running
// destructors, so no std:: object may be created inside. Its result is trivially destructible.
//
// On the good path the cost is one sigsetjmp without the signal mask (Postgres never jumps out of a
// signal handler) and no allocation.
#pragma once

#include "pg/postgres.hpp"

#include <type_traits>

#include "pg/error.hpp"

namespace pg {

template <class Callable>
std::invoke_result_t<Callable&> call(Callable&& callable) {
  using Result = std::invoke_result_t<Callable&>;
  static_assert(std::is_trivially_destructible_v<Result> || std::is_void_v<Result>);

  sigjmp_buf* const outer = PG_exception_stack;
  ErrorContextCallback* const callbacks = error_context_stack;
  MemoryContext const context = CurrentMemoryContext;
  sigjmp_buf local;
  if (__builtin_expect(sigsetjmp(local, 0) == 0, 1)) {
    PG_exception_stack = &local;
    try {
      if constexpr (std::is_void_v<Result>) {
        callable();
        PG_exception_stack = outer;
        return;
      } else {
        Result result = callable();
        PG_exception_stack = outer;
        return result;
      }
    } catch (...) {
      // A C++ exception on its way through: Postgres must not jump to a frame that is gone, nor
      // allocate in a context that the callable has switched to.
      MemoryContextSwitchTo(context);
      PG_exception_stack = outer;
      error_context_stack = callbacks;
      throw;
    }
  }
  PG_exception_stack = outer;
  error_context_stack = callbacks;
  Error::throw_current(context);
}

inline void check_for_interrupts() {
  if (INTERRUPTS_PENDING_CONDITION()) {
    call([] { ProcessInterrupts(); });
  }
}

}  // namespace pg
