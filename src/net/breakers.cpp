#include "net/breakers.hpp"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <string_view>

#include "pg/settings.hpp"
#include "pg/shared_block.hpp"

namespace net {
namespace {

using core::CircuitBreaker;

constexpr const char* kName = "bacmr_ops breakers";
constexpr int kEntries = 256;

struct Entry {
  Oid database = InvalidOid;  // InvalidOid: free
  char server[NAMEDATALEN] = {};
  CircuitBreaker breaker;

  bool is(Oid of, std::string_view name) const noexcept {
    return database == of && name == std::string_view(server);
  }
};

struct Table {
  Entry entries[kEntries];
};

Table* shared = nullptr;
LWLock* lock = nullptr;
Table local;  // this process' own

struct Locked : pg::LwLocked {
  Locked() : LwLocked(lock, LW_EXCLUSIVE) {}
};

void attach(void* memory, bool fresh, LWLock* own_lock) {
  lock = own_lock;
  shared = fresh ? new (memory) Table() : static_cast<Table*>(memory);
}

// The same clock in all processes of the machine.
CircuitBreaker::Time now_ms() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<CircuitBreaker::Time>(now.tv_sec) * 1000 + now.tv_nsec / 1'000'000;
}

CircuitBreaker::Limits limits() noexcept {
  return {pg::settings::breaker_threshold(),
          static_cast<CircuitBreaker::Time>(pg::settings::breaker_cooldown_s()) * 1000};
}

Entry* find(Table& table, std::string_view service) noexcept {
  auto* found = std::find_if(std::begin(table.entries), std::end(table.entries),
                             [&](const Entry& each) { return each.is(MyDatabaseId, service); });
  return found == std::end(table.entries) ? nullptr : found;
}

Entry* find_or_insert(Table& table, std::string_view service) noexcept {
  if (Entry* entry = find(table, service)) {
    return entry;
  }
  auto* free = std::find_if(std::begin(table.entries), std::end(table.entries),
                            [](const Entry& each) { return each.database == InvalidOid; });
  if (free == std::end(table.entries) || service.size() >= NAMEDATALEN) {
    return nullptr;
  }
  *free = Entry();
  free->database = MyDatabaseId;
  service.copy(free->server, service.size());
  return free;
}

// Runs `use` on the service's breaker, if there is one. True where there was.
template <class Use>
bool with_known(Table& table, std::string_view service, Use use) noexcept {
  Entry* entry = find(table, service);
  if (entry == nullptr) {
    return false;
  }
  use(entry->breaker);
  if (entry->breaker.blank()) {
    *entry = Entry();
  }
  return true;
}

template <class Use>
void with_known(std::string_view service, Use use) noexcept {
  if (shared != nullptr) {
    const Locked guard;
    if (with_known(*shared, service, use)) {
      return;
    }
  }
  with_known(local, service, use);
}

}  // namespace

void install_breakers() {
  pg::add_shared_block({kName, [] { return sizeof(Table); }, attach});
}

BreakerPermit admit(const std::string& service) noexcept {
  const auto now = now_ms();
  const auto limit = limits();
  BreakerPermit permit;
  permit.at = now;
  with_known(service, [&](CircuitBreaker& breaker) { permit = breaker.admit(now, limit); });
  return permit;
}

void report_success(const std::string& service, const BreakerPermit& permit) noexcept {
  with_known(service, [&](CircuitBreaker& breaker) { breaker.succeeded(permit); });
}

void report_failure(const std::string& service, const BreakerPermit& permit) noexcept {
  const auto now = now_ms();
  const auto limit = limits();
  if (shared != nullptr && find(local, service) == nullptr) {
    const Locked guard;
    if (Entry* entry = find_or_insert(*shared, service)) {
      entry->breaker.failed(permit, now, limit);
      return;
    }
  }
  if (Entry* entry = find_or_insert(local, service)) {
    entry->breaker.failed(permit, now, limit);
  }
}

void report_abandoned(const std::string& service, const BreakerPermit& permit) noexcept {
  with_known(service, [&](CircuitBreaker& breaker) { breaker.abandoned(permit); });
}

CircuitBreaker::State breaker_state(const std::string& service) noexcept {
  auto state = CircuitBreaker::State::kClosed;
  with_known(service, [&](const CircuitBreaker& breaker) { state = breaker.state(); });
  return state;
}

}  // namespace net
