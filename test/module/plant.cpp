// Errors on purpose, each of a kind, for scripts/asan.sh: they show that the sanitizers are at
// work. Nothing where the module is built without them.
#include "pg/postgres.hpp"

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "pg/entry.hpp"

namespace {

#ifdef __SANITIZE_ADDRESS__

// The optimizer must neither see through these nor leave them out.
volatile int ten = 10;
volatile int sink = 0;

__attribute__((noinline)) void plant_overflow() {
  const auto block = std::make_unique<int[]>(10);
  sink = block[static_cast<std::size_t>(ten)];
}

__attribute__((noinline)) void plant_use_after_free() {
  auto block = std::make_unique<int>(1);
  const volatile int* const stale = block.get();
  block.reset();
  sink = *stale;
}

// Within the vector's memory, beyond its elements.
__attribute__((noinline)) void plant_container() {
  std::vector<int> numbers(5);
  numbers.reserve(20);
  sink = numbers.data()[ten];
}

__attribute__((noinline)) void plant_stack() {
  volatile int numbers[10] = {};
  sink = numbers[ten];
}

// Several: a stale pointer on the stack may still reach one.
__attribute__((noinline)) void plant_leak() {
  for (int i = 0; i < 20; ++i) {
    sink = static_cast<int>((new std::string(1000, 'x'))->size());
  }
}

__attribute__((noinline)) void plant_undefined() {
  volatile int large = std::numeric_limits<int>::max();
  large = large + ten;
  sink = large;
}

void plant(const std::string& kind) {
  if (kind == "overflow") {
    plant_overflow();
  } else if (kind == "use-after-free") {
    plant_use_after_free();
  } else if (kind == "container") {
    plant_container();
  } else if (kind == "stack") {
    plant_stack();
  } else if (kind == "leak") {
    plant_leak();
  } else if (kind == "undefined") {
    plant_undefined();
  } else {
    throw core::Error("22023", "nothing is planted");
  }
}

#else

void plant(const std::string&) {
  throw core::Error("0A000", "the module is built without sanitizers");
}

#endif

Datum plant_function(pg::Args args) {
  plant(args.text(0, "kind"));
  return pg::void_result();
}

}  // namespace

BACMR_FUNCTION(bacmr_test_plant, plant_function);
