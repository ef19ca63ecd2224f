// The tables that hold the rows of a relation.
#pragma once

#include "pg/postgres.hpp"

#include <optional>
#include <vector>

namespace pg {

// Locks a relation and all below it in ACCESS SHARE mode until the transaction ends. To be done
// before the snapshot that it is read under is taken: after a rewrite or a TRUNCATE that commits in
// between, the table would look empty. An error (42P01) where it is gone.
void lock_tree(Oid relation);

// Whether this database has Citus.
bool has_citus();

// Whether Citus keeps the rows elsewhere: such a table looks like an ordinary one, and is empty.
// Needs an SPI connection.
bool is_distributed(Oid relation);

// Locks a relation in ROW EXCLUSIVE mode until the transaction ends, before its columns are looked
// up. An error (42P01) where it is not there, or is gone when the lock has been waited for.
void lock_to_write(Oid relation);

// The ordinary tables below `relation` (itself, or the leaves of its partition tree), locked in
// ACCESS SHARE mode until the transaction ends. Nothing where the tree holds anything else: views,
// foreign tables, inheritance children, distributed tables. Needs an SPI connection.
std::optional<std::vector<Oid>> plain_tables(Oid relation);

}  // namespace pg
