#include "pg/postgres.hpp"

#include "providers/vector_table.hpp"

#include "core/error.hpp"
#include "pg/error.hpp"
#include "pg/extension.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "sources/source.hpp"

extern "C" {
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lockdefs.h"
}

namespace providers {
namespace {

constexpr const char* kTable = "bacmr_vector";

// Where the chunks live, whose vectors these are; and whose they are.
struct Home {
  std::string schema;
  Oid owner;
};

Home home_of_chunks(const pg::Extension& extension) {
  const sources::Sources sources = sources::Sources::load(extension);
  const sources::Source* chunks = sources.find("chunks");
  if (chunks == nullptr) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "the vector store in this database needs the source \"chunks\"", {},
                      "Attach it with bacmr_attach; the table bacmr_vector is then in its schema.");
  }
  // A table that somebody has put in the place of the chunks makes nobody trusted.
  return {chunks->schema, chunks->is_a_strangers() ? InvalidOid : chunks->owner};
}

// Writing into a table runs the code of its owner (triggers, defaults, checks) with the rights of
// whoever writes. Anybody who may create tables beside the chunks could put one there before we do.
void require_trusted_owner(const std::string& table, Oid owner, const Home& home) {
  if (owner == GetUserId() || owner == home.owner ||
      pg::call([owner] { return superuser_arg(owner); })) {
    return;
  }
  const std::string name = pg::quote_identifier(pg::role_name(owner));
  throw core::Error(core::sqlstate::kInsufficientPrivilege,
                    "table " + table + " belongs to the role " + name +
                        ", whose code would run with the rights of " +
                        pg::quote_identifier(pg::role_name(GetUserId())),
                    "It must belong to whoever uses it, to the owner of the chunks, or to a "
                    "superuser.",
                    "If the table is what it should be: ALTER TABLE " + table + " OWNER TO " +
                        (OidIsValid(home.owner) ? pg::quote_identifier(pg::role_name(home.owner))
                                                : "CURRENT_USER") +
                        ". Or act as " + name + ".");
}

[[noreturn]] void refuse(const std::string& table, const std::string& detail) {
  throw core::Error(core::sqlstate::kInvalidTableDefinition,
                    "table " + table + " cannot hold vectors", detail,
                    "It needs (namespace text, id text, embedding real[] or pgvector's vector or "
                    "halfvec, metadata jsonb), and a primary key on (namespace, id).");
}

struct Column {
  bool there = false;
  std::string schema;  // of its type
  std::string type;
  int modifier = -1;
};

Column find_column(pg::Spi& spi, Oid table, const char* name) {
  const pg::Rows rows = spi.query(
      "SELECT n.nspname::text, t.typname::text, a.atttypmod::pg_catalog.int8"
      " FROM pg_catalog.pg_attribute a"
      " JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid"
      " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace"
      " WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attname OPERATOR(pg_catalog.=) $2"
      " AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped",
      {pg::Param::oid(table), pg::Param::text(name)});
  if (rows.empty()) {
    return {};
  }
  return {true, rows.text(0, 0), rows.text(0, 1), static_cast<int>(rows.int8(0, 2))};
}

bool is(const Column& column, const char* type) {
  return column.there && column.schema == "pg_catalog" && column.type == type;
}

bool has_key(pg::Spi& spi, Oid table) {
  return !spi.query(
                 "SELECT FROM pg_catalog.pg_index i"
                 " WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisunique AND i.indisvalid"
                 " AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL"
                 " AND i.indnkeyatts OPERATOR(pg_catalog.=) 2"
                 " AND (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attname)"
                 " FROM pg_catalog.pg_attribute a"
                 " WHERE a.attrelid OPERATOR(pg_catalog.=) i.indrelid"
                 " AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey::pg_catalog.int2[]))"
                 " OPERATOR(pg_catalog.=) ARRAY['id', 'namespace']",
                 {pg::Param::oid(table)})
              .empty();
}

void describe_embedding(pg::Spi& spi, Oid table, VectorTable& result) {
  const Column embedding = find_column(spi, table, "embedding");
  if (is(embedding, "_float4")) {
    return;
  }
  const bool known = embedding.type == "vector" || embedding.type == "halfvec";
  const bool of_pgvector =
      known && !spi.query(
                       "SELECT FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n"
                       " ON n.oid OPERATOR(pg_catalog.=) e.extnamespace"
                       " WHERE e.extname OPERATOR(pg_catalog.=) 'vector'"
                       " AND n.nspname OPERATOR(pg_catalog.=) $1",
                       {pg::Param::text(embedding.schema)})
                    .empty();
  if (!of_pgvector) {
    refuse(result.name, embedding.there ? "Its column embedding has another type."
                                        : "It has no column embedding.");
  }
  result.type_schema = embedding.schema;
  result.type_name = embedding.type;
  result.type = pg::quote_qualified(embedding.schema, embedding.type);
  result.distance = "OPERATOR(" + pg::quote_identifier(embedding.schema) + ".<=>)";
  if (embedding.modifier > 0) {
    result.dimension = embedding.modifier;
  }
}

// The table of that name, locked until the transaction ends: it is what it is then, and stays
// there. InvalidOid where there is none.
Oid lock_table_in(const std::string& schema) {
  return pg::call([&schema] {
    RangeVar* name = makeRangeVar(pstrdup(schema.c_str()), pstrdup(kTable), -1);
    return RangeVarGetRelid(name, AccessShareLock, true);
  });
}

std::optional<VectorTable> find_in(const pg::Extension& extension, const Home& home) {
  const Oid table = lock_table_in(home.schema);
  if (!OidIsValid(table)) {
    return std::nullopt;
  }
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT c.oid, c.relkind::text, c.relowner FROM pg_catalog.pg_class c"
      " WHERE c.oid OPERATOR(pg_catalog.=) $1",
      {pg::Param::oid(table)});
  if (rows.empty()) {
    return std::nullopt;  // a fixed snapshot does not see it yet
  }
  VectorTable result;
  result.oid = table;
  result.owner = rows.oid(0, 2);
  result.schema = home.schema;
  result.name = pg::quote_qualified(home.schema, kTable);
  result.cosine = extension.object("bacmr_cosine");
  const Oid oid = result.oid;
  const std::string kind = rows.text(0, 1);
  if (kind != "r" && kind != "p") {
    refuse(result.name, "It is no table.");
  }
  if (!is(find_column(spi, oid, "namespace"), "text") || !is(find_column(spi, oid, "id"), "text") ||
      !is(find_column(spi, oid, "metadata"), "jsonb")) {
    refuse(result.name, "Its columns are others.");
  }
  describe_embedding(spi, oid, result);
  if (!has_key(spi, oid)) {
    refuse(result.name, "It has no unique index on (namespace, id).");
  }
  require_trusted_owner(result.name, result.owner, home);
  return result;
}

// pgvector's type, where that extension is installed.
std::string type_of_new_table(pg::Spi& spi) {
  const pg::Rows rows = spi.query(
      "SELECT n.nspname::text FROM pg_catalog.pg_extension e"
      " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace"
      " JOIN pg_catalog.pg_type t ON t.typnamespace OPERATOR(pg_catalog.=) n.oid"
      " AND t.typname OPERATOR(pg_catalog.=) 'vector'"
      " WHERE e.extname OPERATOR(pg_catalog.=) 'vector'"
      " AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')");
  return rows.empty() ? "pg_catalog.float4[]" : pg::quote_qualified(rows.text(0, 0), "vector");
}

void create_in(const std::string& schema) {
  pg::Spi spi;
  const std::string name = pg::quote_qualified(schema, kTable);
  spi.query("CREATE TABLE " + name +
            " (namespace pg_catalog.text NOT NULL, id pg_catalog.text NOT NULL, embedding " +
            type_of_new_table(spi) +
            " NOT NULL, metadata pg_catalog.jsonb NOT NULL DEFAULT '{}', PRIMARY KEY (namespace, "
            "id))");
  // Floats do not compress: no need to try for each of them.
  spi.query("ALTER TABLE " + name + " ALTER COLUMN embedding SET STORAGE EXTERNAL");
  spi.query("COMMENT ON TABLE " + name +
            " IS 'vectors of chunks, by namespace: the vector store bacmr_postgres'");
}

bool exists_already(const pg::Error& error) {
  return error.code() == ERRCODE_DUPLICATE_TABLE || error.code() == ERRCODE_UNIQUE_VIOLATION ||
         error.code() == ERRCODE_DUPLICATE_OBJECT;
}

}  // namespace

std::string VectorTable::from_real(const std::string& parameter) const {
  return has_type() ? parameter + "::" + type : parameter;
}

std::string VectorTable::to_real() const {
  return has_type() ? "embedding::pg_catalog.float4[]" : "embedding";
}

std::string VectorTable::similarity(const std::string& parameter) const {
  return has_type()
             ? "1 OPERATOR(pg_catalog.-) (embedding " + distance + " " + from_real(parameter) + ")"
             : cosine + "(embedding, " + parameter + ")";
}

std::optional<VectorTable> find_vector_table() {
  const pg::Extension extension = pg::require_extension();
  return find_in(extension, home_of_chunks(extension));
}

VectorTable require_vector_table() {
  const pg::Extension extension = pg::require_extension();
  const Home home = home_of_chunks(extension);
  if (auto table = find_in(extension, home)) {
    return *table;
  }
  try {
    pg::Subtransaction attempt;
    create_in(home.schema);
    attempt.commit();
  } catch (pg::Error& error) {
    // Somebody else has made it meanwhile.
    if (error.is_interrupt() || !exists_already(error)) {
      throw;
    }
  }
  auto table = find_in(extension, home);
  if (!table) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "table " + pg::quote_qualified(home.schema, kTable) + " is not there");
  }
  return *table;
}

}  // namespace providers
