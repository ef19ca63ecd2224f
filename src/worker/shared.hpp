// What launcher, workers and backends tell each other, in shared memory.
//
// Each database that has a worker owns a slot. Holds name databases that a command needs for itself
// (DROP DATABASE and the like): no worker may be there. Plain data, no pointers; one LWLock.
#pragma once

#include "pg/postgres.hpp"

#include <cstdint>
#include <optional>
#include <string>

extern "C" {
#include "datatype/timestamp.h"
}

namespace worker {

enum class State : std::int32_t {
  kStarting,
  kIdle,
  kExpiring,
  kPaused,
  kUnattached,
  kUnfit,
  kBackingOff,
};
const char* name_of(State state);

// What became of a worker that is gone.
enum class Departure : std::int32_t { kNone, kNoExtension, kAsked };

struct SlotView {
  int pid = 0;
  State state = State::kStarting;
  TimestampTz last_tick = 0;
  TimestampTz next_tick = 0;
  TimestampTz last_expired = 0;
  std::string last_error;
};

namespace shared {

// Requests and finds the memory: hooks of the postmaster, set once while preloading.
void install();

// The launcher.
void set_launcher(int pid);
int launcher_pid();
void set_start_problem(const std::string& problem);  // '' when there is none
std::string start_problem();
// A database whose extension may have appeared or changed since the last call, if any.
std::optional<Oid> take_changed();
bool take_all_changed();  // there were too many to name
void drop_stale_holds();
bool is_held(Oid database);
// How the latest worker of `database` left; forgets it.
Departure take_departure(Oid database);

// A worker, about its own slot.
bool claim(Oid database);
void set_departure(Departure departure);
void release();
void publish(State state, TimestampTz next_tick);
void publish_tick(TimestampTz last_tick, bool expired, const std::string& error);
bool take_wake();
bool has_reindexer();  // of the worker's database

// The process that works on reindex jobs. False where there is one already, or no worker that it
// belongs to.
bool claim_reindexer(Oid database);
void release_reindexer();

bool must_leave();  // a command needs the database

// Any backend.
std::optional<SlotView> view(Oid database);
// Until the transaction ends, no worker may be in `database`; the one that is there is told to go.
void hold(Oid database);
void unhold_all();
// Wakes this database's worker, or the launcher where there is none.
void wake();

}  // namespace shared
}  // namespace worker
