// Watching utility commands that concern the extension's workers.
#pragma once

#include "pg/postgres.hpp"

namespace pg {

// What the commands mean to us. The functions are called from C: they must not throw.
struct UtilityWatch {
  // A command is about to need `database` free of other sessions.
  void (*before_exclusive)(Oid database);
  // The extension was created, altered or dropped here.
  void (*extension_changed)();
};

// Once, while the library is preloaded.
void watch_utility(const UtilityWatch& wanted);

}  // namespace pg
