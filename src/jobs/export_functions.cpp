// bacmr_export_chunks and bacmr_export: an export in the caller's transaction.
#include "pg/postgres.hpp"

#include "core/json.hpp"
#include "jobs/attempt.hpp"
#include "jobs/export.hpp"
#include "jobs/gauges.hpp"
#include "jobs/job_run.hpp"
#include "pg/encoding.hpp"
#include "pg/entry.hpp"
#include "pg/log.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/snapshot.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

Datum export_function(const pg::Args& args, const pg::Extension& extension,
                      const ExportRequest& request) {
  // A standby can write files, and nothing into the database: there is no run.
  const bool standby = pg::in_recovery();
  FunctionRun run;
  core::Manifest manifest;
  std::string path;
  std::optional<std::string> url;
  {
    const pg::ExportSettings settings;
    const pg::Spi spi;
    if (standby) {
      run.request_id = new_request_id();
    } else {
      run = start_function_run(extension, Job::kExport);
    }
    Export exported(request, run.request_id);
    exported.open_store();
    {
      const pg::ActiveSnapshot snapshot;
      exported.write();
    }
    exported.upload();
    core::JsonObject detail;
    exported.describe(detail);
    if (!standby) {
      finish_run(extension, run.id, {RunStatus::kSucceeded, detail.str(), std::nullopt});
      publish_exports(extension);
      publish_last_success(extension);
      tidy_history(extension, run.request_id);
    }
    pg::log_line(pg::LogLevel::kInfo, "export written", detail.str(), run.request_id);
    manifest = exported.manifest();
    path = pg::to_database_text(exported.path());
    if (exported.uploads()) {
      url = pg::to_database_text(exported.url());
    }
  }
  // Not before SPI has ended, which takes along what was allocated meanwhile.
  const std::vector<pg::Value> values = {standby ? pg::Value{} : pg::Value::int8(run.id),
                                         pg::Value::text(path),
                                         pg::Value::text(url),
                                         pg::Value::int8(static_cast<std::int64_t>(manifest.rows)),
                                         pg::Value::int8(static_cast<std::int64_t>(manifest.bytes)),
                                         pg::Value::text(manifest.sha256)};
  return pg::record(args, values);
}

Datum export_chunks_function(pg::Args args) {
  const pg::Extension extension = pg::require_extension();
  ExportRequest request;
  {
    const pg::PinnedSettings settings;
    request = export_of_chunks(extension);
  }
  request.destination = args.text(0);
  request.space = args.text(1);
  request.compression = checked_compression(args.text(2));
  request.file_name = args.text(3);
  return export_function(args, extension, request);
}

Datum export_table_function(pg::Args args) {
  const pg::Extension extension = pg::require_extension();
  ExportRequest request;
  {
    const pg::PinnedSettings settings;
    request = export_of_table(args.oid(0, "relation"));
  }
  request.destination = args.text(1);
  request.compression = checked_compression(args.text(2));
  request.file_name = args.text(3);
  return export_function(args, extension, request);
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_export_chunks, jobs::export_chunks_function);
BACMR_FUNCTION(bacmr_export, jobs::export_table_function);
