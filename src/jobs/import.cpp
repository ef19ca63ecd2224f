#include "pg/postgres.hpp"

#include "jobs/import.hpp"

#include <algorithm>
#include <unordered_map>

#include "core/error.hpp"
#include "core/json_line.hpp"
#include "jobs/table_key.hpp"
#include "pg/column_shape.hpp"
#include "pg/copy_in.hpp"
#include "pg/encoding.hpp"
#include "pg/guard.hpp"
#include "pg/progress.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/table_tree.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
}

namespace jobs {
namespace {

std::string utf8(const std::string& text) { return pg::to_utf8(text).value_or("?"); }

std::string joined(const std::vector<TargetColumn>& columns, const std::string& prefix = "") {
  std::string list;
  for (const TargetColumn& column : columns) {
    list.append(list.empty() ? "" : ", ").append(prefix).append(column.quoted);
  }
  return list;
}

// Turns the lines of an export into rows for COPY.
class LineConverter {
 public:
  LineConverter(const ArtifactSource& source, const std::vector<TargetColumn>& columns)
      : source_(source), reader_(source.read()) {
    const core::Manifest& manifest = source.manifest();
    for (const TargetColumn& column : columns) {
      wanted_.emplace(utf8(column.name), fields_.size());
      Field field;
      field.name = utf8(column.name);
      field.shape = pg::shape_of(column.type_oid);
      if (const auto nulls = manifest.json_nulls.find(field.name);
          nulls != manifest.json_nulls.end()) {
        field.json_nulls = &nulls->second;
      }
      fields_.push_back(std::move(field));
    }
    for (const core::ManifestColumn& column : manifest.columns) {
      stated_.emplace(column.name, wanted_.count(column.name) != 0);
    }
    values_.resize(fields_.size());
  }

  bool append_row(core::ByteBuffer& row) {
    std::string_view line;
    if (!reader_.next_line(line)) {
      return false;
    }
    core::JsonProblem problem;
    if (!core::parse_json_object(line, members_, problem)) {
      fail("is not a JSON object: " + problem.reason + " at byte " +
           std::to_string(problem.offset + 1));
    }
    sort_values();
    for (std::size_t i = 0; i < fields_.size(); ++i) {
      if (i > 0) {
        row.append('\t');
      }
      Field& field = fields_[i];
      if (!core::append_copy_field(row, *values_[i], field.shape, is_json_null(field))) {
        fail("holds in \"" + field.name +
             "\" a character that no text of a database can hold (\\u0000, or half a pair)");
      }
    }
    row.append('\n');
    return true;
  }

  const core::ArtifactReader& reader() const { return reader_; }

 private:
  struct Field {
    std::string name;
    core::ColumnShape shape;
    const core::LineRuns* json_nulls = nullptr;
    std::size_t next_run = 0;
  };

  [[noreturn]] void fail(const std::string& reason) const {
    throw core::Error(core::sqlstate::kBadFileFormat,
                      "line " + std::to_string(reader_.lines()) + " of \"" + source_.name() +
                          "\" " + pg::to_database_text(reason),
                      "Nothing was imported.", "Take another copy of the export.");
  }

  // Sorts the members into the columns' order.
  void sort_values() {
    std::fill(values_.begin(), values_.end(), std::nullopt);
    for (std::size_t i = 0; i < members_.size(); ++i) {
      const std::size_t index = index_of(i);
      if (index == kIgnored) {
        continue;
      }
      if (values_[index]) {
        fail("names \"" + fields_[index].name + "\" twice");
      }
      values_[index] = members_[i].value;
    }
    for (std::size_t i = 0; i < fields_.size(); ++i) {
      if (!values_[i]) {
        fail("lacks \"" + fields_[i].name + "\", which its manifest lists");
      }
    }
  }

  // Lines of one export have their keys in one order: each is looked up once.
  std::size_t index_of(std::size_t member) {
    const std::string_view key = members_[member].key;
    if (member < order_.size() && order_[member].key == key) {
      return order_[member].index;
    }
    std::string name;
    if (!core::append_unescaped(name, std::string("\"").append(key) + '"')) {
      fail("has a key that no name can be");
    }
    const auto stated = stated_.find(name);
    if (stated == stated_.end()) {
      fail("has a key \"" + name + "\", which its manifest does not list");
    }
    const std::size_t index = stated->second ? wanted_.at(name) : kIgnored;
    if (member == order_.size()) {
      order_.push_back({std::string(key), index});
    }
    return index;
  }

  bool is_json_null(Field& field) const {
    if (field.json_nulls == nullptr) {
      return false;
    }
    const core::LineRuns& runs = *field.json_nulls;
    const std::uint64_t line = reader_.lines();
    while (field.next_run < runs.size() &&
           runs[field.next_run].first + runs[field.next_run].second <= line) {
      ++field.next_run;
    }
    return field.next_run < runs.size() && runs[field.next_run].first <= line;
  }

  static constexpr std::size_t kIgnored = SIZE_MAX;
  struct KnownKey {
    std::string key;
    std::size_t index;
  };

  const ArtifactSource& source_;
  core::ArtifactReader reader_;
  std::vector<Field> fields_;
  std::unordered_map<std::string, std::size_t> wanted_;  // by name: the index in fields_
  std::unordered_map<std::string, bool> stated_;         // in the manifest: whether it is wanted
  std::vector<KnownKey> order_;
  std::vector<core::JsonMember> members_;
  std::vector<std::optional<core::JsonValue>> values_;
};

// The columns of the table that are in the file and can be given a value.
std::vector<TargetColumn> columns_to_fill(const core::Manifest& manifest,
                                          const std::vector<TargetColumn>& all,
                                          UnknownColumns unknown, const std::string& table) {
  std::string extra;
  std::vector<TargetColumn> fill;
  for (const core::ManifestColumn& column : manifest.columns) {
    const auto found = std::ranges::find_if(
        all, [&](const TargetColumn& each) { return utf8(each.name) == column.name; });
    if (found == all.end()) {
      extra.append(extra.empty() ? "" : ", ").append("\"" + column.name + "\"");
    } else if (!found->generated) {
      fill.push_back(*found);
    }
  }
  if (!extra.empty() && unknown == UnknownColumns::kError) {
    throw core::Error(
        "42703", "the export has columns that " + table + " lacks: " + pg::to_database_text(extra),
        {}, "Add them to the table, or leave them out: unknown_columns => 'ignore'.");
  }
  if (fill.empty()) {
    throw core::Error("42703", "the export has no column in common with " + table, {},
                      "Its columns are listed in its manifest. Is this the right table?");
  }
  return fill;
}

// What the new rows are when they may meet old ones: in a temporary table first.
class Staging {
 public:
  Staging(const ArtifactSource& source, const std::vector<TargetColumn>& columns) {
    std::string definition;
    for (const TargetColumn& column : columns) {
      definition.append(definition.empty() ? "" : ", ").append(column.quoted + " " + column.type);
    }
    pg::Spi spi;
    spi.query("CREATE TEMPORARY TABLE " + name_ + " (" + definition + ") ON COMMIT DROP");
    const Oid relation =
        spi.query("SELECT to_regclass($1)::oid", {pg::Param::text(name_)}).oid(0, 0);
    load_rows(source, relation, columns);
    spi.query("ANALYZE " + name_);
  }
  const std::string& name() const { return name_; }
  void drop() const {
    pg::Spi spi;
    spi.query("DROP TABLE " + name_);
  }

 private:
  std::string name_ = "pg_temp.bacmr_import";
};

// The key that new rows may meet old ones in; all of it has to be in the export.
std::vector<KeyColumn> conflict_key(Oid relation, const std::vector<TargetColumn>& columns) {
  const std::string table = sql_name(relation);
  std::vector<KeyColumn> key = key_of(relation, KeyKind::kAnyUnique);
  if (key.empty()) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "on_conflict 'update' needs a unique key, and " + table + " has none", {},
                      "Add a primary key, or import with on_conflict 'error' into an empty table.");
  }
  for (const KeyColumn& column : key) {
    if (std::ranges::find(columns, column.name, &TargetColumn::name) == columns.end()) {
      throw core::Error(
          "42703", "the export lacks the column \"" + column.name + "\" of the key of " + table, {},
          "Import it with on_conflict 'error'.");
    }
  }
  return key;
}

std::string update_action(const std::vector<KeyColumn>& key,
                          const std::vector<TargetColumn>& columns) {
  std::string list;
  for (const KeyColumn& column : key) {
    list.append(list.empty() ? "" : ", ").append(column.quoted);
  }
  std::string changes;
  for (const TargetColumn& column : columns) {
    if (!column.identity_always &&
        std::ranges::find(key, column.name, &KeyColumn::name) == key.end()) {
      changes.append(changes.empty() ? "" : ", ")
          .append(column.quoted + " = excluded." + column.quoted);
    }
  }
  return " ON CONFLICT (" + list + ") DO " +
         (changes.empty() ? "NOTHING" : "UPDATE SET " + changes);
}

ImportCounts merge(const ArtifactSource& source, Oid relation,
                   const std::vector<TargetColumn>& columns, OnConflict on_conflict) {
  const std::string table = sql_name(relation);
  std::vector<KeyColumn> key;
  if (on_conflict == OnConflict::kUpdate) {
    key = conflict_key(relation, columns);
  }
  const Staging staging(source, columns);
  const std::string insert = "INSERT INTO " + table + " AS t (" + joined(columns) +
                             ") OVERRIDING SYSTEM VALUE SELECT " + joined(columns, "s.") +
                             " FROM " + staging.name() + " s";
  pg::Spi spi;
  ImportCounts counts;
  counts.read = source.manifest().rows;
  if (key.empty()) {
    counts.inserted = spi.query(insert + " ON CONFLICT DO NOTHING").size();
  } else {
    std::string returned;
    for (const KeyColumn& column : key) {
      returned.append(returned.empty() ? "" : ", ").append("t." + column.quoted);
    }
    // One statement, one snapshot: the question sees the table as it was before.
    std::string met = "EXISTS (SELECT FROM " + table + " t WHERE " + key_match(key, "t", "c") + ")";
    if (pg::call([relation] { return get_rel_relkind(relation); }) == RELKIND_RELATION) {
      // Whom ON CONFLICT meets it locks first, also what others have committed since the snapshot;
      // a row that was inserted has no lock. (Rows of partitions have no xmax to return.)
      returned = "t.xmax";
      met = "c.xmax <> '0'";
    }
    const pg::Rows rows = spi.query(
        "WITH changed AS (" + insert + update_action(key, columns) + " RETURNING " + returned +
        ") SELECT count(*), count(*) FILTER (WHERE " + met + ") FROM changed c");
    counts.updated = static_cast<std::uint64_t>(rows.int8(0, 1));
    counts.inserted = static_cast<std::uint64_t>(rows.int8(0, 0)) - counts.updated;
  }
  staging.drop();
  counts.skipped = counts.read - std::min(counts.inserted + counts.updated, counts.read);
  return counts;
}

// The next value of an identity or serial column must not be one that was imported.
void advance_sequences(Oid relation, const std::vector<TargetColumn>& columns) {
  const std::string table = sql_name(relation);
  for (const TargetColumn& column : columns) {
    const Oid type = pg::call([&] { return getBaseType(column.type_oid); });
    if (type != INT2OID && type != INT4OID && type != INT8OID) {
      continue;
    }
    pg::Spi spi;
    const pg::Rows sequence = spi.query(
        "SELECT q.seqrelid::regclass::text, q.seqincrement > 0, s.relowner, t.relowner,"
        " q.seqrelid"
        " FROM pg_sequence q JOIN pg_class s ON s.oid = q.seqrelid, pg_class t"
        " WHERE q.seqrelid = pg_get_serial_sequence($1, $2)::regclass AND t.oid = $3"
        " AND t.relkind IN ('r', 'p')",
        {pg::Param::text(table), pg::Param::text(column.name), pg::Param::oid(relation)});
    if (sequence.empty()) {
      continue;
    }
    const std::string name = sequence.text(0, 0);
    const bool up = sequence.boolean(0, 1);
    std::optional<std::int64_t> reached;
    {
      // Who may fill the table need not be able to read it; its owner may be under a policy.
      const bool readable = spi.query("SELECT has_column_privilege($1::oid, $2, 'SELECT')",
                                      {pg::Param::oid(relation), pg::Param::text(column.name)})
                                .boolean(0, 0);
      std::optional<pg::AsUser> owner;
      if (!readable) {
        owner.emplace(sequence.oid(0, 3), SECURITY_RESTRICTED_OPERATION);
      }
      const pg::Rows rows = spi.query(std::string("SELECT ") + (up ? "max" : "min") + "(" +
                                      column.quoted + ")::bigint FROM " + table);
      if (!rows.is_null(0, 0)) {
        reached = rows.int8(0, 0);
      }
    }
    if (reached) {
      const pg::AsUser owner(sequence.oid(0, 2), SECURITY_RESTRICTED_OPERATION);
      // What is read must still be so when it is set: nobody takes a value in between.
      pg::call([&] { LockRelationOid(sequence.oid(0, 4), ShareRowExclusiveLock); });
      spi.query("SELECT setval($1::regclass, n) FROM " + name +
                    ", (SELECT least(greatest($2, seqmin), seqmax) AS n FROM pg_sequence"
                    "  WHERE seqrelid = $1::regclass) q WHERE " +
                    (up ? "n > last_value" : "n < last_value") +
                    " OR (n = last_value AND NOT is_called)",
                {pg::Param::text(name), pg::Param::int8(*reached)});
    }
  }
}

}  // namespace

OnConflict checked_on_conflict(const std::optional<std::string>& name) {
  const std::string given = name.value_or("error");
  if (given == "error") {
    return OnConflict::kError;
  }
  if (given == "skip") {
    return OnConflict::kSkip;
  }
  if (given == "update") {
    return OnConflict::kUpdate;
  }
  throw core::Error(core::sqlstate::kInvalidParameterValue, "unknown on_conflict \"" + given + "\"",
                    {}, "Give 'error', 'skip' or 'update'.");
}

UnknownColumns checked_unknown_columns(const std::optional<std::string>& name) {
  const std::string given = name.value_or("error");
  if (given == "error") {
    return UnknownColumns::kError;
  }
  if (given == "ignore") {
    return UnknownColumns::kIgnore;
  }
  throw core::Error(core::sqlstate::kInvalidParameterValue,
                    "unknown unknown_columns \"" + given + "\"", {}, "Give 'error' or 'ignore'.");
}

std::vector<TargetColumn> target_columns(Oid relation) {
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT attname::text, format_type(atttypid, atttypmod), atttypid, attgenerated <> '',"
      " attidentity = 'a' FROM pg_attribute WHERE attrelid = $1 AND attnum > 0"
      " AND NOT attisdropped ORDER BY attnum",
      {pg::Param::oid(relation)});
  std::vector<TargetColumn> columns;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    columns.push_back({rows.text(i, 0), pg::quote_identifier(rows.text(i, 0)), rows.text(i, 1),
                       rows.oid(i, 2), rows.boolean(i, 3), rows.boolean(i, 4)});
  }
  return columns;
}

std::uint64_t load_rows(const ArtifactSource& source, Oid relation,
                        const std::vector<TargetColumn>& columns) {
  std::vector<std::string> names;
  names.reserve(columns.size());
  for (const TargetColumn& column : columns) {
    names.push_back(column.name);
  }
  LineConverter lines(source, columns);
  pg::Progress progress("importing " + source.name(), "rows");
  std::uint64_t line = 0;
  std::uint64_t inserted = 0;
  try {
    inserted = pg::copy_rows(
        relation, names,
        [&](core::ByteBuffer& row) {
          progress.tell(line, source.manifest().rows);
          return lines.append_row(row);
        },
        line);
  } catch (pg::Error& e) {
    if (line > 0 && !e.is_interrupt() && e.code() != MAKE_SQLSTATE('2', '2', 'P', '0', '4')) {
      e.prepend("line " + std::to_string(line) + " of \"" + source.name() +
                "\" could not be imported: ");
    }
    throw;
  }
  // The file may have been altered since it was checked.
  if (const std::optional<std::string> problem = source.difference(lines.reader())) {
    throw core::Error(
        core::sqlstate::kBadFileFormat,
        "the export \"" + source.name() + "\" was altered while it was read: " + *problem,
        "Nothing was imported.", "Import it again.");
  }
  return inserted;
}

namespace {

// COPY beneath the planner would fill the empty table that Citus shows, where nobody reads it.
void require_own_rows(Oid relation) {
  const pg::Spi spi;
  if (pg::is_distributed(relation)) {
    throw core::Error(
        core::sqlstate::kFeatureNotSupported,
        "rows cannot be imported into " + sql_name(relation) + ", a distributed table of Citus", {},
        "Import them into an ordinary table with bacmr_import(), then INSERT INTO " +
            sql_name(relation) + " SELECT * FROM it.");
  }
}

}  // namespace

ImportCounts import_rows(const ArtifactSource& source, Oid relation, OnConflict on_conflict,
                         UnknownColumns unknown) {
  source.require_sound();
  // Its columns are looked up before anything is loaded: they must not change in between.
  pg::lock_to_write(relation);
  require_own_rows(relation);
  const std::vector<TargetColumn> columns =
      columns_to_fill(source.manifest(), target_columns(relation), unknown, sql_name(relation));
  ImportCounts counts;
  if (on_conflict == OnConflict::kError) {
    counts.read = source.manifest().rows;
    counts.inserted = load_rows(source, relation, columns);
    counts.skipped = counts.read - counts.inserted;  // a trigger has turned them away
  } else {
    counts = merge(source, relation, columns, on_conflict);
  }
  advance_sequences(relation, columns);
  return counts;
}

}  // namespace jobs
