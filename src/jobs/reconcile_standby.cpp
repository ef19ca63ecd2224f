#include "pg/postgres.hpp"

#include "jobs/reconcile_standby.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/balance_scan.hpp"
#include "jobs/finding.hpp"
#include "jobs/reservation_checks.hpp"
#include "pg/log.hpp"
#include "pg/memory.hpp"
#include "pg/snapshot.hpp"
#include "pg/spi.hpp"
#include "pg/wait.hpp"
#include "sources/source.hpp"

extern "C" {
#include "utils/timestamp.h"
}

namespace jobs {
namespace {

// As many as the report of a run holds; a log is no table.
constexpr std::size_t kLoggedFindings = 10000;
// For a second look all findings are kept, in memory: some hundred megabytes.
constexpr std::size_t kMaxKept = 1000000;
// How many are added up, or read again, in one query.
constexpr std::size_t kBatch = 2000;

bool is_drift(const Finding& finding) {
  return finding.kind == "balance_mismatch" || finding.kind == "missing_wallet";
}

// Counts findings, and keeps those that are logged, or all.
class Findings {
 public:
  explicit Findings(bool keep_all) : keep_all_(keep_all) {}

  void add(Finding finding) {
    ++by_kind_[finding.kind];
    if (is_drift(finding)) {
      amounts_.push_back(finding.discrepancy.value_or("0"));
      if (amounts_.size() >= kBatch) {
        add_up();
      }
    }
    if (keep_all_ && kept_.size() >= kMaxKept) {
      throw core::Error(core::sqlstate::kProgramLimitExceeded,
                        "more than " + std::to_string(kMaxKept) +
                            " findings cannot be looked at again on a standby",
                        {}, "Leave out recheck_after, or reconcile on the primary.");
    }
    if (keep_all_ || kept_.size() < kLoggedFindings) {
      kept_.push_back(std::move(finding));
    }
  }

  // What the totals need, once all have been added.
  void conclude(Reconciliation& result) {
    add_up();
    core::JsonObject kinds;
    for (const auto& [kind, count] : by_kind_) {
      kinds.number(kind, count);
      result.kinds += (result.kinds.empty() ? "" : ", ") + kind + " " + std::to_string(count);
      result.discrepancies += kind == "stale_reservation" ? 0 : count;
    }
    kinds_ = kinds.str();
    pg::Spi spi;
    const pg::Rows rows =
        spi.query("SELECT to_jsonb($1::numeric)::text", {pg::Param::text(drift_)});
    result.drift = drift_;
    result.drift_json = rows.text(0, 0);
  }

  const std::vector<Finding>& kept() const { return kept_; }
  const std::string& kinds() const { return kinds_; }

 private:
  void add_up() {
    const pg::MemoryScope memory("bacmr_ops drift");
    pg::Spi spi;
    drift_ = spi.query(
                    "SELECT ($1::numeric + coalesce(sum(abs(d::numeric)), 0))::text"
                    " FROM unnest($2) d",
                    {pg::Param::text(drift_), pg::Param::text_array(amounts_)})
                 .text(0, 0);
    amounts_.clear();
  }

  bool keep_all_;
  std::map<std::string, std::int64_t> by_kind_;
  std::vector<std::string> amounts_;  // not yet in drift_
  std::string drift_ = "0";
  std::string kinds_;
  std::vector<Finding> kept_;
};

// Those of `first` that `second` confirms to the last token: what recheck() leaves in the table.
std::vector<Finding> confirmed(const std::vector<Finding>& first,
                               const std::vector<Finding>& second) {
  const pg::MemoryScope memory("bacmr_ops recheck");
  const FindingArrays a(first);
  const FindingArrays b(second);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT f.n FROM unnest($1, $2, $3, $4) WITH ORDINALITY"
      "  f(kind, user_id, discrepancy, detail, n) WHERE EXISTS"
      " (SELECT FROM unnest($5, $6, $7, $8) s(kind, user_id, discrepancy, detail)"
      "  WHERE s.kind = f.kind AND coalesce(s.user_id, '') = coalesce(f.user_id, '')"
      "  AND coalesce(s.detail::jsonb->>'reservation_id', '')"
      "      = coalesce(f.detail::jsonb->>'reservation_id', '')"
      "  AND s.discrepancy::numeric IS NOT DISTINCT FROM f.discrepancy::numeric) ORDER BY f.n",
      {a.kinds, a.users, a.discrepancies, a.details, b.kinds, b.users, b.discrepancies, b.details});
  std::vector<Finding> result;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    result.push_back(first[static_cast<std::size_t>(rows.int8(i, 0)) - 1]);
  }
  return result;
}

// Reads the flagged users again, some at a time.
Findings look_again(const sources::Sources& all, const Findings& before) {
  const auto& wallet = all.require("wallet", "reconcile");
  const auto& ledger = all.require("wallet_ledger", "reconcile");
  std::map<std::optional<std::string>, std::vector<Finding>> by_user;
  for (const Finding& finding : before.kept()) {
    by_user[finding.user].push_back(finding);
  }
  Findings result(true);
  const pg::ActiveSnapshot snapshot;
  const std::int64_t now = GetCurrentTimestamp();
  UserFilter filter;
  std::vector<Finding> first;
  const auto look = [&] {
    std::vector<Finding> second;
    const auto collect = [&](Finding finding) { second.push_back(std::move(finding)); };
    compare_balances_by_sql(wallet, ledger, &filter, collect);
    check_reservations(all, now, &filter, collect);
    for (Finding& finding : confirmed(first, second)) {
      result.add(std::move(finding));
    }
    filter = {};
    first.clear();
  };
  for (const auto& [user, findings] : by_user) {
    if (user) {
      filter.users.push_back(*user);
    } else {
      filter.nobody = true;
    }
    first.insert(first.end(), findings.begin(), findings.end());
    if (filter.users.size() >= kBatch) {
      look();
    }
  }
  if (!first.empty()) {
    look();
  }
  return result;
}

void log(const Reconciliation& result, const Findings& findings, const std::string& request_id) {
  const std::size_t logged = std::min(findings.kept().size(), kLoggedFindings);
  std::int64_t all = 0;
  for (std::size_t i = 0; i < logged; ++i) {
    const Finding& finding = findings.kept()[i];
    core::JsonObject fields;
    fields.text("kind", finding.kind);
    // Amounts as text: NaN is no number in JSON.
    for (const auto& [name, value] :
         {std::pair("user_id", &finding.user), std::pair("current_balance", &finding.balance),
          std::pair("ledger_sum", &finding.ledger_sum),
          std::pair("discrepancy", &finding.discrepancy)}) {
      if (*value) {
        fields.text(name, **value);
      } else {
        fields.null(name);
      }
    }
    fields.raw("detail", finding.detail);
    pg::log_line(pg::LogLevel::kWarning, "wallet discrepancy", fields.str(), request_id);
    ++all;
  }
  pg::log_line(result.discrepancies > 0 ? pg::LogLevel::kWarning : pg::LogLevel::kInfo,
               "wallets reconciled on a standby",
               core::JsonObject().raw("report", result.detail).number("findings_logged", all).str(),
               request_id);
}

}  // namespace

Reconciliation reconcile_on_standby(const pg::Extension& extension, std::int64_t recheck_after_us,
                                    const std::string& request_id) {
  Reconciliation result;
  const sources::Sources all = sources::Sources::load_locked(extension);
  const auto& wallet = all.require("wallet", "reconcile");
  const auto& ledger = all.require("wallet_ledger", "reconcile");
  Findings findings(recheck_after_us > 0);
  BalanceTotals totals;
  {
    const pg::ActiveSnapshot snapshot;
    const std::int64_t now = GetCurrentTimestamp();
    const auto report = [&](Finding finding) { findings.add(std::move(finding)); };
    totals = compare_balances(wallet, ledger, report);
    check_reservations(all, now, nullptr, report);
  }
  if (recheck_after_us > 0) {
    pg::wait_interruptibly(recheck_after_us);
    findings = look_again(all, findings);
  }
  findings.conclude(result);
  result.wallets = totals.wallets;
  result.ledger_rows = totals.ledger_rows;
  result.detail = core::JsonObject()
                      .number("wallets_checked", result.wallets)
                      .number("ledger_rows", result.ledger_rows)
                      .number("discrepancies", result.discrepancies)
                      .raw("drift", result.drift_json)
                      .raw("kinds", findings.kinds())
                      .text("method", totals.method)
                      .number("parallel_workers", totals.workers)
                      .str();
  if (result.discrepancies > 0) {
    pg::warn_client(
        summary(result), "By kind: " + result.kinds + ".",
        "This is a standby: the findings are in its server's log, request id " + request_id + ".");
  }
  log(result, findings, request_id);
  return result;
}

}  // namespace jobs
