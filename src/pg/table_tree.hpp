// The tables that hold the rows of a relation.
#pragma once

#include "pg/postgres.hpp"

#include <optional>
#include <vector>

namespace pg {

// The ordinary tables below `relation` (itself, or the leaves of its partition tree), locked in
// ACCESS SHARE mode until the transaction ends. Nothing where the tree holds anything else: views,
// foreign tables, inheritance children.
std::optional<std::vector<Oid>> plain_tables(Oid relation);

}  // namespace pg
