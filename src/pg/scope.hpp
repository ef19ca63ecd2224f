// The base of the RAII classes that hold something of Postgres'.
//
// Their destructors release on the good path only. While an exception passes through, they do
// nothing: its catcher aborts the transaction or the subtransaction (see pg::Error), and Postgres'
// own abort releases snapshots, relations, SPI levels and settings, in the right order.
#pragma once

#include <exception>

#include "pg/guard.hpp"

namespace pg {

class Scope {
 public:
  Scope() = default;
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 protected:
  ~Scope() = default;
  bool unwinding() const noexcept { return std::uncaught_exceptions() > exceptions_; }

 private:
  int exceptions_ = std::uncaught_exceptions();
};

// For destructors: runs `callable`; an error, which a destructor cannot pass on, is reported as a
// WARNING.
template <class Callable>
void cleanup(Callable&& callable) noexcept {
  try {
    call(callable);
  } catch (Error& error) {
    try {
      ErrorData* data = error.release_to(CurrentMemoryContext);
      call([data] {
        ereport(WARNING, errcode(data->sqlerrcode),
                errmsg("bacmr_ops could not clean up: %s", data->message));
      });
    } catch (...) {
      return;
    }
  } catch (...) {
    return;
  }
}

}  // namespace pg
