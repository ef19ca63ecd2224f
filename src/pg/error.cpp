#include "pg/error.hpp"

#include <new>
#include <string_view>

extern "C" {
#include "utils/memutils.h"
}

namespace pg {

void Error::throw_current(MemoryContext caller) {
  // volatile: they change between sigsetjmp and a jump back to it.
  MemoryContext volatile home = nullptr;
  ErrorData* volatile data = nullptr;
  sigjmp_buf* const outer = PG_exception_stack;
  ErrorContextCallback* const callbacks = error_context_stack;
  sigjmp_buf local;
  if (sigsetjmp(local, 0) == 0) {
    PG_exception_stack = &local;
    // Of its own under the top context: it has to outlive whatever the error destroys.
    home = AllocSetContextCreate(TopMemoryContext, "bacmr_ops error", ALLOCSET_SMALL_SIZES);
    MemoryContextSwitchTo(home);
    data = CopyErrorData();
  }
  PG_exception_stack = outer;
  error_context_stack = callbacks;
  MemoryContextSwitchTo(caller);
  FlushErrorState();
  if (data == nullptr) {
    if (home != nullptr) {
      MemoryContextDelete(home);
    }
    throw std::bad_alloc();
  }
  throw Error(home, data);
}

Error::~Error() {
  if (context_ != nullptr) {
    MemoryContextDelete(context_);
  }
}

std::string Error::summary() const {
  std::string text = message();
  if (data_->detail != nullptr) {
    text.append(" (").append(data_->detail).append(")");
  }
  return text;
}

void Error::prepend(const std::string& text) {
  const std::string longer = text + message();
  // Not by a guard: what has no memory for this throws as C++ does.
  auto* copy = static_cast<char*>(
      MemoryContextAllocExtended(context_, longer.size() + 1, MCXT_ALLOC_NO_OOM));
  if (copy == nullptr) {
    throw std::bad_alloc();
  }
  longer.copy(copy, longer.size());
  copy[longer.size()] = '\0';
  data_->message = copy;
}

bool Error::is_interrupt() const noexcept {
  switch (code()) {
    case ERRCODE_QUERY_CANCELED:
      // Code of the application's may raise it too, or pass it on from another server.
      return data_->filename != nullptr &&
             std::string_view(data_->filename).ends_with("postgres.c");
    case ERRCODE_ADMIN_SHUTDOWN:
    case ERRCODE_CRASH_SHUTDOWN:
    case ERRCODE_DATABASE_DROPPED:
    case ERRCODE_IDLE_SESSION_TIMEOUT:
      return true;
    default:
      return false;
  }
}

ErrorData* Error::release_to(MemoryContext owner) noexcept {
  MemoryContextSetParent(context_, owner);
  context_ = nullptr;
  ErrorData* data = data_;
  data_ = nullptr;
  return data;
}

}  // namespace pg
