#include "pg/postgres.hpp"

#include "jobs/gauges.hpp"

#include "metrics/at_commit.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "sources/source.hpp"

namespace jobs {

using metrics::Change;
using metrics::Metric;

void publish_findings(const pg::Extension& extension) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT k.kind, coalesce((r.detail->'kinds'->>k.kind)::float8, 0),"
      "  coalesce((r.detail->>'drift')::float8, 0)"
      " FROM (SELECT detail FROM " +
      extension.object("bacmr_job_run") +
      " WHERE job = 'reconcile' AND status IN ('succeeded', 'discrepancies')"
      "  ORDER BY run_id DESC LIMIT 1) r,"
      " unnest('{balance_mismatch,missing_wallet,negative_balance,null_amount,duplicate_refund,"
      "unrefunded_expiry,orphan_reservation,invalid_reservation,stale_reservation}'::text[])"
      "  k(kind)");
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    metrics::record_at_commit(Metric::kWalletDiscrepancies, {rows.text(i, 0)}, Change::kSet,
                              DatumGetFloat8(rows.datum(i, 1)));
  }
  if (!rows.empty()) {
    metrics::record_at_commit(Metric::kWalletDrift, {}, Change::kSet,
                              DatumGetFloat8(rows.datum(0, 2)));
  }
}

void publish_last_success(const pg::Extension& extension) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  // A reconciliation with findings did what it was to do; there is another alert for what it found.
  // 0 where wallets are attached and were never reconciled: an alert must not wait for ever.
  const pg::Rows rows =
      spi.query("SELECT j.job, extract(epoch FROM (SELECT r.finished_at FROM " +
                extension.object("bacmr_job_run") +
                " r WHERE r.job = j.job AND r.status IN ('succeeded', 'discrepancies')"
                "  ORDER BY r.run_id DESC LIMIT 1))::float8,"
                "  j.job = 'reconcile' AND EXISTS (SELECT FROM " +
                extension.object("bacmr_source") +
                " WHERE source = 'wallet')"
                " FROM unnest('{reconcile,export,import,verify,drill,reindex}'::text[]) j(job)");
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    if (!rows.is_null(i, 1) || rows.boolean(i, 2)) {
      metrics::record_at_commit(Metric::kJobLastSuccess, {rows.text(i, 0)}, Change::kSet,
                                rows.is_null(i, 1) ? 0 : DatumGetFloat8(rows.datum(i, 1)));
    }
  }
}

void publish_exports(const pg::Extension& extension) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const std::string runs = extension.object("bacmr_job_run");
  // 0 where exports are made, and none was verified or restored yet: an alert must not wait for
  // ever.
  const pg::Rows rows = spi.query(
      "SELECT e.relation, (e.detail->>'rows')::float8, (e.detail->>'bytes')::float8,"
      " coalesce(extract(epoch FROM (SELECT (v.detail->>'snapshot_at')::timestamptz FROM " +
      runs +
      " v WHERE v.job = 'verify' AND v.status = 'succeeded'"
      "  AND v.detail->>'relation' = e.relation ORDER BY v.run_id DESC LIMIT 1)), 0)::float8,"
      " coalesce(extract(epoch FROM (SELECT d.finished_at FROM " +
      runs +
      " d WHERE d.job = 'drill' AND d.status = 'succeeded'"
      "  AND d.detail->>'relation' = e.relation ORDER BY d.run_id DESC LIMIT 1)), 0)::float8"
      " FROM (SELECT DISTINCT ON (detail->>'relation') detail->>'relation' AS relation, detail "
      "FROM " +
      runs +
      " WHERE job = 'export' AND detail ? 'relation' ORDER BY detail->>'relation', run_id DESC) e");
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    const std::string relation = rows.text(i, 0);
    const auto set = [&](Metric metric, int column) {
      if (!rows.is_null(i, column)) {
        metrics::record_at_commit(metric, {relation}, Change::kSet,
                                  DatumGetFloat8(rows.datum(i, column)));
      }
    };
    set(Metric::kExportRows, 1);
    set(Metric::kExportBytes, 2);
    set(Metric::kExportLastVerified, 3);
    set(Metric::kRestoreLastProven, 4);
  }
}

void publish_reservations(const pg::Extension& extension) {
  const pg::PinnedSettings settings;
  const sources::Sources all = sources::Sources::load(extension);
  const sources::Source* reservations = all.find("reservations");
  // Only as its owner: the table's code runs with our rights.
  if (reservations == nullptr || !reservations->exists() || !reservations->problem.empty() ||
      reservations->owner != GetUserId()) {
    metrics::forget(Metric::kActiveReservations);
    metrics::forget(Metric::kStaleReservations);
    return;
  }
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT count(*), count(*) FILTER (WHERE " + reservations->col("expires_at") +
      " < statement_timestamp() - interval '5 minutes') FROM " + reservations->sql_name() +
      " WHERE " + reservations->col("status") + " = 'reserved'");
  metrics::record_at_commit(Metric::kActiveReservations, {}, Change::kSet,
                            static_cast<double>(rows.int8(0, 0)));
  metrics::record_at_commit(Metric::kStaleReservations, {}, Change::kSet,
                            static_cast<double>(rows.int8(0, 1)));
}

}  // namespace jobs
