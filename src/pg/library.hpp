// How this library was loaded.
#pragma once

namespace pg {

// Through shared_preload_libraries, so that there is shared memory and a worker.
bool preloaded();
void note_preloaded();

}  // namespace pg
