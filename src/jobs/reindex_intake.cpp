#include "pg/postgres.hpp"

#include "jobs/reindex_intake.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/token_estimate.hpp"
#include "jobs/reindex_record.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

constexpr double kMillion = 1e6;
// How far what is only estimated may turn out to cost more: before the service has told what it
// counts, and afterwards.
constexpr double kFirstMargin = 1.5;
constexpr double kMargin = 1.25;

// What is on its way may turn out to cost less than was feared: its end is waited for.
Intake over_budget(bool idle) { return idle ? Intake::kOverBudget : Intake::kNothing; }

}  // namespace

ReindexIntake::ReindexIntake(const pg::Extension& extension, ReindexJob& job,
                             const ChunkReader& reader, const providers::VectorStore& store,
                             const EmbeddingCache* cache)
    : extension_(extension),
      job_(job),
      reader_(reader),
      store_(store),
      cache_(cache),
      changes_at_once_(job.batch_size * job.concurrency) {
  const pg::AsExtensionOwner owner(extension_.owner);
  pg::Spi spi;
  const std::string table = extension_.object("bacmr_reindex_batch");
  const pg::Rows rows = spi.query("SELECT batch, first_id, last_id FROM " + table +
                                      " WHERE job_id = $1 AND status = 'running' ORDER BY batch",
                                  {pg::Param::int8(job_.id)});
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    again_.push_back({rows.int8(i, 0), rows.text(i, 1), rows.text(i, 2), {}});
  }
  last_batch_ = spi.query("SELECT coalesce(max(batch), 0) FROM " + table + " WHERE job_id = $1",
                          {pg::Param::int8(job_.id)})
                    .int8(0, 0);
}

Intake ReindexIntake::next(ReindexUnit& unit, std::int64_t in_flight, bool idle) {
  if (again_.empty()) {
    return job_.walked ? changed_chunks(unit, in_flight, idle) : next_batch(unit, in_flight, idle);
  }
  const Range range = again_.front();
  {
    const AsReindexRole role(job_);
    unit.chunks = reader_.range(job_.space, range.first, range.last);
  }
  if (!appraise(unit, in_flight)) {
    return over_budget(idle);
  }
  unit.batch = range.batch;
  unit.first_id = range.first;
  unit.last_id = range.last;
  unit.trouble = range.trouble;
  return Intake::kUnit;
}

Intake ReindexIntake::next_batch(ReindexUnit& unit, std::int64_t in_flight, bool idle) {
  {
    const AsReindexRole role(job_);
    unit.chunks = reader_.next(job_.space, job_.last_id, job_.batch_size);
  }
  if (unit.chunks.empty()) {
    update_reindex_job(extension_, job_.id, "walked = true");
    job_.walked = true;
    return changed_chunks(unit, in_flight, idle);
  }
  if (!appraise(unit, in_flight)) {
    return over_budget(idle);
  }
  unit.batch = ++last_batch_;
  unit.first_id = unit.chunks.front().id;
  unit.last_id = unit.chunks.back().id;
  job_.last_id = unit.last_id;
  update_reindex_job(extension_, job_.id, "last_id = $2", {unit.last_id});
  const pg::AsExtensionOwner owner(extension_.owner);
  pg::Spi spi;
  spi.query("INSERT INTO " + extension_.object("bacmr_reindex_batch") +
                " (job_id, batch, first_id, last_id, chunks, status)"
                " VALUES ($1, $2, $3, $4, $5::int, 'running')",
            {pg::Param::int8(job_.id), pg::Param::int8(*unit.batch), pg::Param::text(unit.first_id),
             pg::Param::text(unit.last_id),
             pg::Param::int8(static_cast<std::int64_t>(unit.chunks.size()))});
  return Intake::kUnit;
}

// Only when nothing else is on its way: an older version of a chunk, still in flight, must not
// arrive after the newer one.
Intake ReindexIntake::changed_chunks(ReindexUnit& unit, std::int64_t in_flight, bool idle) {
  if (!idle) {
    return Intake::kNothing;
  }
  if (!holds_changes(extension_, job_)) {
    return Intake::kSuperseded;
  }
  if (take_unknown_changes(extension_, job_.space)) {
    // The table was truncated, or a column renamed: walk again. What has been paid for is in the
    // cache; what is too much in the target, the verification finds.
    // A job that was completed has to be verified again before it can be swapped.
    {
      const AsReindexRole role(job_);
      job_.total = reader_.count(job_.space);
    }
    update_reindex_job(extension_, job_.id,
                       "walked = false, last_id = NULL, total_chunks = $2::bigint,"
                       " processed_chunks = 0, upserted_vectors = 0, working_seconds = 0,"
                       " verified_at = CASE WHEN swapped_at IS NOT NULL THEN verified_at END,"
                       " status = CASE WHEN status = 'completed' AND swapped_at IS NULL"
                       "  THEN 'running' ELSE status END",
                       {std::to_string(job_.total)});
    if (job_.status == "completed" && !job_.swapped) {
      job_.status = "running";
      job_.verified = false;
    }
    job_.processed = 0;
    job_.upserted = 0;
    job_.walked = false;
    job_.last_id.reset();
    walks_again_ = true;
    return next_batch(unit, in_flight, idle);
  }
  unit.changes = next_changes(extension_, job_.space, changes_at_once_);
  unit.trouble = changes_trouble_;
  const std::vector<std::string>& ids = unit.changes.ids;
  if (ids.empty()) {
    return Intake::kNothing;
  }
  {
    const AsReindexRole role(job_);
    unit.chunks = reader_.by_ids(job_.space, ids);
  }
  std::set<std::string> there;
  for (const Chunk& chunk : unit.chunks) {
    there.insert(chunk.id);
  }
  std::ranges::copy_if(ids, std::back_inserter(unit.gone),
                       [&](const std::string& id) { return !there.contains(id); });
  return appraise(unit, in_flight) ? Intake::kUnit : over_budget(idle);
}

// Sorts out what need not, and what cannot be paid for; false where the rest might exceed the
// budget.
bool ReindexIntake::appraise(ReindexUnit& unit, std::int64_t in_flight) const {
  for (const Chunk& chunk : unit.chunks) {
    unit.keys.push_back(EmbeddingCache::key_of(chunk.content));
  }
  unit.vectors = cache_ != nullptr ? cache_->find(unit.keys, job_.dimensions)
                                   : std::vector<std::vector<float>>(unit.chunks.size());
  for (std::size_t i = 0; i < unit.chunks.size(); ++i) {
    const Chunk& chunk = unit.chunks[i];
    if (const auto reason = store_.refusal(chunk.id, chunk.metadata)) {
      unit.failed.emplace_back(i, *reason);
      unit.vectors[i].clear();
    } else if (unit.vectors[i].empty()) {
      unit.to_embed.push_back(i);
      unit.estimated_tokens += std::llround(
          static_cast<double>(core::estimate_tokens(chunk.content)) * job_.token_ratio);
    }
  }
  return !job_.max_cost || job_.price <= 0 || unit.estimated_tokens == 0 ||
         (static_cast<double>(job_.tokens) +
          static_cast<double>(in_flight + unit.estimated_tokens) *
              (job_.tokens == 0 ? kFirstMargin : kMargin)) *
                 job_.price / kMillion <=
             *job_.max_cost;
}

bool ReindexIntake::first(ReindexUnit& unit) {
  {
    const AsReindexRole role(job_);
    unit.chunks = reader_.next(job_.space, std::nullopt, 1);
  }
  return appraise(unit, 0) && !unit.to_embed.empty();
}

void ReindexIntake::has_begun(const ReindexUnit& unit) {
  if (unit.batch && !again_.empty() && again_.front().batch == *unit.batch) {
    again_.pop_front();
  }
}

void ReindexIntake::has_passed(const ReindexUnit& unit) {
  if (!unit.batch) {
    changes_at_once_ = std::min(2 * changes_at_once_, job_.batch_size * job_.concurrency);
    if (unit.chunks.size() == unit.failed.size()) {
      changes_trouble_ = {};  // it has been found
    }
  }
}

void ReindexIntake::put_back(const ReindexUnit& unit) {
  if (unit.batch) {
    again_.push_back({*unit.batch, unit.first_id, unit.last_id, unit.trouble});
  } else {
    changes_trouble_ = unit.trouble;
  }
}

void ReindexIntake::part(const ReindexUnit& unit) {
  if (!unit.batch) {
    changes_at_once_ = std::max(1, static_cast<int>(unit.changes.noted.size()) / 2);
    return;
  }
  if (unit.chunks.size() < 2) {
    return;
  }
  // What lies between the halves was inserted meanwhile, and is noted as a change.
  const std::size_t middle = unit.chunks.size() / 2;
  const Range lower{*unit.batch, unit.first_id, unit.chunks[middle - 1].id, unit.trouble};
  const Range upper{++last_batch_, unit.chunks[middle].id, unit.last_id, unit.trouble};
  const pg::AsExtensionOwner owner(extension_.owner);
  pg::Spi spi;
  const std::string table = extension_.object("bacmr_reindex_batch");
  spi.query(
      "UPDATE " + table + " SET last_id = $3, chunks = $4::int WHERE job_id = $1 AND batch = $2",
      {pg::Param::int8(job_.id), pg::Param::int8(lower.batch), pg::Param::text(lower.last),
       pg::Param::int8(static_cast<std::int64_t>(middle))});
  spi.query("INSERT INTO " + table +
                " (job_id, batch, first_id, last_id, chunks, status)"
                " VALUES ($1, $2, $3, $4, $5::int, 'running')",
            {pg::Param::int8(job_.id), pg::Param::int8(upper.batch), pg::Param::text(upper.first),
             pg::Param::text(upper.last),
             pg::Param::int8(static_cast<std::int64_t>(unit.chunks.size() - middle))});
  std::erase_if(again_, [&](const Range& range) { return range.batch == lower.batch; });
  again_.push_back(lower);
  again_.push_back(upper);
}

}  // namespace jobs
