// How a restored or cloned database finds out that it is a copy.
#pragma once

#include "pg/extension.hpp"

namespace sources {

// Each attachment notes the database in which it was made. Where one names another database, this
// one was restored or cloned from that: pauses the jobs that a copy must not run, and corrects the
// notes. Call it before anything scheduled. (In the attachments, and not in a table of its own, so
// that a dump that is being restored never shows the one without the other.)
void settle_identity(const pg::Extension& extension);

}  // namespace sources
