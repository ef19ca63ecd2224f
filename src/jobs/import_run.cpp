#include "pg/postgres.hpp"

#include "jobs/import_run.hpp"

#include "core/json.hpp"
#include "jobs/gauges.hpp"
#include "jobs/job_run.hpp"
#include "pg/encoding.hpp"
#include "pg/log.hpp"
#include "pg/spi.hpp"
#include "sources/source.hpp"

namespace jobs {
namespace {

std::string utf8(const std::string& text) { return pg::to_utf8(text).value_or("?"); }

// As the manifest names relations.
std::string relation_name(Oid relation) {
  pg::Spi spi;
  return spi.query("SELECT $1::regclass::text", {pg::Param::oid(relation)}).text(0, 0);
}

}  // namespace

ImportCounts run_import(const pg::Extension& extension, const ImportRequest& request,
                        std::int64_t run_id, const std::string& request_id) {
  Oid relation = request.relation;
  if (!OidIsValid(relation)) {
    relation = sources::Sources::load(extension).require("chunks", "import").oid;
  }
  // Fetched before anything is locked.
  const ArtifactSource source(request.source, request_id);
  const ImportCounts counts =
      import_rows(source, relation, request.on_conflict, request.unknown_columns);
  const auto number = [](std::uint64_t n) { return static_cast<std::int64_t>(n); };
  const std::string detail = core::JsonObject()
                                 .text("source", utf8(request.source))
                                 .text("relation", utf8(relation_name(relation)))
                                 .number("read", number(counts.read))
                                 .number("inserted", number(counts.inserted))
                                 .number("updated", number(counts.updated))
                                 .number("skipped", number(counts.skipped))
                                 .str();
  finish_run(extension, run_id, {RunStatus::kSucceeded, detail, std::nullopt});
  publish_last_success(extension);
  pg::log_line(pg::LogLevel::kInfo, "export imported", detail, request_id);
  return counts;
}

}  // namespace jobs
