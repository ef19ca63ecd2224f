// The columns that tell a table's rows apart, and how their values are compared: with the operator
// of the index, whatever schema it lies in.
#pragma once

#include "pg/postgres.hpp"

#include <string>
#include <vector>

namespace jobs {

struct KeyColumn {
  std::string name;
  std::string quoted;
  std::string equals;  // OPERATOR(schema.=)
};

enum class KeyKind { kPrimary, kAnyUnique };

// The relation's name for SQL text, qualified and quoted.
std::string sql_name(Oid relation);

// Of the primary key; with kAnyUnique else of a unique index without conditions and expressions.
// Empty where there is none. Needs an SPI connection.
std::vector<KeyColumn> key_of(Oid relation, KeyKind kind);

// "a.k1 OPERATOR(…) b.k1 AND …".
std::string key_match(const std::vector<KeyColumn>& key, const std::string& a,
                      const std::string& b);

}  // namespace jobs
