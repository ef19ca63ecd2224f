// The table bacmr_vector (namespace text, id text, embedding, metadata jsonb): where it is, what
// its embeddings are, and its making. It belongs to whoever used it first, not to the extension: so
// DROP EXTENSION leaves it and pg_dump dumps it. Needs an SPI connection.
#pragma once

#include "pg/postgres.hpp"

#include <optional>
#include <string>

namespace providers {

struct VectorTable {
  Oid oid = InvalidOid;
  Oid owner = InvalidOid;
  std::string schema;
  std::string name;  // qualified and quoted
  // pgvector's type of the column, and the operator of cosine distance, for SQL text. '' and '':
  // the column is real[].
  std::string type;
  std::string distance;
  std::string type_schema;  // the same type in its parts, not quoted
  std::string type_name;
  std::optional<int> dimension;  // of the column, where its type says so
  std::string cosine;            // the function for real[]

  bool has_type() const { return !type.empty(); }
  // SQL that makes a parameter of type real[] what the column takes.
  std::string from_real(const std::string& parameter) const;
  // SQL that makes real[] of the column.
  std::string to_real() const;
  // SQL for the similarity to a parameter of type real[].
  std::string similarity(const std::string& parameter) const;
};

// The table in the schema of the attached chunks; nothing where it is not there. Errors: 55000
// where no chunks are attached, 42P16 where the table is not what it should be, 42501 where it
// belongs to a role whose code must not run with the current user's rights.
std::optional<VectorTable> find_vector_table();
// The same, made by the current user where it is not there.
VectorTable require_vector_table();

}  // namespace providers
