// Shared memory of the extension's own: blocks that the postmaster makes as it starts.
#pragma once

#include "pg/postgres.hpp"

extern "C" {
#include "storage/lwlock.h"
}

namespace pg {

struct SharedBlock {
  const char* name;  // also of the lock's tranche
  // Asked when the settings are known, and again with the same answer.
  Size (*bytes)();
  // Called in the postmaster and wherever else the memory is attached. `fresh`: it has to be
  // filled, and is zeroed; otherwise somebody has. Nothing inside may raise.
  void (*attach)(void* memory, bool fresh, LWLock* lock);
};

// While the library is being preloaded.
void add_shared_block(const SharedBlock& block);

// Holds a lightweight lock for a few instructions. Nothing inside may raise.
class LwLocked {
 public:
  explicit LwLocked(LWLock* lock, LWLockMode mode) : lock_(lock) { LWLockAcquire(lock_, mode); }
  LwLocked(const LwLocked&) = delete;
  LwLocked& operator=(const LwLocked&) = delete;
  ~LwLocked() { LWLockRelease(lock_); }

 private:
  LWLock* lock_;
};

}  // namespace pg
