#include "pg/postgres.hpp"

#include "jobs/balance_scan.hpp"

#include <memory>
#include <optional>

#include "core/check.hpp"
#include "jobs/ledger_sums.hpp"
#include "pg/row_store.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"

extern "C" {
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
}

namespace jobs {
namespace {

using Report = std::function<void(Finding)>;

std::string key_text(const core::Uuid& key) { return core::to_string(key); }
std::string key_text(std::int64_t key) { return std::to_string(key); }

// The difference of two 64-bit numbers needs 65 bits.
std::string difference_text(std::int64_t balance, std::int64_t sum) {
  __int128 difference = static_cast<__int128>(balance) - sum;
  const bool negative = difference < 0;
  std::string digits;
  do {
    const int digit = static_cast<int>(difference % 10);
    digits.insert(digits.begin(), static_cast<char>('0' + (negative ? -digit : digit)));
    difference /= 10;
  } while (difference != 0);
  return negative ? "-" + digits : digits;
}

struct LedgerEntry {
  std::int64_t sum = 0;
  std::int64_t rows = 0;
  std::int64_t nulls = 0;
};

UserState make_state(std::optional<std::string> user, bool has_wallet,
                     std::optional<std::int64_t> balance, const LedgerEntry& ledger) {
  UserState state;
  state.user = std::move(user);
  state.has_wallet = has_wallet;
  if (balance) {
    state.balance = std::to_string(*balance);
  }
  state.ledger_sum = std::to_string(ledger.sum);
  state.difference = difference_text(balance.value_or(0), ledger.sum);
  state.negative = balance.value_or(0) < 0;
  state.ledger_rows = ledger.rows;
  state.null_deltas = ledger.nulls;
  return state;
}

// Looks up each wallet in the sums, and reports; marks the users that it has met.
template <class Key>
std::int64_t compare_wallets(const std::vector<pg::ScanTarget>& targets, pg::KeyType key_type,
                             pg::AmountType amount_type, LedgerSums<Key>& sums,
                             const Report& report) {
  using Table = core::SumTable<Key>;
  const auto batch = std::make_unique<pg::ScanBatch<Key>>();
  std::int64_t wallets = 0;
  for (const pg::ScanTarget& target : targets) {
    pg::ColumnScan<Key> rows(target, key_type, amount_type);
    while (rows.next(*batch)) {
      wallets += batch->count;
      for (int i = 0; i < batch->count; ++i) {
        sums.table.prefetch(batch->keys[i]);
      }
      for (int i = 0; i < batch->count; ++i) {
        auto* entry = batch->null_keys[i] ? nullptr : sums.table.find(batch->keys[i]);
        LedgerEntry ledger;
        if (entry != nullptr) {
          Table::mark_seen(*entry);
          ledger = {entry->sum, entry->rows, Table::null_rows(*entry)};
        }
        const std::int64_t balance = batch->amounts[i];
        if (balance == ledger.sum && balance >= 0 && !batch->null_amounts[i] && ledger.nulls == 0) {
          continue;
        }
        report_state(
            make_state(batch->null_keys[i] ? std::nullopt : std::optional(key_text(batch->keys[i])),
                       true, batch->null_amounts[i] ? std::nullopt : std::optional(balance),
                       ledger),
            report);
      }
    }
  }
  return wallets;
}

template <class Key>
void report_users_without_wallet(const LedgerSums<Key>& sums, const Report& report) {
  using Table = core::SumTable<Key>;
  std::int64_t rows = sums.nobody_rows;
  sums.table.for_each([&](const typename Table::Entry& entry) {
    rows += entry.rows;
    if (!Table::seen(entry)) {
      report_state(make_state(key_text(entry.key), false, std::nullopt,
                              {entry.sum, entry.rows, Table::null_rows(entry)}),
                   report);
    }
  });
  core::ensure(rows == sums.rows, "each ledger row that was read is in one user's sum");
  if (sums.nobody_rows > 0) {
    report_state(make_state(std::nullopt, false, std::nullopt,
                            {sums.nobody_sum, sums.nobody_rows, sums.nobody_nulls}),
                 report);
  }
}

struct ScanPlan {
  std::vector<pg::ScanTarget> wallet;
  std::vector<pg::ScanTarget> ledger;
  pg::KeyType key_type;
  pg::AmountType balance_type;
  pg::AmountType delta_type;
};

std::optional<pg::KeyType> key_type(Oid type) {
  switch (type) {
    case UUIDOID:
      return pg::KeyType::kUuid;
    case INT8OID:
      return pg::KeyType::kInt8;
    case INT4OID:
      return pg::KeyType::kInt4;
    default:
      return std::nullopt;
  }
}

std::optional<pg::AmountType> amount_type(Oid type) {
  switch (type) {
    case INT8OID:
      return pg::AmountType::kInt8;
    case INT4OID:
      return pg::AmountType::kInt4;
    default:
      return std::nullopt;
  }
}

bool is_plain(const sources::Source& source) {
  return source.kind == RELKIND_RELATION || source.kind == RELKIND_PARTITIONED_TABLE;
}

std::optional<ScanPlan> plan_scan(const sources::Source& wallet, const sources::Source& ledger) {
  const auto key = key_type(wallet.type("user_id"));
  const auto balance = amount_type(wallet.type("token_balance"));
  const auto delta = amount_type(ledger.type("delta"));
  if (!is_plain(wallet) || !is_plain(ledger) || !key || !balance || !delta) {
    return std::nullopt;
  }
  auto wallet_targets = pg::scan_targets(wallet.oid, wallet.columns.at("user_id").name,
                                         wallet.columns.at("token_balance").name);
  auto ledger_targets = pg::scan_targets(ledger.oid, ledger.columns.at("user_id").name,
                                         ledger.columns.at("delta").name);
  if (!wallet_targets || !ledger_targets) {
    return std::nullopt;
  }
  return ScanPlan{std::move(*wallet_targets), std::move(*ledger_targets), *key, *balance, *delta};
}

// Nothing where the sums do not fit; nothing has been reported then.
template <class Key>
std::optional<BalanceTotals> compare_by_scan(const ScanPlan& plan, const Report& report) {
  LedgerSums<Key> sums = sum_ledger<Key>(plan.ledger, plan.key_type, plan.delta_type,
                                         pg::settings::reconcile_memory());
  if (!sums.fits) {
    return std::nullopt;
  }
  BalanceTotals totals;
  totals.method = "scan";
  totals.workers = sums.workers;
  totals.ledger_rows = sums.rows;
  totals.wallets = compare_wallets(plan.wallet, plan.key_type, plan.balance_type, sums, report);
  report_users_without_wallet(sums, report);
  return totals;
}

std::string filter_clause(const UserFilter* filter, const sources::Source& source) {
  if (filter == nullptr) {
    return {};
  }
  const std::string key = source.col("user_id");
  return " WHERE " + key + " = ANY ($1::" + source.type_name("user_id") + "[]) OR ($2 AND " + key +
         " IS NULL)";
}

std::string comparison_query(const sources::Source& wallet, const sources::Source& ledger,
                             const UserFilter* filter) {
  return "SELECT coalesce(w.user_id::text, l.user_id::text), w.present IS NOT NULL,"
         "  w.balance::text, coalesce(l.total, 0)::text,"
         "  (coalesce(w.balance, 0) - coalesce(l.total, 0))::text,"
         "  coalesce(w.balance < 0, false), coalesce(l.ledger_rows, 0), coalesce(l.nulls, 0),"
         "  coalesce(w.balance, 0) = coalesce(l.total, 0)"
         " FROM (SELECT " +
         wallet.col("user_id") + " AS user_id, " + wallet.col("token_balance") +
         "::numeric AS balance, true AS present FROM " + wallet.sql_name() +
         filter_clause(filter, wallet) + ") w FULL JOIN (SELECT " + ledger.col("user_id") +
         " AS user_id, sum(" + ledger.col("delta") +
         ")::numeric AS total, count(*) AS ledger_rows, count(*) - count(" + ledger.col("delta") +
         ") AS nulls FROM " + ledger.sql_name() + filter_clause(filter, ledger) +
         " GROUP BY 1) l ON w.user_id = l.user_id"
         " WHERE w.present IS NULL OR w.balance IS NULL OR w.balance < 0 OR l.nulls > 0"
         "  OR coalesce(w.balance, 0) <> coalesce(l.total, 0)";
}

// A count over partitions is done where the rows are only if it is grouped by what divides them.
std::string count_query(const sources::Source& source) {
  if (source.foreign_member.empty()) {
    return "(SELECT count(*) FROM " + source.sql_name() + ")";
  }
  return "(SELECT coalesce(sum(n), 0)::bigint FROM (SELECT count(*) AS n FROM " +
         source.sql_name() + " GROUP BY " + source.col("user_id") + ") g)";
}

}  // namespace

void plan_by_partition(pg::PinnedSettings& settings) {
  settings.set("enable_partitionwise_aggregate", "on");
  settings.set("enable_partitionwise_join", "on");
}

BalanceTotals compare_balances(const sources::Source& wallet, const sources::Source& ledger,
                               const Report& report) {
  std::string reason = "tables or types that the scan does not take";
  if (const auto plan = plan_scan(wallet, ledger)) {
    const auto totals = plan->key_type == pg::KeyType::kUuid
                            ? compare_by_scan<core::Uuid>(*plan, report)
                            : compare_by_scan<std::int64_t>(*plan, report);
    if (totals) {
      return *totals;
    }
    reason = "more users than bacmr.reconcile_memory holds, or a sum beyond 64 bits";
  }
  BalanceTotals totals = compare_balances_by_sql(wallet, ledger, nullptr, report);
  totals.method = "sql: " + reason;
  return totals;
}

BalanceTotals compare_balances_by_sql(const sources::Source& wallet, const sources::Source& ledger,
                                      const UserFilter* filter, const Report& report) {
  // Pinned anew: code of a view that was read before may have changed what an outer pin had set.
  pg::PinnedSettings settings;
  plan_by_partition(settings);
  BalanceTotals totals;
  pg::Spi spi;
  {
    const std::string query = comparison_query(wallet, ledger, filter);
    auto rows = filter == nullptr ? pg::RowStore(query, {})
                                  : pg::RowStore(query, {pg::Param::text_array(filter->users),
                                                         pg::Param::boolean(filter->nobody)});
    while (const auto row = rows.next()) {
      const auto& r = *row;
      UserState state;
      state.user = r[0];
      state.has_wallet = r[1] == "t";
      state.balance = r[2];
      state.ledger_sum = r[3].value_or("0");
      // "0.00" is no difference either.
      state.difference = r[8] == "t" ? "0" : r[4].value_or("0");
      state.negative = r[5] == "t";
      state.ledger_rows = std::stoll(r[6].value_or("0"));
      state.null_deltas = std::stoll(r[7].value_or("0"));
      report_state(state, report);
    }
  }
  if (filter == nullptr) {
    const pg::Rows counts = spi.query("SELECT " + count_query(wallet) + ", " + count_query(ledger),
                                      {}, pg::Spi::Access::kReadOnly);
    totals.wallets = counts.int8(0, 0);
    totals.ledger_rows = counts.int8(0, 1);
  }
  return totals;
}

}  // namespace jobs
