#include "metrics/definitions.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "metrics/label_text.hpp"
#include "pg/encoding.hpp"
#include "pg/entry.hpp"
#include "pg/extension.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

namespace metrics {
namespace {

using core::MetricFamily;
using core::MetricType;

constexpr const char* kReservedPrefix = "bacmr_";
constexpr const char* kTypes = "The types are: counter, gauge, histogram.";

std::vector<std::string> texts(pg::Spi& spi, const pg::Param& array) {
  const pg::Rows rows =
      spi.query("SELECT v FROM unnest($1) WITH ORDINALITY t(v, n) ORDER BY n", {array});
  std::vector<std::string> values;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    values.push_back(rows.text(i, 0));
  }
  return values;
}

std::vector<double> numbers(pg::Spi& spi, const pg::Param& array) {
  const pg::Rows rows = spi.query(
      "SELECT coalesce(v, 'NaN'), v FROM unnest($1) WITH ORDINALITY"
      " t(v, n) ORDER BY n",
      {array});
  std::vector<double> values;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    values.push_back(DatumGetFloat8(rows.datum(i, 0)));
  }
  return values;
}

std::string table(const pg::Extension& extension) {
  return extension.object("bacmr_metric_definition");
}

// What the table says about a name.
std::optional<MetricFamily> stored_definition(const pg::Extension& extension,
                                              const std::string& name) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  const pg::Rows rows =
      spi.query("SELECT type, help, labels, buckets FROM " + table(extension) + " WHERE name = $1",
                {pg::Param::text(name)});
  if (rows.empty()) {
    return std::nullopt;
  }
  const auto type = core::parse_metric_type(rows.text(0, 0)).value_or(MetricType::kGauge);
  return core::make_family(
      name, type, pg::to_utf8(rows.text(0, 1)).value_or(""), texts(spi, rows.param(0, 2)),
      type == MetricType::kHistogram ? numbers(spi, rows.param(0, 3)) : std::vector<double>());
}

void make_known(const MetricFamily& family) {
  if (!define(family)) {
    throw core::Error("53400", "too many metrics are defined in this server",
                      std::to_string(core::MetricStore::kMaxUserFamilies) +
                          " metrics fit into shared memory, of all databases together.",
                      "SELECT bacmr_metric_undefine(...) those that nobody needs.");
  }
}

// A histogram `whole` and its samples: whole_bucket, whole_sum, whole_count.
bool is_sample_of(std::string_view name, std::string_view whole) {
  return std::ranges::any_of(std::initializer_list<std::string_view>{"_bucket", "_sum", "_count"},
                             [&](std::string_view suffix) {
                               return name.size() == whole.size() + suffix.size() &&
                                      name.starts_with(whole) && name.ends_with(suffix);
                             });
}

void refuse_clash(const MetricFamily& wanted, std::string_view name, MetricType type) {
  if ((type == MetricType::kHistogram && is_sample_of(wanted.name, name)) ||
      (wanted.type == MetricType::kHistogram && is_sample_of(name, wanted.name))) {
    throw core::Error("42710",
                      std::string("the metric \"") + wanted.name + "\" would clash with \"" +
                          std::string(name) + "\"",
                      "A histogram's samples are named _bucket, _sum and _count behind its name.",
                      "Choose another name.");
  }
}

void refuse_built_in(const std::string& name) {
  for (const MetricFamily& family : catalog()) {
    if (name == family.name) {
      throw core::Error("42710", "the metric \"" + name + "\" is built in", {},
                        "Record it, or choose another name.");
    }
  }
  if (name.starts_with(kReservedPrefix)) {
    throw core::Error("42939", "metric names that begin with \"bacmr_\" are reserved", {},
                      "Choose another name.");
  }
}

Datum define_function(pg::Args args) {
  const std::string name = args.text(0, "name");
  const std::string type_name = args.text(1, "type");
  const std::string help = args.text(2).value_or("");
  const auto type = core::parse_metric_type(type_name);
  if (!type) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "unknown metric type \"" + type_name + "\"", {}, kTypes);
  }
  refuse_built_in(name);
  const pg::PinnedSettings settings;
  const pg::Extension extension = pg::require_extension();
  pg::Spi spi;
  const pg::Param labels{TEXTARRAYOID, args.datum(3), args.is_null(3)};
  const pg::Param buckets{FLOAT8ARRAYOID, args.datum(4), args.is_null(4)};
  const auto utf8_help = pg::to_utf8(help);
  if (!utf8_help) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "the help text of a metric has a character that has no form in UTF-8", {},
                      "Write it without that character.");
  }
  const MetricFamily family =
      core::make_family(name, *type, *utf8_help, texts(spi, labels), numbers(spi, buckets));
  for (const MetricFamily& each : catalog()) {
    refuse_clash(family, each.name, each.type);
  }
  const auto before = stored_definition(extension, name);
  if (before && !before->same_shape(family)) {
    throw core::Error("42710",
                      "the metric \"" + name + "\" is defined otherwise: as a " +
                          core::name_of(before->type) + " with other labels or buckets",
                      {},
                      "Use it as it is, or SELECT bacmr_metric_undefine('" + name +
                          "') first: its series go with it.");
  }
  {
    const pg::AsExtensionOwner owner(extension.owner);
    const pg::Rows others =
        spi.query("SELECT name, type FROM " + table(extension) + " WHERE name <> $1",
                  {pg::Param::text(name)});
    for (std::uint64_t i = 0; i < others.size(); ++i) {
      refuse_clash(family, others.text(i, 0),
                   core::parse_metric_type(others.text(i, 1)).value_or(MetricType::kGauge));
    }
    // The buckets as they were given, the default ones for none.
    std::vector<std::string> bounds;
    for (const double bound : family.buckets()) {
      bounds.push_back(core::metric_number(bound));
    }
    spi.query(
        "INSERT INTO " + table(extension) +
            " AS d (name, type, help, labels, buckets) VALUES ($1, $2, $3, coalesce($4, '{}'),"
            " $5::float8[]) ON CONFLICT (name) DO UPDATE SET help = excluded.help"
            " WHERE d.help <> excluded.help",
        {pg::Param::text(name), pg::Param::text(type_name), pg::Param::text(help), labels,
         pg::Param::text_array(bounds)});
  }
  make_known(family);
  return pg::void_result();
}

Datum undefine_function(pg::Args args) {
  const std::string name = args.text(0, "name");
  refuse_built_in(name);
  const pg::PinnedSettings settings;
  const pg::Extension extension = pg::require_extension();
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  // One whose definition was rolled back stands in shared memory alone.
  const bool was_known = undefine(name);
  if (spi.query("DELETE FROM " + table(extension) + " WHERE name = $1", {pg::Param::text(name)})
          .empty() &&
      !was_known) {
    throw core::Error(core::sqlstate::kUndefinedObject,
                      "the metric \"" + name + "\" is not defined", {},
                      "SELECT name FROM bacmr_metric_definition lists those that are.");
  }
  return pg::void_result();
}

}  // namespace

Definition require_definition(const std::string& name) {
  if (const auto known = find_definition(name)) {
    return *known;
  }
  const pg::PinnedSettings settings;
  const pg::Extension extension = pg::require_extension_of_any_version();
  if (const auto stored = stored_definition(extension, name)) {
    make_known(*stored);
    if (const auto known = find_definition(name)) {
      return *known;
    }
  }
  throw core::Error(core::sqlstate::kUndefinedObject, "the metric \"" + name + "\" is not defined",
                    {}, "SELECT bacmr_metric_define('" + name + "', ...) first.");
}

}  // namespace metrics

BACMR_FUNCTION(bacmr_metric_define, metrics::define_function);
BACMR_FUNCTION(bacmr_metric_undefine, metrics::undefine_function);
