// A reindex job as it stands in bacmr_reindex_job. Everything here runs as the extension's owner,
// needs an SPI connection, and does no HTTP.
#pragma once

#include "pg/postgres.hpp"

#include "core/error.hpp"
#include "pg/args.hpp"
#include "pg/error.hpp"
#include "pg/extension.hpp"
#include "pg/security.hpp"
#include "sources/source.hpp"

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace jobs {

struct ReindexJob {
  std::int64_t id = 0;
  bool repair = false;
  std::string space;   // of the chunks
  std::string old;     // of the store, when the job was queued
  std::string target;  // of the store
  std::string embedder;
  std::string vector_store;
  std::string old_vector_store;  // that holds `old`
  std::string model;
  std::optional<int> dimensions;
  double price = 0;  // of a million tokens
  int batch_size = 0;
  int concurrency = 0;
  std::optional<double> max_cost;
  std::string status;
  std::string role;
  std::int64_t total = 0;
  std::int64_t processed = 0;
  std::int64_t upserted = 0;
  std::int64_t tokens = 0;
  double token_ratio = 1;
  std::optional<std::string> last_id;
  bool walked = false;
  bool capturing = false;
  std::optional<std::int64_t> expected;
  std::optional<std::int64_t> actual;
  bool verified = false;
  bool swapped = false;
  bool cleaned = false;  // one of its namespaces has been deleted: the old one, or the target
  std::string error;
  std::string request_id;
  Oid relation = InvalidOid;  // the chunks that it has read
  bool elsewhere = false;     // queued in another cluster or database: this is a copy

  bool is_open() const {
    return status == "queued" || status == "running" || status == "paused" || status == "verifying";
  }
};

// The first argument of the functions on a job: its number, or an error (22004).
std::int64_t reindex_job_argument(const pg::Args& args);

// An error (42704) where there is none.
ReindexJob load_reindex_job(const pg::Extension& extension, std::int64_t id);
// The same, with its row locked until the transaction ends.
ReindexJob lock_reindex_job(const pg::Extension& extension, std::int64_t id);
// The next job that has something to do: queued, running without a process, or with changes to deal
// with after the swap; oldest first, without those in `done`.
std::optional<std::int64_t> next_reindex_job(const pg::Extension& extension,
                                             const std::set<std::int64_t>& done);
bool has_reindex_work(const pg::Extension& extension);

// Sets columns of a job: "status = 'paused', error = $2". $1 is the job.
void update_reindex_job(const pg::Extension& extension, std::int64_t id, const std::string& set,
                        std::initializer_list<std::string> values = {});

// The same where `condition` is true of the row as it is by now; whether it was. For what depends
// on nobody having stopped the job meanwhile.
bool update_reindex_job_if(const pg::Extension& extension, std::int64_t id,
                           const std::string& condition, const std::string& set,
                           std::initializer_list<std::string> values = {});
// What a process may still write to, for a condition.
inline constexpr const char* kAtWork =
    "(status IN ('queued', 'running', 'verifying') OR status = 'completed' AND capturing)";

// Its target was active, and would be again after another rollback.
bool was_rolled_back(const pg::Extension& extension, const ReindexJob& job);

// Only the role that queued it, its members, and superusers.
void require_reindex_rights(const ReindexJob& job);

// Acts as the role that queued the job, whoever is at work on it: the worker, or a superuser. Code
// of that role (triggers of the vectors, views) must find no way to run later, when the session is
// itself again: nothing may be deferred, and no cursor held.
class AsReindexRole {
 public:
  // An error where the role is gone.
  explicit AsReindexRole(const ReindexJob& job);

  // For a transaction of the job's own: deferred triggers fire with their statement, as the role.
  // (Without it they are refused; in a caller's transaction it would touch the caller's own.)
  void defer_nothing() const;

 private:
  AsReindexRole(Oid role, bool other);

  bool other_;
  pg::AsUser user_;
};

// An error (55000) where the namespace has a job, other than `id`, that is open, or that changes of
// the chunks are noted for: of two, one would take them from the other.
void require_no_other_job(const pg::Extension& extension, const std::string& space,
                          std::int64_t id);

// An error (55000) where changes of the chunks are not noted for the job any more: what it has in
// its target may be out of date, and nobody could tell.
void require_followed(const ReindexJob& job);

// For a statement that opens a job: another session's, which nobody could see yet, is the same
// error as one that is seen.
core::Error another_job_won(const pg::Error& error, const std::string& space,
                            const std::string& target);
template <class Statement>
auto refuse_another_job(const std::string& space, const std::string& target, Statement statement) {
  try {
    return statement();
  } catch (const pg::Error& e) {
    if (e.code() == ERRCODE_UNIQUE_VIOLATION) {
      throw another_job_won(e, space, target);
    }
    throw;
  }
}

// An error (55000) where the job was queued in the database that this one is a copy of: what it has
// in the store may be what is active there.
void require_own_job(const ReindexJob& job, const std::string& action);

// An error (0A000) in a database of another encoding: services take UTF-8 alone.
void require_utf8();

// Waits until no process works on the job, and keeps it so to the end of the transaction. Who does
// looks at the job's row twice a second. False where it goes on for ten seconds.
bool await_end_of_work(const ReindexJob& job);

core::Error wrong_reindex_status(const ReindexJob& job, const std::string& action,
                                 const std::string& hint);

}  // namespace jobs
