#include "pg/shared_block.hpp"

#include <cstring>

extern "C" {
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
}

namespace pg {
namespace {

constexpr int kMaxBlocks = 8;

SharedBlock blocks[kMaxBlocks];
int block_count = 0;
shmem_request_hook_type next_request = nullptr;
shmem_startup_hook_type next_startup = nullptr;

void request() {
  if (next_request != nullptr) {
    next_request();
  }
  for (int i = 0; i < block_count; ++i) {
    RequestAddinShmemSpace(blocks[i].bytes());
    RequestNamedLWLockTranche(blocks[i].name, 1);
  }
}

void startup() {
  if (next_startup != nullptr) {
    next_startup();
  }
  LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
  for (int i = 0; i < block_count; ++i) {
    const SharedBlock& block = blocks[i];
    bool found = false;
    void* memory = ShmemInitStruct(block.name, block.bytes(), &found);
    if (!found) {
      memset(memory, 0, block.bytes());
    }
    block.attach(memory, !found, &GetNamedLWLockTranche(block.name)->lock);
  }
  LWLockRelease(AddinShmemInitLock);
}

}  // namespace

void add_shared_block(const SharedBlock& block) {
  if (block_count == kMaxBlocks) {
    elog(ERROR, "bacmr_ops has too many blocks of shared memory");
  }
  if (block_count == 0) {
    next_request = shmem_request_hook;
    shmem_request_hook = request;
    next_startup = shmem_startup_hook;
    shmem_startup_hook = startup;
  }
  blocks[block_count++] = block;
}

}  // namespace pg
