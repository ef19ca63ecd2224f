#include "metrics/registry.hpp"

#include <algorithm>
#include <map>

#include "metrics/saved.hpp"
#include "pg/log.hpp"
#include "pg/settings.hpp"
#include "pg/shared_block.hpp"

extern "C" {
#include "storage/ipc.h"
}

namespace metrics {
namespace {

using core::MetricFamily;
using core::MetricStore;
using core::MetricType;
using core::Series;
using core::SeriesKey;

constexpr const char* kName = "bacmr_ops metrics";

MetricStore* store = nullptr;
LWLock* lock = nullptr;
bool (*worker_probe)(Oid) = nullptr;

struct Locked : pg::LwLocked {
  explicit Locked(LWLockMode mode) : LwLocked(lock, mode) {}
};

Size memory_bytes() { return MetricStore::bytes(pg::settings::metrics_max_series()); }

void save_at_exit(int code, Datum) {
  // After a crash the memory may be damaged.
  if (code == 0) {
    save(*store);
  }
}

void attach(void* memory, bool fresh, LWLock* own_lock) {
  lock = own_lock;
  if (!fresh) {
    store = static_cast<MetricStore*>(memory);
  } else {
    const int series = pg::settings::metrics_max_series();
    store = MetricStore::create(memory, series);
    if (!load(*store)) {
      memset(memory, 0, memory_bytes());
      store = MetricStore::create(memory, series);
    }
  }
  if (!IsUnderPostmaster) {
    on_shmem_exit(save_at_exit, static_cast<Datum>(0));
  }
}

bool in_room_of_own(std::uint32_t family) {
  return family < kMetricCount && is_own(static_cast<Metric>(family));
}

enum class Outcome { kRecorded, kNoRoom, kNew };

// Under a shared lock.
Outcome record_known(const SeriesKey& key, const MetricFamily& family, Change change,
                     double amount) noexcept {
  if (Series* series = store->find(key)) {
    store->record(*series, change, amount, family);
    return Outcome::kRecorded;
  }
  return store->has_room(key, family.type, in_room_of_own(key.family)) ? Outcome::kNew
                                                                       : Outcome::kNoRoom;
}

// Under an exclusive lock.
bool record_new(const SeriesKey& key, const MetricFamily& family, Change change,
                double amount) noexcept {
  Series* series = store->find_or_insert(key, family.type, in_room_of_own(key.family));
  if (series == nullptr) {
    return false;
  }
  store->record(*series, change, amount, family);
  return true;
}

void count_dropped() noexcept {
  const SeriesKey key{MyDatabaseId, static_cast<std::uint32_t>(Metric::kSeriesDropped), {}};
  const MetricFamily& family = family_of(Metric::kSeriesDropped);
  {
    const Locked guard(LW_SHARED);
    if (record_known(key, family, Change::kAdd, 1) != Outcome::kNew) {
      return;
    }
  }
  const Locked guard(LW_EXCLUSIVE);
  record_new(key, family, Change::kAdd, 1);
}

bool still_defined(const Definition& definition) noexcept {
  return definition.number < kMetricCount ||
         (store->find_family(MyDatabaseId, definition.family.name) == definition.number &&
          store->user_family(definition.number).same_shape(definition.family));
}

core::HistogramSample copy_histogram(const core::Histogram& histogram, const MetricFamily& family) {
  core::HistogramSample copy;
  // The count is the sum of the buckets: they agree, whatever is recorded at this moment.
  for (int i = 0; i <= family.bound_count; ++i) {
    copy.count += histogram.buckets[i].load(std::memory_order_relaxed);
    copy.cumulative.push_back(copy.count);
  }
  copy.sum = histogram.sum.load();
  copy.lowest = histogram.lowest.load();
  copy.highest = histogram.highest.load();
  std::vector<std::uint64_t> bins;
  bins.reserve(core::sketch::kBins);
  for (const auto& bin : histogram.bins) {
    bins.push_back(bin.load(std::memory_order_relaxed));
  }
  const auto quantile = [&](double q) {
    return core::sketch::quantile(bins, q, copy.lowest, copy.highest);
  };
  copy.p50 = quantile(0.5);
  copy.p95 = quantile(0.95);
  copy.p99 = quantile(0.99);
  return copy;
}

using Families = std::map<std::uint32_t, FamilyCopy>;

void copy_series(Families& families, const Series& series) {
  const bool is_user = series.family >= MetricStore::kFirstUserFamily;
  FamilyCopy& family = families[series.family];
  if (family.series.empty()) {
    family.family = is_user ? store->user_family(series.family) : catalog()[series.family];
  }
  SeriesCopy copy{series.database, std::string(series.key().labels), series.value.load(), {}};
  if (family.family.type == MetricType::kHistogram) {
    copy.histogram = copy_histogram(store->histogram(series), family.family);
    if (copy.histogram.count == 0) {
      return;  // made this very moment
    }
  }
  family.series.push_back(std::move(copy));
}

// What is known without being recorded.
void add_computed(Families& families, std::uint32_t in_use, const std::set<Oid>& databases,
                  const std::function<bool(const MetricFamily&)>& wanted) {
  const auto add = [&](Metric metric, Oid database, double value) {
    if (wanted(family_of(metric))) {
      FamilyCopy& family = families[static_cast<std::uint32_t>(metric)];
      family.family = family_of(metric);
      family.series.push_back({database, {}, value, {}});
    }
  };
  for (const Oid database : databases) {
    add(Metric::kWorkerUp, database, worker_probe != nullptr && worker_probe(database) ? 1 : 0);
    add(Metric::kSeriesInUse, database, in_use);
  }
}

}  // namespace

void install() {
  catalog();  // made now, before the first recording
  pg::add_shared_block({kName, memory_bytes, attach});
}

bool is_loaded() noexcept { return store != nullptr; }

bool available() {
  static bool said = false;
  if (store == nullptr && !said) {
    said = true;
    pg::warn_client("metrics are not kept: bacmr_ops is not in shared_preload_libraries", {},
                    "Add it there and restart the server.");
  }
  return store != nullptr;
}

void record(Metric metric, const LabelValues& labels, Change change, double amount) noexcept {
  record(Definition{static_cast<std::uint32_t>(metric), family_of(metric)}, labels, change, amount);
}

void reject(const char* reason) noexcept {
  LabelValues labels;
  if (labels.add(reason)) {
    record(Metric::kRejected, labels, Change::kAdd, 1);
  }
}

std::optional<Definition> find_definition(std::string_view name) {
  for (std::uint32_t i = 0; i < kMetricCount; ++i) {
    if (name == catalog()[i].name) {
      return Definition{i, catalog()[i]};
    }
  }
  if (store == nullptr) {
    return std::nullopt;
  }
  const Locked guard(LW_SHARED);
  const std::uint32_t number = store->find_family(MyDatabaseId, name);
  if (number == 0) {
    return std::nullopt;
  }
  return Definition{number, store->user_family(number)};
}

bool record(const Definition& definition, const LabelValues& labels, Change change,
            double amount) noexcept {
  if (store == nullptr || MyDatabaseId == InvalidOid) {
    return true;
  }
  const SeriesKey key{MyDatabaseId, definition.number, labels.bytes()};
  const MetricFamily& family = definition.family;
  Outcome outcome = Outcome::kRecorded;
  {
    const Locked guard(LW_SHARED);
    if (!still_defined(definition)) {
      return false;
    }
    outcome = record_known(key, family, change, amount);
  }
  if (outcome == Outcome::kNew) {
    const Locked guard(LW_EXCLUSIVE);
    if (!still_defined(definition)) {
      return false;
    }
    outcome = record_new(key, family, change, amount) ? Outcome::kRecorded : Outcome::kNoRoom;
  }
  if (outcome == Outcome::kNoRoom) {
    count_dropped();
  }
  return true;
}

bool define(const core::MetricFamily& family) noexcept {
  if (store == nullptr) {
    return true;
  }
  const Locked guard(LW_EXCLUSIVE);
  return store->define(MyDatabaseId, family) != 0;
}

bool undefine(std::string_view name) noexcept {
  if (store == nullptr) {
    return false;
  }
  const Locked guard(LW_EXCLUSIVE);
  const bool known = store->find_family(MyDatabaseId, name) != 0;
  store->undefine(MyDatabaseId, name);
  return known;
}

void reset() noexcept {
  if (store != nullptr) {
    const Locked guard(LW_EXCLUSIVE);
    store->erase_if([](const Series& series) { return series.database == MyDatabaseId; });
  }
}

void forget(Metric metric) noexcept {
  const auto wanted = [metric](const Series& series) {
    return series.database == MyDatabaseId && series.family == static_cast<std::uint32_t>(metric);
  };
  if (store != nullptr) {
    const Locked guard(LW_EXCLUSIVE);
    store->erase_if(wanted);
  }
}

namespace {

// Most of the time there is nothing to forget: it looks first, under the shared lock.
template <class Condition>
void forget_databases(Condition condition) noexcept {
  if (store == nullptr) {
    return;
  }
  bool any = false;
  {
    const Locked guard(LW_SHARED);
    store->for_each([&](const Series& series) { any = any || condition(series.database); });
    store->for_each_family(
        [&](const core::UserFamily& each) { any = any || condition(each.database); });
  }
  if (any) {
    const Locked guard(LW_EXCLUSIVE);
    store->erase_databases(condition);
  }
}

}  // namespace

void forget_this_database() noexcept {
  forget_databases([](Oid database) { return database == MyDatabaseId; });
}

void forget_databases_except(const std::set<Oid>& present) noexcept {
  forget_databases([&](Oid database) { return !present.contains(database); });
}

std::vector<core::Sample> FamilyCopy::samples(
    const std::function<std::string_view(Oid)>& database_name) const {
  std::vector<core::Sample> result;
  result.reserve(series.size());
  for (const SeriesCopy& each : series) {
    core::Sample sample;
    if (database_name) {
      sample.labels.emplace_back("datname", database_name(each.database));
    }
    std::size_t i = 0;
    for (const std::string_view value : core::unpack_label_values(each.labels)) {
      sample.labels.emplace_back(family.labels[i++], value);
    }
    sample.value = each.value;
    sample.histogram = each.histogram;
    result.push_back(std::move(sample));
  }
  return result;
}

std::vector<FamilyCopy> read(Oid database, std::optional<std::string_view> only) {
  if (store == nullptr) {
    return {};
  }
  const auto wanted = [&](const MetricFamily& family) { return !only || *only == family.name; };
  Families families;
  std::set<Oid> databases;
  std::uint32_t in_use = 0;
  {
    const Locked guard(LW_SHARED);
    in_use = store->in_use();
    store->for_each([&](const Series& series) {
      if (!OidIsValid(database) || series.database == database) {
        databases.insert(series.database);
        if (wanted(series.family >= MetricStore::kFirstUserFamily
                       ? store->user_family(series.family)
                       : catalog()[series.family])) {
          copy_series(families, series);
        }
      }
    });
  }
  if (OidIsValid(database)) {
    databases.insert(database);
  }
  add_computed(families, in_use, databases, wanted);
  std::vector<FamilyCopy> result;
  for (auto& [number, family] : families) {
    std::ranges::sort(family.series, {}, [](const SeriesCopy& each) {
      return std::pair(each.database, core::unpack_label_values(each.labels));
    });
    result.push_back(std::move(family));
  }
  // The catalogue's stay in front: their numbers are lower.
  std::stable_sort(result.begin(), result.end(), [](const FamilyCopy& a, const FamilyCopy& b) {
    const auto rank = [](const FamilyCopy& each) {
      const auto found = std::ranges::find_if(catalog(), [&](const MetricFamily& family) {
        return std::string_view(family.name) == each.family.name;
      });
      return found - catalog().begin();
    };
    return std::pair(rank(a), std::string_view(a.family.name)) <
           std::pair(rank(b), std::string_view(b.family.name));
  });
  return result;
}

void set_worker_probe(bool (*probe)(Oid database)) { worker_probe = probe; }

}  // namespace metrics
