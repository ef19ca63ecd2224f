#include "worker/shared.hpp"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

#include "pg/guard.hpp"
#include "pg/shared_block.hpp"
#include "pg/transaction_end.hpp"

extern "C" {
#include "mb/pg_wchar.h"
#include "postmaster/bgworker_internals.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
}

namespace worker {
namespace {

constexpr int kMaxHolds = 32;
constexpr int kMaxChanged = 64;
constexpr std::size_t kErrorBytes = 512;
constexpr const char* kName = "bacmr_ops";

struct Slot {
  Oid database;   // InvalidOid: free
  int pid;        // 0: its worker is gone
  int reindexer;  // 0: none
  Departure departure;
  State state;
  bool wake;
  bool leave;
  TimestampTz last_tick;
  TimestampTz next_tick;
  TimestampTz last_expired;
  char last_error[kErrorBytes];
};

struct Hold {
  Oid database;
  int pid;
};

struct Memory {
  int launcher;
  char start_problem[kErrorBytes];
  Hold holds[kMaxHolds];
  int changed_count;
  bool all_changed;  // more than fit into the list
  Oid changed[kMaxChanged];
  int slot_count;
  Slot slots[FLEXIBLE_ARRAY_MEMBER];
};

Memory* memory = nullptr;
LWLock* lock = nullptr;
Slot* own = nullptr;
Oid reindexed = InvalidOid;

Size memory_bytes() {
  return add_size(offsetof(Memory, slots), mul_size(max_worker_processes, sizeof(Slot)));
}

void attach(void* block, bool fresh, LWLock* own_lock) {
  memory = static_cast<Memory*>(block);
  lock = own_lock;
  if (fresh) {
    memory->slot_count = max_worker_processes;
  }
}

struct Locked : pg::LwLocked {
  explicit Locked(LWLockMode mode = LW_EXCLUSIVE) : LwLocked(lock, mode) {}
};

Slot* find(Oid database) {
  for (int i = 0; i < memory->slot_count; ++i) {
    if (memory->slots[i].database == database) {
      return &memory->slots[i];
    }
  }
  return nullptr;
}

void copy(char (&target)[kErrorBytes], const std::string& text) {
  // Not in the middle of a character.
  const auto length = static_cast<std::size_t>(
      pg_mbcliplen(text.c_str(), static_cast<int>(text.size()), static_cast<int>(kErrorBytes) - 1));
  std::memcpy(target, text.data(), length);
  target[length] = '\0';
}

void set_latch_of(int pid) {
  PGPROC* process = pid != 0 ? BackendPidGetProc(pid) : nullptr;
  if (process != nullptr) {
    SetLatch(&process->procLatch);
  }
}

void wake_launcher() {
  int pid = 0;
  {
    const Locked guard(LW_SHARED);
    pid = memory->launcher;
  }
  set_latch_of(pid);
}

}  // namespace

const char* name_of(State state) {
  switch (state) {
    case State::kStarting:
      return "starting";
    case State::kIdle:
      return "idle";
    case State::kExpiring:
      return "expiring reservations";
    case State::kPaused:
      return "paused";
    case State::kUnattached:
      return "nothing attached";
    case State::kUnfit:
      return "cannot expire";
    case State::kBackingOff:
      return "backing off";
  }
  return "";
}

namespace shared {

void install() { pg::add_shared_block({kName, memory_bytes, attach}); }

void set_launcher(int pid) {
  const Locked guard;
  memory->launcher = pid;
}

int launcher_pid() {
  if (memory == nullptr) {
    return 0;
  }
  const Locked guard(LW_SHARED);
  return memory->launcher;
}

void set_start_problem(const std::string& problem) {
  const Locked guard;
  copy(memory->start_problem, problem);
}

std::string start_problem() {
  char text[kErrorBytes];
  {
    const Locked guard(LW_SHARED);
    std::memcpy(text, memory->start_problem, sizeof text);
  }
  return text;
}

std::optional<Oid> take_changed() {
  const Locked guard;
  if (memory->changed_count == 0) {
    return std::nullopt;
  }
  return memory->changed[--memory->changed_count];
}

bool take_all_changed() {
  const Locked guard;
  return std::exchange(memory->all_changed, false);
}

void drop_stale_holds() {
  for (int i = 0; i < kMaxHolds; ++i) {
    int pid = 0;
    {
      const Locked guard(LW_SHARED);
      pid = memory->holds[i].pid;
    }
    // The holder died without a chance to let go.
    if (pid != 0 && BackendPidGetProc(pid) == nullptr) {
      const Locked guard;
      if (memory->holds[i].pid == pid) {
        memory->holds[i] = Hold{InvalidOid, 0};
      }
    }
  }
}

bool is_held(Oid database) {
  const Locked guard(LW_SHARED);
  return std::any_of(memory->holds, memory->holds + kMaxHolds,
                     [database](const Hold& hold) { return hold.database == database; });
}

Departure take_departure(Oid database) {
  const Locked guard;
  Slot* slot = find(database);
  if (slot == nullptr || slot->pid != 0) {
    return Departure::kNone;
  }
  // Somebody woke a worker that had looked already and was on its way out: look again.
  const Departure departure = slot->wake ? Departure::kAsked : slot->departure;
  slot->wake = false;
  // What the slot says of its last error stays readable until another database needs the slot.
  slot->departure = Departure::kNone;
  if (departure != Departure::kNone) {
    slot->database = InvalidOid;
  }
  return departure;
}

bool claim(Oid database) {
  const Locked guard;
  Slot* slot = find(database);
  if (slot == nullptr) {
    slot = find(InvalidOid);
  }
  if (slot == nullptr) {
    Slot* end = memory->slots + memory->slot_count;
    Slot* idle = std::find_if(memory->slots, end, [](const Slot& s) { return s.pid == 0; });
    slot = idle == end ? nullptr : idle;
  }
  if (slot == nullptr || (slot->database == database && slot->pid != 0)) {
    return false;
  }
  if (slot->database != database) {
    std::memset(slot, 0, sizeof *slot);
    slot->database = database;
  }
  if (slot->reindexer != 0 && BackendPidGetProc(slot->reindexer) == nullptr) {
    slot->reindexer = 0;  // it died without a chance to say so
  }
  slot->pid = MyProcPid;
  slot->departure = Departure::kNone;
  slot->leave = false;
  slot->state = State::kStarting;
  own = slot;
  return true;
}

void set_departure(Departure departure) {
  const Locked guard;
  own->departure = departure;
}

void release() {
  if (own != nullptr) {
    const Locked guard;
    own->pid = 0;
    own = nullptr;
  }
}

void publish(State state, TimestampTz next_tick) {
  const Locked guard;
  own->state = state;
  own->next_tick = next_tick;
}

void publish_tick(TimestampTz last_tick, bool expired, const std::string& error) {
  const Locked guard;
  own->last_tick = last_tick;
  if (expired) {
    own->last_expired = last_tick;
  }
  copy(own->last_error, error);
}

bool take_wake() {
  const Locked guard;
  return std::exchange(own->wake, false);
}

bool has_reindexer() {
  const Locked guard(LW_SHARED);
  return own->reindexer != 0;
}

bool claim_reindexer(Oid database) {
  const Locked guard;
  Slot* slot = find(database);
  if (slot == nullptr || slot->reindexer != 0) {
    return false;
  }
  slot->reindexer = MyProcPid;
  reindexed = database;
  return true;
}

void release_reindexer() {
  const Locked guard;
  Slot* slot = find(reindexed);
  if (slot != nullptr && slot->reindexer == MyProcPid) {
    slot->reindexer = 0;
  }
}

bool must_leave() {
  const Locked guard(LW_SHARED);
  return own->leave;
}

std::optional<SlotView> view(Oid database) {
  SlotView result;
  char error[kErrorBytes];
  {
    const Locked guard(LW_SHARED);
    const Slot* slot = find(database);
    if (slot == nullptr) {
      return std::nullopt;
    }
    result.pid = slot->pid;
    result.state = slot->state;
    result.last_tick = slot->last_tick;
    result.next_tick = slot->next_tick;
    result.last_expired = slot->last_expired;
    std::memcpy(error, slot->last_error, sizeof error);
  }
  result.last_error = error;
  return result;
}

void hold(Oid database) {
  int pid = 0;
  int reindexer = 0;
  bool busy = false;
  {
    const Locked guard;
    for (Hold& each : memory->holds) {
      if (each.pid == 0) {
        each = Hold{database, MyProcPid};
        break;
      }
    }
    Slot* slot = find(database);
    reindexer = slot != nullptr ? slot->reindexer : 0;
    if (slot != nullptr && slot->pid != 0) {
      pid = slot->pid;
      busy = slot->state == State::kExpiring || slot->state == State::kStarting;
      slot->leave = true;
      slot->departure = Departure::kAsked;
    }
  }
  pg::release_at_end();
  if (reindexer != 0) {
    ::kill(reindexer, SIGTERM);
  }
  // The command itself waits some seconds for other sessions to leave. A worker at rest goes
  // quietly; one at work is interrupted.
  if (busy) {
    ::kill(pid, SIGTERM);
  } else {
    set_latch_of(pid);
  }
}

void unhold_all() {
  {
    const Locked guard;
    for (Hold& each : memory->holds) {
      if (each.pid == MyProcPid) {
        each = Hold{InvalidOid, 0};
      }
    }
  }
  wake_launcher();
}

void wake() {
  int pid = 0;
  {
    const Locked guard;
    Slot* slot = find(MyDatabaseId);
    if (slot != nullptr && slot->pid != 0) {
      slot->wake = true;
      pid = slot->pid;
    } else {
      Oid* end = memory->changed + memory->changed_count;
      if (std::find(memory->changed, end, MyDatabaseId) == end) {
        if (memory->changed_count < kMaxChanged) {
          memory->changed[memory->changed_count++] = MyDatabaseId;
        } else {
          memory->all_changed = true;
        }
      }
      pid = memory->launcher;
    }
  }
  set_latch_of(pid);
}

}  // namespace shared
}  // namespace worker
