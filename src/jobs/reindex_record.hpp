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

// `job` is kept up to date. `cache`: nullptr where none is used. `worked`: seconds since the last
// one.
void record_unit(const pg::Extension& extension, ReindexJob& job, const ReindexUnit& unit,
                 const EmbeddingCache* cache, double worked);

}  // namespace jobs
