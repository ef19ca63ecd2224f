// bacmr_reindex_plan, bacmr_reindex, bacmr_reindex_all, bacmr_vectors_repair: what a job would
// take, and putting one into the queue. Nothing is paid for here.
#include "pg/postgres.hpp"

#include <cmath>
#include <optional>
#include <string>

#include "core/error.hpp"
#include "core/known_models.hpp"
#include "core/namespace_version.hpp"
#include "core/token_estimate.hpp"
#include "jobs/chunk_reader.hpp"
#include "jobs/job_run.hpp"
#include "jobs/reindex_changes.hpp"
#include "jobs/reindex_job.hpp"
#include "jobs/reindex_services.hpp"
#include "net/service.hpp"
#include "pg/entry.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "pg/transaction_end.hpp"
#include "sources/identity.hpp"

namespace jobs {
namespace {

constexpr int kDefaultBatch = 100;
constexpr int kMaxBatch = 2048;
constexpr int kMaxConcurrency = 64;
constexpr double kMillion = 1e6;
// How many chunks the estimate of tokens looks at.
constexpr int kEstimateSample = 2000;

struct Request {
  std::string space;
  std::optional<std::string> model;
  std::optional<std::string> embedder;
  std::optional<std::string> vector_store;
  std::optional<std::string> target;
  int batch_size = kDefaultBatch;
  int concurrency = 4;
  std::optional<double> max_cost;
  bool repair = false;
};

std::optional<std::string> name_argument(const pg::Args& args, int i) {
  return args.is_null(i) ? std::nullopt : std::optional(args.name(i, ""));
}

// What a request comes to: with which services, into which namespace.
struct Plan {
  std::string embedder;
  std::string vector_store;
  std::string old_vector_store;
  std::string model;
  bool model_known = false;  // of the active namespace
  std::optional<int> dimensions;
  double price = 0;
  std::string old;
  std::string target;
  std::int64_t chunks = 0;
  std::int64_t tokens = 0;

  double cost() const { return static_cast<double>(tokens) * price / kMillion; }
};

struct Registered {
  bool known = false;
  std::string active;
  std::string previous;
  std::string model;
  std::string embedder;
  std::string vector_store;
};

Registered registered(const pg::Extension& extension, const std::string& space) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT active_namespace, coalesce(previous_namespace, ''), coalesce(model, ''),"
      " coalesce(embedder::text, ''), coalesce(vector_store::text, '') FROM " +
          extension.object("bacmr_namespace") + " WHERE namespace = $1",
      {pg::Param::text(space)});
  if (rows.empty()) {
    return {false, space, "", "", "", ""};
  }
  return {true,           rows.text(0, 0), rows.text(0, 1), rows.text(0, 2), rows.text(0, 3),
          rows.text(0, 4)};
}

// Somebody reads from it, or may want to go back to it, or a job writes to it.
bool is_in_use(const pg::Extension& extension, const ChunkReader& reader, const std::string& name) {
  {
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    if (!spi.query(
                "SELECT 1 FROM " + extension.object("bacmr_namespace") +
                    " WHERE $1 IN (active_namespace, previous_namespace) UNION ALL SELECT 1 FROM " +
                    extension.object("bacmr_reindex_job") +
                    " WHERE target_namespace = $1 AND kind = 'reindex' AND cleaned_at IS NULL "
                    "LIMIT 1",
                {pg::Param::text(name)})
             .empty()) {
      return true;
    }
  }
  return reader.has_namespace(name);
}

std::string choose_target(const pg::Extension& extension, const ChunkReader& reader,
                          const Request& request, const std::string& active) {
  if (!request.target) {
    return core::next_version(
        active, [&](const std::string& name) { return is_in_use(extension, reader, name); });
  }
  if (request.target->empty()) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "the target namespace must not be empty", {},
                      "Leave it out: the next version of the name is taken.");
  }
  if (is_in_use(extension, reader, *request.target) || *request.target == active) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "the target namespace \"" + *request.target + "\" is in use",
                      "It is active or previous, in the chunks, or the target of another job.",
                      "Choose another, or leave it out: the next version of the name is taken.");
  }
  return *request.target;
}

std::int64_t estimate(const ChunkReader& reader, const std::string& space, std::int64_t chunks) {
  const std::vector<Chunk> sample = reader.sample(space, kEstimateSample);
  std::uint64_t tokens = 0;
  for (const Chunk& chunk : sample) {
    tokens += core::estimate_tokens(chunk.content);
  }
  return sample.empty() ? 0
                        : std::llround(static_cast<double>(tokens) * static_cast<double>(chunks) /
                                       static_cast<double>(sample.size()));
}

const sources::Source& attached_chunks(const sources::Sources& all) {
  require_utf8();
  return all.require("chunks", "reindex");
}

Plan make_plan(const pg::Extension& extension, const ChunkReader& reader, const Request& request) {
  const Registered now = registered(extension, request.space);
  Plan plan;
  plan.embedder = request.embedder ? *request.embedder
                  : request.repair && !now.embedder.empty()
                      ? now.embedder
                      : net::default_service(net::ServiceKind::kEmbedder);
  plan.vector_store = request.vector_store ? *request.vector_store
                      : request.repair && !now.vector_store.empty()
                          ? now.vector_store
                          : net::default_service(net::ServiceKind::kVectorStore);
  plan.old_vector_store = now.vector_store.empty() ? plan.vector_store : now.vector_store;
  plan.model_known = !now.model.empty();
  ServiceContext context;
  const auto embedder = open_embedder(context, plan.embedder,
                                      request.repair ? now.model : request.model.value_or(""), "");
  plan.model = embedder->model();
  plan.dimensions =
      embedder->dimensions() ? embedder->dimensions() : core::known_dimensions(plan.model);
  plan.price = embedder->price_per_million_tokens();
  plan.old = now.active;
  plan.target = request.repair ? now.active : choose_target(extension, reader, request, now.active);
  plan.chunks = reader.count(request.space);
  plan.tokens = estimate(reader, request.space, plan.chunks);
  return plan;
}

void check_numbers(const Request& request) {
  if (request.batch_size < 1 || request.batch_size > kMaxBatch) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "batch_size must be from 1 to " + std::to_string(kMaxBatch), {},
                      "100 suits most services.");
  }
  if (request.concurrency < 1 || request.concurrency > kMaxConcurrency) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "concurrency must be from 1 to " + std::to_string(kMaxConcurrency), {},
                      "4 batches in flight suit most services.");
  }
  if (request.max_cost && !(*request.max_cost >= 0)) {
    throw core::Error(core::sqlstate::kInvalidParameterValue, "max_cost must not be negative", {},
                      "Give it in the unit of the server's price_per_million_tokens.");
  }
}

void check_cost(const Plan& plan, Request& request) {
  const double limit = pg::settings::reindex_cost_limit();
  // A repair pays for what is missing only, which nobody knows yet: it stops at the limit.
  if (request.repair && !request.max_cost && plan.price > 0) {
    request.max_cost = limit;
  }
  if (plan.cost() > limit && !request.max_cost) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "the reindex would cost about " + std::to_string(plan.cost()) +
                          ", more than bacmr.reindex_cost_limit (" + std::to_string(limit) + ")",
                      std::to_string(plan.tokens) + " tokens are estimated.",
                      "Give max_cost: the job stops before it exceeds that.");
  }
}

// The store is asked before anything is paid for.
void check_store(Plan& plan, const Request& request) {
  ServiceContext context;
  const auto store = open_vector_store(context, plan.vector_store, "");
  const std::optional<int> dimension = store->dimension();
  if (!plan.dimensions) {
    plan.dimensions = dimension;  // no other can be stored
  }
  if (dimension && plan.dimensions && *dimension != *plan.dimensions) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "the vector store \"" + plan.vector_store + "\" takes " +
                          std::to_string(*dimension) + " dimensions, the model \"" + plan.model +
                          "\" makes " + std::to_string(*plan.dimensions),
                      {}, "Choose a model, or its option dimensions, to fit; or another store.");
  }
  if (request.repair && !plan.model_known && store->count(plan.target) > 0) {
    throw core::Error(
        core::sqlstate::kObjectNotInPrerequisiteState,
        "nothing is known of the model that made the vectors in \"" + plan.target + "\"",
        "Vectors of another model among them would be found by chance.",
        "SELECT bacmr_reindex(" + pg::quote_literal(request.space) +
            ") makes them anew, in a namespace of their own.");
  }
  if (!request.repair && store->count(plan.target) > 0) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "the target namespace \"" + plan.target + "\" of the vector store \"" +
                          plan.vector_store + "\" is not empty",
                      {}, "Choose another target_namespace, or delete what is there.");
  }
}

std::int64_t insert_job(const pg::Extension& extension, const Request& request, const Plan& plan,
                        const std::string& role) {
  const std::string request_id = new_request_id();
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  // What changes is noted once for a namespace: of two jobs, one would take it from the other. One
  // that was swapped, and has nothing to deal with, steps aside; so does one that is completed and
  // was not, which cannot be swapped any more then.
  const std::string jobs = extension.object("bacmr_reindex_job");
  spi.query("UPDATE " + jobs +
                " j SET capturing = false WHERE namespace = $1 AND capturing"
                " AND status = 'completed' AND (swapped_at IS NULL OR NOT EXISTS (SELECT FROM " +
                extension.object("bacmr_chunk_change") +
                " c WHERE c.namespace = j.namespace OR c.namespace IS NULL))",
            {pg::Param::text(request.space)});
  require_no_other_job(extension, request.space, 0);
  const auto number = [](const std::optional<double>& value) {
    return pg::Param::text(value ? std::optional(std::to_string(*value)) : std::nullopt);
  };
  return refuse_another_job(request.space, plan.target, [&] {
    const pg::Rows rows = spi.query(
        "INSERT INTO " + extension.object("bacmr_reindex_job") +
            " (kind, namespace, old_namespace, target_namespace, embedder, vector_store, model,"
            "  dimensions, price, batch_size, concurrency, max_cost, role_name, total_chunks,"
            "  walked, request_id, system_identifier, database_oid, old_vector_store)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8::int, $9::numeric, $10::int, $11::int,"
            "  $12::numeric, $13, $14, $15, $16, $17, $18, $19) RETURNING job_id",
        {pg::Param::text(request.repair ? "repair" : "reindex"), pg::Param::text(request.space),
         pg::Param::text(plan.old), pg::Param::text(plan.target), pg::Param::text(plan.embedder),
         pg::Param::text(plan.vector_store), pg::Param::text(plan.model),
         pg::Param::text(plan.dimensions ? std::optional(std::to_string(*plan.dimensions))
                                         : std::nullopt),
         number(plan.price), pg::Param::int8(std::int64_t{request.batch_size}),
         pg::Param::int8(std::int64_t{request.concurrency}), number(request.max_cost),
         pg::Param::text(role), pg::Param::int8(plan.chunks), pg::Param::boolean(request.repair),
         pg::Param::text(request_id), pg::Param::text(sources::cluster_identity()),
         pg::Param::oid(MyDatabaseId), pg::Param::text(plan.old_vector_store)});
    return rows.int8(0, 0);
  });
}

// What is asked of services: before anything is written, so that no lock is held meanwhile.
Plan checked_plan(const pg::Extension& extension, const ChunkReader& reader, Request& request) {
  check_numbers(request);
  Plan plan = make_plan(extension, reader, request);
  if (plan.chunks == 0 && !request.repair) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "the namespace \"" + request.space + "\" has no chunks", {},
                      "SELECT DISTINCT namespace FROM your chunks lists them.");
  }
  check_cost(plan, request);
  check_store(plan, request);
  return plan;
}

std::int64_t queue(const pg::Extension& extension, Request request) {
  const sources::Sources all = sources::Sources::load_locked(extension);
  const sources::Source& chunks = attached_chunks(all);
  const Plan plan = checked_plan(extension, ChunkReader(chunks), request);
  const std::int64_t job = insert_job(extension, request, plan, pg::role_name(GetUserId()));
  start_capture(extension, chunks);
  pg::wake_worker_at_commit();
  return job;
}

Datum plan_function(pg::Args args) {
  Request request;
  request.space = args.text(0, "namespace");
  request.model = args.text(1);
  request.embedder = name_argument(args, 2);
  const pg::Extension extension = pg::require_extension();
  Plan plan;
  {
    const pg::PinnedSettings settings;
    const pg::Spi spi;
    const sources::Sources all = sources::Sources::load_locked(extension);
    const ChunkReader reader(attached_chunks(all));
    plan = make_plan(extension, reader, request);
  }
  return pg::record(args, {pg::Value::int8(plan.chunks), pg::Value::int8(plan.tokens),
                           pg::Value::numeric(std::to_string(plan.cost())),
                           pg::Value::int8((plan.chunks + kDefaultBatch - 1) / kDefaultBatch),
                           pg::Value::text(plan.target)});
}

Datum reindex_function(pg::Args args) {
  Request request;
  request.space = args.text(0, "namespace");
  request.model = args.text(1);
  request.embedder = name_argument(args, 2);
  request.vector_store = name_argument(args, 3);
  request.target = args.text(4);
  request.batch_size = args.int4(5).value_or(kDefaultBatch);
  request.concurrency = args.int4(6).value_or(4);
  request.max_cost = args.numeric(7);
  const pg::Extension extension = pg::require_extension();
  std::int64_t job = 0;
  {
    const pg::PinnedSettings settings;
    const pg::Spi spi;
    sources::settle_identity(extension);
    job = queue(extension, request);
  }
  return Int64GetDatum(job);
}

Datum reindex_all_function(pg::Args args) {
  Request request;
  request.model = args.text(0);
  request.embedder = name_argument(args, 1);
  request.vector_store = name_argument(args, 2);
  const std::optional<double> max_cost = args.numeric(3);
  const pg::Extension extension = pg::require_extension();
  std::vector<std::pair<std::int64_t, std::string>> queued;
  {
    const pg::PinnedSettings settings;
    const pg::Spi spi;
    sources::settle_identity(extension);
    const sources::Sources all = sources::Sources::load_locked(extension);
    const sources::Source& chunks = attached_chunks(all);
    const ChunkReader reader(chunks);
    const std::vector<std::string> names = reader.namespaces();
    // The budget is for all together: shared out by what each is estimated to cost.
    double total = 0;
    std::vector<double> costs;
    for (const std::string& name : names) {
      request.space = name;
      costs.push_back(make_plan(extension, reader, request).cost());
      total += costs.back();
    }
    const double limit = pg::settings::reindex_cost_limit();
    if (!max_cost && total > limit) {
      throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                        "the reindex of all namespaces would cost about " + std::to_string(total) +
                            ", more than bacmr.reindex_cost_limit (" + std::to_string(limit) + ")",
                        {}, "Give max_cost: the jobs stop before they exceed it together.");
    }
    std::vector<std::pair<Request, Plan>> plans;
    for (std::size_t i = 0; i < names.size(); ++i) {
      request.space = names[i];
      if (max_cost) {
        request.max_cost = total > 0 ? *max_cost * costs[i] / total : *max_cost;
      }
      const Plan plan = checked_plan(extension, reader, request);
      plans.emplace_back(request, plan);
    }
    const std::string role = pg::role_name(GetUserId());
    for (const auto& [wanted, plan] : plans) {
      queued.emplace_back(insert_job(extension, wanted, plan, role), wanted.space);
    }
    start_capture(extension, chunks);
    pg::wake_worker_at_commit();
  }
  pg::ResultSet result(args);
  for (const auto& [job, name] : queued) {
    result.row({pg::Value::int8(job), pg::Value::text(name)});
  }
  return pg::void_result();
}

Datum repair_function(pg::Args args) {
  Request request;
  request.space = args.text(0, "namespace");
  request.vector_store = name_argument(args, 1);
  request.max_cost = args.numeric(2);
  request.repair = true;
  const pg::Extension extension = pg::require_extension();
  std::int64_t job = 0;
  {
    const pg::PinnedSettings settings;
    const pg::Spi spi;
    sources::settle_identity(extension);
    job = queue(extension, request);
  }
  return Int64GetDatum(job);
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_reindex_plan, jobs::plan_function);
BACMR_FUNCTION(bacmr_reindex, jobs::reindex_function);
BACMR_FUNCTION(bacmr_reindex_all, jobs::reindex_all_function);
BACMR_FUNCTION(bacmr_vectors_repair, jobs::repair_function);
