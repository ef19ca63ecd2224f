// How a restored or cloned database finds out that it is a copy.
#pragma once

#include "pg/extension.hpp"

#include <string>

namespace sources {

// Which cluster this is: its system identifier. One that was started from a base backup as it is,
// without recovery from an archive and not as a standby, runs beside its original or in its place,
// on the same timeline, and cannot tell which; its identity has "@" and the place in the WAL where
// the backup began.
std::string cluster_identity();

// A condition on the columns system_identifier and database_oid of a row: that it was written
// elsewhere. `identity` and `database` are its parameters ($1: cluster_identity()). A cluster that
// has been promoted since is the one that it was.
std::string written_elsewhere(const std::string& identity, const std::string& database);

// Each attachment notes the database in which it was made. Where one names another database, this
// one was restored or cloned from that: pauses the jobs that a copy must not run, and corrects the
// notes. Call it before anything scheduled. (In the attachments, and not in a table of its own, so
// that a dump that is being restored never shows the one without the other.)
void settle_identity(const pg::Extension& extension);

}  // namespace sources
