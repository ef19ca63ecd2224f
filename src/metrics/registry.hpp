// The metrics of all databases, in shared memory. Recording takes one lightweight lock in shared
// mode and atomics; nothing here raises, and nothing happens where there is no shared memory.
#pragma once

#include "pg/postgres.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/exposition.hpp"
#include "core/label_values.hpp"
#include "core/metric_store.hpp"
#include "metrics/catalog.hpp"

namespace metrics {

using core::Change;
using core::LabelValues;

// Requests the memory, loads what the last shutdown saved, and saves at the next. Once, while
// preloading.
void install();
// Whether there is shared memory. The first call in a session without says so, once.
bool available();
bool is_loaded() noexcept;  // the same without a word

// --- recording, in this session's database ---

void record(Metric metric, const LabelValues& labels, Change change, double amount) noexcept;
// One more recording that was refused, and why.
void reject(const char* reason) noexcept;

// A metric by its name: where it stands now. `family` is a copy.
struct Definition {
  std::uint32_t number;
  core::MetricFamily family;
};
std::optional<Definition> find_definition(std::string_view name);
// False where the definition has changed meanwhile.
bool record(const Definition& definition, const LabelValues& labels, Change change,
            double amount) noexcept;
// Makes a definition known, or takes it back. False where there is no room for it.
bool define(const core::MetricFamily& family) noexcept;
bool undefine(std::string_view name) noexcept;  // false: there was none

// Forgets every series of this database.
void reset() noexcept;
// Forgets a metric's series in this database; everything of this database, definitions included.
void forget(Metric metric) noexcept;
void forget_this_database() noexcept;
// Forgets what belongs to databases that are not among these.
void forget_databases_except(const std::set<Oid>& present) noexcept;

// --- reading ---

struct SeriesCopy {
  Oid database;
  std::string labels;  // LabelValues::bytes()
  double value = 0;
  core::HistogramSample histogram;
};
struct FamilyCopy {
  core::MetricFamily family;
  std::vector<SeriesCopy> series;  // sorted by database and labels

  // The series as samples; `database_name`: the value of a label `datname` in front, if given.
  // Views into this object and into the names.
  std::vector<core::Sample> samples(
      const std::function<std::string_view(Oid)>& database_name = {}) const;
};
// Of one database, or of all (InvalidOid), in the catalogue's order, users' own after it by name.
// `only`: the family of that name.
std::vector<FamilyCopy> read(Oid database, std::optional<std::string_view> only = {});

// The metrics of all databases in the two forms, each series with the label `datname`.
using DatabaseNames = std::map<Oid, std::string>;
std::string all_as_prometheus(const DatabaseNames& names);
std::string all_as_json(const DatabaseNames& names);

// Says whether a database's worker runs; set by src/worker, which this folder does not know.
void set_worker_probe(bool (*probe)(Oid database));

}  // namespace metrics
