#include "pg/entry.hpp"

#include <cstring>
#include <new>

#include "core/error.hpp"
#include "pg/guard.hpp"

extern "C" {
#include "utils/memutils.h"
}

namespace pg {
namespace {

constexpr int sqlstate_code(const char* s) { return MAKE_SQLSTATE(s[0], s[1], s[2], s[3], s[4]); }

const char* keep(MemoryContext owner, const char* text) {
  return *text == '\0' ? nullptr : call([&] { return MemoryContextStrdup(owner, text); });
}

void set(PendingError& pending, MemoryContext owner, int code, const char* message,
         const char* detail, const char* hint) {
  pending.code = code;
  pending.message = keep(owner, message);
  pending.detail = keep(owner, detail);
  pending.hint = keep(owner, hint);
}

void out_of_memory(PendingError& pending) noexcept {
  pending = PendingError{};
  pending.code = ERRCODE_OUT_OF_MEMORY;
  pending.message = "out of memory";
}

void translate(PendingError& pending, MemoryContext owner) {
  try {
    throw;
  } catch (Error& e) {
    pending.data = e.release_to(owner);
  } catch (const core::Error& e) {
    set(pending, owner, sqlstate_code(e.sqlstate()), e.what(), e.detail().c_str(),
        e.hint().c_str());
  } catch (const std::bad_alloc&) {
    out_of_memory(pending);
  } catch (const std::exception& e) {
    set(pending, owner, ERRCODE_INTERNAL_ERROR, e.what(), "",
        "This is a defect of bacmr_ops: please report it.");
  } catch (...) {
    set(pending, owner, ERRCODE_INTERNAL_ERROR, "unknown C++ exception", "",
        "This is a defect of bacmr_ops: please report it.");
  }
}

}  // namespace

void catch_exception(PendingError& pending, MemoryContext owner) noexcept {
  try {
    translate(pending, owner);
  } catch (...) {
    out_of_memory(pending);
  }
}

void raise(const PendingError& pending) {
  if (pending.data != nullptr) {
    ReThrowError(pending.data);
  }
  ereport(ERROR, errcode(pending.code),
          errmsg_internal("%s", pending.message != nullptr ? pending.message : "unknown error"),
          pending.detail != nullptr ? errdetail_internal("%s", pending.detail) : 0,
          pending.hint != nullptr ? errhint("%s", pending.hint) : 0);
  pg_unreachable();
}

}  // namespace pg
