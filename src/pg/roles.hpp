// What the predefined roles of the server allow the current user.
#pragma once

#include "pg/postgres.hpp"

namespace pg {

bool may_read_server_files();   // pg_read_server_files
bool may_write_server_files();  // pg_write_server_files

}  // namespace pg
