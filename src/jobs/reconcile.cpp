#include "pg/postgres.hpp"

#include "jobs/reconcile.hpp"

#include <ctime>
#include <set>

#include "core/durable_file.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/attempt.hpp"
#include "jobs/balance_scan.hpp"
#include "jobs/finding.hpp"
#include "jobs/gauges.hpp"
#include "jobs/job_run.hpp"
#include "jobs/reconcile_standby.hpp"
#include "jobs/reservation_checks.hpp"
#include "pg/entry.hpp"
#include "pg/isolation.hpp"
#include "pg/log.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"
#include "pg/snapshot.hpp"
#include "pg/spi.hpp"
#include "pg/transaction_end.hpp"
#include "pg/wait.hpp"
#include "sources/source.hpp"

extern "C" {
#include "utils/timestamp.h"
}

namespace jobs {
namespace {

// How many flagged users are read again in one query.
constexpr std::uint64_t kRecheckBatch = 5000;

// The counts of the latest finished run before this one.
struct PreviousCounts {
  bool known = false;
  std::int64_t wallets = 0;
  std::int64_t ledger_rows = 0;
};

PreviousCounts previous_counts(const pg::Extension& extension, std::int64_t run_id) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT (detail->>'wallets_checked')::bigint, (detail->>'ledger_rows')::bigint FROM " +
          extension.object("bacmr_job_run") +
          " WHERE job = 'reconcile' AND run_id < $1 AND status IN ('succeeded', 'discrepancies')"
          " ORDER BY run_id DESC LIMIT 1",
      {pg::Param::int8(run_id)});
  if (rows.empty()) {
    return {};
  }
  return {true, rows.int8(0, 0), rows.int8(0, 1)};
}

// Two tables that were emptied together agree perfectly: only their size tells.
void compare_size(const char* table, std::int64_t before, std::int64_t now,
                  Reconciliation& result) {
  if (now < before - now) {
    result.warnings.push_back(std::string(table) + " has " + std::to_string(now) +
                              " rows, the previous run counted " + std::to_string(before));
  }
}

// Without a fresh transaction a remote server would show the same rows again, and confirm anything.
void require_local(const sources::Sources& all) {
  for (const sources::Source& source : all.all()) {
    if (source.source != "chunks" && !source.foreign_member.empty()) {
      throw core::Error(
          core::sqlstate::kFeatureNotSupported,
          "recheck_after needs a transaction of its own for " + source.sql_name(),
          "Rows of " + source.foreign_member +
              " are on another server, which shows one transaction the same rows twice.",
          "CALL bacmr_run_job('reconcile', '{\"recheck_after\": \"5 seconds\"}'), which commits "
          "between the two looks.");
    }
  }
}

// Takes back what a second look, in a fresh snapshot, does not confirm to the last token.
void recheck(const pg::Extension& extension, const sources::Sources& all, std::int64_t run_id) {
  const auto& wallet = all.require("wallet", "reconcile");
  const auto& ledger = all.require("wallet_ledger", "reconcile");
  const std::string table = extension.object("bacmr_discrepancy");
  const pg::ActiveSnapshot snapshot;
  const std::int64_t now = GetCurrentTimestamp();
  std::optional<std::string> last;
  for (bool nobody = true;; nobody = false) {
    UserFilter filter;
    filter.nobody = nobody;
    {
      const pg::AsExtensionOwner owner(extension.owner);
      pg::Spi spi;
      const pg::Rows users = spi.query(
          "SELECT DISTINCT user_id FROM " + table +
              " WHERE run_id = $1 AND user_id IS NOT NULL AND ($2 IS NULL OR user_id > $2)"
              " ORDER BY user_id LIMIT $3",
          {pg::Param::int8(run_id), pg::Param::text(last),
           pg::Param::int8(static_cast<std::int64_t>(kRecheckBatch))});
      for (std::uint64_t i = 0; i < users.size(); ++i) {
        filter.users.push_back(users.text(i, 0));
      }
    }
    if (filter.users.empty() && !nobody) {
      return;
    }
    std::vector<Finding> confirmed;
    const auto collect = [&](Finding finding) { confirmed.push_back(std::move(finding)); };
    compare_balances_by_sql(wallet, ledger, &filter, collect);
    check_reservations(all, now, &filter, collect);
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    const FindingArrays arrays(confirmed);
    spi.query("DELETE FROM " + table +
                  " d WHERE d.run_id = $7 AND (d.user_id = ANY ($8) OR ($9 AND d.user_id IS NULL))"
                  " AND NOT EXISTS (SELECT FROM unnest($1, $2, $3, $4, $5, $6)"
                  "  f(kind, user_id, balance, ledger_sum, discrepancy, detail)"
                  "  WHERE f.kind = d.kind AND coalesce(f.user_id, '') = coalesce(d.user_id, '')"
                  "  AND coalesce(f.detail::jsonb->>'reservation_id', '')"
                  "      = coalesce(d.detail->>'reservation_id', '')"
                  "  AND f.discrepancy::numeric IS NOT DISTINCT FROM d.discrepancy)",
              {arrays.kinds, arrays.users, arrays.balances, arrays.sums, arrays.discrepancies,
               arrays.details, pg::Param::int8(run_id), pg::Param::text_array(filter.users),
               pg::Param::boolean(nobody)});
    if (filter.users.empty()) {
      return;
    }
    last = filter.users.back();
  }
}

// Counts what stands in bacmr_discrepancy for this run.
void count_findings(const pg::Extension& extension, Reconciliation& result, std::string& by_kind) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT coalesce(sum(n) FILTER (WHERE kind <> 'stale_reservation'), 0)::bigint,"
      "  coalesce(sum(off) FILTER (WHERE kind IN ('balance_mismatch', 'missing_wallet')), 0)::text,"
      "  to_jsonb(coalesce(sum(off) FILTER (WHERE kind IN ('balance_mismatch', 'missing_wallet')),"
      "   0))::text,"
      "  coalesce(jsonb_object_agg(kind, n), '{}')::text,"
      "  coalesce(string_agg(kind || ' ' || n, ', ' ORDER BY kind), '')"
      " FROM (SELECT kind, count(*) AS n, sum(abs(discrepancy)) AS off FROM " +
          extension.object("bacmr_discrepancy") + " WHERE run_id = $1 GROUP BY kind) k",
      {pg::Param::int8(result.run_id)});
  result.discrepancies = rows.int8(0, 0);
  result.drift = rows.text(0, 1);
  result.drift_json = rows.text(0, 2);
  by_kind = rows.text(0, 3);
  result.kinds = rows.text(0, 4);
}

void add_to_detail(const pg::Extension& extension, std::int64_t run_id, const std::string& json) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  spi.query("UPDATE " + extension.object("bacmr_job_run") +
                " SET detail = detail || $2::jsonb WHERE run_id = $1",
            {pg::Param::int8(run_id), pg::Param::text(json)});
}

std::string report_text(const pg::Extension& extension, std::int64_t run_id) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  return spi
      .query("SELECT jsonb_pretty(" + extension.object("bacmr_reconcile_report") + "($1))",
             {pg::Param::int8(run_id)})
      .text(0, 0);
}

void write_report(const pg::Extension& extension, Reconciliation& result) {
  const std::string text = report_text(extension, result.run_id);
  try {
    const std::string directory = pg::settings::artifact_directory();
    core::make_private_directory(directory);
    result.report_path = core::write_new_file(
        directory, "wallet_discrepancies_" + core::utc_stamp(std::time(nullptr)), ".json",
        text + "\n");
  } catch (const core::Error& e) {
    // The findings are in the tables: a file that cannot be written must not take them along.
    add_to_detail(extension, result.run_id,
                  core::JsonObject().text("report_error", e.message()).str());
    result.warnings.push_back("the report file was not written: " + e.message() +
                              (e.hint().empty() ? "" : " (" + e.hint() + ")"));
    return;
  }
  pg::remove_file_at_abort(result.report_path);
  add_to_detail(extension, result.run_id,
                core::JsonObject().text("report", result.report_path).str());
}

void notify(const std::string& payload) {
  pg::Spi spi;
  spi.query("SELECT pg_notify('bacmr_alert', $1)", {pg::Param::text(payload)});
}

}  // namespace

std::string summary(const Reconciliation& result) {
  return "reconciliation found " + std::to_string(result.discrepancies) +
         (result.discrepancies == 1 ? " discrepancy" : " discrepancies") + ", drift " +
         result.drift + " tokens";
}

Look look(const pg::Extension& extension, std::int64_t run_id) {
  const sources::Sources all = sources::Sources::load_locked(extension);
  const auto& wallet = all.require("wallet", "reconcile");
  const auto& ledger = all.require("wallet_ledger", "reconcile");

  BalanceTotals totals;
  {
    FindingSink sink(extension, run_id);
    const pg::ActiveSnapshot snapshot;
    const std::int64_t now = GetCurrentTimestamp();
    const auto report = [&](Finding finding) { sink.add(std::move(finding)); };
    totals = compare_balances(wallet, ledger, report);
    check_reservations(all, now, nullptr, report);
    sink.flush();
  }
  return {totals.wallets, totals.ledger_rows, totals.method, totals.workers};
}

void look_again(const pg::Extension& extension, std::int64_t run_id,
                std::int64_t recheck_after_us) {
  pg::wait_interruptibly(recheck_after_us);
  recheck(extension, sources::Sources::load_locked(extension), run_id);
}

Reconciliation sum_up(const pg::Extension& extension, std::int64_t run_id, const Look& look) {
  Reconciliation result;
  result.run_id = run_id;
  result.wallets = look.wallets;
  result.ledger_rows = look.ledger_rows;
  std::string by_kind;
  count_findings(extension, result, by_kind);
  if (const PreviousCounts before = previous_counts(extension, run_id); before.known) {
    compare_size("the wallet table", before.wallets, result.wallets, result);
    compare_size("the wallet ledger", before.ledger_rows, result.ledger_rows, result);
  }
  core::JsonArray warnings;
  for (const std::string& warning : result.warnings) {
    warnings.text(warning);
  }
  result.detail = core::JsonObject()
                      .number("wallets_checked", result.wallets)
                      .number("ledger_rows", result.ledger_rows)
                      .number("discrepancies", result.discrepancies)
                      .raw("drift", result.drift_json)
                      .raw("kinds", by_kind)
                      .text("method", look.method)
                      .number("parallel_workers", look.workers)
                      .raw("warnings", warnings.str())
                      .str();
  return result;
}

void forget_findings(const pg::Extension& extension, std::int64_t run_id) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  spi.query("DELETE FROM " + extension.object("bacmr_discrepancy") + " WHERE run_id = $1",
            {pg::Param::int8(run_id)});
}

void conclude(const pg::Extension& extension, Reconciliation& result,
              const std::string& request_id) {
  RunResult run;
  run.status = result.discrepancies > 0 ? RunStatus::kDiscrepancies : RunStatus::kSucceeded;
  run.detail = result.detail;
  finish_run(extension, result.run_id, run);
  publish_findings(extension);
  publish_last_success(extension);

  const std::string fields = core::JsonObject()
                                 .number("run_id", result.run_id)
                                 .number("discrepancies", result.discrepancies)
                                 .raw("drift", result.drift_json)
                                 .str();
  if (result.discrepancies > 0) {
    write_report(extension, result);
    pg::warn_client(
        summary(result), "By kind: " + result.kinds + ".",
        "SELECT * FROM bacmr_discrepancy WHERE run_id = " + std::to_string(result.run_id));
    notify(core::JsonObject()
               .text("alert", "wallet_discrepancy")
               .number("run_id", result.run_id)
               .number("discrepancies", result.discrepancies)
               .raw("drift", result.drift_json)
               .str());
  }
  for (const std::string& warning : result.warnings) {
    pg::warn_client(warning, {},
                    "SELECT bacmr_reconcile_report(" + std::to_string(result.run_id) + ")");
  }
  pg::log_line(result.discrepancies > 0 ? pg::LogLevel::kWarning : pg::LogLevel::kInfo,
               "wallets reconciled", fields, request_id);
}

std::int64_t checked_recheck_after(std::optional<std::int64_t> recheck_after_us) {
  constexpr const char* kHint = "Give an interval such as '5 seconds', or '0' for no second look.";
  if (!recheck_after_us) {
    throw core::Error(core::sqlstate::kNullValueNotAllowed, "recheck_after must not be NULL", {},
                      kHint);
  }
  if (*recheck_after_us < 0) {
    throw core::Error(core::sqlstate::kInvalidParameterValue, "recheck_after must not be negative",
                      {}, kHint);
  }
  if (*recheck_after_us > 0) {
    pg::require_read_committed("recheck_after needs a READ COMMITTED transaction",
                               "Under REPEATABLE READ a second look would see the same snapshot.");
  }
  return *recheck_after_us;
}

namespace {

Datum reconcile_function(pg::Args args) {
  const std::int64_t recheck_after = checked_recheck_after(args.interval_us(0));
  const pg::Extension extension = pg::require_extension();
  Reconciliation result;
  std::optional<std::int64_t> run_id;
  {
    const pg::PinnedSettings settings;
    if (recheck_after > 0) {
      require_local(sources::Sources::load(extension));
    }
    if (pg::in_recovery()) {
      result = reconcile_on_standby(extension, recheck_after, new_request_id());
    } else {
      const FunctionRun run = start_function_run(extension, Job::kReconcile);
      run_id = run.id;
      const Look first = look(extension, run.id);
      if (recheck_after > 0) {
        look_again(extension, run.id, recheck_after);
      }
      result = sum_up(extension, run.id, first);
      conclude(extension, result, run.request_id);
      tidy_history(extension, run.request_id);
    }
  }
  return pg::record(args,
                    {pg::Value::int8(run_id), pg::Value::int8(result.wallets),
                     pg::Value::int8(result.ledger_rows), pg::Value::int8(result.discrepancies),
                     pg::Value::numeric(result.drift)});
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_reconcile, jobs::reconcile_function);
