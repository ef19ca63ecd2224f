// Memory contexts as scopes.
#pragma once

#include "pg/scope.hpp"

extern "C" {
#include "utils/memutils.h"
}

namespace pg {

// A memory context of its own, current for the life of the object, freed with it: for a loop whose
// rounds must not add up.
class MemoryScope {
 public:
  explicit MemoryScope(const char* name)
      : outer_(CurrentMemoryContext), own_(call([&] {
          return AllocSetContextCreateInternal(CurrentMemoryContext, name, ALLOCSET_DEFAULT_SIZES);
        })) {
    MemoryContextSwitchTo(own_);
  }
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;
  ~MemoryScope() {
    MemoryContextSwitchTo(outer_);
    MemoryContextDelete(own_);
  }

 private:
  MemoryContext outer_;
  MemoryContext own_;
};

}  // namespace pg
