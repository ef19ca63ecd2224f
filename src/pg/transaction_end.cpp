#include "pg/transaction_end.hpp"

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "pg/guard.hpp"

extern "C" {
#include "access/xact.h"
}

namespace pg {
namespace {

// Something that waits for the end of the subtransaction in which it was said.
template <class What>
struct Pending {
  What what;
  SubTransactionId owner;
};

// The callbacks below call nothing of Postgres' and do not allocate: they run while a transaction
// is already ending and must not fail.
std::vector<Pending<std::string>> pending_files;
std::vector<Pending<std::function<void()>>> pending_actions;
bool wake_wanted = false;
void (*wake_function)() = nullptr;
bool release_wanted = false;
void (*release_function)() = nullptr;

void release() {
  if (release_wanted && release_function != nullptr) {
    release_function();
  }
  release_wanted = false;
}

template <class Condition>
void remove_files(Condition condition) {
  std::erase_if(pending_files, [&](const auto& file) {
    if (!condition(file)) {
      return false;
    }
    ::unlink(file.what.c_str());
    return true;
  });
}

void act() {
  for (const auto& action : pending_actions) {
    action.what();
  }
  pending_actions.clear();
}

template <class What>
void hand_over(std::vector<Pending<What>>& list, SubTransactionId from, SubTransactionId to) {
  for (Pending<What>& each : list) {
    if (each.owner == from) {
      each.owner = to;
    }
  }
}

void on_transaction(XactEvent event, void*) {
  switch (event) {
    case XACT_EVENT_COMMIT:
      act();
      [[fallthrough]];
    case XACT_EVENT_PREPARE:
      pending_actions.clear();
      pending_files.clear();
      release();
      if (wake_wanted && wake_function != nullptr) {
        wake_function();
      }
      wake_wanted = false;
      break;
    case XACT_EVENT_ABORT:
      remove_files([](const auto&) { return true; });
      pending_actions.clear();
      release();
      wake_wanted = false;
      break;
    default:
      break;
  }
}

void on_subtransaction(SubXactEvent event, SubTransactionId self, SubTransactionId parent, void*) {
  if (event == SUBXACT_EVENT_ABORT_SUB) {
    remove_files([self](const auto& file) { return file.owner == self; });
    std::erase_if(pending_actions, [self](const auto& action) { return action.owner == self; });
  } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
    hand_over(pending_files, self, parent);
    hand_over(pending_actions, self, parent);
  }
}

}  // namespace

void watch_transactions() {
  RegisterXactCallback(on_transaction, nullptr);
  RegisterSubXactCallback(on_subtransaction, nullptr);
}

void set_wake(void (*function)()) { wake_function = function; }

void wake_worker_at_commit() { wake_wanted = true; }

void set_release(void (*function)()) { release_function = function; }

void release_at_end() { release_wanted = true; }

void at_commit(std::function<void()> action) {
  pending_actions.push_back({std::move(action), GetCurrentSubTransactionId()});
}

void remove_file_at_abort(const std::string& path) {
  pending_files.push_back({path, GetCurrentSubTransactionId()});
}

}  // namespace pg
