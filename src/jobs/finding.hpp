// What a reconciliation reports: one Finding a row of bacmr_discrepancy.
#pragma once

#include "pg/extension.hpp"
#include "pg/spi.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace jobs {

// Amounts are decimals as text, whatever the columns' type.
struct Finding {
  std::string kind;
  std::optional<std::string> user;
  std::optional<std::string> balance;
  std::optional<std::string> ledger_sum;
  std::optional<std::string> discrepancy;
  std::string detail = "{}";  // a JSON object
};

// A user whose wallet and ledger are worth a word. Both ways to reconcile end in this, so that both
// report the same.
struct UserState {
  std::optional<std::string> user;
  bool has_wallet = false;
  std::optional<std::string> balance;  // NULL in the wallet, or no wallet
  std::string ledger_sum = "0";        // NULL deltas count as 0
  std::string difference;              // (balance or 0) - ledger_sum
  bool negative = false;               // balance < 0
  std::int64_t ledger_rows = 0;
  std::int64_t null_deltas = 0;
};

// Reports every kind that applies to a user.
void report_state(const UserState& state, const std::function<void(Finding)>& report);

// Writes findings into bacmr_discrepancy as the extension's owner, some at a time.
class FindingSink {
 public:
  FindingSink(const pg::Extension& extension, std::int64_t run_id);

  void add(Finding finding);
  void flush();

 private:
  const pg::Extension& extension_;
  std::int64_t run_id_;
  std::optional<std::int64_t> previous_run_;
  std::vector<Finding> waiting_;
};

// The findings as the arrays that unnest() takes back apart, $1 to $6 of a query.
struct FindingArrays {
  explicit FindingArrays(const std::vector<Finding>& findings);
  pg::Param kinds, users, balances, sums, discrepancies, details;
};

}  // namespace jobs
