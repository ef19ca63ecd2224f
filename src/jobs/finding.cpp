#include "pg/postgres.hpp"

#include "jobs/finding.hpp"

#include "core/json.hpp"
#include "pg/memory.hpp"
#include "pg/security.hpp"

namespace jobs {
namespace {

constexpr std::size_t kFlushAt = 2000;

pg::Param column(const std::vector<Finding>& findings,
                 std::optional<std::string> Finding::*member) {
  std::vector<std::optional<std::string>> values;
  values.reserve(findings.size());
  for (const Finding& finding : findings) {
    values.push_back(finding.*member);
  }
  return pg::Param::text_array(values);
}

pg::Param column(const std::vector<Finding>& findings, std::string Finding::*member) {
  std::vector<std::string> values;
  values.reserve(findings.size());
  for (const Finding& finding : findings) {
    values.push_back(finding.*member);
  }
  return pg::Param::text_array(values);
}

std::optional<std::int64_t> find_previous_run(const pg::Extension& extension, std::int64_t run_id) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query("SELECT max(run_id) FROM " + extension.object("bacmr_job_run") +
                                      " WHERE job = 'reconcile' AND run_id < $1"
                                      " AND status IN ('succeeded', 'discrepancies')",
                                  {pg::Param::int8(run_id)});
  if (rows.is_null(0, 0)) {
    return std::nullopt;
  }
  return rows.int8(0, 0);
}

}  // namespace

FindingArrays::FindingArrays(const std::vector<Finding>& findings)
    : kinds(column(findings, &Finding::kind)),
      users(column(findings, &Finding::user)),
      balances(column(findings, &Finding::balance)),
      sums(column(findings, &Finding::ledger_sum)),
      discrepancies(column(findings, &Finding::discrepancy)),
      details(column(findings, &Finding::detail)) {}

void report_state(const UserState& state, const std::function<void(Finding)>& report) {
  const std::string rows = core::JsonObject().number("ledger_rows", state.ledger_rows).str();
  if (!state.has_wallet) {
    report(Finding{"missing_wallet", state.user, std::nullopt, state.ledger_sum, state.difference,
                   rows});
  } else if (state.difference != "0") {
    report(Finding{"balance_mismatch", state.user, state.balance.value_or("0"), state.ledger_sum,
                   state.difference, rows});
  }
  if (state.negative) {
    report(Finding{"negative_balance", state.user, state.balance, state.ledger_sum,
                   state.difference, "{}"});
  }
  const bool null_balance = state.has_wallet && !state.balance;
  if (null_balance || state.null_deltas > 0) {
    // With a NULL balance the difference is unknown, as in SQL.
    report(Finding{"null_amount", state.user, state.balance, state.ledger_sum,
                   state.balance ? std::optional(state.difference) : std::nullopt,
                   core::JsonObject()
                       .boolean("null_balance", null_balance)
                       .number("null_deltas", state.null_deltas)
                       .str()});
  }
}

FindingSink::FindingSink(const pg::Extension& extension, std::int64_t run_id)
    : extension_(extension), run_id_(run_id), previous_run_(find_previous_run(extension, run_id)) {}

void FindingSink::add(Finding finding) {
  waiting_.push_back(std::move(finding));
  if (waiting_.size() >= kFlushAt) {
    flush();
  }
}

void FindingSink::flush() {
  if (waiting_.empty()) {
    return;
  }
  const pg::MemoryScope memory("bacmr_ops findings");
  const std::vector<Finding> findings = std::move(waiting_);
  waiting_.clear();
  const pg::AsExtensionOwner owner(extension_.owner);
  pg::Spi spi;
  const FindingArrays arrays(findings);
  const std::string table = extension_.object("bacmr_discrepancy");
  // A row that the previous run reported too keeps the time at which it was first seen. Two
  // branches, so that both a user and the absence of one are found by the index.
  spi.query(
      "INSERT INTO " + table +
          " (run_id, kind, user_id, current_balance, ledger_sum, discrepancy, detail, first_seen,"
          "  request_id)"
          " SELECT $7, f.kind, f.user_id, f.balance::numeric, f.ledger_sum::numeric,"
          "  f.discrepancy::numeric, f.detail::jsonb, coalesce(seen.first_seen, clock_timestamp()),"
          "  (SELECT r.request_id FROM " +
          extension_.object("bacmr_job_run") +
          " r WHERE r.run_id = $7)"
          " FROM unnest($1, $2, $3, $4, $5, $6)"
          "  f(kind, user_id, balance, ledger_sum, discrepancy, detail)"
          " LEFT JOIN LATERAL ("
          "  SELECT p.first_seen FROM " +
          table +
          " p WHERE p.run_id = $8 AND p.kind = f.kind AND p.user_id = f.user_id"
          "   AND p.detail->>'reservation_id' IS NOT DISTINCT FROM "
          "f.detail::jsonb->>'reservation_id'"
          "  UNION ALL SELECT p.first_seen FROM " +
          table +
          " p WHERE p.run_id = $8 AND p.kind = f.kind AND p.user_id IS NULL AND f.user_id IS NULL"
          "   AND p.detail->>'reservation_id' IS NOT DISTINCT FROM "
          "f.detail::jsonb->>'reservation_id'"
          "  LIMIT 1) seen ON true",
      {arrays.kinds, arrays.users, arrays.balances, arrays.sums, arrays.discrepancies,
       arrays.details, pg::Param::int8(run_id_), pg::Param::int8(previous_run_)});
}

}  // namespace jobs
