// bacmr_reindex_verify, bacmr_vectors_verify, bacmr_reindex_compare: is everything there, and is it
// any better?
#include "pg/postgres.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "core/error.hpp"
#include "core/text_sentences.hpp"
#include "jobs/reindex_job.hpp"
#include "jobs/reindex_services.hpp"
#include "jobs/reindex_verify.hpp"
#include "net/service.hpp"
#include "pg/entry.hpp"
#include "pg/guard.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

ChunkReader chunk_reader(const pg::Extension& extension) {
  require_utf8();
  return ChunkReader(sources::Sources::load_locked(extension).require("chunks", "reindex"));
}

Datum verify_function(pg::Args args) {
  const std::int64_t id = reindex_job_argument(args);
  const pg::Extension extension = pg::require_extension();
  VectorVerdict verdict;
  {
    const pg::PinnedSettings settings;
    const pg::Spi spi;
    const ReindexJob job = load_reindex_job(extension, id);
    require_reindex_rights(job);
    if (job.status != "completed" && job.status != "failed") {
      throw wrong_reindex_status(job, "verified", "Let it run to its end first.");
    }
    const bool alone = await_end_of_work(job);
    {
      const AsReindexRole role(job);
      const ChunkReader reader = chunk_reader(extension);
      ServiceContext context;
      const auto embedder = open_embedder(context, job.embedder, job.model, job.request_id);
      const auto store = open_vector_store(context, job.vector_store, job.request_id);
      verdict = verify_target(extension, job, reader, *embedder, *store, context.loop);
    }
    // What a process deals with meanwhile may look as if it were missing.
    if (!alone && !verdict.ok()) {
      throw core::Error(core::sqlstate::kLockNotAvailable,
                        "another process works on reindex job " + std::to_string(job.id) +
                            ", which cannot be verified meanwhile",
                        {}, "It verifies the target itself; or try again when it is done.");
    }
    record_verdict(extension, job, verdict);
  }
  return pg::record(args,
                    {pg::Value::int8(verdict.check.expected), pg::Value::int8(verdict.check.actual),
                     pg::Value::int8(verdict.check.missing), pg::Value::boolean(verdict.ok())});
}

struct Active {
  std::string name;
  std::string vector_store;
};

Active active_of(const pg::Extension& extension, const std::string& space) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows =
      spi.query("SELECT active_namespace, coalesce(vector_store::text, '') FROM " +
                    extension.object("bacmr_namespace") + " WHERE namespace = $1",
                {pg::Param::text(space)});
  return rows.empty() ? Active{space, ""} : Active{rows.text(0, 0), rows.text(0, 1)};
}

Datum vectors_verify_function(pg::Args args) {
  const std::string space = args.text(0, "namespace");
  const pg::Extension extension = pg::require_extension();
  VectorCheck check;
  {
    const pg::PinnedSettings settings;
    const pg::Spi spi;
    const Active active = active_of(extension, space);
    std::string server = args.is_null(1) ? active.vector_store : args.name(1, "vector_store");
    if (server.empty()) {
      server = net::default_service(net::ServiceKind::kVectorStore);
    }
    const ChunkReader reader = chunk_reader(extension);
    ServiceContext context;
    const auto store = open_vector_store(context, server, "");
    check = check_vectors(reader, space, *store, active.name, nothing);
  }
  return pg::record(args, {pg::Value::int8(check.expected), pg::Value::int8(check.actual),
                           pg::Value::int8(check.missing), pg::Value::boolean(check.ok()),
                           pg::Value::int8(check.extra)});
}

// The model that made the vectors which the target is to replace.
struct OldModel {
  std::string embedder;
  std::string model;
  std::string vector_store;
};

OldModel old_model(const pg::Extension& extension, const ReindexJob& job) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT CASE WHEN active_namespace = $2 THEN coalesce(embedder::text, '')"
      "  ELSE coalesce(previous_embedder::text, '') END,"
      " CASE WHEN active_namespace = $2 THEN coalesce(model, '')"
      "  ELSE coalesce(previous_model, '') END,"
      " coalesce(CASE WHEN active_namespace = $2 THEN vector_store ELSE previous_vector_store END"
      "  ::text, $3) FROM " +
          extension.object("bacmr_namespace") +
          " WHERE namespace = $1 AND $2 IN (active_namespace, previous_namespace)",
      {pg::Param::text(job.space), pg::Param::text(job.old), pg::Param::text(job.vector_store)});
  if (rows.empty() || rows.text(0, 1).empty() || rows.text(0, 0).empty()) {
    throw core::Error(
        core::sqlstate::kObjectNotInPrerequisiteState,
        "nothing is known of the model that made the vectors in \"" + job.old + "\"",
        "Only namespaces that a reindex job has made, and that were swapped, can be compared with.",
        "Compare by hand, or reindex once with the old model.");
  }
  return {rows.text(0, 0), rows.text(0, 1), rows.text(0, 2)};
}

std::string language_of(const Chunk& chunk) {
  pg::Spi spi;
  return spi
      .query("SELECT coalesce($1::jsonb->>'lang', 'unknown')", {pg::Param::text(chunk.metadata)})
      .text(0, 0);
}

struct Tally {
  std::int64_t queries = 0;
  double overlap = 0;
  double hits = 0;
};

std::set<std::string> ids_of(const std::vector<providers::Match>& matches) {
  std::set<std::string> ids;
  for (const providers::Match& match : matches) {
    ids.insert(match.id);
  }
  return ids;
}

std::map<std::string, Tally> compare(const pg::Extension& extension, const ReindexJob& job,
                                     int sample, int k) {
  const OldModel old = old_model(extension, job);
  const AsReindexRole role(job);
  const ChunkReader reader = chunk_reader(extension);
  ServiceContext context;
  const auto old_store = open_vector_store(context, old.vector_store, job.request_id);
  const auto store = open_vector_store(context, job.vector_store, job.request_id);
  const auto before = open_embedder(context, old.embedder, old.model, job.request_id);
  const auto after = open_embedder(context, job.embedder, job.model, job.request_id);
  const std::vector<Chunk> chunks = reader.sample(job.space, sample);
  std::vector<std::string> texts;
  texts.reserve(chunks.size());
  for (const Chunk& chunk : chunks) {
    texts.push_back(core::first_sentence(chunk.content));
  }
  const auto old_vectors = embed_now(*before, context.loop, texts);
  const auto new_vectors = embed_now(*after, context.loop, texts);
  std::map<std::string, Tally> tallies;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (old_vectors[i].empty() || new_vectors[i].empty()) {
      continue;  // a text that a model refuses says nothing of the other
    }
    pg::check_for_interrupts();
    const std::set<std::string> found_before = ids_of(old_store->query(job.old, old_vectors[i], k));
    const std::set<std::string> found_after = ids_of(store->query(job.target, new_vectors[i], k));
    const auto common = std::ranges::count_if(
        found_after, [&](const std::string& id) { return found_before.contains(id); });
    Tally& tally = tallies[language_of(chunks[i])];
    ++tally.queries;
    tally.overlap += static_cast<double>(common) / k;
    tally.hits += found_after.contains(chunks[i].id) ? 1 : 0;
  }
  return tallies;
}

Datum compare_function(pg::Args args) {
  const std::int64_t id = reindex_job_argument(args);
  const int sample = args.int4(1).value_or(100);
  const int k = args.int4(2).value_or(10);
  if (sample < 1 || sample > 10'000 || k < 1 || k > 1000) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "sample must be from 1 to 10000, and k from 1 to 1000", {},
                      "100 queries and 10 neighbours give a good picture.");
  }
  const pg::Extension extension = pg::require_extension();
  std::map<std::string, Tally> tallies;
  {
    const pg::PinnedSettings settings;
    const pg::Spi spi;
    const ReindexJob job = load_reindex_job(extension, id);
    require_reindex_rights(job);
    if (job.repair || job.cleaned) {
      throw wrong_reindex_status(job, "compared", "There is only one namespace of it.");
    }
    tallies = compare(extension, job, sample, k);
  }
  pg::ResultSet result(args);
  for (const auto& [language, tally] : tallies) {
    const auto queries = static_cast<double>(tally.queries);
    result.row({pg::Value::text(language), pg::Value::int8(tally.queries),
                pg::Value::float8(tally.overlap / queries),
                pg::Value::float8(tally.hits / queries)});
  }
  return pg::void_result();
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_reindex_verify, jobs::verify_function);
BACMR_FUNCTION(bacmr_vectors_verify, jobs::vectors_verify_function);
BACMR_FUNCTION(bacmr_reindex_compare, jobs::compare_function);
