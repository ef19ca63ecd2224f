// A query in another database of this cluster, run by a background worker as a given role: no
// connection string, no password. It commits by itself, whatever becomes of the caller's
// transaction.
#pragma once

#include "pg/postgres.hpp"

#include <string>

namespace pg {

// `sql` takes one text parameter and returns one text value in one row. Errors of the other side
// are raised here with their SQLSTATE. The role must be allowed to log in.
std::string query_in_database(const std::string& database, Oid role, const std::string& sql,
                              const std::string& parameter);

}  // namespace pg
