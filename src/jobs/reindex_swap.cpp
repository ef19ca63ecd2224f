// Making a verified target the active namespace, going back, and deleting what is not needed any
// more.
#include "pg/postgres.hpp"

#include <optional>
#include <string>

#include "core/error.hpp"
#include "jobs/reindex_changes.hpp"
#include "jobs/reindex_job.hpp"
#include "jobs/reindex_services.hpp"
#include "net/service.hpp"
#include "pg/entry.hpp"
#include "pg/isolation.hpp"
#include "pg/lock.hpp"
#include "pg/log.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "pg/transaction_end.hpp"
#include "pg/wait.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
}

namespace jobs {
namespace {

// What is active must be read as it is now, and nothing may be deleted by an old picture of it.
void require_read_committed(const char* action) {
  pg::require_read_committed(
      std::string("a namespace of the vector store can only be ") + action +
          " in a READ COMMITTED transaction",
      "In a fixed snapshot, what others have made active since would not be seen.");
}

// One session at a time changes which namespace is active, or deletes one. Not a row's lock: a
// service may be asked under it.
void take_switch_lock() {
  constexpr std::uint32_t kSwitch = 1000;
  if (!pg::JobLock::for_job(kSwitch).try_acquire(pg::LockSpan::kTransaction)) {
    throw core::Error(core::sqlstate::kLockNotAvailable,
                      "another session is swapping or deleting a namespace of the vector store", {},
                      "Try again in a moment.");
  }
}

// What answers queries now: the model and its embedder; '' where nothing is known of them.
struct Active {
  std::string model;
  std::string embedder;
};
Active active_model(const pg::Extension& extension, const std::string& space) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows = spi.query("SELECT coalesce(model, ''), coalesce(embedder::text, '') FROM " +
                                      extension.object("bacmr_namespace") + " WHERE namespace = $1",
                                  {pg::Param::text(space)});
  return rows.empty() ? Active{} : Active{rows.text(0, 0), rows.text(0, 1)};
}

void require_inactive(const pg::Extension& extension, const std::string& name) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  if (!spi.query("SELECT 1 FROM " + extension.object("bacmr_namespace") +
                     " WHERE active_namespace = $1 LIMIT 1",
                 {pg::Param::text(name)})
           .empty()) {
    throw core::Error(
        core::sqlstate::kObjectNotInPrerequisiteState,
        "the namespace \"" + name + "\" is active, so it is not deleted", {},
        "It may have been rolled back to: SELECT * FROM bacmr_namespace shows what is active.");
  }
}

void require_swappable(const ReindexJob& job) {
  if (job.repair) {
    throw wrong_reindex_status(job, "swapped", "A repair works on the active namespace itself.");
  }
  if (job.status != "completed" || !job.verified) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "reindex job " + std::to_string(job.id) + " is " + job.status +
                          " and not verified, so its target cannot become active",
                      {},
                      "Let it run to its end: CALL bacmr_reindex_run(" + std::to_string(job.id) +
                          "); then SELECT * FROM bacmr_reindex_verify(" + std::to_string(job.id) +
                          ").");
  }
  if (job.swapped) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "reindex job " + std::to_string(job.id) + " has been swapped already", {},
                      "SELECT bacmr_reindex_rollback(namespace) goes back.");
  }
  require_followed(job);
}

// Whether the namespace that the target would replace holds vectors. A store elsewhere is not asked
// under the lock.
bool may_hold_vectors(const ReindexJob& job) {
  if (net::service_type(job.old_vector_store) != "postgres") {
    return true;
  }
  const AsReindexRole role(job);
  ServiceContext context;
  return open_vector_store(context, job.old_vector_store, job.request_id)->count(job.old) > 0;
}

// The local embedder is for drills and tests: it must not take the place of a real one unnoticed.
void require_no_downgrade(const pg::Extension& extension, const ReindexJob& job) {
  if (net::service_type(job.embedder) != "local") {
    return;
  }
  const Active active = active_model(extension, job.space);
  // Where nothing is known of the model, the application may have made the vectors itself.
  const bool unknown = active.model.empty() && may_hold_vectors(job);
  if (unknown || (!active.model.empty() && net::service_type(active.embedder) != "local")) {
    throw core::Error(
        core::sqlstate::kObjectNotInPrerequisiteState,
        "the local embedder \"" + job.model + "\" would replace " +
            (unknown ? "a model that nothing is known of" : "the model \"" + active.model + "\""),
        "It compares words, not meanings: searches would find less.",
        "If that is what you want: SELECT bacmr_reindex_swap(" + std::to_string(job.id) +
            ", force => true).");
  }
}

Datum swap_function(pg::Args args) {
  const std::int64_t id = reindex_job_argument(args);
  const bool force = args.boolean(1).value_or(false);
  const pg::Extension extension = pg::require_extension();
  require_read_committed("swapped");
  ReindexJob job;
  {
    const pg::PinnedSettings settings;
    const pg::Spi connection;
    take_switch_lock();
    job = lock_reindex_job(extension, id);
    require_reindex_rights(job);
    require_swappable(job);
    if (!force) {
      require_no_downgrade(extension, job);
    }
    lock_captured(extension, job);
    if (const std::int64_t waiting = count_changes(extension, job.space); waiting > 0) {
      throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                        std::to_string(waiting) + " changes of chunks in \"" + job.space +
                            "\" have not reached the target yet",
                        {}, "CALL bacmr_reindex_run(" + std::to_string(id) + "), and swap again.");
    }
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    spi.query("INSERT INTO " + extension.object("bacmr_namespace") +
                  " AS n (namespace, active_namespace, previous_namespace, model, dimensions,"
                  " vector_store, swapped_at, embedder) VALUES ($1, $2, $3, $4, $5::int, $6,"
                  " clock_timestamp(), $7) ON CONFLICT (namespace) DO UPDATE SET"
                  " previous_namespace = n.active_namespace, previous_model = n.model,"
                  " previous_dimensions = n.dimensions, previous_embedder = n.embedder,"
                  " previous_vector_store = n.vector_store,"
                  " active_namespace = excluded.active_namespace, model = excluded.model,"
                  " dimensions = excluded.dimensions, vector_store = excluded.vector_store,"
                  " swapped_at = excluded.swapped_at, embedder = excluded.embedder",
              {pg::Param::text(job.space), pg::Param::text(job.target), pg::Param::text(job.old),
               pg::Param::text(job.model),
               pg::Param::text(job.dimensions ? std::optional(std::to_string(*job.dimensions))
                                              : std::nullopt),
               pg::Param::text(job.vector_store), pg::Param::text(job.embedder)});
    // Capture goes on: the application may still write with the old name in mind.
    update_reindex_job(extension, id, "swapped_at = clock_timestamp()");
  }
  pg::wake_worker_at_commit();
  return pg::Value::text(job.target).datum;
}

// What was deleted cannot be gone back to. A store that does not answer must not stop a rollback.
void require_vectors(const pg::Extension& extension, const std::string& space) {
  std::string previous;
  std::string server;
  {
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    const pg::Rows rows = spi.query(
        "SELECT coalesce(previous_namespace, ''), coalesce(previous_vector_store::text,"
        " vector_store::text, '') FROM " +
            extension.object("bacmr_namespace") + " WHERE namespace = $1",
        {pg::Param::text(space)});
    if (rows.empty() || rows.text(0, 0).empty() || rows.text(0, 1).empty()) {
      return;
    }
    previous = rows.text(0, 0);
    server = rows.text(0, 1);
  }
  std::optional<std::uint64_t> count;
  try {
    pg::Subtransaction attempt;
    ServiceContext context;
    count = open_vector_store(context, server, "")->count(previous);
    attempt.commit();
  } catch (const core::Error& e) {
    pg::warn_client("the vector store could not be asked: " + e.message());
  } catch (const pg::Error& e) {
    if (e.is_interrupt()) {
      throw;
    }
    pg::warn_client("the vector store could not be asked: " + e.summary());
  }
  if (count == std::uint64_t{0}) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "the previous namespace \"" + previous + "\" holds no vectors any more", {},
                      "Reindex into a new one: SELECT bacmr_reindex(namespace).");
  }
}

// Who may not read the chunks must not decide where their readers search. (A swap asks for more: it
// is the right of the role that queued the job.)
void require_right_on_chunks(const pg::Extension& extension) {
  const sources::Sources all = sources::Sources::load(extension);
  const sources::Source* chunks = all.find("chunks");
  if (chunks == nullptr || !chunks->exists()) {
    return;
  }
  pg::Spi spi;
  if (!spi.query("SELECT has_any_column_privilege($1, 'SELECT')", {pg::Param::oid(chunks->oid)})
           .boolean(0, 0)) {
    throw core::Error(core::sqlstate::kInsufficientPrivilege,
                      "permission denied for table " + chunks->sql_name(), {},
                      "GRANT SELECT ON " + chunks->sql_name() + " TO the role that steers it.");
  }
}

Datum rollback_function(pg::Args args) {
  const std::string space = args.text(0, "namespace");
  const pg::Extension extension = pg::require_extension();
  require_read_committed("rolled back");
  std::string active;
  {
    const pg::PinnedSettings settings;
    const pg::Spi connection;
    require_right_on_chunks(extension);
    take_switch_lock();
    require_vectors(extension, space);
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    const pg::Rows rows = spi.query(
        "UPDATE " + extension.object("bacmr_namespace") +
            " SET active_namespace = previous_namespace, previous_namespace = active_namespace,"
            " model = previous_model, previous_model = model, dimensions = previous_dimensions,"
            " previous_dimensions = dimensions, embedder = previous_embedder,"
            " previous_embedder = embedder, vector_store = coalesce(previous_vector_store,"
            " vector_store), previous_vector_store = vector_store, swapped_at = clock_timestamp()"
            " WHERE namespace = $1 AND previous_namespace IS NOT NULL RETURNING active_namespace",
        {pg::Param::text(space)});
    if (rows.empty()) {
      throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                        "the namespace \"" + space + "\" has no previous namespace to go back to",
                        {}, "SELECT * FROM bacmr_namespace shows what is active.");
    }
    active = rows.text(0, 0);
  }
  return pg::Value::text(active).datum;
}

// Deletes a namespace of the store, with the rights of the job's role; where that is gone, of the
// superuser who asks for it.
void delete_namespace(const ReindexJob& job, const std::string& server, const std::string& name) {
  std::optional<AsReindexRole> role;
  if (OidIsValid(pg::call([&] { return get_role_oid(job.role.c_str(), true); }))) {
    role.emplace(job);
  }
  ServiceContext context;
  open_vector_store(context, server, job.request_id)->delete_namespace(name);
}

// What has been deleted cannot be gone back to.
void forget_previous(const pg::Extension& extension, const std::string& space,
                     const std::string& deleted) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  spi.query("UPDATE " + extension.object("bacmr_namespace") +
                " SET previous_namespace = NULL, previous_model = NULL, previous_dimensions = NULL,"
                " previous_embedder = NULL, previous_vector_store = NULL"
                " WHERE namespace = $1 AND previous_namespace = $2",
            {pg::Param::text(space), pg::Param::text(deleted)});
}

// Deletes a namespace of a job, one at a time, with what is active read as it is now.
template <class Action>
Datum delete_of_job(const pg::Args& args, Action action) {
  const std::int64_t id = reindex_job_argument(args);
  const pg::Extension extension = pg::require_extension();
  require_read_committed("deleted");
  {
    const pg::PinnedSettings settings;
    const pg::Spi spi;
    take_switch_lock();
    const ReindexJob job = load_reindex_job(extension, id);
    require_reindex_rights(job);
    action(extension, job);
  }
  return pg::void_result();
}

Datum cleanup_function(pg::Args args) {
  return delete_of_job(args, [](const pg::Extension& extension, const ReindexJob& job) {
    if (!job.swapped || job.cleaned || job.repair) {
      throw wrong_reindex_status(job, "cleaned up",
                                 job.cleaned ? "That has been done." : "Swap it first.");
    }
    require_own_job(job, "cleaned up");
    require_inactive(extension, job.old);
    delete_namespace(job, job.old_vector_store, job.old);
    forget_previous(extension, job.space, job.old);
    update_reindex_job(extension, job.id, "cleaned_at = clock_timestamp()");
  });
}

void require_discardable(const pg::Extension& extension, const ReindexJob& job) {
  if (job.cleaned) {  // its name may be another job's by now
    throw wrong_reindex_status(job, "discarded", "One of its namespaces has been deleted already.");
  }
  require_own_job(job, "discarded");
  const bool given_up = job.status == "failed" || job.status == "cancelled";
  if ((!given_up && !was_rolled_back(extension, job)) || job.repair) {
    throw wrong_reindex_status(job, "discarded",
                               "Only the target of a failed or cancelled job can be, or of one "
                               "that was rolled back; cancel it first.");
  }
}

Datum discard_function(pg::Args args) {
  return delete_of_job(args, [](const pg::Extension& extension, const ReindexJob& job) {
    require_discardable(extension, job);
    if (!await_end_of_work(job)) {
      throw core::Error(core::sqlstate::kLockNotAvailable,
                        "another process still works on reindex job " + std::to_string(job.id), {},
                        "Try again in a moment.");
    }
    require_inactive(extension, job.target);
    delete_namespace(job, job.vector_store, job.target);
    // Somebody may have resumed it meanwhile: then it is theirs, and finds out what is missing.
    require_discardable(extension, lock_reindex_job(extension, job.id));
    forget_previous(extension, job.space, job.target);
    update_reindex_job(extension, job.id,
                       "status = 'cancelled', capturing = false, cleaned_at = clock_timestamp()");
    stop_capture_if_idle(extension);
  });
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_reindex_swap, jobs::swap_function);
BACMR_FUNCTION(bacmr_reindex_rollback, jobs::rollback_function);
BACMR_FUNCTION(bacmr_reindex_cleanup, jobs::cleanup_function);
BACMR_FUNCTION(bacmr_reindex_discard, jobs::discard_function);
