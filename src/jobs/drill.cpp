// Restoring an export into a scratch table, and comparing it with the live one.
#include "pg/postgres.hpp"

#include <algorithm>
#include <chrono>
#include <optional>

#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/import.hpp"
#include "jobs/table_key.hpp"
#include "jobs/verify.hpp"
#include "pg/column_shape.hpp"
#include "pg/encoding.hpp"
#include "pg/extension.hpp"
#include "pg/guard.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "sources/source.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
}

namespace jobs {
namespace {

struct LiveTable {
  Oid relation = InvalidOid;
  Oid owner = InvalidOid;
  std::string name;                   // for SQL
  std::vector<TargetColumn> columns;  // that the export has too
  std::vector<KeyColumn> key;         // empty: there is none
};

LiveTable find_live_table(const core::Manifest& manifest) {
  LiveTable live;
  const std::string name = pg::to_database_encoding(manifest.relation);
  pg::Spi spi;
  const pg::Rows table = spi.query("SELECT oid, relowner FROM pg_class WHERE oid = to_regclass($1)",
                                   {pg::Param::text(name)});
  if (table.empty()) {
    throw core::Error(core::sqlstate::kUndefinedTable,
                      "there is no table " + name + " to compare the export with", {},
                      "Import it first: bacmr_import_chunks, or bacmr_import for another table.");
  }
  live.relation = table.oid(0, 0);
  live.owner = table.oid(0, 1);
  // Never as the manifest has it: that is somebody's text.
  live.name = sql_name(live.relation);
  const std::vector<TargetColumn> columns = target_columns(live.relation);
  for (const core::ManifestColumn& exported : manifest.columns) {
    const auto found = std::ranges::find_if(columns, [&](const TargetColumn& column) {
      return pg::to_utf8(column.name) == exported.name;
    });
    if (found == columns.end()) {
      throw core::Error("42703",
                        pg::to_database_text("the export has a column \"" + exported.name +
                                             "\" that " + manifest.relation + " lacks"),
                        "An import of it into that table would be refused too.",
                        "The table was altered since: export it again.");
    }
    live.columns.push_back(*found);
  }
  live.key = key_of(live.relation, KeyKind::kPrimary);
  for (const KeyColumn& column : live.key) {
    if (std::ranges::find(live.columns, column.name, &TargetColumn::name) == live.columns.end()) {
      live.key.clear();
      break;
    }
  }
  return live;
}

bool holds_json(const core::ColumnShape& shape) {
  return shape.kind == core::ColumnShape::Kind::kJson ||
         std::ranges::any_of(shape.children, holds_json);
}

// A column's value as two rows are compared by: its bytes, but for json, in which an export turns
// line breaks into spaces, and an import drops those around it.
std::string comparable(const std::string& prefix, const TargetColumn& column) {
  const Oid base = pg::call([&] { return getBaseType(column.type_oid); });
  const std::string value = prefix + column.quoted;
  if (base == JSONOID) {
    return "btrim(translate(" + value + "::text, E'\\n\\r', '  '), E' \\t')";
  }
  return base != JSONBOID && holds_json(pg::shape_of(base)) ? "to_jsonb(" + value + ")" : value;
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
  return manifest.exported_namespace
             ? "(SELECT * FROM " + live.name + " WHERE " + space_column + " = " +
                   pg::quote_literal(pg::to_database_encoding(*manifest.exported_namespace)) + ")"
             : live.name;
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
  const std::string& first = live.key.front().quoted;
  // By their bytes: types need no operator, and 1.0 is not 1.00. Where these differ, by their text:
  // the same value may be kept in two ways (an array with a bitmap of nulls that it does not need,
  // a NaN with a sign).
  const std::string restored = row_of("s.", live);
  const std::string present = row_of("l.", live);
  return "SELECT count(*) FILTER (WHERE l." + first + " IS NULL), count(*) FILTER (WHERE s." +
         first + " IS NOT NULL AND l." + first + " IS NOT NULL AND record_image_ne(" + restored +
         ", " + present + ") AND " + restored + "::text IS DISTINCT FROM " + present +
         "::text), count(*) FILTER (WHERE s." + first + " IS NULL) FROM " + scratch +
         " s FULL JOIN " + live_table + " l ON " + key_match(live.key, "s", "l");
}

// The file says which table it is: the code that comes with one (a view, the check of a domain, the
// condition of an index, a cast) must not gain the caller's rights by that. Not so for what is
// attached, which the caller meant; nor where the owner has no fewer rights.
bool runs_as_owner(const LiveTable& live) {
  const Oid owner = live.owner;
  if (owner == GetUserId() || !pg::has_privileges_of(owner) ||
      pg::call([owner] { return superuser_arg(owner); })) {
    return false;
  }
  const sources::Sources all = sources::Sources::load(pg::require_extension());
  for (const char* name : {"wallet", "wallet_ledger", "reservations", "chunks"}) {
    const sources::Source* source = all.find(name);
    if (source != nullptr && source->oid == live.relation && source->problem.empty()) {
      return false;
    }
  }
  return true;
}

// For the life of the object.
class AsTableOwner {
 public:
  explicit AsTableOwner(Oid owner) : user_(owner, SECURITY_RESTRICTED_OPERATION) {}

 private:
  pg::AsUser user_;
  // That code may change what is set outside.
  pg::ExportSettings settings_;
};

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
  const bool as_owner = runs_as_owner(live);
  std::optional<AsTableOwner> role;
  if (as_owner) {
    spi.query("GRANT SELECT, INSERT ON " + scratch + " TO " +
              pg::quote_identifier(pg::role_name(live.owner)));
    role.emplace(live.owner);
  }
  DrillResult result;
  result.rows = load_rows(source, relation, live.columns);
  role.reset();
  spi.query("ANALYZE " + scratch);
  // The snapshot that is active sees the live table as it was, and now what was loaded too.
  pg::call([] {
    CommandCounterIncrement();
    UpdateActiveSnapshotCommandId();
  });
  if (as_owner) {
    role.emplace(live.owner);
  }
  const pg::Rows rows =
      spi.query(comparison(live, scratch, live_rows(live, manifest, space_column_of(manifest))), {},
                pg::Spi::Access::kReadOnly);
  result.missing = rows.int8(0, 0);
  result.different = rows.int8(0, 1);
  result.extra = rows.int8(0, 2);
  role.reset();
  spi.query("DROP TABLE " + scratch);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

RunResult drill_result(const ArtifactSource& source, const DrillResult& result) {
  RunResult run;
  run.status = result.ok() ? RunStatus::kSucceeded : RunStatus::kDiscrepancies;
  run.detail = core::JsonObject()
                   .text("source", pg::to_utf8(source.name()).value_or("?"))
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
