// Restoring an export into a scratch table, and comparing it with the live one.
#include "pg/postgres.hpp"

#include <algorithm>
#include <chrono>

#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/import.hpp"
#include "jobs/verify.hpp"
#include "pg/encoding.hpp"
#include "pg/guard.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
}

namespace jobs {
namespace {

struct LiveTable {
  Oid relation = InvalidOid;
  std::string name;                   // for SQL
  std::vector<TargetColumn> columns;  // that the export has too
  std::vector<std::string> key;       // of the primary key, quoted; empty: there is none
};

LiveTable find_live_table(const core::Manifest& manifest) {
  LiveTable live;
  const std::string name = pg::to_database_encoding(manifest.relation);
  pg::Spi spi;
  live.relation = spi.query("SELECT to_regclass($1)::oid", {pg::Param::text(name)}).oid(0, 0);
  if (!OidIsValid(live.relation)) {
    throw core::Error(core::sqlstate::kUndefinedTable,
                      "there is no table " + name + " to compare the export with", {},
                      "Import it first: bacmr_import_chunks, or bacmr_import for another table.");
  }
  live.name = name;
  for (const TargetColumn& column : target_columns(live.relation)) {
    const auto same = [&](const core::ManifestColumn& each) {
      return each.name == pg::to_utf8(column.name);
    };
    if (std::ranges::any_of(manifest.columns, same)) {
      live.columns.push_back(column);
    }
  }
  if (live.columns.empty()) {
    throw core::Error("42703", "the export has no column in common with " + name, {},
                      "The table was replaced since: import the export into a table of its own.");
  }
  const pg::Rows key = spi.query(
      "SELECT a.attname::text FROM pg_index i CROSS JOIN generate_series(0, i.indnkeyatts - 1) n"
      " JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = i.indkey[n]"
      " WHERE i.indrelid = $1 AND i.indisprimary ORDER BY n",
      {pg::Param::oid(live.relation)});
  for (std::uint64_t i = 0; i < key.size(); ++i) {
    const std::string column = key.text(i, 0);
    if (std::ranges::find(live.columns, column, &TargetColumn::name) == live.columns.end()) {
      live.key.clear();
      break;
    }
    live.key.push_back(pg::quote_identifier(column));
  }
  return live;
}

// A column's value as two rows are compared by: its bytes, but for json, whose line breaks an
// export turns into spaces.
std::string comparable(const std::string& prefix, const TargetColumn& column) {
  const Oid base = pg::call([&] { return getBaseType(column.type_oid); });
  const std::string value = prefix + column.quoted;
  return base == JSONOID ? "pg_catalog.translate(" + value + "::text, E'\\n\\r', '  ')" : value;
}

std::string row_of(const std::string& prefix, const LiveTable& live) {
  std::string list;
  for (const TargetColumn& column : live.columns) {
    list.append(list.empty() ? "" : ", ").append(comparable(prefix, column));
  }
  return "ROW(" + list + ")";
}

std::string live_rows(const LiveTable& live, const core::Manifest& manifest,
                      const std::string& space_column) {
  return manifest.exported_namespace.empty()
             ? live.name
             : "(SELECT * FROM " + live.name + " WHERE " + space_column + " = " +
                   pg::quote_literal(pg::to_database_encoding(manifest.exported_namespace)) + ")";
}

std::string comparison(const LiveTable& live, const std::string& scratch,
                       const std::string& live_table) {
  if (live.key.empty()) {
    // Without a key: as many rows of each kind on both sides?
    return "SELECT coalesce(sum(greatest(n - m, 0)), 0)::bigint, 0::bigint,"
           " coalesce(sum(greatest(m - n, 0)), 0)::bigint FROM (SELECT sum(n) AS n, sum(m) AS m "
           "FROM"
           " (SELECT " +
           row_of("s.", live) + "::text AS r, 1 AS n, 0 AS m FROM " + scratch +
           " s UNION ALL SELECT " + row_of("l.", live) + "::text, 0, 1 FROM " + live_table +
           " l) u GROUP BY r) g";
  }
  std::string match;
  for (const std::string& column : live.key) {
    match.append(match.empty() ? "" : " AND ").append("s." + column + " = l." + column);
  }
  const std::string& first = live.key.front();
  // By their bytes: types need no operator, and 1.0 is not 1.00.
  return "SELECT count(*) FILTER (WHERE l." + first + " IS NULL), count(*) FILTER (WHERE s." +
         first + " IS NOT NULL AND l." + first + " IS NOT NULL AND record_image_ne(" +
         row_of("s.", live) + ", " + row_of("l.", live) + ")), count(*) FILTER (WHERE s." + first +
         " IS NULL) FROM " + scratch + " s FULL JOIN " + live_table + " l ON " + match;
}

// The column that holds the namespaces, which the manifest does not name: the one that an export of
// chunks was chosen by.
std::string space_column_of(const core::Manifest& manifest) {
  return pg::quote_identifier(pg::to_database_encoding(manifest.namespace_column));
}

}  // namespace

std::string DrillResult::figures() const {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", seconds);
  return core::JsonObject()
      .boolean("ok", ok())
      .number("rows", static_cast<std::int64_t>(rows))
      .number("missing", missing)
      .number("different", different)
      .number("extra", extra)
      .raw("seconds", text)
      .str();
}

DrillResult drill(const ArtifactSource& source) {
  const auto start = std::chrono::steady_clock::now();
  const core::Manifest& manifest = source.manifest();
  const LiveTable live = find_live_table(manifest);
  const std::string scratch = "pg_temp.bacmr_drill";
  std::string definition;
  for (const TargetColumn& column : live.columns) {
    definition.append(definition.empty() ? "" : ", ").append(column.quoted + " " + column.type);
  }
  pg::Spi spi;
  spi.query("CREATE TEMPORARY TABLE " + scratch + " (" + definition + ") ON COMMIT DROP");
  const Oid relation =
      spi.query("SELECT to_regclass($1)::oid", {pg::Param::text(scratch)}).oid(0, 0);
  DrillResult result;
  result.rows = load_rows(source, relation, live.columns);
  spi.query("ANALYZE " + scratch);
  // The snapshot that is active sees the live table as it was, and now what was loaded too.
  pg::call([] {
    CommandCounterIncrement();
    UpdateActiveSnapshotCommandId();
  });
  const pg::Rows rows =
      spi.query(comparison(live, scratch, live_rows(live, manifest, space_column_of(manifest))), {},
                pg::Spi::Access::kReadOnly);
  result.missing = rows.int8(0, 0);
  result.different = rows.int8(0, 1);
  result.extra = rows.int8(0, 2);
  spi.query("DROP TABLE " + scratch);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

RunResult drill_result(const ArtifactSource& source, const DrillResult& result) {
  RunResult run;
  run.status = result.ok() ? RunStatus::kSucceeded : RunStatus::kDiscrepancies;
  run.detail = core::JsonObject()
                   .text("source", source.name())
                   .text("relation", source.manifest().relation)
                   .text("snapshot_at", source.manifest().snapshot_at)
                   .raw("drill", result.figures())
                   .str();
  if (!result.ok()) {
    run.error = "the restored export differs from the table: " + std::to_string(result.missing) +
                " rows missing, " + std::to_string(result.different) + " different, " +
                std::to_string(result.extra) + " extra";
  }
  return run;
}

}  // namespace jobs
