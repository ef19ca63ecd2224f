// Proving the target of a reindex job: the same ids as the chunks, the right dimensions, and a
// sample of vectors that are what the model makes of the texts.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/reindex_job.hpp"
#include "jobs/vector_check.hpp"
#include "net/http_loop.hpp"
#include "providers/embedder.hpp"
#include "providers/vector_store.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>

namespace jobs {

struct VectorVerdict {
  VectorCheck check;
  int sampled = 0;
  int wrong = 0;  // of the sampled: other dimensions, or not what the model makes of the text
  bool may_come = false;  // the store has not shown yet all that it has acknowledged

  bool ok() const { return check.ok() && wrong == 0; }
  bool only_extra() const { return check.missing == 0 && wrong == 0 && check.extra > 0; }
  std::string problem(const ReindexJob& job) const;
};

// How long a store may take to show what it has acknowledged.
class Patience {
 public:
  bool is_over() const { return Clock::now() > deadline_; }
  std::int64_t next_us() {
    const auto pause = pause_;
    pause_ = std::min<Clock::duration>(pause_ * 2, kLongest);
    return std::chrono::duration_cast<std::chrono::microseconds>(pause).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kLongest{5};
  Clock::time_point deadline_ = Clock::now() + std::chrono::seconds(60);
  Clock::duration pause_ = std::chrono::milliseconds(250);
};

// One look at the store in parts, for a job that holds nothing while it waits for the store: its
// ids are listed (vector_check.hpp), then compared; a sample is chosen, fetched, and judged. All
// but the fetching in transactions of the caller's, with the rights of the job's role.
VectorVerdict compare_target(const pg::Extension& extension, const ReindexJob& job,
                             const ChunkReader& reader, const providers::VectorStore& store);
std::vector<Chunk> choose_sample(const pg::Extension& extension, const ReindexJob& job,
                                 const ChunkReader& reader);
std::vector<std::string> ids_of(const std::vector<Chunk>& chunks);
void judge_sample(const pg::Extension& extension, const ReindexJob& job,
                  const std::vector<Chunk>& sample,
                  const std::vector<providers::VectorRecord>& found, providers::Embedder& embedder,
                  const providers::VectorStore& store, net::HttpLoop& loop, VectorVerdict& verdict);

// The chunks that have changed and are not dealt with, as far as they are known; under the active
// snapshot.
std::vector<std::string> waiting_chunks(const pg::Extension& extension, const ReindexJob& job);

// Looks again and again, all in the caller's transaction; a store that lags behind is given time.
// Acts with the current user's rights.
VectorVerdict verify_target(const pg::Extension& extension, const ReindexJob& job,
                            const ChunkReader& reader, providers::Embedder& embedder,
                            providers::VectorStore& store, net::HttpLoop& loop);

// Counts and, where all is well, `verified` and `completed`; else `failed`.
void record_verdict(const pg::Extension& extension, const ReindexJob& job,
                    const VectorVerdict& verdict);

// Embeds texts and waits; failures are thrown.
std::vector<std::vector<float>> embed_now(providers::Embedder& embedder, net::HttpLoop& loop,
                                          const std::vector<std::string>& texts);

double cosine(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace jobs
