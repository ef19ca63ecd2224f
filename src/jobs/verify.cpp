#include "pg/postgres.hpp"

#include "jobs/verify.hpp"

#include "core/error.hpp"
#include "core/json.hpp"
#include "pg/encoding.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "sources/source.hpp"

namespace jobs {

RunResult verify_result(const ArtifactSource& source, const std::optional<std::string>& problem) {
  const core::Manifest& manifest = source.manifest();
  core::JsonObject detail;
  detail.text("source", pg::to_utf8(source.name()).value_or("?"))
      .text("relation", manifest.relation)
      .text("file", manifest.file)
      .text("snapshot_at", manifest.snapshot_at)
      .boolean("ok", !problem)
      .number("rows", static_cast<std::int64_t>(manifest.rows))
      .number("bytes", static_cast<std::int64_t>(manifest.bytes))
      .text("sha256", manifest.sha256);
  if (manifest.exported_namespace) {
    detail.text("namespace", *manifest.exported_namespace);
  }
  RunResult result;
  if (problem) {
    detail.text("problem", *problem);
    result.status = RunStatus::kFailed;
    result.error = "the export \"" + source.name() + "\" is damaged: " + *problem;
  }
  result.detail = detail.str();
  return result;
}

Verification verify(const std::string& name, const std::string& request_id) {
  Verification verification;
  try {
    const ArtifactSource source(name, request_id);
    verification.manifest = source.manifest();
    verification.problem = source.find_problem();
    verification.result = verify_result(source, verification.problem);
  } catch (const core::Error& e) {
    const std::string_view code = e.sqlstate();
    if (code != core::sqlstate::kBadFileFormat && code != core::sqlstate::kProgramLimitExceeded) {
      throw;
    }
    verification.problem = e.message();
    verification.result = {RunStatus::kFailed,
                           core::JsonObject()
                               .text("source", pg::to_utf8(name).value_or("?"))
                               .boolean("ok", false)
                               .text("problem", pg::to_utf8(e.message()).value_or("?"))
                               .str(),
                           "the export \"" + name + "\" is damaged: " + e.message()};
  }
  return verification;
}

std::string latest_export(const pg::Extension& extension) {
  const sources::Sources all = sources::Sources::load(extension);
  const sources::Source* chunks = all.find("chunks");
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  // Of the chunks, where there is one; else of whatever was exported last.
  const pg::Rows rows = spi.query(
      "SELECT coalesce(detail->>'source', detail->>'local_source') FROM " +
          extension.object("bacmr_job_run") +
          " WHERE job = 'export' AND status = 'succeeded' AND detail ? 'local_source'"
          " ORDER BY detail->>'relation' IS NOT DISTINCT FROM $1::oid::regclass::text DESC,"
          " detail ? 'namespace',"
          " run_id DESC LIMIT 1",
      {pg::Param::oid(chunks != nullptr ? chunks->oid : InvalidOid)});
  if (rows.empty()) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "there is no export to restore", {},
                      "SELECT bacmr_export_chunks(), or name one.");
  }
  return rows.text(0, 0);
}

}  // namespace jobs
