// The metrics that tell of state rather than of events: read from the tables, so that they are
// right again after a restart or a reset.
#pragma once

#include "pg/extension.hpp"

namespace jobs {

// Set once the current transaction commits.

// What the latest reconciliation found.
void publish_findings(const pg::Extension& extension);
// When each job last did what it was to do. (Expiry says so itself: it leaves no run where nothing
// was due.)
void publish_last_success(const pg::Extension& extension);
// The latest export of each relation, the latest that was verified, and the latest restore drill.
void publish_exports(const pg::Extension& extension);
// Open and stale reservations, as the table's owner; where there are none to count the gauges go.
void publish_reservations(const pg::Extension& extension);

}  // namespace jobs
