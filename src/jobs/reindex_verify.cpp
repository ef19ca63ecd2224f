#include "pg/postgres.hpp"

#include "jobs/reindex_verify.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "core/error.hpp"
#include "jobs/embedding_cache.hpp"
#include "jobs/reindex_changes.hpp"
#include "pg/security.hpp"
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
      {pg::Param::int8(job)});
  std::vector<std::string> ids;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    ids.push_back(rows.text(i, 0));
  }
  return ids;
}

// What has changed and is not dealt with yet tells nothing.
std::vector<std::string> left_out(const pg::Extension& extension, const ReindexJob& job) {
  std::vector<std::string> ids = failed_chunks(extension, job.id);
  const Changes waiting = next_changes(extension, job.space, VectorCheck::kNamed);
  ids.insert(ids.end(), waiting.ids.begin(), waiting.ids.end());
  return ids;
}

void check_sample(const pg::Extension& extension, const ReindexJob& job, const ChunkReader& reader,
                  providers::Embedder& embedder, providers::VectorStore& store, net::HttpLoop& loop,
                  VectorVerdict& verdict) {
  const std::vector<std::string> without = left_out(extension, job);
  std::map<std::string, std::string> texts;
  std::vector<std::string> ids;
  for (const Chunk& chunk : reader.sample(job.space, kSample)) {
    if (std::ranges::find(without, chunk.id) == without.end()) {
      texts[chunk.id] = chunk.content;
      ids.push_back(chunk.id);
    }
  }
  const std::vector<providers::VectorRecord> found = store.fetch(job.target, ids);
  // What was paid for is compared without paying again; what is made here is made again.
  const EmbeddingCache cache(extension, embedder.model());
  const bool free_of_charge = embedder.model().starts_with("local-");
  std::vector<std::string> keys;
  std::vector<std::string> contents;
  for (const providers::VectorRecord& record : found) {
    contents.push_back(texts[record.id]);
    keys.push_back(EmbeddingCache::key_of(contents.back()));
  }
  std::vector<std::vector<float>> expected =
      free_of_charge ? embed_now(embedder, loop, contents) : cache.find(keys, job.dimensions);
  for (std::size_t i = 0; i < found.size(); ++i) {
    ++verdict.sampled;
    const bool fits =
        !job.dimensions || static_cast<int>(found[i].values.size()) == *job.dimensions;
    if (!fits || (!expected[i].empty() && cosine(found[i].values, expected[i]) < kSame)) {
      ++verdict.wrong;
      verdict.check.missing_ids.push_back(found[i].id);
    }
  }
}

}  // namespace

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

VectorVerdict verify_once(const pg::Extension& extension, const ReindexJob& job,
                          const ChunkReader& reader, providers::Embedder& embedder,
                          providers::VectorStore& store, net::HttpLoop& loop) {
  VectorVerdict verdict;
  verdict.check =
      check_vectors(reader, job.space, store, job.target, [&] { return left_out(extension, job); });
  verdict.may_come = !verdict.check.ok() && !store.caught_up(job.target).value_or(false);
  if (!verdict.may_come) {
    check_sample(extension, job, reader, embedder, store, loop, verdict);
  }
  return verdict;
}

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
