#include "pg/postgres.hpp"

#include "jobs/reindex_changes.hpp"

#include <unordered_set>
#include <utility>

#include "core/error.hpp"
#include "pg/lock.hpp"
#include "pg/log.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "sources/identity.hpp"

extern "C" {
#include "commands/trigger.h"
}

namespace jobs {
namespace {

constexpr const char* kRowTrigger = "bacmr_capture_change";
constexpr const char* kTruncateTrigger = "bacmr_capture_truncate";
constexpr const char* kLockTimeout = "5s";
constexpr int kShortWaitMs = 500;

std::string changes(const pg::Extension& extension) {
  return extension.object("bacmr_chunk_change");
}

// As it is now, whatever the transaction's snapshot.
bool has_trigger(Oid table, const char* name) {
  return pg::call([&] { return OidIsValid(get_trigger_oid(table, name, true)); });
}

// `table`: as SQL text has it.
void create_trigger(pg::Spi& spi, const pg::Extension& extension, const sources::Source& chunks,
                    const std::string& table, const char* name, const std::string& events,
                    const char* level) {
  spi.query(std::string("CREATE TRIGGER ") + name + " AFTER " + events + " ON " + table +
            " FOR EACH " + level + " EXECUTE FUNCTION " + extension.object("bacmr_capture_change") +
            "(" + pg::quote_literal(chunks.columns.at("id").name) + ", " +
            pg::quote_literal(chunks.columns.at("namespace").name) + ")");
  // Replicas and tools that set session_replication_role write chunks too.
  spi.query("ALTER TABLE " + table + " ENABLE ALWAYS TRIGGER " + name);
  spi.query(std::string("ALTER TRIGGER ") + name + " ON " + table +
            " DEPENDS ON EXTENSION bacmr_ops");
}

// Of the table and its partitions: a partition inherits the trigger for rows, but none for
// TRUNCATE.
std::vector<std::string> without_truncate_trigger(pg::Spi& spi, const sources::Source& chunks) {
  const pg::Rows tables = spi.query(
      "SELECT c.oid, format('%I.%I', n.nspname, c.relname) FROM (SELECT $1 AS relid UNION"
      " SELECT relid FROM pg_partition_tree($1)) t JOIN pg_class c ON c.oid = t.relid"
      " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') ORDER BY 2",
      {pg::Param::oid(chunks.oid)});
  std::vector<std::string> result;
  for (std::uint64_t i = 0; i < tables.size(); ++i) {
    if (!has_trigger(tables.oid(i, 0), kTruncateTrigger)) {
      result.push_back(tables.text(i, 1));
    }
  }
  return result;
}

bool is_captured(pg::Spi& spi, const sources::Source& chunks) {
  return has_trigger(chunks.oid, kRowTrigger) && without_truncate_trigger(spi, chunks).empty();
}

// To the end of the transaction, with all its partitions.
void lock_chunks(pg::Spi& spi, const sources::Source& chunks, const std::string& mode) {
  pg::PinnedSettings settings;
  settings.set("lock_timeout", kLockTimeout);
  try {
    spi.query("LOCK TABLE " + chunks.sql_name() + " IN " + mode + " MODE");
  } catch (const pg::Error& e) {
    if (e.code() != ERRCODE_LOCK_NOT_AVAILABLE) {
      throw;
    }
    throw core::Error(core::sqlstate::kLockNotAvailable,
                      "another session keeps the table " + chunks.sql_name() + " locked",
                      std::string("It was waited for ") + kLockTimeout + ".",
                      "Try again in a moment. SELECT * FROM pg_locks WHERE relation = " +
                          pg::quote_literal(chunks.sql_name()) + "::regclass shows who.");
  }
}

}  // namespace

bool start_capture(const pg::Extension& extension, const sources::Source& chunks) {
  // As a superuser: whoever may queue a job need not own the table. Nothing of the table's runs
  // here.
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  // So that nobody drops the triggers who has not seen the job that is queued here.
  lock_chunks(spi, chunks, "ACCESS SHARE");
  if (is_captured(spi, chunks)) {
    return false;
  }
  // Another session may be about to create them: whoever has the lock second finds them there.
  lock_chunks(spi, chunks, "SHARE ROW EXCLUSIVE");
  const bool created = !has_trigger(chunks.oid, kRowTrigger);
  if (created) {
    create_trigger(spi, extension, chunks, chunks.sql_name(), kRowTrigger,
                   "INSERT OR UPDATE OR DELETE", "ROW");
  }
  for (const std::string& table : without_truncate_trigger(spi, chunks)) {
    create_trigger(spi, extension, chunks, table, kTruncateTrigger, "TRUNCATE", "STATEMENT");
  }
  return created;
}

void lock_captured(const pg::Extension& extension, const ReindexJob& job) {
  {
    const sources::Sources all = sources::Sources::load(extension);
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    lock_chunks(spi, all.require("chunks", "reindex"), "SHARE ROW EXCLUSIVE");
  }
  // What it is like when the lock has been waited for.
  const sources::Sources all = sources::Sources::load(extension);
  const sources::Source& chunks = all.require("chunks", "reindex");
  pg::Spi spi;
  if (!is_captured(spi, chunks)) {
    const std::string id = std::to_string(job.id);
    throw core::Error(
        core::sqlstate::kObjectNotInPrerequisiteState,
        "changes of " + chunks.sql_name() + " have not been noted for reindex job " + id,
        "Another table has been attached since, or its triggers were dropped.",
        "CALL bacmr_reindex_run(" + id + ") reads it again; then swap.");
  }
}

void forget_unwanted_changes(const pg::Extension& extension) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  spi.query("DELETE FROM " + changes(extension) + " c WHERE NOT EXISTS (SELECT FROM " +
            extension.object("bacmr_reindex_job") +
            " j WHERE j.capturing AND (c.namespace IS NULL OR j.namespace = c.namespace))");
}

void stop_capture_if_idle(const pg::Extension& extension) {
  forget_unwanted_changes(extension);
  try {
    pg::Subtransaction attempt;
    {
      const pg::AsExtensionOwner owner(extension.owner);
      pg::PinnedSettings settings;
      // Less than deadlock_timeout: whoever waits for us meanwhile must not be ended for it.
      settings.set("lock_timeout", pg::yielding_lock_timeout(kShortWaitMs).c_str());
      pg::Spi spi;
      const std::string idle =
          "NOT EXISTS (SELECT FROM " + extension.object("bacmr_reindex_job") + " WHERE capturing)";
      const pg::Rows triggers = spi.query(
          "SELECT tgname::text, tgrelid::regclass::text FROM pg_trigger WHERE tgname IN"
          " ('bacmr_capture_change', 'bacmr_capture_truncate') AND NOT tgisinternal"
          " AND tgparentid = 0 AND " +
          idle + " ORDER BY tgrelid");
      for (std::uint64_t i = 0; i < triggers.size(); ++i) {
        const std::string table = triggers.text(i, 1);
        // A job that was queued meanwhile has the table locked until it can be seen.
        spi.query("LOCK TABLE ONLY " + table + " IN ACCESS EXCLUSIVE MODE");
        if (!spi.query("SELECT WHERE " + idle).empty()) {
          spi.query("DROP TRIGGER IF EXISTS " + triggers.text(i, 0) + " ON " + table);
        }
      }
    }
    attempt.commit();
  } catch (const pg::Error& e) {
    if (e.is_interrupt()) {
      throw;
    }
    pg::log_line(pg::LogLevel::kWarning,
                 "the triggers that capture changes of the chunks stay for now: " + e.summary());
  }
}

bool is_quiet(const pg::Extension& extension, const std::string& space) {
  try {
    pg::Subtransaction attempt;
    {
      const sources::Sources all = sources::Sources::load(extension);
      const sources::Source& chunks = all.require("chunks", "reindex");
      const pg::AsExtensionOwner owner(extension.owner);
      pg::PinnedSettings settings;
      settings.set("lock_timeout", pg::yielding_lock_timeout(kShortWaitMs).c_str());
      pg::Spi spi;
      spi.query("LOCK TABLE " + chunks.sql_name() + " IN SHARE ROW EXCLUSIVE MODE");
    }
    attempt.commit();
  } catch (const pg::Error& e) {
    if (e.code() != ERRCODE_LOCK_NOT_AVAILABLE) {
      throw;
    }
    return false;
  }
  return count_changes(extension, space) == 0;
}

void retire_foreign_jobs(const pg::Extension& extension) {
  bool found = false;
  {
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    found = !spi.query("UPDATE " + extension.object("bacmr_reindex_job") +
                           " SET capturing = false, status = CASE WHEN status IN ('queued',"
                           " 'running', 'verifying') THEN 'paused' ELSE status END, error = 'it was"
                           " queued in the database that this one is a copy of: cancel it here, and"
                           " queue a new one' WHERE " +
                           sources::written_elsewhere("$1", "$2") +
                           " AND (capturing OR status IN ('queued', 'running', 'verifying'))"
                           " RETURNING job_id",
                       {pg::Param::text(sources::cluster_identity()), pg::Param::oid(MyDatabaseId)})
                 .empty();
  }
  if (found) {
    stop_capture_if_idle(extension);
  }
}

Changes next_changes(const pg::Extension& extension, const std::string& space, int limit,
                     pg::Spi::Access access) {
  const pg::AsExtensionOwner owner(extension.owner);
  // A queue has no statistics: the planner would rather sort all of it than take its head from the
  // index.
  pg::PinnedSettings settings;
  settings.set("enable_sort", "off");
  settings.set("enable_bitmapscan", "off");
  pg::Spi spi;
  const pg::Rows rows =
      spi.query("SELECT chunk_id, change_id FROM " + changes(extension) +
                    " WHERE namespace = $1 AND chunk_id IS NOT NULL ORDER BY change_id LIMIT $2",
                {pg::Param::text(space), pg::Param::int8(std::int64_t{limit})}, access);
  Changes result;
  std::unordered_set<std::string> seen;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    std::string id = rows.text(i, 0);
    if (seen.insert(id).second) {
      result.ids.push_back(std::move(id));
    }
    result.noted.push_back(rows.int8(i, 1));
  }
  return result;
}

std::int64_t count_changes(const pg::Extension& extension, const std::string& space) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  return spi
      .query("SELECT count(*) FROM " + changes(extension) +
                 " WHERE namespace = $1 OR namespace IS NULL",
             {pg::Param::text(space)})
      .int8(0, 0);
}

void forget_changes(const pg::Extension& extension, const Changes& dealt_with) {
  if (dealt_with.noted.empty()) {
    return;
  }
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  spi.query("DELETE FROM " + changes(extension) + " WHERE change_id = ANY ($1)",
            {pg::Param::int8_array(dealt_with.noted)});
}

void add_changes(const pg::Extension& extension, const std::string& space,
                 const std::vector<std::string>& ids) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  spi.query("INSERT INTO " + changes(extension) + " (namespace, chunk_id) SELECT $1, unnest($2)",
            {pg::Param::text(space), pg::Param::text_array(ids)});
}

bool take_unknown_changes(const pg::Extension& extension, const std::string& space) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  // A note for all namespaces becomes one for each that a job works on.
  spi.query("WITH every AS (DELETE FROM " + changes(extension) +
            " WHERE namespace IS NULL RETURNING 1) INSERT INTO " + changes(extension) +
            " (namespace) SELECT j.namespace FROM " + extension.object("bacmr_reindex_job") +
            " j WHERE j.capturing AND EXISTS (SELECT FROM every)");
  return !spi.query("DELETE FROM " + changes(extension) +
                        " WHERE namespace = $1 AND chunk_id IS NULL RETURNING 1",
                    {pg::Param::text(space)})
              .empty();
}

void forget_progress(const pg::Extension& extension, const ReindexJob& job) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  spi.query("DELETE FROM " + extension.object("bacmr_reindex_batch") +
                " WHERE job_id = $1 AND status = 'running'",
            {pg::Param::int8(job.id)});
  spi.query("DELETE FROM " + changes(extension) + " WHERE namespace = $1",
            {pg::Param::text(job.space)});
  // The job takes this for a TRUNCATE, at the walk's end, and begins it again.
  update_reindex_job(extension, job.id, "walked = true, last_id = NULL");
  spi.query("INSERT INTO " + changes(extension) + " (namespace) VALUES ($1)",
            {pg::Param::text(job.space)});
}

}  // namespace jobs
