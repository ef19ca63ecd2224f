#include "pg/roles.hpp"

#include "pg/security.hpp"

extern "C" {
#include "catalog/pg_authid_d.h"
}

namespace pg {

bool may_read_server_files() { return has_privileges_of(ROLE_PG_READ_SERVER_FILES); }

bool may_write_server_files() { return has_privileges_of(ROLE_PG_WRITE_SERVER_FILES); }

}  // namespace pg
