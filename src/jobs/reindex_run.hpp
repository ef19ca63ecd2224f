// Working on a reindex job: batches of chunks are embedded and stored, several at a time on this
// one thread, each recorded in a short transaction of its own once the store has acknowledged it.
// No snapshot and no lock is held while a service is waited for.
#pragma once

#include "pg/postgres.hpp"

#include "pg/extension.hpp"
#include "pg/spi.hpp"

#include <cstdint>
#include <optional>

namespace jobs {

// What came of it.
enum class ReindexOutcome {
  kBusy,     // another process works on it
  kNothing,  // it is paused, cancelled, done
  kWorked,   // as far as `max_batches`, or to its end
};

// Commits. Raises what made the job fail, after it has been recorded.
ReindexOutcome run_reindex_job(pg::Spi& spi, const pg::Extension& extension, std::int64_t job_id,
                               std::optional<int> max_batches);

}  // namespace jobs
