// All series of all metrics, in one block of memory that processes share: no pointers inside, and
// atomics for every value, so that any number of processes record at once.
//
// The store does not lock. The caller sees to it that record() and the readers run under a shared
// lock, and what changes the set of series (insert, erase, families, load) under an exclusive one.
//
// What a series costs: some 570 bytes, its share of the index included, and 17 kB more for a
// histogram (its buckets, and the bins of a sketch that knows any quantile within 1 %). A quarter
// of the series may be histograms. A quarter of all room is kept for the extension's own metrics,
// and no metric of a database takes more than a quarter.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

#include "core/label_values.hpp"
#include "core/metric_family.hpp"
#include "core/quantile_sketch.hpp"

namespace core {

// A double in shared memory, with the operations that Prometheus' types need.
class AtomicDouble {
 public:
  double load() const noexcept { return std::bit_cast<double>(bits_.load(kOrder)); }
  void store(double value) noexcept { bits_.store(std::bit_cast<std::uint64_t>(value), kOrder); }
  void add(double amount) noexcept {
    change([amount](double old) { return old + amount; });
  }
  void at_most(double value) noexcept {
    change([value](double old) { return value < old ? value : old; });
  }
  void at_least(double value) noexcept {
    change([value](double old) { return value > old ? value : old; });
  }

 private:
  static constexpr auto kOrder = std::memory_order_relaxed;

  template <class Function>
  void change(Function function) noexcept {
    std::uint64_t old = bits_.load(kOrder);
    for (;;) {
      const auto wanted = std::bit_cast<std::uint64_t>(function(std::bit_cast<double>(old)));
      if (wanted == old || bits_.compare_exchange_weak(old, wanted, kOrder)) {
        return;
      }
    }
  }

  std::atomic<std::uint64_t> bits_;
};

struct Histogram {
  static constexpr double kNone = std::numeric_limits<double>::infinity();

  AtomicDouble sum;
  AtomicDouble lowest;                                               // kNone: nothing observed yet
  AtomicDouble highest;                                              // -kNone
  std::atomic<std::uint64_t> buckets[MetricFamily::kMaxBounds + 1];  // each for itself, +Inf last
  std::atomic<std::uint64_t> bins[sketch::kBins];

  void clear() noexcept;
  void observe(double value, const MetricFamily& family) noexcept;
};

// Which series: of which database and family, with which label values.
struct SeriesKey {
  std::uint32_t database = 0;
  std::uint32_t family = 0;
  std::string_view labels;  // LabelValues::bytes()

  std::uint64_t hash() const noexcept;
};

struct Series {
  std::uint32_t database;  // 0: free
  std::uint32_t family;
  std::uint64_t hash;
  AtomicDouble value;      // of a counter or gauge
  std::int32_t histogram;  // -1: none
  std::uint16_t label_bytes;
  bool own;  // from the room that is kept for the extension's own metrics
  char labels[LabelValues::kMaxBytes];

  SeriesKey key() const noexcept { return {database, family, {labels, label_bytes}}; }
};

// A family that a user of one database defined.
struct UserFamily {
  std::uint32_t database;  // 0: free
  MetricFamily family;
};

enum class Change : std::uint8_t { kAdd, kSet, kObserve };

class MetricStore {
 public:
  // Families from this number on are users'; those below are known to the caller.
  static constexpr std::uint32_t kFirstUserFamily = 1000;
  static constexpr std::uint32_t kMaxUserFamilies = 256;

  static std::size_t bytes(std::uint32_t max_series) noexcept;
  // In a block of zeroed memory of that size, aligned to 8 bytes.
  static MetricStore* create(void* memory, std::uint32_t max_series) noexcept;

  // --- under a shared lock ---

  // nullptr where there is none.
  Series* find(const SeriesKey& key) noexcept;
  const Series* find(const SeriesKey& key) const noexcept {
    return const_cast<MetricStore*>(this)->find(key);
  }
  // `family`: that of the series.
  void record(Series& series, Change change, double amount, const MetricFamily& family) noexcept;
  const Histogram& histogram(const Series& series) const noexcept {
    return histograms()[series.histogram];
  }
  // Whether a series with this key would find room.
  bool has_room(const SeriesKey& key, MetricType type, bool own) const noexcept;
  std::uint32_t in_use() const noexcept { return used_[0] + used_[1]; }
  std::uint32_t max_series() const noexcept { return max_series_; }
  template <class Visitor>
  void for_each(Visitor visit) const {
    for (std::uint32_t i = 0; i < max_series_; ++i) {
      if (series()[i].database != 0) {
        visit(series()[i]);
      }
    }
  }
  template <class Visitor>
  void for_each_family(Visitor visit) const {
    for (std::uint32_t i = 0; i < kMaxUserFamilies; ++i) {
      if (families()[i].database != 0) {
        visit(static_cast<const UserFamily&>(families()[i]));
      }
    }
  }
  // The number of a family that was defined in a database; 0 where it was not.
  std::uint32_t find_family(std::uint32_t database, std::string_view name) const noexcept;
  const MetricFamily& user_family(std::uint32_t number) const noexcept {
    return families()[number - kFirstUserFamily].family;
  }

  // --- under an exclusive lock ---

  // The series of that key, made if need be; nullptr where there is no room for it.
  Series* find_or_insert(const SeriesKey& key, MetricType type, bool own) noexcept;
  // Puts a family in place of the one of that name, whose series go if it had another shape.
  // Returns its number; 0 where there is no room.
  std::uint32_t define(std::uint32_t database, const MetricFamily& family) noexcept;
  void undefine(std::uint32_t database, std::string_view name) noexcept;

  template <class Condition>
  void erase_if(Condition condition) noexcept {
    bool any = false;
    for (std::uint32_t i = 0; i < max_series_; ++i) {
      Series& each = series()[i];
      if (each.database != 0 && condition(static_cast<const Series&>(each))) {
        release(each);
        any = true;
      }
    }
    if (any) {
      rebuild_index();
    }
  }
  // Everything of the databases that the condition names, their families too.
  template <class Condition>
  void erase_databases(Condition condition) noexcept {
    erase_if([&](const Series& each) { return condition(each.database); });
    for (std::uint32_t i = 0; i < kMaxUserFamilies; ++i) {
      if (families()[i].database != 0 && condition(families()[i].database)) {
        families()[i] = UserFamily{};
      }
    }
  }
  // For a histogram that is read back from a file.
  Histogram& mutable_histogram(const Series& series) noexcept {
    return histograms()[series.histogram];
  }

 private:
  struct Layout;
  MetricStore() = default;

  template <class Part>
  Part* at(std::size_t offset) const noexcept {
    return reinterpret_cast<Part*>(reinterpret_cast<char*>(const_cast<MetricStore*>(this)) +
                                   offset);
  }
  Series* series() const noexcept { return at<Series>(series_offset_); }
  Histogram* histograms() const noexcept { return at<Histogram>(histograms_offset_); }
  // 1: taken.
  std::uint8_t* histogram_taken() const noexcept { return at<std::uint8_t>(taken_offset_); }
  UserFamily* families() const noexcept { return at<UserFamily>(families_offset_); }
  // Numbers of series, counted from 1, by hash; linear probing; 0: free.
  std::uint32_t* index() const noexcept { return at<std::uint32_t>(index_offset_); }

  // How many series a family has in a database: kept, so that a recording that finds no room
  // learns that at once.
  struct FamilyCount {
    std::uint32_t database;
    std::uint32_t family;
    std::uint32_t series;  // 0: free
  };
  FamilyCount* counts() const noexcept { return at<FamilyCount>(counts_offset_); }
  FamilyCount& count_of(std::uint32_t database, std::uint32_t family) const noexcept;

  void enter(std::uint32_t number) noexcept;
  void rebuild_index() noexcept;
  void release(Series& series) noexcept;

  std::uint32_t max_series_;
  std::uint32_t max_histograms_;
  std::uint32_t index_size_;
  // By whether they are the extension's own.
  std::uint32_t used_[2];
  std::uint32_t used_histograms_[2];
  std::size_t series_offset_;
  std::size_t histograms_offset_;
  std::size_t taken_offset_;
  std::size_t families_offset_;
  std::size_t index_offset_;
  std::size_t counts_offset_;
};

}  // namespace core
