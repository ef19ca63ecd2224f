// Table scans that end early, and work under a limit of memory.
#include "pg/postgres.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <new>
#include <string>

#include "core/error.hpp"
#include "pg/column_scan.hpp"
#include "pg/entry.hpp"
#include "pg/guard.hpp"
#include "pg/snapshot.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "witness.hpp"

namespace {

using test::Witness;

// Reads the first two columns of a table of (bigint, bigint); before the batch `stop_at` a cancel
// arrives as if from pg_cancel_backend(), or an exception is thrown.
std::int64_t scan(Oid relation, std::int64_t stop_at, const std::string& how) {
  const Witness outer;
  const pg::ActiveSnapshot snapshot;
  pg::ColumnScan<std::int64_t> rows({relation, 1, 2}, pg::KeyType::kInt8, pg::AmountType::kInt8);
  const auto batch = std::make_unique<pg::ScanBatch<std::int64_t>>();
  std::int64_t count = 0;
  for (std::int64_t i = 0;; ++i) {
    if (i == stop_at) {
      if (how == "throw") {
        throw core::Error("22023", "stopped after " + std::to_string(count) + " rows");
      }
      // What the signal's handler does.
      InterruptPending = 1;
      QueryCancelPending = 1;
    }
    if (!rows.next(*batch)) {
      return count;
    }
    count += batch->count;
  }
}

Datum scan_function(pg::Args args) {
  return Int64GetDatum(
      scan(args.oid(0, "relation"), args.int8(1).value_or(-1), args.text(2, "how")));
}

Datum catch_scan(pg::Args args) {
  std::string answer;
  try {
    pg::Subtransaction attempt;
    answer = std::to_string(
        scan(args.oid(0, "relation"), args.int8(1).value_or(-1), args.text(2, "how")));
    attempt.commit();
  } catch (const core::Error& e) {
    answer = e.message();
  }
  return pg::Param::text(answer).value;
}

// While it lives, this process may take no more than so many bytes of address space beyond what it
// has.
class MemoryLimit {
 public:
  explicit MemoryLimit(std::int64_t headroom) {
    touch_stack();
    std::int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    if (pages == 0 || ::getrlimit(RLIMIT_AS, &before_) != 0) {
      throw core::Error("0A000", "memory cannot be limited here");
    }
    rlimit now = before_;
    now.rlim_cur = static_cast<rlim_t>(pages * ::sysconf(_SC_PAGESIZE) + headroom);
    ::setrlimit(RLIMIT_AS, &now);
  }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;
  ~MemoryLimit() { ::setrlimit(RLIMIT_AS, &before_); }

 private:
  // The stack counts too, and when it cannot grow the process dies: let it grow before.
  __attribute__((noinline)) static void touch_stack() {
    volatile char block[1 << 20];
    for (std::size_t i = 0; i < sizeof block; i += 1024) {
      block[i] = 0;
    }
  }

  rlimit before_{};
};

// Runs SQL with little memory left; '' or the SQLSTATE it ended with.
Datum under_memory_limit(pg::Args args) {
  const Witness outer;
  const std::int64_t headroom = args.int8(0).value_or(0);
  const std::string sql = args.text(1, "sql");
  std::string state = "00000";
  try {
    pg::Subtransaction attempt;
    {
      const MemoryLimit limit(headroom);
      pg::Spi spi;
      spi.query(sql);
    }
    attempt.commit();
  } catch (const pg::Error& e) {
    state = e.sqlstate();
  } catch (const std::bad_alloc&) {
    state = "53200";
  }
  return pg::Param::text(state).value;
}

}  // namespace

BACMR_FUNCTION(bacmr_test_scan, scan_function);
BACMR_FUNCTION(bacmr_test_catch_scan, catch_scan);
BACMR_FUNCTION(bacmr_test_under_memory_limit, under_memory_limit);
