#include "pg/postgres.hpp"

#include "sources/source.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/table_tree.hpp"

extern "C" {
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
}

namespace sources {
namespace {

Column make_column(const std::string& name, Oid type, std::int32_t typmod, std::int16_t number) {
  Column column;
  column.name = name;
  column.quoted = pg::quote_identifier(name);
  column.typmod = typmod;
  column.type = pg::call([&] { return getBaseTypeAndTypmod(type, &column.typmod); });
  column.number = number;
  return column;
}

// The contract's column names, as a VALUES list for the query below.
std::string rules_as_values() {
  std::string list;
  for (const ColumnRule& rule : column_rules()) {
    list.append(list.empty() ? "" : ",")
        .append("('")
        .append(rule.source)
        .append("','")
        .append(rule.name)
        .append("')");
  }
  return list;
}

// An optional column of a type that the jobs cannot fill is treated as absent.
bool usable(const std::string& name, Oid type) {
  if (name == "request_id") {
    return type == TEXTOID || type == VARCHAROID || type == UUIDOID;
  }
  if (name == "updated_at" || name == "created_at") {
    return type == TIMESTAMPTZOID || type == TIMESTAMPOID;
  }
  return true;
}

// `which`: the sources, with the columns of bacmr_source, the OID of each one's table (NULL where
// there is none of that name), and whether the caller gave it.
std::string load_query(const std::string& which) {
  return "SELECT s.source, s.schema_name, s.relation_name, s.columns::text, s.options::text,"
         "  coalesce((s.options->>'refund')::boolean, true),"
         "  coalesce(s.options->>'since', s.attached_at::text),"
         "  c.oid, c.relkind::text, c.relowner, d.name, a.attname, a.atttypid, a.atttypmod,"
         "  a.attnum::int, coalesce(s.columns->>d.name, s.resolved->>d.name),"
         "  c.relhassubclass, c.relhastriggers, s.owner_name, w.rolsuper, s.relation_oid, s.given"
         " FROM (" +
         which + ") s JOIN (VALUES " + rules_as_values() +
         ") d(source, name) USING (source)"
         " LEFT JOIN pg_class c ON c.oid = s.oid"
         " LEFT JOIN pg_authid w ON w.oid = c.relowner"
         " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
         "  AND a.attname = coalesce(s.columns->>d.name,"
         "  s.resolved->>d.name, d.name)"
         " ORDER BY s.source";
}

std::string attached(const pg::Extension& extension) {
  return "SELECT b.source, b.schema_name, b.relation_name, b.columns, b.options, b.resolved,"
         "  b.attached_at, b.owner_name, b.relation_oid, c.oid, false AS given FROM " +
         extension.object("bacmr_source") +
         " b LEFT JOIN pg_namespace n ON n.nspname = b.schema_name"
         " LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = b.relation_name";
}

// $1 to $3: the tables, NULL for none.
std::string given(const pg::Extension& extension) {
  return "SELECT t.source, n.nspname AS schema_name, c.relname AS relation_name,"
         "  coalesce(b.columns, '{}') AS columns, coalesce(b.options, '{}') AS options,"
         "  coalesce(b.resolved, '{}') AS resolved, coalesce(b.attached_at, now()) AS attached_at,"
         "  pg_get_userbyid(c.relowner) AS owner_name, c.oid AS relation_oid, c.oid, true AS given"
         " FROM (VALUES ('reservations', $1), ('wallet', $2), ('wallet_ledger', $3)) t(source, oid)"
         " LEFT JOIN " +
         extension.object("bacmr_source") +
         " b USING (source) LEFT JOIN pg_class c ON c.oid = t.oid"
         " LEFT JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.oid IS NOT NULL";
}

pg::Param maybe_oid(std::optional<Oid> value) {
  return value ? pg::Param::oid(*value) : pg::Param{OIDOID, static_cast<Datum>(0), true};
}

[[noreturn]] void not_ready(const std::string& message, const std::string& detail,
                            const std::string& hint) {
  throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState, message, detail, hint);
}

}  // namespace

const std::vector<ColumnRule>& column_rules() {
  static const std::vector<ColumnRule> rules = {{"wallet", "user_id", true},
                                                {"wallet", "token_balance", true},
                                                {"wallet", "updated_at", false},
                                                {"wallet_ledger", "user_id", true},
                                                {"wallet_ledger", "delta", true},
                                                {"wallet_ledger", "reason", true},
                                                {"wallet_ledger", "id", false},
                                                {"wallet_ledger", "reservation_id", false},
                                                {"wallet_ledger", "request_id", false},
                                                {"wallet_ledger", "created_at", false},
                                                {"reservations", "id", true},
                                                {"reservations", "user_id", true},
                                                {"reservations", "amount", true},
                                                {"reservations", "status", true},
                                                {"reservations", "expires_at", true},
                                                {"reservations", "updated_at", false},
                                                {"reservations", "request_id", false},
                                                {"chunks", "id", true},
                                                {"chunks", "namespace", true},
                                                {"chunks", "content", true},
                                                {"chunks", "document_id", false},
                                                {"chunks", "chunk_index", false},
                                                {"chunks", "metadata", false},
                                                {"chunks", "token_count", false},
                                                {"chunks", "created_at", false},
                                                {"chunks", "updated_at", false}};
  return rules;
}

bool is_source(const std::string& name) {
  return std::ranges::any_of(column_rules(),
                             [&](const ColumnRule& rule) { return name == rule.source; });
}

bool Source::is_a_strangers() const {
  return exists() && !owner_is_superuser && oid != attached_oid &&
         pg::role_name(owner) != attached_owner;
}

std::string Source::sql_name() const { return pg::quote_qualified(schema, relation); }

std::string Source::type_name(const std::string& column) const {
  const Column& found = columns.at(column);
  return pg::call([&] { return format_type_extended(found.type, -1, FORMAT_TYPE_FORCE_QUALIFY); });
}

RowHandle Source::row_handle(const std::string& key) const {
  if (kind == RELKIND_RELATION && !has_children) {
    return {"ONLY " + sql_name(), "ctid", "pg_catalog.tid"};
  }
  return {sql_name(), col(key), type_name(key)};
}

std::string Source::payable(const std::string& column, const std::string& prefix) const {
  const std::string amount = prefix + col(column);
  // NaN and infinity compare as greater than every number.
  return amount + " > 0" +
         (type(column) == NUMERICOID ? " AND " + amount + " < 'Infinity'::numeric" : "");
}

std::string Source::status() const {
  if (!exists()) {
    return "missing";
  }
  if (!problem.empty()) {
    return "invalid: " + problem;
  }
  return expiry_problem.empty() ? "attached" : "invalid: for expiry, " + expiry_problem;
}

Sources Sources::load(const pg::Extension& extension) {
  return read(extension, load_query(attached(extension)), {});
}

Sources Sources::load_given(const pg::Extension& extension, const GivenTables& tables) {
  pg::PinnedSettings settings;
  if (pg::has_citus()) {
    // Else it hides its shards in pg_class from sessions that are not its own.
    settings.set("citus.override_table_visibility", "off");
  }
  Sources result =
      read(extension, load_query(given(extension)),
           {maybe_oid(tables.reservations), maybe_oid(tables.wallet), maybe_oid(tables.ledger)});
  result.given_ = true;
  return result;
}

Sources Sources::read(const pg::Extension& extension, const std::string& query,
                      std::initializer_list<pg::Param> params) {
  Sources result;
  {
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    const pg::Rows rows = spi.query(query, params);
    for (std::uint64_t i = 0; i < rows.size(); ++i) {
      const std::string name = rows.text(i, 0);
      if (result.all_.empty() || result.all_.back().source != name) {
        Source source;
        source.source = name;
        source.schema = rows.text(i, 1);
        source.relation = rows.text(i, 2);
        source.columns_json = rows.text(i, 3);
        source.options_json = rows.text(i, 4);
        source.refund = rows.boolean(i, 5);
        source.since = rows.text(i, 6);
        source.oid = rows.oid(i, 7);
        source.kind = source.exists() ? rows.text(i, 8).front() : '\0';
        source.owner = rows.oid(i, 9);
        source.has_children = rows.boolean(i, 16);
        source.has_triggers = rows.boolean(i, 17);
        source.attached_owner = rows.text(i, 18);
        source.owner_is_superuser = rows.boolean(i, 19);
        source.attached_oid = rows.oid(i, 20);
        source.given = rows.boolean(i, 21);
        result.all_.push_back(std::move(source));
      }
      if (rows.is_null(i, 11) && !rows.is_null(i, 15)) {
        result.all_.back().lost_columns.push_back(rows.text(i, 15));
      }
      if (!rows.is_null(i, 11)) {
        Column column = make_column(rows.text(i, 11), rows.oid(i, 12), rows.int4(i, 13),
                                    static_cast<std::int16_t>(rows.int4(i, 14)));
        if (usable(rows.text(i, 10), column.type)) {
          result.all_.back().columns.emplace(rows.text(i, 10), std::move(column));
        }
      }
    }
    // A fixed snapshot shows what has been dropped since, and so may any for a moment.
    for (Source& source : result.all_) {
      if (source.exists() &&
          pg::call([&] { return !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(source.oid)); })) {
        source.oid = InvalidOid;
      }
    }
    validate(result.all_);
  }
  return result;
}

Sources Sources::load_locked(const pg::Extension& extension) {
  for (;;) {
    const Sources before = load(extension);
    for (const Source& source : before.all_) {
      if (source.exists()) {
        pg::call([&] { LockRelationOid(source.oid, AccessShareLock); });
      }
    }
    // A table that was replaced while we waited for its lock has another OID now.
    Sources after = load(extension);
    if (std::ranges::equal(before.all_, after.all_, {}, &Source::oid, &Source::oid)) {
      return after;
    }
  }
}

const Source* Sources::find(const std::string& source) const {
  const auto found =
      std::ranges::find_if(all_, [&](const Source& each) { return each.source == source; });
  return found == all_.end() ? nullptr : &*found;
}

const Source& Sources::require(const std::string& source, const std::string& job) const {
  const Source* found = find(source);
  if (given_ && (found == nullptr || !found->exists())) {
    if (found == nullptr) {
      throw core::Error(core::sqlstate::kNullValueNotAllowed,
                        "argument \"" + source + "\" must not be NULL", {},
                        "Name the table that holds the rows of these reservations.");
    }
    throw core::Error(core::sqlstate::kUndefinedTable,
                      "the table given as \"" + source + "\" does not exist", {},
                      "It was dropped meanwhile: name a table that is there.");
  }
  if (given_ && !found->problem.empty()) {
    not_ready(found->sql_name() + " cannot be used as \"" + source + "\": " + found->problem,
              "Its columns go by the names of the attached source \"" + source +
                  "\", or by the default ones where none is attached.",
              "Mend the table, or name another one.");
  }
  if (found == nullptr) {
    not_ready("the job " + job + " needs the source \"" + source + "\", which is not attached", {},
              "Attach your table, for example: SELECT bacmr_attach('" + source +
                  "', 'your_schema.your_table'). Or create the reference tables: "
                  "SELECT bacmr_create_tables().");
  }
  if (!found->exists()) {
    not_ready("the table " + found->sql_name() + " of the source \"" + source + "\" does not exist",
              "It was dropped or renamed after it was attached.",
              "Attach the table that holds the data now with bacmr_attach, or forget this one: "
              "SELECT bacmr_detach('" +
                  source + "').");
  }
  if (!found->problem.empty()) {
    not_ready(
        "the source \"" + source + "\" (" + found->sql_name() +
            ") cannot be used: " + found->problem,
        {},
        "Mend the table, or attach it again with bacmr_attach; bacmr_doctor() lists the commands.");
  }
  return *found;
}

const Source& Sources::require_for_expiry(const std::string& source) const {
  const Source& found = require(source, "expire");
  if (!found.expiry_problem.empty()) {
    not_ready((given_ ? "reservations cannot be expired with " + found.sql_name() + " as \"" +
                            source + "\": "
                      : "reservations cannot be expired with the source \"" + source + "\" (" +
                            found.sql_name() + "): ") +
                  found.expiry_problem,
              {},
              "Expire them where the rows are, for instance shard by shard with bacmr_expire_in("
              "reservations, wallet, wallet_ledger) on each node; reconciliation works here all "
              "the same.");
  }
  return found;
}

}  // namespace sources
