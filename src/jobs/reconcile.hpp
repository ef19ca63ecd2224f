// Wallet reconciliation: does every balance equal the sum of its ledger, and is every reservation
// in order? Reads in one snapshot, changes no row of the application's.
#pragma once

#include "pg/extension.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace jobs {

struct Reconciliation {
  std::int64_t run_id = 0;
  std::int64_t wallets = 0;
  std::int64_t ledger_rows = 0;
  std::int64_t discrepancies = 0;
  std::string drift = "0";
  std::string drift_json = "0";       // the same as JSON (NaN is a string there)
  std::string detail = "{}";          // of the job run
  std::string kinds;                  // "balance_mismatch 2, missing_wallet 1"
  std::vector<std::string> warnings;  // what else the operator should know
  std::string report_path;            // '' where no file was written
};

// "reconciliation found 3 discrepancies, drift 120 tokens"
std::string summary(const Reconciliation& result);

// The argument recheck_after in microseconds; throws for NULL, a negative one, and one that the
// transaction's isolation makes meaningless.
std::int64_t checked_recheck_after(std::optional<std::int64_t> recheck_after_us);

// The work, between start_run() and finish_run(): compares, writes bacmr_discrepancy. The first
// look leaves every finding there; after the wait the second takes back what it does not confirm.
// Either both in one transaction, or the second in the next one: rows of other servers are read in
// one snapshot of theirs a transaction, so only there a second look at them shows anything new.
struct Look {
  std::int64_t wallets = 0;
  std::int64_t ledger_rows = 0;
  std::string method;
  int workers = 0;
};
Look look(const pg::Extension& extension, std::int64_t run_id);
void look_again(const pg::Extension& extension, std::int64_t run_id, std::int64_t recheck_after_us);
Reconciliation sum_up(const pg::Extension& extension, std::int64_t run_id, const Look& look);

// Findings that were committed and never confirmed.
void forget_findings(const pg::Extension& extension, std::int64_t run_id);

// Ends the run: its row, the report file, the WARNING and the notification. What was found is kept
// even if the file cannot be written.
void conclude(const pg::Extension& extension, Reconciliation& result,
              const std::string& request_id);

}  // namespace jobs
