// The scheduled export: export and drill in one snapshot, upload, verification, retention, each
// committed and recorded with its figures.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/export.hpp"
#include "pg/extension.hpp"
#include "pg/spi.hpp"

#include <functional>

namespace jobs {

// Commits; raises what went wrong after it has been recorded. `request` is called when the run has
// its row: that a table is not attached, or no store chosen, is a failure of the run.
void run_export(pg::Spi& spi, const pg::Extension& extension,
                const std::function<ExportRequest()>& request);

}  // namespace jobs
