// bacmr_import_chunks and bacmr_import: an import in the caller's transaction.
#include "pg/postgres.hpp"

#include "core/error.hpp"
#include "jobs/attempt.hpp"
#include "jobs/import.hpp"
#include "jobs/import_run.hpp"
#include "jobs/job_run.hpp"
#include "pg/entry.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

Datum import_function(const pg::Args& args, const ImportRequest& request) {
  const pg::Extension extension = pg::require_extension();
  FunctionRun run;
  ImportCounts counts;
  {
    const pg::ExportSettings settings;
    const pg::Spi spi;
    run = start_function_run(extension, Job::kImport);
    counts = run_import(extension, request, run.id, run.request_id);
    tidy_history(extension, run.request_id);
  }
  const auto count = [](std::uint64_t n) { return pg::Value::int8(static_cast<std::int64_t>(n)); };
  return pg::record(args, {pg::Value::int8(run.id), count(counts.read), count(counts.inserted),
                           count(counts.updated), count(counts.skipped)});
}

Datum import_chunks_function(pg::Args args) {
  ImportRequest request;
  request.source = args.text(0, "source");
  request.on_conflict = checked_on_conflict(args.text(1));
  request.unknown_columns = checked_unknown_columns(args.text(2));
  return import_function(args, request);
}

Datum import_table_function(pg::Args args) {
  ImportRequest request;
  request.relation = args.oid(0, "relation");
  request.source = args.text(1, "source");
  request.on_conflict = checked_on_conflict(args.text(2));
  request.unknown_columns = checked_unknown_columns(args.text(3));
  return import_function(args, request);
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_import_chunks, jobs::import_chunks_function);
BACMR_FUNCTION(bacmr_import, jobs::import_table_function);
