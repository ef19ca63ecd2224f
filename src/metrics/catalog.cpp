#include "metrics/catalog.hpp"

#include <array>
#include <string>
#include <vector>

namespace metrics {
namespace {

using core::MetricFamily;
using core::MetricType;

constexpr MetricType kCounter = MetricType::kCounter;
constexpr MetricType kGauge = MetricType::kGauge;
constexpr MetricType kHistogram = MetricType::kHistogram;

struct Entry {
  Metric metric;
  const char* name;
  MetricType type;
  std::vector<std::string> labels;
  const char* help;
  std::vector<double> buckets;
};

std::vector<Entry> entries() {
  // Jobs last from a few milliseconds (an empty tick) to hours (a large reindex).
  const std::vector<double> job_buckets = {0.01, 0.1, 0.5,  1,    5,    15,   60,
                                           300,  900, 1800, 3600, 7200, 14400};
  return {
      // The document's, in the order of its table.
      {Metric::kIngestionJobs,
       "ingestion_job_status_total",
       kCounter,
       {"status", "language"},
       "Ingestion jobs by outcome.",
       {}},
      {Metric::kIngestionDuration,
       "ingestion_job_duration_seconds",
       kHistogram,
       {"status", "language"},
       "Duration of ingestion jobs.",
       {}},
      {Metric::kPineconeQueryDuration,
       "pinecone_query_duration_seconds",
       kHistogram,
       {"namespace"},
       "Latency of vector searches.",
       {}},
      {Metric::kPineconeUpsertDuration,
       "pinecone_upsert_duration_seconds",
       kHistogram,
       {"namespace"},
       "Latency of vector upserts.",
       {}},
      {Metric::kPineconeVectors,
       "pinecone_vectors_upserted_total",
       kCounter,
       {"namespace"},
       "Vectors upserted.",
       {}},
      {Metric::kOpenaiDuration,
       "openai_request_duration_seconds",
       kHistogram,
       {"model", "endpoint"},
       "Latency of calls to the model.",
       {}},
      {Metric::kOpenaiTokens,
       "openai_tokens_used_total",
       kCounter,
       {"model"},
       "Tokens that the model was paid for.",
       {}},
      {Metric::kWalletReservations,
       "wallet_reservation_total",
       kCounter,
       {"status"},
       "Reservations of tokens by what became of them.",
       {}},
      {Metric::kBreakerState,
       "circuit_breaker_state",
       kGauge,
       {"service"},
       "State of the circuit breaker: 0 closed, 1 open, 2 half-open.",
       {}},
      {Metric::kActiveReservations,
       "active_reservations",
       kGauge,
       {},
       "Reservations that are neither finalized nor released nor expired.",
       {}},
      {Metric::kRateLimitRejections,
       "rate_limit_rejected_total",
       kCounter,
       {"scope", "path"},
       "Requests rejected by a rate limit.",
       {}},
      // The extension's own.
      {Metric::kStaleReservations,
       "bacmr_stale_reservations",
       kGauge,
       {},
       "Open reservations that fell due more than 5 minutes ago.",
       {}},
      {Metric::kExpiredReservations,
       "bacmr_expired_reservations_total",
       kCounter,
       {},
       "Reservations that bacmr_ops expired.",
       {}},
      {Metric::kRefundedTokens,
       "bacmr_refunded_tokens_total",
       kCounter,
       {},
       "Tokens that went back to wallets because a reservation expired.",
       {}},
      {Metric::kWalletDiscrepancies,
       "bacmr_wallet_discrepancies",
       kGauge,
       {"kind"},
       "Findings of the latest reconciliation.",
       {}},
      {Metric::kWalletDrift,
       "bacmr_wallet_drift_tokens",
       kGauge,
       {},
       "Sum of the absolute differences between wallets and ledger in the latest reconciliation.",
       {}},
      {Metric::kJobRuns,
       "bacmr_job_runs_total",
       kCounter,
       {"job", "status"},
       "Runs of the extension's jobs by how they ended.",
       {}},
      {Metric::kJobDuration,
       "bacmr_job_duration_seconds",
       kHistogram,
       {"job"},
       "Duration of the extension's jobs.",
       job_buckets},
      {Metric::kJobLastSuccess,
       "bacmr_job_last_success_timestamp_seconds",
       kGauge,
       {"job"},
       "When a job last did what it was to do, in seconds since 1970; 0: never.",
       {}},
      {Metric::kExportRows,
       "bacmr_export_rows",
       kGauge,
       {"relation"},
       "Rows of the latest export.",
       {}},
      {Metric::kExportBytes,
       "bacmr_export_bytes",
       kGauge,
       {"relation"},
       "Bytes of the latest export, as written.",
       {}},
      {Metric::kExportLastVerified,
       "bacmr_export_last_verified_timestamp_seconds",
       kGauge,
       {"relation"},
       "When the latest export that was verified was made, in seconds since 1970.",
       {}},
      {Metric::kRestoreLastProven,
       "bacmr_restore_last_proven_timestamp_seconds",
       kGauge,
       {"relation"},
       "When a restore drill last succeeded, in seconds since 1970.",
       {}},
      {Metric::kReindexProgress,
       "bacmr_reindex_progress_ratio",
       kGauge,
       {"namespace"},
       "Progress of the reindex job, from 0 to 1.",
       {}},
      {Metric::kReindexFailedChunks,
       "bacmr_reindex_failed_chunks",
       kGauge,
       {"namespace"},
       "Chunks that the reindex job could not embed or store.",
       {}},
      {Metric::kHttpRequests,
       "bacmr_http_requests_total",
       kCounter,
       {"service", "outcome"},
       "HTTP requests that bacmr_ops made, by the kind of answer.",
       {}},
      {Metric::kHttpRetries,
       "bacmr_http_retries_total",
       kCounter,
       {"service"},
       "HTTP requests that had to be repeated.",
       {}},
      {Metric::kHttpDuration,
       "bacmr_http_request_duration_seconds",
       kHistogram,
       {"service"},
       "Latency of the HTTP requests that bacmr_ops made.",
       {}},
      {Metric::kWorkerUp,
       "bacmr_worker_up",
       kGauge,
       {},
       "1 while the worker of this database runs, else 0.",
       {}},
      {Metric::kSeriesInUse,
       "bacmr_metrics_series_in_use",
       kGauge,
       {},
       "Series in shared memory, of all databases; bacmr.metrics_max_series is the limit.",
       {}},
      {Metric::kSeriesDropped,
       "bacmr_metrics_series_dropped_total",
       kCounter,
       {},
       "Recordings lost because there was no room for their series.",
       {}},
      {Metric::kRejected,
       "bacmr_metrics_rejected_total",
       kCounter,
       {"reason"},
       "Recordings lost because of bad input.",
       {}},
  };
}

std::array<MetricFamily, kMetricCount> make_catalog() {
  std::array<MetricFamily, kMetricCount> families;
  for (const Entry& entry : entries()) {
    families[static_cast<std::uint32_t>(entry.metric)] =
        core::make_family(entry.name, entry.type, entry.help, entry.labels, entry.buckets);
  }
  return families;
}

const std::array<MetricFamily, kMetricCount>& families() {
  static const std::array<MetricFamily, kMetricCount> all = make_catalog();
  return all;
}

}  // namespace

const core::MetricFamily& family_of(Metric metric) {
  return families()[static_cast<std::uint32_t>(metric)];
}

std::span<const core::MetricFamily> catalog() { return families(); }

bool is_own(Metric metric) {
  return metric == Metric::kActiveReservations || metric >= Metric::kStaleReservations;
}

}  // namespace metrics
