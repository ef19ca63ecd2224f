// Comparing wallets with their ledger: by the C++ scan where the tables allow it, by SQL elsewhere.
// Both read under the active snapshot and report the same.
#pragma once

#include "jobs/finding.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "pg/security.hpp"
#include "sources/source.hpp"

namespace jobs {

struct BalanceTotals {
  std::int64_t wallets = 0;
  std::int64_t ledger_rows = 0;
  std::string method;  // 'scan' or 'sql', and why not 'scan'
  int workers = 0;
};

BalanceTotals compare_balances(const sources::Source& wallet, const sources::Source& ledger,
                               const std::function<void(Finding)>& report);

// Only by SQL; `users`: none, or the keys (as text) to look at and whether to look at rows that
// name no user.
struct UserFilter {
  std::vector<std::string> users;
  bool nobody = false;
};
BalanceTotals compare_balances_by_sql(const sources::Source& wallet, const sources::Source& ledger,
                                      const UserFilter* filter,
                                      const std::function<void(Finding)>& report);

// For queries over tables whose partitions may be on other servers: aggregates and joins by user
// happen there, partition by partition, and not on rows that were fetched for it.
void plan_by_partition(pg::PinnedSettings& settings);

}  // namespace jobs
