// The hash table of the reconciliation scan: user -> sum of deltas. Open addressing with linear
// probing, entries of half a cache line, memory bounded by the caller.
//
// It never throws and never sums wrongly: what does not fit (memory, a sum beyond 64 bits, a count
// beyond 32) makes it say `false`, and the caller takes another way.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "core/uuid.hpp"

namespace core {

// The 64-bit mixer of SplitMix64 (Steele, Lea, Flood 2014): identity values and
// version-7 uuids are far from random in their high bits.
inline std::uint64_t mix64(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}
// With a seed that nobody outside knows, keys cannot be chosen so that they all collide.
inline std::uint64_t hash_key(std::int64_t key, std::uint64_t seed) noexcept {
  return mix64(mix64(static_cast<std::uint64_t>(key) ^ seed) + seed);
}
inline std::uint64_t hash_key(const Uuid& key, std::uint64_t seed) noexcept {
  return mix64(mix64(key.high ^ seed) ^ key.low);
}

template <class Key>
class SumTable {
 public:
  struct Entry {
    Key key;
    std::int64_t sum;
    std::uint32_t rows;   // 0 marks a free slot
    std::uint32_t nulls;  // rows whose delta was NULL; the top bit is `seen`
  };

  // `max_bytes`: what the table may hold at any moment, while it grows included. `seed`: a random
  // number.
  SumTable(std::size_t max_bytes, std::uint64_t seed) noexcept
      : max_bytes_(max_bytes), seed_(seed) {}

  std::size_t size() const noexcept { return used_; }

  void prefetch(const Key& key) const noexcept {
    if (capacity_ != 0) {
      __builtin_prefetch(&slots_[hash_key(key, seed_) & (capacity_ - 1)], 1);
    }
  }

  // Adds `rows` ledger rows, `nulls` of them without a delta, with the sum `sum`.
  [[nodiscard]] bool add(const Key& key, std::int64_t sum, std::uint32_t rows,
                         std::uint32_t nulls) noexcept {
    // Filled to 5/8 at the most: with linear probing a miss then costs 4 probes on average (Knuth,
    // TAOCP 3, 6.4).
    if (used_ * 8 >= capacity_ * 5 && !grow()) {
      return false;
    }
    Entry& entry = locate(key);
    if (entry.rows == 0) {
      entry.key = key;
      ++used_;
    }
    return !__builtin_add_overflow(entry.sum, sum, &entry.sum) &&
           !__builtin_add_overflow(entry.rows, rows, &entry.rows) &&
           !__builtin_add_overflow(entry.nulls, nulls, &entry.nulls) && (entry.nulls >> 31) == 0;
  }

  // The entry of `key`, or nullptr.
  Entry* find(const Key& key) noexcept {
    if (capacity_ == 0) {
      return nullptr;
    }
    Entry& entry = locate(key);
    return entry.rows == 0 ? nullptr : &entry;
  }

  static void mark_seen(Entry& entry) noexcept { entry.nulls |= kSeen; }
  static bool seen(const Entry& entry) noexcept { return (entry.nulls & kSeen) != 0; }
  static std::uint32_t null_rows(const Entry& entry) noexcept { return entry.nulls & ~kSeen; }

  template <class Visitor>
  void for_each(Visitor visit) const {
    for (std::size_t i = 0; i < capacity_; ++i) {
      if (slots_[i].rows != 0) {
        visit(slots_[i]);
      }
    }
  }

  // The slots as they lie in memory, free ones included: what a worker sends to its leader.
  const Entry* slots() const noexcept { return slots_.get(); }
  std::size_t capacity() const noexcept { return capacity_; }

 private:
  static constexpr std::uint32_t kSeen = 1U << 31;
  static constexpr std::size_t kFirstCapacity = 1024;

  struct Free {
    void operator()(Entry* slots) const noexcept { std::free(slots); }
  };
  using Slots = std::unique_ptr<Entry[], Free>;

  Entry& locate(const Key& key) noexcept { return locate_in(slots_.get(), capacity_, key); }

  Entry& locate_in(Entry* slots, std::size_t capacity, const Key& key) const noexcept {
    std::size_t i = hash_key(key, seed_) & (capacity - 1);
    while (slots[i].rows != 0 && !(slots[i].key == key)) {
      i = (i + 1) & (capacity - 1);
    }
    return slots[i];
  }

  bool grow() noexcept {
    const std::size_t larger = capacity_ == 0 ? kFirstCapacity : capacity_ * 2;
    if ((capacity_ + larger) * sizeof(Entry) > max_bytes_) {
      return false;
    }
    // calloc rather than palloc: the table outlives memory contexts, fresh pages come zeroed from
    // the kernel, and a failure is a return value, not a jump.
    Slots slots(static_cast<Entry*>(std::calloc(larger, sizeof(Entry))));
    if (!slots) {
      return false;
    }
    for_each([&](const Entry& entry) { locate_in(slots.get(), larger, entry.key) = entry; });
    slots_ = std::move(slots);
    capacity_ = larger;
    return true;
  }

  Slots slots_;
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
  std::size_t max_bytes_;
  std::uint64_t seed_;
};

}  // namespace core
