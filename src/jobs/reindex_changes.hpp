// Chunks that change while a reindex job is under way. Triggers on the table note their ids in
// bacmr_chunk_change; the job deals with them and takes them off again.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/reindex_job.hpp"
#include "pg/extension.hpp"
#include "pg/spi.hpp"
#include "sources/source.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace jobs {

// Puts the triggers on the table where they are missing; true where they were. Waits a few seconds
// at the most for those who write: what they have written is then committed, and so found by the
// job's walk. The table stays locked, against nothing but DDL, to the end of the transaction.
bool start_capture(const pg::Extension& extension, const sources::Source& chunks);
// Locks the chunks against writing to the end of the transaction. An error (55000) where changes of
// the table have not been noted.
void lock_captured(const pg::Extension& extension, const ReindexJob& job);
// Takes changes of namespaces that no job works on off the queue: the triggers note those of all,
// since what is true of the jobs may be newer than the snapshot of who writes. A change that is
// seen here was committed before any job that is not: that job's walk finds it.
void forget_unwanted_changes(const pg::Extension& extension);
// Takes the triggers off where no job needs them any more, and forgets unwanted changes. Where the
// table cannot be locked soon, they stay until the next time.
void stop_capture_if_idle(const pg::Extension& extension);

// Whether all changes of a namespace have been dealt with, also those of who is writing just now:
// then nobody writes until the transaction ends. Waits for them half a second at the most.
bool is_quiet(const pg::Extension& extension, const std::string& space);

// In a copy of the database, the original's jobs are paused for good, and capture nothing: they
// would write to the same namespaces of the same store.
void retire_foreign_jobs(const pg::Extension& extension);

struct Changes {
  std::vector<std::string> ids;     // chunks that have changed, each once
  std::vector<std::int64_t> noted;  // the notes that say so
};
// The oldest notes of a namespace, `limit` at the most.
Changes next_changes(const pg::Extension& extension, const std::string& space, int limit,
                     pg::Spi::Access access = pg::Spi::Access::kReadWrite);
std::int64_t count_changes(const pg::Extension& extension, const std::string& space);
// Takes what has been dealt with off the queue. What was noted meanwhile stays.
void forget_changes(const pg::Extension& extension, const Changes& dealt_with);
// Notes chunks by hand, and whether somebody has noted that any may have changed (TRUNCATE); taking
// that note off.
void add_changes(const pg::Extension& extension, const std::string& space,
                 const std::vector<std::string>& ids);
bool take_unknown_changes(const pg::Extension& extension, const std::string& space);
// Begins the walk again: the batches and notes are of another table, or some are missing.
void forget_progress(const pg::Extension& extension, const ReindexJob& job);

}  // namespace jobs
