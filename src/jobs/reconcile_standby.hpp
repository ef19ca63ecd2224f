// Reconciliation on a hot standby. Nothing can be written there: what is found goes to the server's
// log, and the totals to the caller.
#pragma once

#include "pg/extension.hpp"

#include <cstdint>
#include <string>

#include "jobs/reconcile.hpp"

namespace jobs {

// Compares, looks again after `recheck_after_us` (0: not), logs. The result's run_id is 0.
Reconciliation reconcile_on_standby(const pg::Extension& extension, std::int64_t recheck_after_us,
                                    const std::string& request_id);

}  // namespace jobs
