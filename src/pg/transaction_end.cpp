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

struct PendingFile {
  std::string path;
  SubTransactionId owner;
};

// The callbacks below call nothing of Postgres' and do not allocate: they run while a transaction
// is already ending and must not fail.
std::vector<PendingFile> pending_files;
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
  std::erase_if(pending_files, [&](const PendingFile& file) {
    if (!condition(file)) {
      return false;
    }
    ::unlink(file.path.c_str());
    return true;
  });
}

void on_transaction(XactEvent event, void*) {
  switch (event) {
    case XACT_EVENT_COMMIT:
    case XACT_EVENT_PREPARE:
      pending_files.clear();
      release();
      if (wake_wanted && wake_function != nullptr) {
        wake_function();
      }
      wake_wanted = false;
      break;
    case XACT_EVENT_ABORT:
      remove_files([](const PendingFile&) { return true; });
      release();
      wake_wanted = false;
      break;
    default:
      break;
  }
}

void on_subtransaction(SubXactEvent event, SubTransactionId self, SubTransactionId parent, void*) {
  if (event == SUBXACT_EVENT_ABORT_SUB) {
    remove_files([self](const PendingFile& file) { return file.owner == self; });
  } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
    for (PendingFile& file : pending_files) {
      if (file.owner == self) {
        file.owner = parent;
      }
    }
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

void remove_file_at_abort(const std::string& path) {
  pending_files.push_back({path, GetCurrentSubTransactionId()});
}

}  // namespace pg
