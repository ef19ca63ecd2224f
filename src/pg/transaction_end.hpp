// What has to happen when the transaction ends, one way or the other.
#pragma once

#include "pg/postgres.hpp"

#include <functional>
#include <string>

namespace pg {

// Registers the callbacks; once, when the library is loaded.
void watch_transactions();

// After the commit of the current transaction, calls what set_wake() named: attachments, pauses and
// schedules changed, so the worker should look again.
void wake_worker_at_commit();
void set_wake(void (*function)());

// However the current transaction ends, calls what set_release() named.
void release_at_end();
void set_release(void (*function)());

// After the commit of the current transaction, calls `action`, unless the subtransaction in which
// this was said is rolled back, or the transaction is prepared for two-phase commit. `action` must
// neither raise nor throw.
void at_commit(std::function<void()> action);

// The file at `path` tells of work in the current (sub)transaction: it is removed if that aborts.
void remove_file_at_abort(const std::string& path);

}  // namespace pg
