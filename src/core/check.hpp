// Assertions that stay on in production: for what must hold whatever the data are, where a wrong
// number would be worse than a job that fails (sums of money, counts of a batch), and the check
// costs nothing beside the work.
//
//   core::ensure(entries == rows, "each ledger row counts once");
//
// Where it does not hold, the statement ends with an internal error (XX000) that names the place,
// and takes its changes back. The server lives: an abort would end every session.
#pragma once

namespace core {

[[noreturn]] void throw_broken(const char* what, const char* file, int line);

// `what` says what holds. (std::source_location is unknown to some of the compilers.)
inline void ensure(bool holds, const char* what, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  if (__builtin_expect(static_cast<long>(!holds), 0) != 0) {
    throw_broken(what, file, line);
  }
}

}  // namespace core
