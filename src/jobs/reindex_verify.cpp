#include "pg/postgres.hpp"

#include "jobs/reindex_verify.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>

#include "core/error.hpp"
#include "jobs/embedding_cache.hpp"
#include "jobs/reindex_changes.hpp"
#include "jobs/reindex_services.hpp"
#include "pg/security.hpp"
#include "pg/snapshot.hpp"
#include "pg/spi.hpp"
#include "pg/wait.hpp"

namespace jobs {
namespace {

constexpr int kSample = 20;
// The same text embedded twice differs by rounding, and by how stores keep numbers (halfvec).
constexpr double kSame = 0.99;
constexpr std::chrono::milliseconds kLook{500};

std::vector<std::string> failed_chunks(const pg::Extension& extension, std::int64_t job) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT chunk_id FROM " + extension.object("bacmr_reindex_failure") + " WHERE job_id = $1",
      {pg::Param::int8(job)}, pg::Spi::Access::kReadOnly);
  std::vector<std::string> ids;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    ids.push_back(rows.text(i, 0));
  }
  return ids;
}

// What has changed and is not dealt with yet tells nothing; nor does what has failed.
std::vector<std::string> left_out(const pg::Extension& extension, const ReindexJob& job) {
  std::vector<std::string> ids = failed_chunks(extension, job.id);
  const std::vector<std::string> waiting = waiting_chunks(extension, job);
  ids.insert(ids.end(), waiting.begin(), waiting.end());
  return ids;
}

}  // namespace

std::vector<std::string> waiting_chunks(const pg::Extension& extension, const ReindexJob& job) {
  return next_changes(extension, job.space, VectorCheck::kNamed, pg::Spi::Access::kReadOnly).ids;
}

VectorVerdict compare_target(const pg::Extension& extension, const ReindexJob& job,
                             const ChunkReader& reader, const providers::VectorStore& store) {
  VectorVerdict verdict;
  verdict.check = compare_listed(reader, job.space, [&] { return left_out(extension, job); });
  verdict.may_come = !verdict.check.ok() && !store.caught_up(job.target).value_or(false);
  return verdict;
}

std::vector<Chunk> choose_sample(const pg::Extension& extension, const ReindexJob& job,
                                 const ChunkReader& reader) {
  const pg::ActiveSnapshot now;
  const std::vector<std::string> without = left_out(extension, job);
  const std::set<std::string> others(without.begin(), without.end());
  std::vector<Chunk> chunks = reader.random_sample(job.space, kSample);
  std::erase_if(chunks, [&](const Chunk& chunk) { return others.contains(chunk.id); });
  return chunks;
}

std::vector<std::string> ids_of(const std::vector<Chunk>& chunks) {
  std::vector<std::string> ids;
  ids.reserve(chunks.size());
  for (const Chunk& chunk : chunks) {
    ids.push_back(chunk.id);
  }
  return ids;
}

void judge_sample(const pg::Extension& extension, const ReindexJob& job,
                  const std::vector<Chunk>& sample,
                  const std::vector<providers::VectorRecord>& found, providers::Embedder& embedder,
                  const providers::VectorStore& store, net::HttpLoop& loop,
                  VectorVerdict& verdict) {
  std::map<std::string, const std::vector<float>*> vectors;
  for (const providers::VectorRecord& record : found) {
    vectors[record.id] = &record.values;
  }
  // What was paid for is compared without paying again; what is made here is made again.
  std::vector<std::string> keys;
  std::vector<std::string> texts;
  for (const Chunk& chunk : sample) {
    texts.push_back(chunk.content);
    keys.push_back(EmbeddingCache::key_of(chunk.content));
  }
  const std::vector<std::vector<float>> expected =
      embeds_here(job.embedder)
          ? embed_now(embedder, loop, texts)
          : EmbeddingCache(extension, embedder.model()).find(keys, job.dimensions);
  for (std::size_t i = 0; i < sample.size(); ++i) {
    ++verdict.sampled;
    const auto there = vectors.find(sample[i].id);
    if (there == vectors.end()) {
      // Listed a moment ago, and not to be had.
      verdict.may_come = !store.caught_up(job.target).value_or(false);
    } else if (const std::vector<float>& values = *there->second;
               (!job.dimensions || static_cast<int>(values.size()) == *job.dimensions) &&
               (expected[i].empty() || cosine(values, expected[i]) >= kSame)) {
      continue;
    }
    ++verdict.wrong;
    verdict.check.missing_ids.push_back(sample[i].id);
  }
}

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) {
    return -1;
  }
  double dot = 0;
  double norm_a = 0;
  double norm_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    dot += static_cast<double>(a[i]) * b[i];
    norm_a += static_cast<double>(a[i]) * a[i];
    norm_b += static_cast<double>(b[i]) * b[i];
  }
  return norm_a > 0 && norm_b > 0 ? dot / std::sqrt(norm_a * norm_b) : -1;
}

std::vector<std::vector<float>> embed_now(providers::Embedder& embedder, net::HttpLoop& loop,
                                          const std::vector<std::string>& texts) {
  if (texts.empty()) {
    return {};
  }
  const providers::Ticket ticket = embedder.start(texts);
  while (!embedder.done(ticket)) {
    embedder.pump();
    if (!embedder.done(ticket)) {
      loop.wait(kLook);
    }
  }
  providers::EmbedResult result = embedder.take(ticket);
  if (result.failure) {
    throw core::Error(result.failure->sqlstate.c_str(), result.failure->message, {},
                      result.failure->hint);
  }
  return std::move(result.vectors);
}

std::string VectorVerdict::problem(const ReindexJob& job) const {
  std::string text = "the target \"" + job.target + "\" of reindex job " + std::to_string(job.id) +
                     " is not complete: " + std::to_string(check.missing) + " vectors missing, " +
                     std::to_string(check.extra) + " too many";
  if (wrong > 0) {
    text += ", " + std::to_string(wrong) + " of " + std::to_string(sampled) + " sampled ones wrong";
  }
  return text;
}

namespace {

VectorVerdict verify_once(const pg::Extension& extension, const ReindexJob& job,
                          const ChunkReader& reader, providers::Embedder& embedder,
                          providers::VectorStore& store, net::HttpLoop& loop) {
  begin_listing(ListingSpan::kTransaction);
  list_ids(store, job.target, add_listed);
  finish_listing();
  VectorVerdict verdict = compare_target(extension, job, reader, store);
  end_listing();
  if (!verdict.may_come) {
    const std::vector<Chunk> sample = choose_sample(extension, job, reader);
    judge_sample(extension, job, sample, store.fetch(job.target, ids_of(sample)), embedder, store,
                 loop, verdict);
  }
  return verdict;
}

}  // namespace

VectorVerdict verify_target(const pg::Extension& extension, const ReindexJob& job,
                            const ChunkReader& reader, providers::Embedder& embedder,
                            providers::VectorStore& store, net::HttpLoop& loop) {
  Patience patience;
  for (;;) {
    VectorVerdict verdict = verify_once(extension, job, reader, embedder, store, loop);
    if (!verdict.may_come || patience.is_over()) {
      return verdict;
    }
    pg::wait_interruptibly(patience.next_us());
  }
}

void record_verdict(const pg::Extension& extension, const ReindexJob& job,
                    const VectorVerdict& verdict) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  spi.query(
      "UPDATE " + extension.object("bacmr_reindex_job") +
          " SET expected = $2, actual = $3,"
          " verified_at = CASE WHEN $4 THEN clock_timestamp() END,"
          " status = CASE WHEN status IN ('verifying', 'running', 'queued', 'completed', 'failed')"
          "  THEN CASE WHEN $4 OR swapped_at IS NOT NULL THEN 'completed' ELSE 'failed' END"
          "  ELSE status END,"
          " error = $5, finished_at = clock_timestamp() WHERE job_id = $1",
      {pg::Param::int8(job.id), pg::Param::int8(verdict.check.expected),
       pg::Param::int8(verdict.check.actual), pg::Param::boolean(verdict.ok()),
       pg::Param::text(verdict.ok() ? std::optional<std::string>()
                                    : std::optional(verdict.problem(job)))});
}

}  // namespace jobs
