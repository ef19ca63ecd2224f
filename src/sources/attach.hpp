// Attaching the tables of a schema by their names.
#pragma once

#include "pg/postgres.hpp"

#include <string>
#include <vector>

namespace sources {

struct SchemaAttachment {
  std::string source;
  Oid relation = InvalidOid;  // InvalidOid: the schema has no such table
  std::string status;         // 'attached', 'missing' or 'invalid: …'
};

// Attaches what `schema` holds under the contract's names, as the current user.
std::vector<SchemaAttachment> attach_schema(const std::string& schema);

}  // namespace sources
