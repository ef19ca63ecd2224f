// Proving an export: that it can be read back, and that it can be restored.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/artifact_source.hpp"
#include "jobs/job_run.hpp"
#include "pg/extension.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace jobs {

// A restored export beside the live table.
struct DrillResult {
  std::uint64_t rows = 0;      // restored
  std::int64_t missing = 0;    // exported, not live
  std::int64_t different = 0;  // live with other values
  std::int64_t extra = 0;      // live, not exported
  double seconds = 0;

  bool ok() const { return missing == 0 && different == 0 && extra == 0; }
  std::string figures() const;  // JSON
};

// Restores into a temporary table, which is dropped again, and compares it with the table of the
// manifest under the active snapshot. Needs an SPI connection, and the caller's own rights.
DrillResult drill(const ArtifactSource& source);

// What a verification has found. A manifest that cannot be used is a problem like any other; that
// there is no such export is an error.
struct Verification {
  std::optional<core::Manifest> manifest;
  std::optional<std::string> problem;
  RunResult result;
};
Verification verify(const std::string& name, const std::string& request_id);

// What stands in bacmr_job_run of a verification and of a drill.
RunResult verify_result(const ArtifactSource& source, const std::optional<std::string>& problem);
RunResult drill_result(const ArtifactSource& source, const DrillResult& result);

// The latest export that is in the book-keeping and can still be read: its remote source, where it
// was uploaded, else its file. 55000 where there is none.
std::string latest_export(const pg::Extension& extension);

}  // namespace jobs
