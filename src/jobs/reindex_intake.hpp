// What a reindex job does next: batches that were on their way when something broke, the walk
// through the namespace in the order of the ids, then the chunks that have changed meanwhile. Acts
// inside a transaction of the caller's.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/chunk_reader.hpp"
#include "jobs/embedding_cache.hpp"
#include "jobs/reindex_job.hpp"
#include "jobs/reindex_unit.hpp"
#include "providers/vector_store.hpp"

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

namespace jobs {

enum class Intake {
  kUnit,       // there is one
  kNothing,    // not now: what changed has to wait for what is on its way, or all is done
  kOverBudget  // the next batch might cost more than the job may
};

class ReindexIntake {
 public:
  // `job` is kept up to date: last_id, walked. `cache`: nullptr where none is used.
  ReindexIntake(const pg::Extension& extension, ReindexJob& job, const ChunkReader& reader,
                const providers::VectorStore& store, const EmbeddingCache* cache);

  // `in_flight`: estimated tokens of what is on its way; `idle`: nothing is.
  Intake next(ReindexUnit& unit, std::int64_t in_flight, bool idle);
  // A batch that came to nothing: it is done again.
  void put_back(const ReindexUnit& unit);
  // The table was truncated, or a column renamed, so that what has to go is not known by its ids.
  bool walks_again() const { return walks_again_; }
  // The walk is over, and no batch is to be done again.
  bool walked() const { return job_.walked && again_.empty(); }

 private:
  struct Range {
    std::int64_t batch;
    std::string first;
    std::string last;
  };

  Intake next_batch(ReindexUnit& unit, std::int64_t in_flight, bool idle);
  Intake changed_chunks(ReindexUnit& unit, std::int64_t in_flight, bool idle);
  bool appraise(ReindexUnit& unit, std::int64_t in_flight) const;

  const pg::Extension& extension_;
  ReindexJob& job_;
  const ChunkReader& reader_;
  const providers::VectorStore& store_;
  const EmbeddingCache* cache_;
  std::deque<Range> again_;
  std::int64_t last_batch_ = 0;
  bool walks_again_ = false;
};

}  // namespace jobs
