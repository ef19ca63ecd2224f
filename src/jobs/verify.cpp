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
  RunResult result;
  if (problem) {
    detail.text("problem", *problem);
    result.status = RunStatus::kFailed;
    result.error = "the export \"" + source.name() + "\" is damaged: " + *problem;
  }
  result.detail = detail.str();
  return result;
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
