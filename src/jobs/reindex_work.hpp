// Working on reindex jobs, from a session or from the background worker.
#pragma once

#include "pg/postgres.hpp"

#include "pg/extension.hpp"
#include "pg/spi.hpp"

#include <cstdint>
#include <optional>

namespace jobs {

// At least 1, or none.
std::optional<int> checked_max_batches(std::optional<std::int64_t> max_batches);

// Works on a job, or on all that have something to do, one after the other, each once; with
// `max_batches` on one of them, so far. Commits. Says so where there is nothing to do. Raises what
// made a job fail, after it has been recorded, and after the others have had their turn.
void work_on_reindex_jobs(pg::Spi& spi, const pg::Extension& extension,
                          std::optional<std::int64_t> job_id, std::optional<int> max_batches);

}  // namespace jobs
