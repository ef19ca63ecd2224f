// bacmr_verify_export and bacmr_restore_drill, in the caller's transaction.
#include "pg/postgres.hpp"

#include "jobs/attempt.hpp"
#include "jobs/gauges.hpp"
#include "jobs/job_run.hpp"
#include "jobs/verify.hpp"
#include "pg/entry.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/snapshot.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

pg::Value count(std::uint64_t n) { return pg::Value::int8(static_cast<std::int64_t>(n)); }

Datum verify_function(pg::Args args) {
  const std::string name = args.text(0, "source");
  const pg::Extension extension = pg::require_extension();
  core::Manifest manifest;
  std::optional<std::string> problem;
  bool known = false;  // nothing is, where the manifest itself is damaged
  {
    const pg::ExportSettings settings;
    const pg::Spi spi;
    const FunctionRun run = start_function_run(extension, Job::kVerify);
    const Verification verified = verify(name, run.request_id);
    problem = verified.problem;
    known = verified.manifest.has_value();
    manifest = verified.manifest.value_or(core::Manifest());
    finish_run(extension, run.id, verified.result);
    publish_exports(extension);
    publish_last_success(extension);
    tidy_history(extension, run.request_id);
  }
  // Not before SPI has ended, which takes along what was allocated meanwhile.
  return pg::record(
      args, {pg::Value::boolean(!problem), known ? count(manifest.rows) : pg::Value{},
             known ? count(manifest.bytes) : pg::Value{},
             known ? pg::Value::text(manifest.sha256) : pg::Value{}, pg::Value::text(problem)});
}

Datum drill_function(pg::Args args) {
  const std::optional<std::string> name = args.text(0);
  const pg::Extension extension = pg::require_extension();
  DrillResult result;
  {
    const pg::ExportSettings settings;
    const pg::Spi spi;
    const FunctionRun run = start_function_run(extension, Job::kDrill);
    const ArtifactSource source(name ? *name : latest_export(extension), run.request_id);
    source.require_sound();
    {
      const pg::ActiveSnapshot snapshot;
      result = drill(source);
    }
    finish_run(extension, run.id, drill_result(source, result));
    publish_exports(extension);
    publish_last_success(extension);
    tidy_history(extension, run.request_id);
  }
  return pg::record(args, {pg::Value::boolean(result.ok()), count(result.rows),
                           pg::Value::int8(result.missing), pg::Value::int8(result.different),
                           pg::Value::int8(result.extra), pg::Value::float8(result.seconds)});
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_verify_export, jobs::verify_function);
BACMR_FUNCTION(bacmr_restore_drill, jobs::drill_function);
