#include "pg/postgres.hpp"

#include "jobs/reindex_record.hpp"

#include <algorithm>
#include <set>

#include "metrics/at_commit.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

// How fast the guesses of tokens follow what the service counts.
constexpr double kLearning = 0.2;

void record_failures(pg::Spi& spi, const pg::Extension& extension, const ReindexJob& job,
                     const ReindexUnit& unit) {
  const std::string table = extension.object("bacmr_reindex_failure");
  std::set<std::size_t> failed;
  for (const auto& [index, reason] : unit.failed) {
    failed.insert(index);
  }
  std::vector<std::string> good = unit.gone;
  for (std::size_t i = 0; i < unit.chunks.size(); ++i) {
    if (!failed.contains(i)) {
      good.push_back(unit.chunks[i].id);
    }
  }
  spi.query("DELETE FROM " + table + " WHERE job_id = $1 AND chunk_id = ANY ($2)",
            {pg::Param::int8(job.id), pg::Param::text_array(good)});
  for (const auto& [index, reason] : unit.failed) {
    spi.query(
        "INSERT INTO " + table +
            " (job_id, chunk_id, reason) VALUES ($1, $2, $3) ON CONFLICT (job_id, chunk_id)"
            " DO UPDATE SET reason = excluded.reason, failed_at = clock_timestamp()",
        {pg::Param::int8(job.id), pg::Param::text(unit.chunks[index].id), pg::Param::text(reason)});
  }
  const std::int64_t count =
      spi.query("SELECT count(*) FROM " + table + " WHERE job_id = $1", {pg::Param::int8(job.id)})
          .int8(0, 0);
  metrics::record_at_commit(metrics::Metric::kReindexFailedChunks, {job.space},
                            metrics::Change::kSet, static_cast<double>(count));
}

}  // namespace

void record_paid(const ReindexUnit& unit, const EmbeddingCache& cache) {
  std::vector<std::string> keys;
  std::vector<std::vector<float>> vectors;
  for (const std::size_t index : unit.to_embed) {
    if (!unit.vectors[index].empty()) {
      keys.push_back(unit.keys[index]);
      vectors.push_back(unit.vectors[index]);
    }
  }
  cache.add(keys, vectors);
}

bool holds_changes(const pg::Extension& extension, const ReindexJob& job) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query("SELECT capturing FROM " + extension.object("bacmr_reindex_job") +
                                      " WHERE job_id = $1 FOR SHARE",
                                  {pg::Param::int8(job.id)});
  return !rows.empty() && rows.boolean(0, 0);
}

bool record_unit(const pg::Extension& extension, ReindexJob& job, const ReindexUnit& unit,
                 const EmbeddingCache* cache, double worked) {
  // Of a cancelled job a batch may still be recorded, but its successor's notes are not touched.
  if (!unit.batch && !holds_changes(extension, job)) {
    return false;
  }
  if (cache != nullptr) {
    record_paid(unit, *cache);
  }
  if (unit.estimated_tokens > 0 && unit.tokens > 0) {
    const double guessed = static_cast<double>(unit.estimated_tokens) / job.token_ratio;
    const double seen = std::clamp(static_cast<double>(unit.tokens) / guessed, 0.2, 5.0);
    job.token_ratio += kLearning * (seen - job.token_ratio);
  }
  // A repair has nothing but changes to deal with: what it found, and what changes meanwhile.
  const std::size_t dealt_with = unit.batch   ? unit.chunks.size()
                                 : job.repair ? unit.changes.ids.size()
                                              : 0;
  const auto chunks = static_cast<std::int64_t>(dealt_with);
  const auto upserted = static_cast<std::int64_t>(unit.stored.size() - unit.refused);
  job.tokens += unit.tokens;
  job.processed += chunks;
  job.upserted += upserted;
  if (job.repair) {
    job.total = std::max(job.total, job.processed);
  }
  forget_changes(extension, unit.changes);
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  record_failures(spi, extension, job, unit);
  if (unit.batch) {
    spi.query(
        "UPDATE " + extension.object("bacmr_reindex_batch") +
            " SET status = 'done', tokens = $3, finished_at = clock_timestamp()"
            " WHERE job_id = $1 AND batch = $2",
        {pg::Param::int8(job.id), pg::Param::int8(*unit.batch), pg::Param::int8(unit.tokens)});
  }
  spi.query(
      "UPDATE " + extension.object("bacmr_reindex_job") +
          " SET processed_chunks = processed_chunks + $2, tokens_used = tokens_used + $3,"
          " working_seconds = working_seconds + $4::float8, token_ratio = $5::float8,"
          " upserted_vectors = upserted_vectors + $6, total_chunks = $7 WHERE job_id = $1",
      {pg::Param::int8(job.id), pg::Param::int8(chunks), pg::Param::int8(unit.tokens),
       pg::Param::text(std::to_string(worked)), pg::Param::text(std::to_string(job.token_ratio)),
       pg::Param::int8(upserted), pg::Param::int8(job.total)});
  return true;
}

}  // namespace jobs
