// The metrics that every database has: the eleven of the Phase F document, under exactly their
// names, types and labels, and the extension's own.
#pragma once

#include <cstdint>
#include <span>

#include "core/metric_family.hpp"

namespace metrics {

// The order in which they appear.
enum class Metric : std::uint32_t {
  kIngestionJobs,
  kIngestionDuration,
  kPineconeQueryDuration,
  kPineconeUpsertDuration,
  kPineconeVectors,
  kOpenaiDuration,
  kOpenaiTokens,
  kWalletReservations,
  kBreakerState,
  kActiveReservations,
  kRateLimitRejections,

  kStaleReservations,
  kExpiredReservations,
  kRefundedTokens,
  kWalletDiscrepancies,
  kWalletDrift,
  kJobRuns,
  kJobDuration,
  kJobLastSuccess,
  kExportRows,
  kExportBytes,
  kExportLastVerified,
  kRestoreLastProven,
  kReindexProgress,
  kReindexFailedChunks,
  kHttpRequests,
  kHttpRetries,
  kHttpDuration,
  kWorkerUp,
  kSeriesInUse,
  kSeriesDropped,
  kRejected,
};
inline constexpr std::uint32_t kMetricCount = static_cast<std::uint32_t>(Metric::kRejected) + 1;

const core::MetricFamily& family_of(Metric metric);
// All of them, in the order of the enumeration.
std::span<const core::MetricFamily> catalog();

// Whether only the extension itself records it: its room is kept free of others' series.
bool is_own(Metric metric);

}  // namespace metrics
