// This database's jobs in pg_cron.
#pragma once

#include <string>

namespace jobs {

// Why pg_cron will not reconcile this database's wallets, or ''. Looks as the current user.
std::string schedule_problem();

}  // namespace jobs
