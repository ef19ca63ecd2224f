// This database's jobs in pg_cron.
#pragma once

#include <optional>
#include <string>

namespace jobs {

struct ScheduleProblem {
  std::string finding;
  std::string fix;
};
// Why pg_cron will not reconcile this database's wallets. Looks as the current user.
std::optional<ScheduleProblem> schedule_problem();

}  // namespace jobs
