// From C++ to Postgres: exceptions of every kind that leave an entry point.
#include "pg/postgres.hpp"

#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "pg/entry.hpp"
#include "pg/guard.hpp"
#include "witness.hpp"

namespace {

using test::Witness;

[[noreturn]] void throw_kind(const std::string& kind) {
  const Witness innermost;
  if (kind == "core::Error") {
    throw core::Error("22023", "message: 100% of %s %n", "Detail: 100% of %s %n.",
                      "Hint: 100% of %s %n.");
  }
  if (kind == "core::Error without detail") {
    throw core::Error("55000", "only a message");
  }
  if (kind == "core::Error in Arabic") {
    throw core::Error("22023", "رصيد غير كافٍ", "التفاصيل", "تلميح");
  }
  if (kind == "core::Error of a megabyte") {
    throw core::Error("22023", std::string(1 << 20, 'm'), std::string(1 << 20, 'd'),
                      std::string(1 << 20, 'h'));
  }
  if (kind == "core::Error without message") {
    throw core::Error("22023", "");
  }
  if (kind == "std::runtime_error") {
    throw std::runtime_error("runtime: 100% of %s");
  }
  if (kind == "std::bad_alloc") {
    throw std::bad_alloc();
  }
  if (kind == "std::out_of_range") {
    static_cast<void>(std::vector<int>().at(1));
  }
  if (kind == "nested") {
    try {
      throw_kind("std::runtime_error");
    } catch (...) {
      throw core::Error("22023", "thrown while another was handled");
    }
  }
  throw 42;
}

Datum throw_function(pg::Args args) {
  const Witness first;
  const std::string kind = args.text(0, "kind");
  const std::vector<Witness> more(3);
  throw_kind(kind);
}

// An exception that passes through a guard must not leave the guard's jump target behind: the
// Postgres error that follows would jump into a frame that is gone.
Datum throw_through_guard(pg::Args) {
  const Witness outer;
  sigjmp_buf* const before = PG_exception_stack;
  ErrorContextCallback* const callbacks = error_context_stack;
  try {
    pg::call([] { throw std::runtime_error("through the guard"); });
  } catch (const std::runtime_error&) {
    if (PG_exception_stack != before || error_context_stack != callbacks) {
      throw core::Error("XX000", "the guard left its jump target behind");
    }
  }
  const Witness inner;
  pg::call(
      [] { ereport(ERROR, errcode(ERRCODE_DIVISION_BY_ZERO), errmsg("after the exception")); });
  return pg::void_result();
}

// operator new itself, with a size that no machine has.
Datum allocate_cpp(pg::Args args) {
  const Witness witness;
  const auto bytes = static_cast<std::size_t>(args.int8(0).value_or(0));
  void* const memory = ::operator new(bytes);
  ::operator delete(memory);
  return pg::void_result();
}

}  // namespace

BACMR_FUNCTION(bacmr_test_throw, throw_function);
BACMR_FUNCTION(bacmr_test_throw_through_guard, throw_through_guard);
BACMR_FUNCTION(bacmr_test_allocate_cpp, allocate_cpp);
