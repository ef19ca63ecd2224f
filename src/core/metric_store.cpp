#include "core/metric_store.hpp"

#include <algorithm>
#include <new>

#include "core/sum_table.hpp"

namespace core {
namespace {

static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "processes share these");

// What is kept for the extension's own metrics, and the most that one metric may take.
constexpr std::uint32_t share(std::uint32_t room) { return (room + 3) / 4; }

}  // namespace

void Histogram::clear() noexcept {
  sum.store(0);
  lowest.store(kNone);
  highest.store(-kNone);
  for (auto& bucket : buckets) {
    bucket.store(0, std::memory_order_relaxed);
  }
  for (auto& bin : bins) {
    bin.store(0, std::memory_order_relaxed);
  }
}

void Histogram::observe(double value, const MetricFamily& family) noexcept {
  const auto bounds = family.buckets();
  const auto bucket = std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin();
  buckets[bucket].fetch_add(1, std::memory_order_relaxed);
  bins[sketch::bin_of(value)].fetch_add(1, std::memory_order_relaxed);
  sum.add(value);
  lowest.at_most(value);
  highest.at_least(value);
}

std::uint64_t SeriesKey::hash() const noexcept {
  std::uint64_t value = mix64((std::uint64_t{database} << 32) | family);
  std::string_view rest = labels;
  while (!rest.empty()) {
    std::uint64_t word = 0;
    const std::size_t size = std::min(rest.size(), sizeof word);
    std::memcpy(&word, rest.data(), size);
    value = mix64(value ^ word) + size;
    rest.remove_prefix(size);
  }
  return value;
}

struct MetricStore::Layout {
  explicit Layout(std::uint32_t max_series)
      : max_histograms(share(max_series)),
        // At most a quarter full: a look-up for what is not there ends soon.
        index_size(std::bit_ceil(max_series * 4)) {
    add(sizeof(MetricStore));
    series = add(max_series * sizeof(Series));
    histograms = add(max_histograms * sizeof(Histogram));
    taken = add(max_histograms);
    families = add(kMaxUserFamilies * sizeof(UserFamily));
    index = add(index_size * sizeof(std::uint32_t));
    counts = add(index_size * sizeof(FamilyCount));
  }

  std::size_t add(std::size_t size) {
    const std::size_t offset = total;
    total += (size + 7) / 8 * 8;
    return offset;
  }

  std::uint32_t max_histograms;
  std::uint32_t index_size;
  std::size_t series = 0;
  std::size_t histograms = 0;
  std::size_t taken = 0;
  std::size_t families = 0;
  std::size_t index = 0;
  std::size_t counts = 0;
  std::size_t total = 0;
};

std::size_t MetricStore::bytes(std::uint32_t max_series) noexcept {
  return Layout(max_series).total;
}

MetricStore* MetricStore::create(void* memory, std::uint32_t max_series) noexcept {
  const Layout layout(max_series);
  auto* store = new (memory) MetricStore();
  store->max_series_ = max_series;
  store->max_histograms_ = layout.max_histograms;
  store->index_size_ = layout.index_size;
  store->series_offset_ = layout.series;
  store->histograms_offset_ = layout.histograms;
  store->taken_offset_ = layout.taken;
  store->families_offset_ = layout.families;
  store->index_offset_ = layout.index;
  store->counts_offset_ = layout.counts;
  return store;
}

Series* MetricStore::find(const SeriesKey& key) noexcept {
  const std::uint64_t hash = key.hash();
  const std::uint32_t mask = index_size_ - 1;
  for (auto i = static_cast<std::uint32_t>(hash) & mask; index()[i] != 0; i = (i + 1) & mask) {
    Series& each = series()[index()[i] - 1];
    if (each.hash == hash && each.database == key.database && each.family == key.family &&
        each.key().labels == key.labels) {
      return &each;
    }
  }
  return nullptr;
}

void MetricStore::record(Series& series, Change change, double amount,
                         const MetricFamily& family) noexcept {
  switch (change) {
    case Change::kAdd:
      series.value.add(amount);
      break;
    case Change::kSet:
      series.value.store(amount);
      break;
    case Change::kObserve:
      mutable_histogram(series).observe(amount, family);
      break;
  }
}

bool MetricStore::has_room(const SeriesKey& key, MetricType type, bool own) const noexcept {
  const auto fits = [own](std::uint32_t all, const std::uint32_t(&used)[2]) {
    return used[own ? 1 : 0] < (own ? share(all) : all - share(all));
  };
  const bool histogram = type == MetricType::kHistogram;
  const std::uint32_t of_family = count_of(key.database, key.family).series;
  return fits(max_series_, used_) && (!histogram || fits(max_histograms_, used_histograms_)) &&
         of_family < share(histogram ? max_histograms_ : max_series_);
}

MetricStore::FamilyCount& MetricStore::count_of(std::uint32_t database,
                                                std::uint32_t family) const noexcept {
  const std::uint32_t mask = index_size_ - 1;
  auto i = static_cast<std::uint32_t>(SeriesKey{database, family, {}}.hash()) & mask;
  while (counts()[i].series != 0 &&
         (counts()[i].database != database || counts()[i].family != family)) {
    i = (i + 1) & mask;
  }
  return counts()[i];
}

std::uint32_t MetricStore::find_family(std::uint32_t database,
                                       std::string_view name) const noexcept {
  for (std::uint32_t i = 0; i < kMaxUserFamilies; ++i) {
    const UserFamily& each = families()[i];
    if (each.database == database && name == each.family.name) {
      return kFirstUserFamily + i;
    }
  }
  return 0;
}

Series* MetricStore::find_or_insert(const SeriesKey& key, MetricType type, bool own) noexcept {
  if (Series* found = find(key)) {
    return found;
  }
  if (key.labels.size() > LabelValues::kMaxBytes || !has_room(key, type, own)) {
    return nullptr;
  }
  std::uint32_t number = 0;
  while (series()[number].database != 0) {
    ++number;
  }
  Series& made = series()[number];
  made.histogram = -1;
  if (type == MetricType::kHistogram) {
    std::int32_t free = 0;
    while (histogram_taken()[free] != 0) {
      ++free;
    }
    histogram_taken()[free] = 1;
    histograms()[free].clear();
    made.histogram = free;
    ++used_histograms_[own ? 1 : 0];
  }
  made.database = key.database;
  made.family = key.family;
  made.hash = key.hash();
  made.value.store(0);
  made.own = own;
  made.label_bytes = static_cast<std::uint16_t>(key.labels.size());
  key.labels.copy(made.labels, sizeof made.labels);
  ++used_[own ? 1 : 0];
  enter(number);
  return &made;
}

std::uint32_t MetricStore::define(std::uint32_t database, const MetricFamily& family) noexcept {
  std::uint32_t number = find_family(database, family.name);
  if (number == 0) {
    number = find_family(0, "");
    if (number == 0) {
      return 0;
    }
  } else if (!user_family(number).same_shape(family)) {
    erase_if([&](const Series& each) { return each.family == number; });
  }
  families()[number - kFirstUserFamily] = {database, family};
  return number;
}

void MetricStore::undefine(std::uint32_t database, std::string_view name) noexcept {
  if (const std::uint32_t number = find_family(database, name)) {
    erase_if([&](const Series& each) { return each.family == number; });
    families()[number - kFirstUserFamily] = UserFamily{};
  }
}

void MetricStore::enter(std::uint32_t number) noexcept {
  const Series& entered = series()[number];
  const std::uint32_t mask = index_size_ - 1;
  auto i = static_cast<std::uint32_t>(entered.hash) & mask;
  while (index()[i] != 0) {
    i = (i + 1) & mask;
  }
  index()[i] = number + 1;
  FamilyCount& count = count_of(entered.database, entered.family);
  count = {entered.database, entered.family, count.series + 1};
}

void MetricStore::rebuild_index() noexcept {
  std::fill_n(index(), index_size_, 0U);
  std::fill_n(counts(), index_size_, FamilyCount{});
  for (std::uint32_t i = 0; i < max_series_; ++i) {
    if (series()[i].database != 0) {
      enter(i);
    }
  }
}

void MetricStore::release(Series& series) noexcept {
  if (series.histogram >= 0) {
    histogram_taken()[series.histogram] = 0;
    --used_histograms_[series.own ? 1 : 0];
  }
  --used_[series.own ? 1 : 0];
  series.database = 0;
}

}  // namespace core
