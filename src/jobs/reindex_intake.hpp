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
  kUnit,        // there is one
  kNothing,     // not now: what changed has to wait for what is on its way, or all is done
  kOverBudget,  // the next batch might cost more than the job may
  kSuperseded   // what changes is noted for another job by now, or for none
};

class ReindexIntake {
 public:
  // `job` is kept up to date: last_id, walked. `cache`: nullptr where none is used.
  ReindexIntake(const pg::Extension& extension, ReindexJob& job, const ChunkReader& reader,
                const providers::VectorStore& store, const EmbeddingCache* cache);

  // `in_flight`: estimated tokens of what is on its way; `idle`: nothing is.
  Intake next(ReindexUnit& unit, std::int64_t in_flight, bool idle);
  // What next() has given, once that is committed; otherwise it is given again.
  void has_begun(const ReindexUnit& unit);
  void has_passed(const ReindexUnit& unit);
  // What came to nothing is done again; and in two parts if it seems to be at fault itself.
  void put_back(const ReindexUnit& unit);
  void part(const ReindexUnit& unit);
  // The first chunk alone; false where there is nothing to pay for, or no budget for it.
  bool first(ReindexUnit& unit);
  // The table was truncated, or a column renamed, so that what has to go is not known by its ids.
  bool walks_again() const { return walks_again_; }

 private:
  struct Range {
    std::int64_t batch;
    std::string first;
    std::string last;
    ReindexUnit::Trouble trouble;
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
  // How many changes are taken at a time: fewer while one of them is looked for that is at fault.
  int changes_at_once_;
  ReindexUnit::Trouble changes_trouble_;
};

}  // namespace jobs
