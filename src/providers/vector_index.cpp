#include "pg/postgres.hpp"

#include "providers/vector_index.hpp"

#include "core/sha256.hpp"
#include "pg/error.hpp"
#include "pg/lock.hpp"
#include "pg/log.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"

namespace providers {
namespace {

constexpr int kMostOfVector = 2000;
constexpr int kMostOfHalfvec = 4000;
constexpr int kLockTimeoutMs = 2000;

// Of the namespace alone, whatever characters that has, and short enough for a name.
std::string index_name(const std::string& space) {
  return "bacmr_vector_" + core::sha256_hex(space).substr(0, 16) + "_hnsw";
}

std::string qualified_index(const VectorTable& table, const std::string& space) {
  return pg::quote_qualified(table.schema, index_name(space));
}

struct Found {
  bool valid = false;
  int dimensions = 0;
  std::string type;  // its name, unqualified
};

std::optional<Found> look_up(const VectorTable& table, const std::string& space) {
  pg::Spi spi;
  // The type modifier of both types is the number of dimensions.
  const pg::Rows rows = spi.query(
      "SELECT i.indisvalid, a.atttypmod::pg_catalog.int8, t.typname::text"
      " FROM pg_catalog.pg_index i"
      " JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid"
      " JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indexrelid"
      " JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid"
      " WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND c.relname OPERATOR(pg_catalog.=) $2"
      " AND a.attnum OPERATOR(pg_catalog.=) 1",
      {pg::Param::oid(table.oid), pg::Param::text(index_name(space))});
  if (rows.empty()) {
    return std::nullopt;
  }
  return Found{rows.boolean(0, 0), static_cast<int>(rows.int8(0, 1)), rows.text(0, 2)};
}

bool holds_more_than(const VectorTable& table, const std::string& space, std::int64_t many) {
  pg::Spi spi;
  return !spi.query("SELECT FROM " + table.name +
                        " WHERE namespace OPERATOR(pg_catalog.=) $1 OFFSET $2 LIMIT 1",
                    {pg::Param::text(space), pg::Param::int8(many)})
              .empty();
}

bool has_hnsw() {
  pg::Spi spi;
  return !spi.query("SELECT FROM pg_catalog.pg_am WHERE amname OPERATOR(pg_catalog.=) 'hnsw'")
              .empty();
}

bool has_halfvec(const VectorTable& table) {
  pg::Spi spi;
  return !spi.query(
                 "SELECT FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n"
                 " ON n.oid OPERATOR(pg_catalog.=) t.typnamespace"
                 " WHERE n.nspname OPERATOR(pg_catalog.=) $1"
                 " AND t.typname OPERATOR(pg_catalog.=) 'halfvec'",
                 {pg::Param::text(table.type_schema)})
              .empty();
}

// The type to index by, unqualified; nothing where there is none for so many dimensions. Where the
// column says its dimensions, the table is the user's own, and so is its index.
std::optional<std::string> type_for(const VectorTable& table, int dimensions) {
  if (!table.has_type() || table.dimension || !has_hnsw()) {
    return std::nullopt;
  }
  if (dimensions <= kMostOfVector && table.type_name == "vector") {
    return "vector";
  }
  if (dimensions <= kMostOfHalfvec && has_halfvec(table)) {
    return "halfvec";
  }
  return std::nullopt;
}

std::string cast_type(const VectorTable& table, const std::string& type, int dimensions) {
  return pg::quote_qualified(table.type_schema, type) + "(" + std::to_string(dimensions) + ")";
}

// What follows CREATE INDEX.
std::string definition(const VectorTable& table, const std::string& space, const std::string& type,
                       int dimensions) {
  return pg::quote_identifier(index_name(space)) + " ON " + table.name +
         " USING hnsw ((embedding::" + cast_type(table, type, dimensions) + ") " +
         pg::quote_qualified(table.type_schema, type + "_cosine_ops") +
         ") WHERE namespace = " + pg::quote_literal(space);
}

// Runs DDL that may fail, and that must not be waited for long.
void attempt(const std::string& sql, const std::string& what) {
  try {
    pg::Subtransaction inner;
    {
      pg::PinnedSettings settings;
      settings.set("lock_timeout", pg::yielding_lock_timeout(kLockTimeoutMs).c_str());
      pg::Spi spi;
      spi.query(sql);
    }
    inner.commit();
  } catch (const pg::Error& error) {
    if (error.is_interrupt()) {
      throw;
    }
    pg::warn_client(what + ": " + error.summary(), {}, "By hand: " + sql + ";");
  }
}

}  // namespace

std::string VectorIndex::search(const VectorTable& table, const std::string& space,
                                const std::string& parameter, const std::string& limit) const {
  const std::string distance =
      "(embedding::" + type + " " + table.distance + " " + parameter + "::" + type + ")";
  // The namespace as a literal: a partial index is proven to fit when the statement is planned.
  return "SELECT id, 1 OPERATOR(pg_catalog.-) " + distance + " AS score FROM " + table.name +
         " WHERE namespace OPERATOR(pg_catalog.=) " + pg::quote_literal(space) + " ORDER BY " +
         distance + " LIMIT " + limit;
}

std::optional<VectorIndex> find_vector_index(const VectorTable& table, const std::string& space) {
  if (!table.has_type()) {
    return std::nullopt;
  }
  const auto found = look_up(table, space);
  if (!found || !found->valid || found->dimensions <= 0) {
    return std::nullopt;
  }
  return VectorIndex{cast_type(table, found->type, found->dimensions)};
}

void create_vector_index(const VectorTable& table, const std::string& space, int dimensions) {
  const auto type = type_for(table, dimensions);
  if (!type) {
    return;
  }
  const auto found = look_up(table, space);
  const bool fits = found && found->valid && found->dimensions == dimensions;
  if (fits || holds_more_than(table, space, 0)) {
    return;
  }
  if (found) {
    drop_vector_index(table, space);
  }
  attempt("CREATE INDEX " + definition(table, space, *type, dimensions),
          "namespace \"" + space + "\" gets no index");
}

std::optional<std::string> missing_vector_index(const VectorTable& table, const std::string& space,
                                                int dimensions, std::int64_t many) {
  const auto type = type_for(table, dimensions);
  if (!type || look_up(table, space) || !holds_more_than(table, space, many)) {
    return std::nullopt;
  }
  return "CREATE INDEX CONCURRENTLY " + definition(table, space, *type, dimensions);
}

void drop_vector_index(const VectorTable& table, const std::string& space) {
  if (look_up(table, space)) {
    attempt("DROP INDEX " + qualified_index(table, space),
            "the index of namespace \"" + space + "\" stays");
  }
}

}  // namespace providers
