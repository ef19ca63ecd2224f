// Describing a background worker of this library to the server.
#pragma once

#include "pg/postgres.hpp"

#include <string>

extern "C" {
#include "postmaster/bgworker.h"
}

namespace pg {

// `function`: the C symbol that it runs. `type` shows as backend_type in pg_stat_activity, `name`
// in the process list. Never restarted by the postmaster, unless the caller changes that.
BackgroundWorker describe_worker(const char* function, const char* type, const std::string& name,
                                 BgWorkerStartTime start, Datum argument);

}  // namespace pg
