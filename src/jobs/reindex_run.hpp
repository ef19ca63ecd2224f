// Working on a reindex job: batches of chunks are embedded and stored, several at a time on this
// one thread, each recorded in a short transaction of its own once the store has acknowledged it.
// No snapshot and no lock is held while a service is waited for.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/reindex_job.hpp"
#include "pg/extension.hpp"
#include "pg/spi.hpp"

#include <optional>

namespace jobs {

// Works on `job` until nothing is left to do, it is paused, or `max_batches` are done. The caller
// holds the job's lock. Commits; throws what made the job fail, for the caller to record.
void run_reindex(pg::Spi& spi, const pg::Extension& extension, const ReindexJob& job,
                 std::optional<int> max_batches);

}  // namespace jobs
