// Writing down what the store has acknowledged of a batch: its state, the job's counters, failures,
// what was paid for, and changes that are dealt with; in the caller's transaction.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/embedding_cache.hpp"
#include "jobs/reindex_job.hpp"
#include "jobs/reindex_unit.hpp"

namespace jobs {

// Puts what was paid for into the cache.
void record_paid(const ReindexUnit& unit, const EmbeddingCache& cache);

// Whether changes are still noted for the job. If so, that stays true until the transaction ends.
bool holds_changes(const pg::Extension& extension, const ReindexJob& job);

// `job` is kept up to date. `cache`: nullptr where none is used. `worked`: seconds since the last
// one. False, and nothing recorded, where the unit deals with changes that are another job's by
// now.
bool record_unit(const pg::Extension& extension, ReindexJob& job, const ReindexUnit& unit,
                 const EmbeddingCache* cache, double worked);

}  // namespace jobs
