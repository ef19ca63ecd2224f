#include "pg/postgres.hpp"

#include "jobs/reindex_job.hpp"

#include "core/error.hpp"
#include "pg/lock.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/wait.hpp"
#include "sources/identity.hpp"

extern "C" {
#include "mb/pg_wchar.h"
#include "utils/acl.h"
}

namespace jobs {
namespace {

constexpr const char* kColumns =
    "job_id, kind = 'repair', namespace, old_namespace, target_namespace, embedder::text,"
    " vector_store::text, old_vector_store::text, model, dimensions, price::float8, batch_size, "
    "concurrency,"
    " max_cost::float8, status, role_name::text, total_chunks, processed_chunks, upserted_vectors,"
    " tokens_used,"
    " token_ratio, last_id, walked, capturing, expected, actual, verified_at IS NOT NULL,"
    " swapped_at IS NOT NULL, cleaned_at IS NOT NULL, coalesce(error, ''), request_id,"
    " coalesce(relation_oid, 0::oid), ";

std::optional<std::int64_t> maybe_int8(const pg::Rows& rows, int column) {
  return rows.is_null(0, column) ? std::nullopt : std::optional(rows.int8(0, column));
}

ReindexJob read_job(const pg::Extension& extension, std::int64_t id, const std::string& suffix) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      std::string("SELECT ") + kColumns + sources::written_elsewhere("$2", "$3") + " FROM " +
          extension.object("bacmr_reindex_job") + " WHERE job_id = $1" + suffix,
      {pg::Param::int8(id), pg::Param::text(sources::cluster_identity()),
       pg::Param::oid(MyDatabaseId)});
  if (rows.empty()) {
    throw core::Error(core::sqlstate::kUndefinedObject,
                      "there is no reindex job " + std::to_string(id), {},
                      "SELECT * FROM bacmr_reindex_status lists them.");
  }
  int column = 0;
  const auto text = [&] { return rows.text(0, column++); };
  const auto flag = [&] { return rows.boolean(0, column++); };
  const auto number = [&] { return rows.int8(0, column++); };
  const auto real = [&] { return DatumGetFloat8(rows.datum(0, column++)); };
  ReindexJob job;
  job.id = number();
  job.repair = flag();
  job.space = text();
  job.old = text();
  job.target = text();
  job.embedder = text();
  job.vector_store = text();
  job.old_vector_store = text();
  job.model = text();
  if (!rows.is_null(0, column)) {
    job.dimensions = rows.int4(0, column);
  }
  ++column;
  job.price = real();
  job.batch_size = rows.int4(0, column++);
  job.concurrency = rows.int4(0, column++);
  if (!rows.is_null(0, column)) {
    job.max_cost = DatumGetFloat8(rows.datum(0, column));
  }
  ++column;
  job.status = text();
  job.role = text();
  job.total = number();
  job.processed = number();
  job.upserted = number();
  job.tokens = number();
  job.token_ratio = real();
  job.last_id = rows.maybe_text(0, column++);
  job.walked = flag();
  job.capturing = flag();
  job.expected = maybe_int8(rows, column++);
  job.actual = maybe_int8(rows, column++);
  job.verified = flag();
  job.swapped = flag();
  job.cleaned = flag();
  job.error = text();
  job.request_id = text();
  job.relation = rows.oid(0, column++);
  job.elsewhere = flag();
  return job;
}

// Where the role is gone, a superuser has to be able to cancel what it left.
bool may_act_as(const std::string& name) {
  const char* text = name.c_str();
  const Oid role = pg::call([text] { return get_role_oid(text, true); });
  return OidIsValid(role) ? pg::has_privileges_of(role) : pg::call([] { return superuser(); });
}

std::string open_jobs(const pg::Extension& extension) {
  return " FROM " + extension.object("bacmr_reindex_job") +
         " j WHERE status IN ('queued', 'running', 'verifying') OR (capturing AND"
         " (swapped_at IS NOT NULL OR status = 'completed' AND (kind = 'repair' OR EXISTS"
         " (SELECT FROM " +
         extension.object("bacmr_chunk_change") +
         " c WHERE c.namespace IS NULL OR c.namespace = j.namespace))))";
}

}  // namespace

std::int64_t reindex_job_argument(const pg::Args& args) {
  const std::optional<std::int64_t> id = args.int8(0);
  if (!id) {
    throw core::Error(core::sqlstate::kNullValueNotAllowed, "argument \"job_id\" must not be NULL",
                      {}, "SELECT * FROM bacmr_reindex_status lists the jobs.");
  }
  return *id;
}

ReindexJob load_reindex_job(const pg::Extension& extension, std::int64_t id) {
  return read_job(extension, id, "");
}

ReindexJob lock_reindex_job(const pg::Extension& extension, std::int64_t id) {
  return read_job(extension, id, " FOR UPDATE");
}

std::optional<std::int64_t> next_reindex_job(const pg::Extension& extension,
                                             const std::set<std::int64_t>& done) {
  std::vector<std::pair<std::int64_t, std::string>> jobs;
  {
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    const pg::Rows rows =
        spi.query("SELECT job_id, role_name::text" + open_jobs(extension) + " ORDER BY job_id");
    for (std::uint64_t i = 0; i < rows.size(); ++i) {
      jobs.emplace_back(rows.int8(i, 0), rows.text(i, 1));
    }
  }
  for (const auto& [id, name] : jobs) {
    // Not those of others, unless the current user may act as they do.
    if (done.contains(id) || !may_act_as(name)) {
      continue;
    }
    const pg::JobLock lock = pg::JobLock::for_reindex(id);
    if (lock.try_acquire(pg::LockSpan::kSession)) {
      lock.release();
      return id;
    }
  }
  return std::nullopt;
}

bool has_reindex_work(const pg::Extension& extension) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  return !spi.query("SELECT 1" + open_jobs(extension) + " LIMIT 1").empty();
}

void update_reindex_job(const pg::Extension& extension, std::int64_t id, const std::string& set,
                        std::initializer_list<std::string> values) {
  update_reindex_job_if(extension, id, "true", set, values);
}

bool update_reindex_job_if(const pg::Extension& extension, std::int64_t id,
                           const std::string& condition, const std::string& set,
                           std::initializer_list<std::string> values) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const std::string sql = "UPDATE " + extension.object("bacmr_reindex_job") + " SET " + set +
                          " WHERE job_id = $1 AND " + condition;
  const auto* value = values.begin();
  switch (values.size()) {
    case 0:
      return !spi.query(sql, {pg::Param::int8(id)}).empty();
    case 1:
      return !spi.query(sql, {pg::Param::int8(id), pg::Param::text(value[0])}).empty();
    default:
      return !spi.query(sql,
                        {pg::Param::int8(id), pg::Param::text(value[0]), pg::Param::text(value[1])})
                  .empty();
  }
}

namespace {

Oid reindex_role(const ReindexJob& job) {
  const Oid role = pg::call([&] { return get_role_oid(job.role.c_str(), true); });
  if (!OidIsValid(role)) {
    throw core::Error(core::sqlstate::kUndefinedObject,
                      "the role \"" + job.role + "\", which queued reindex job " +
                          std::to_string(job.id) + ", does not exist any more",
                      {}, "Cancel the job, and queue it as another role.");
  }
  return role;
}

}  // namespace

AsReindexRole::AsReindexRole(const ReindexJob& job)
    : AsReindexRole(reindex_role(job), reindex_role(job) != GetUserId()) {}

AsReindexRole::AsReindexRole(Oid role, bool other)
    : other_(other), user_(role, other ? SECURITY_RESTRICTED_OPERATION : 0) {}

void AsReindexRole::defer_nothing() const {
  if (other_) {
    pg::Spi spi;
    spi.query("SET CONSTRAINTS ALL IMMEDIATE");
  }
}

bool was_rolled_back(const pg::Extension& extension, const ReindexJob& job) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  return job.swapped && !spi.query("SELECT 1 FROM " + extension.object("bacmr_namespace") +
                                       " WHERE namespace = $1 AND active_namespace = $2"
                                       " AND previous_namespace = $3",
                                   {pg::Param::text(job.space), pg::Param::text(job.old),
                                    pg::Param::text(job.target)})
                             .empty();
}

void require_reindex_rights(const ReindexJob& job) {
  if (!may_act_as(job.role)) {
    throw core::Error(core::sqlstate::kInsufficientPrivilege,
                      "permission denied for reindex job " + std::to_string(job.id),
                      "It was queued by the role \"" + job.role + "\".",
                      "Act as that role, or as a superuser.");
  }
}

void require_no_other_job(const pg::Extension& extension, const std::string& space,
                          std::int64_t id) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows open = spi.query(
      "SELECT job_id, swapped_at IS NOT NULL FROM " + extension.object("bacmr_reindex_job") +
          " WHERE namespace = $1 AND job_id <> $2 AND (capturing"
          " OR status IN ('queued', 'running', 'paused', 'verifying')) ORDER BY job_id LIMIT 1",
      {pg::Param::text(space), pg::Param::int8(id)});
  if (open.empty()) {
    return;
  }
  const std::string other = std::to_string(open.int8(0, 0));
  if (open.boolean(0, 1)) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "reindex job " + other + " of the namespace \"" + space +
                          "\" still has changes of chunks to deal with",
                      {}, "Wait for it, or CALL bacmr_reindex_run(" + other + ").");
  }
  throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                    "the namespace \"" + space + "\" has a reindex job already: " + other, {},
                    "Let it run and swap it, or SELECT bacmr_reindex_cancel(" + other + ").");
}

void require_followed(const ReindexJob& job) {
  if (!job.capturing) {
    throw core::Error(
        core::sqlstate::kObjectNotInPrerequisiteState,
        "changes of the chunks are not followed any more for reindex job " + std::to_string(job.id),
        "A newer job of the namespace was queued after it was completed.",
        "Swap the newer one; SELECT bacmr_reindex_cancel(" + std::to_string(job.id) +
            "), then bacmr_reindex_discard, deletes the target of this one.");
  }
}

core::Error another_job_won(const pg::Error& error, const std::string& space,
                            const std::string& target) {
  const char* index = error.data().constraint_name;
  if (index != nullptr && std::string(index) == "bacmr_reindex_job_target_idx") {
    return {core::sqlstate::kObjectNotInPrerequisiteState,
            "the target namespace \"" + target + "\" is in use",
            "Another session has just queued a job with that target.",
            "Choose another, or leave it out: the next version of the name is taken."};
  }
  return {core::sqlstate::kObjectNotInPrerequisiteState,
          "the namespace \"" + space + "\" has a reindex job already",
          "Another session has just queued it.", "SELECT * FROM bacmr_reindex_status shows it."};
}

void require_own_job(const ReindexJob& job, const std::string& action) {
  if (job.elsewhere) {
    throw wrong_reindex_status(job, action,
                               "It belongs to the database that this one is a copy of. If that is "
                               "gone for good, delete the namespace in the store itself.");
  }
}

void require_utf8() {
  if (GetDatabaseEncoding() != PG_UTF8) {
    throw core::Error(
        core::sqlstate::kFeatureNotSupported,
        std::string("chunks of a database in ") + GetDatabaseEncodingName() + " cannot be embedded",
        "Services and their ids are in UTF-8.",
        "Move it to a database in UTF-8: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE "
        "template0, and pg_dump.");
  }
}

bool await_end_of_work(const ReindexJob& job) {
  constexpr int kTries = 100;
  constexpr std::int64_t kPauseUs = 100'000;
  const pg::JobLock lock = pg::JobLock::for_reindex(job.id);
  for (int i = 0; !lock.try_acquire(pg::LockSpan::kTransaction); ++i) {
    if (i == kTries) {
      return false;
    }
    pg::wait_interruptibly(kPauseUs);
  }
  return true;
}

core::Error wrong_reindex_status(const ReindexJob& job, const std::string& action,
                                 const std::string& hint) {
  return {
      core::sqlstate::kObjectNotInPrerequisiteState,
      "reindex job " + std::to_string(job.id) + " is " + job.status + ", so it cannot be " + action,
      {},
      hint};
}

}  // namespace jobs
