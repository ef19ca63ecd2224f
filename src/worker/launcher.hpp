// The launcher: keeps one worker for each database that has the extension.
#pragma once

namespace worker {

// Registers the launcher with the postmaster and the hooks that keep workers out of the way of DROP
// DATABASE and the like. Once, while the library is preloaded.
void install();

}  // namespace worker
