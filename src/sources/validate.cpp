// What makes a table unfit to be a source, in words that say what to change.
#include "pg/postgres.hpp"

#include <algorithm>

#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/table_tree.hpp"
#include "sources/source.hpp"

extern "C" {
#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/syscache.h"
}

namespace sources {
namespace {

bool is_text(Oid type) { return type == TEXTOID || type == VARCHAROID; }
bool is_key(Oid type) {
  return type == UUIDOID || type == INT8OID || type == INT4OID || is_text(type);
}
bool is_amount(Oid type) { return type == INT4OID || type == INT8OID || type == NUMERICOID; }
bool is_enum(Oid type) {
  return pg::call([type] { return get_typtype(type) == TYPTYPE_ENUM; });
}
bool is_plain(const Source& source) {
  return source.kind == RELKIND_RELATION || source.kind == RELKIND_PARTITIONED_TABLE;
}

std::string type_text(Oid type) {
  return pg::call([type] { return format_type_be(type); });
}

std::string column_text(const Source& source, const char* column) {
  return "column " + source.col(column);
}

// text and varchar hold the same values and compare alike.
Oid comparable(Oid type) { return type == VARCHAROID ? TEXTOID : type; }

// Digits after the point that a type can hold.
int scale(const Column& column) {
  if (column.type != NUMERICOID) {
    return 0;
  }
  constexpr int kUnlimited = 1 << 20;
  // numeric's typmod: precision and scale in one number (11 bits of signed scale).
  const int modifier = column.typmod - static_cast<int>(VARHDRSZ);
  return column.typmod < 0 ? kUnlimited : ((modifier & 0x7FF) ^ 1024) - 1024;
}

// On the column alone, or on it and `other` (nullptr: none), in either order.
bool has_unique_index(const Source& source, const char* column, const char* other) {
  pg::Spi spi;
  return !spi.query(
                 "SELECT 1 FROM pg_index WHERE indrelid = $1 AND indisunique AND indisvalid"
                 " AND indpred IS NULL AND indexprs IS NULL AND (indnkeyatts = 1 AND indkey[0] = $2"
                 "  OR indnkeyatts = 2 AND $2 IN (indkey[0], indkey[1])"
                 "   AND $3 IN (indkey[0], indkey[1])) LIMIT 1",
                 {pg::Param::oid(source.oid), pg::Param::int2(source.columns.at(column).number),
                  pg::Param::int2(other == nullptr ? std::int16_t{0}
                                                   : source.columns.at(other).number)})
              .empty();
}

// The name of a foreign table among the table and what is below it; '' where there is none.
std::string find_foreign_member(const Source& source) {
  if (source.kind == RELKIND_RELATION && !source.has_children) {
    return {};
  }
  pg::Spi spi;
  return spi
      .query(
          "WITH RECURSIVE tree(oid) AS (SELECT $1 UNION SELECT inhrelid FROM pg_inherits JOIN tree"
          "  ON inhparent = oid) SELECT min(oid::regclass::text) FROM tree JOIN pg_class USING"
          " (oid) WHERE relkind = 'f'",
          {pg::Param::oid(source.oid)})
      .text(0, 0);
}

std::string missing_enum_labels(Oid type, const std::vector<std::string>& labels) {
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT string_agg(quote_literal(l), ', ') FROM unnest($2) l"
      " WHERE NOT EXISTS (SELECT FROM pg_enum WHERE enumtypid = $1 AND enumlabel = l)",
      {pg::Param::oid(type), pg::Param::text_array(labels)});
  return rows.text(0, 0);
}

std::string lost_column_problem(const Source& source) {
  if (source.lost_columns.empty()) {
    return {};
  }
  return "it has no column " + pg::quote_identifier(source.lost_columns.front()) +
         (source.given ? ", which the attached table has"
                       : ", which was attached (renamed or dropped? attach the table again)");
}

std::string required_column_problem(const Source& source) {
  for (const ColumnRule& rule : column_rules()) {
    if (rule.required && source.source == rule.source && !source.has(rule.name)) {
      return std::string("it has no column for \"") + rule.name +
             (source.given ? "\"" : "\" (name yours in the argument columns of bacmr_attach)");
    }
  }
  return {};
}

std::string key_problem(const Source& source, const char* column) {
  if (is_key(source.type(column))) {
    return {};
  }
  return column_text(source, column) + " is of type " + type_text(source.type(column)) +
         "; a key is uuid, bigint, integer or text";
}

std::string amount_problem(const Source& source, const char* column) {
  if (is_amount(source.type(column))) {
    return {};
  }
  return column_text(source, column) + " is of type " + type_text(source.type(column)) +
         "; an amount is integer, bigint or numeric";
}

std::string word_problem(const Source& source, const char* column,
                         const std::vector<std::string>& needed) {
  const Oid type = source.type(column);
  if (is_text(type)) {
    return {};
  }
  if (!is_enum(type)) {
    return column_text(source, column) + " is of type " + type_text(type) +
           "; it is text, varchar or an enum";
  }
  const std::string missing = missing_enum_labels(type, needed);
  return missing.empty() ? std::string()
                         : "the enum " + type_text(type) + " lacks the value " + missing;
}

// Whether the key alone can be unique: across partitions or shards an index is unique only
// together with the columns by which they are told apart, which for money is the user. So it is for
// one shard, too.
bool is_sharded(const Source& source) {
  return source.given || source.kind == RELKIND_PARTITIONED_TABLE || pg::is_distributed(source.oid);
}

// `owner`: the column of the user where `column` is another one, else nullptr.
std::string unique_problem(const Source& source, const char* column, const char* owner) {
  const char* other = owner != nullptr && is_sharded(source) ? owner : nullptr;
  if (!is_plain(source) || has_unique_index(source, column, other)) {
    return {};
  }
  // With foreign partitions a table can have no unique index; those that hold the rows have theirs.
  if (!source.foreign_member.empty()) {
    return {};
  }
  const std::string columns =
      source.col(column) + (other != nullptr ? ", " + source.col(other) : "");
  return "it has no unique index on " + source.col(column) +
         (other != nullptr ? ", alone or with " + source.col(other) : " alone") +
         " (CREATE UNIQUE INDEX ON " + source.sql_name() + " (" + columns + "))";
}

bool is_unique_with_user_only(const Source& source) {
  return source.source == "reservations" && is_plain(source) && source.has("id") &&
         source.has("user_id") && is_sharded(source) && !has_unique_index(source, "id", nullptr) &&
         has_unique_index(source, "id", "user_id");
}

// Expiry writes one ledger row a reservation: a column that it does not know must not need a value.
std::string unfilled_column_problem(const Source& source) {
  std::vector<std::string> filled;
  for (const char* name :
       {"user_id", "delta", "reason", "reservation_id", "request_id", "created_at"}) {
    if (source.has(name)) {
      filled.push_back(source.columns.at(name).name);
    }
  }
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute"
      " WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attnotnull AND NOT atthasdef"
      " AND attidentity = '' AND attname <> ALL ($2)",
      {pg::Param::oid(source.oid), pg::Param::text_array(filled)});
  const std::string columns = rows.text(0, 0);
  return columns.empty() ? columns
                         : "a new row needs a value for " + columns +
                               " (NOT NULL without a default): give it a default";
}

std::string timestamp_problem(const Source& source) {
  if (source.type("expires_at") == TIMESTAMPTZOID) {
    return {};
  }
  return column_text(source, "expires_at") + " is of type " + type_text(source.type("expires_at")) +
         "; it must be timestamp with time zone, or its moment depends on who reads it";
}

std::string owner_problem(const Source& source) {
  return source.is_a_strangers()
             ? "it is another table than the one that was attached, and belongs to another role, " +
                   pg::quote_identifier(pg::role_name(source.owner)) + " (attach it again)"
             : std::string();
}

std::string first_of(std::initializer_list<std::string> problems) {
  for (const std::string& problem : problems) {
    if (!problem.empty()) {
      return problem;
    }
  }
  return {};
}

// False too where the table has just been dropped: it is not locked here.
bool is_temporary(Oid table) {
  return pg::call([table] {
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
    if (!HeapTupleIsValid(tuple)) {
      return false;
    }
    const char persistence = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relpersistence;
    ReleaseSysCache(tuple);
    return persistence == RELPERSISTENCE_TEMP;
  });
}

std::string own_problem(const Source& source) {
  if (!is_plain(source) && source.kind != RELKIND_VIEW && source.kind != RELKIND_MATVIEW &&
      source.kind != RELKIND_FOREIGN_TABLE) {
    return "it is not a table";
  }
  if (is_temporary(source.oid)) {
    return "it is a temporary table";
  }
  if (std::string missing = first_of(
          {owner_problem(source), lost_column_problem(source), required_column_problem(source)});
      !missing.empty()) {
    return missing;
  }
  if (source.source == "wallet") {
    return first_of({key_problem(source, "user_id"), amount_problem(source, "token_balance"),
                     unique_problem(source, "user_id", nullptr)});
  }
  if (source.source == "wallet_ledger") {
    return first_of({key_problem(source, "user_id"), amount_problem(source, "delta"),
                     word_problem(source, "reason", {"reservation_expired"}),
                     unfilled_column_problem(source)});
  }
  if (source.source == "reservations") {
    return first_of({key_problem(source, "id"), key_problem(source, "user_id"),
                     amount_problem(source, "amount"),
                     word_problem(source, "status", {"reserved", "expired"}),
                     timestamp_problem(source), unique_problem(source, "id", "user_id")});
  }
  return first_of({key_problem(source, "id")});
}

// Keys that name the same thing in two sources must be of one type.
std::string relation_problem(const Source& source, const char* column, const Source* other,
                             const char* other_column) {
  if (other == nullptr || !other->exists() || !source.has(column) || !other->has(other_column) ||
      comparable(source.type(column)) == comparable(other->type(other_column))) {
    return {};
  }
  return column_text(source, column) + " is of type " + type_text(source.type(column)) + ", but " +
         other->sql_name() + "." + other->col(other_column) + " is of type " +
         type_text(other->type(other_column));
}

std::string write_problem(const Source& source) {
  if (source.kind == RELKIND_VIEW || source.kind == RELKIND_MATVIEW) {
    return "it is a view, whose rows cannot be locked one by one";
  }
  if (source.kind == RELKIND_FOREIGN_TABLE) {
    return "it is a foreign table, whose rows cannot be locked without waiting";
  }
  if (!source.foreign_member.empty()) {
    return "its partition " + source.foreign_member +
           " is a foreign table, whose rows cannot be locked without waiting";
  }
  if (pg::is_distributed(source.oid)) {
    return "it is a distributed table of Citus, whose rows cannot be locked across its shards";
  }
  pg::Spi spi;
  // A publisher may feed a partition through its parent.
  const pg::Rows rows = spi.query(
      "WITH RECURSIVE tree(oid) AS (SELECT $1 UNION SELECT inhrelid FROM pg_inherits JOIN tree"
      "  ON inhparent = oid)"
      " SELECT EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid IN (SELECT oid FROM tree"
      "  UNION ALL SELECT pg_partition_ancestors($1)))",
      {pg::Param::oid(source.oid)});
  if (rows.boolean(0, 0)) {
    return "a logical replication subscription feeds it: rows written here would collide with "
           "those of the publisher";
  }
  return {};
}

std::string rounding_problem(const Source& source, const char* column, const Source* reservations) {
  if (reservations == nullptr || !reservations->problem.empty() || !reservations->exists() ||
      scale(source.columns.at(column)) >= scale(reservations->columns.at("amount"))) {
    return {};
  }
  return column_text(source, column) + " holds fewer decimals than " + reservations->sql_name() +
         "." + reservations->col("amount") + ": a refund would be rounded";
}

}  // namespace

void validate(std::vector<Source>& all) {
  auto find = [&](const char* name) -> const Source* {
    const auto found = std::ranges::find_if(all, [&](const Source& s) { return s.source == name; });
    return found == all.end() ? nullptr : &*found;
  };
  for (Source& source : all) {
    if (source.exists()) {
      source.foreign_member = find_foreign_member(source);
      source.problem = own_problem(source);
      source.id_with_user = is_unique_with_user_only(source);
    }
  }
  const Source* wallet = find("wallet");
  const Source* reservations = find("reservations");
  for (Source& source : all) {
    if (!source.exists() || !source.problem.empty() || source.source == "chunks") {
      continue;
    }
    if (source.source != "wallet") {
      source.problem = relation_problem(source, "user_id", wallet, "user_id");
    }
    if (source.problem.empty() && source.source == "reservations") {
      source.problem = relation_problem(source, "user_id", find("wallet_ledger"), "user_id");
    }
    if (source.problem.empty() && source.source == "wallet_ledger") {
      source.problem = relation_problem(source, "reservation_id", reservations, "id");
    }
    if (!source.problem.empty()) {
      continue;
    }
    source.expiry_problem = write_problem(source);
    if (source.expiry_problem.empty() && source.source == "wallet") {
      source.expiry_problem = rounding_problem(source, "token_balance", reservations);
    }
    if (source.expiry_problem.empty() && source.source == "wallet_ledger") {
      source.expiry_problem = rounding_problem(source, "delta", reservations);
    }
  }
}

}  // namespace sources
