#include "core/metric_file.hpp"

#include <cstring>
#include <type_traits>

namespace core {
namespace {

constexpr std::string_view kMagic = "bacmr_ops metrics 1\n";
constexpr char kFamily = 'F';
constexpr char kSeries = 'S';
constexpr char kEnd = 'E';

class Writer {
 public:
  template <class Value>
  void put(const Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(std::string_view value) {
    put(static_cast<std::uint16_t>(value.size()));
    bytes_.append(value);
  }
  std::string bytes_{kMagic};
};

// Reads past the end as zeroes, and remembers that it did.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  template <class Value>
  void get(Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    if (const std::string_view raw = take(sizeof value); !raw.empty()) {
      std::memcpy(&value, raw.data(), sizeof value);
    }
  }
  template <class Value>
  Value get() {
    Value value{};
    get(value);
    return value;
  }
  std::string_view text() { return take(get<std::uint16_t>()); }
  std::string_view take(std::size_t size) {
    if (size > rest_.size()) {
      whole_ = false;
      rest_ = {};
      return {};
    }
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  bool whole() const { return whole_; }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view rest_;
  bool whole_ = true;
};

bool is_terminated(const char* text, std::size_t size) {
  return std::memchr(text, '\0', size) != nullptr;
}

bool is_sound(const MetricFamily& family) {
  bool sound = family.type <= MetricType::kHistogram &&
               family.label_count <= MetricFamily::kMaxLabels &&
               family.bound_count <= MetricFamily::kMaxBounds &&
               is_terminated(family.name, sizeof family.name) && family.name[0] != '\0' &&
               is_terminated(family.help, sizeof family.help);
  for (const auto& label : family.labels) {
    sound = sound && is_terminated(label, sizeof label);
  }
  return sound;
}

// Field by field: what lies between the fields in memory is nobody's business.
void write_family(Writer& out, const UserFamily& each) {
  out.put(each.database);
  out.put(each.family.type);
  out.put(each.family.label_count);
  out.put(each.family.bound_count);
  out.put(each.family.name);
  out.put(each.family.help);
  out.put(each.family.labels);
  out.put(each.family.bounds);
}

UserFamily read_family(Reader& in) {
  UserFamily each{};
  in.get(each.database);
  in.get(each.family.type);
  in.get(each.family.label_count);
  in.get(each.family.bound_count);
  in.get(each.family.name);
  in.get(each.family.help);
  in.get(each.family.labels);
  in.get(each.family.bounds);
  return each;
}

void write_histogram(Writer& out, const Histogram& histogram, const MetricFamily& family) {
  out.put(family.bound_count);
  for (const double bound : family.buckets()) {
    out.put(bound);
  }
  for (int i = 0; i <= family.bound_count; ++i) {
    out.put(histogram.buckets[i].load());
  }
  out.put(histogram.sum.load());
  out.put(histogram.lowest.load());
  out.put(histogram.highest.load());
  std::uint16_t used = 0;
  for (const auto& bin : histogram.bins) {
    used += bin.load() != 0 ? 1 : 0;
  }
  out.put(used);
  for (std::uint16_t i = 0; i < sketch::kBins; ++i) {
    if (const std::uint64_t count = histogram.bins[i].load(); count != 0) {
      out.put(i);
      out.put(count);
    }
  }
}

// `target`: nullptr where the histogram is only read past.
bool read_histogram(Reader& in, Histogram* target, const MetricFamily* family) {
  const auto bounds = in.get<std::uint8_t>();
  if (bounds > MetricFamily::kMaxBounds) {
    return false;
  }
  bool same = family != nullptr && family->bound_count == bounds;
  for (int i = 0; i < bounds; ++i) {
    const auto bound = in.get<double>();
    same = same && family->bounds[i] == bound;
  }
  Histogram* out = same ? target : nullptr;
  for (int i = 0; i <= bounds; ++i) {
    const auto count = in.get<std::uint64_t>();
    if (out != nullptr) {
      out->buckets[i] = count;
    }
  }
  const auto sum = in.get<double>();
  const auto lowest = in.get<double>();
  const auto highest = in.get<double>();
  if (out != nullptr) {
    out->sum.store(sum);
    out->lowest.store(lowest);
    out->highest.store(highest);
  }
  const auto used = in.get<std::uint16_t>();
  for (int i = 0; i < used && in.whole(); ++i) {
    const auto bin = in.get<std::uint16_t>();
    const auto count = in.get<std::uint64_t>();
    if (bin >= sketch::kBins) {
      return false;
    }
    if (out != nullptr) {
      out->bins[bin] = count;
    }
  }
  return in.whole();
}

// What the head of a series' record says.
struct Head {
  std::uint32_t database;
  std::uint8_t is_user;
  MetricType type;
  std::uint8_t own;
};

}  // namespace

std::string save_metrics(const MetricStore& store, std::span<const MetricFamily> catalog) {
  Writer out;
  store.for_each_family([&](const UserFamily& each) {
    out.put(kFamily);
    write_family(out, each);
  });
  store.for_each([&](const Series& series) {
    const bool is_user = series.family >= MetricStore::kFirstUserFamily;
    const MetricFamily& family =
        is_user ? store.user_family(series.family) : catalog[series.family];
    out.put(kSeries);
    out.put(series.database);
    out.put(static_cast<std::uint8_t>(is_user));
    out.put(family.type);
    out.put(static_cast<std::uint8_t>(series.own));
    out.text(family.name);
    out.text(series.key().labels);
    if (family.type == MetricType::kHistogram) {
      write_histogram(out, store.histogram(series), family);
    } else {
      out.put(series.value.load());
    }
  });
  out.put(kEnd);
  return std::move(out.bytes_);
}

namespace {

bool load_family(Reader& in, MetricStore& store) {
  const UserFamily each = read_family(in);
  if (!in.whole() || each.database == 0 || !is_sound(each.family)) {
    return false;
  }
  store.define(each.database, each.family);
  return true;
}

bool load_series(Reader& in, MetricStore& store, std::span<const MetricFamily> catalog) {
  Head head{};
  head.database = in.get<std::uint32_t>();
  head.is_user = in.get<std::uint8_t>();
  head.type = in.get<MetricType>();
  head.own = in.get<std::uint8_t>();
  const std::string_view name = in.text();
  const std::string_view labels = in.text();
  if (!in.whole() || head.database == 0 || head.type > MetricType::kHistogram) {
    return false;
  }
  SeriesKey key{head.database, 0, labels};
  const MetricFamily* family = nullptr;
  if (head.is_user != 0) {
    key.family = store.find_family(head.database, name);
    family = key.family != 0 ? &store.user_family(key.family) : nullptr;
  } else {
    while (key.family < catalog.size() && name != catalog[key.family].name) {
      ++key.family;
    }
    family = key.family < catalog.size() ? &catalog[key.family] : nullptr;
  }
  const bool known = family != nullptr && family->type == head.type &&
                     unpack_label_values(labels).size() == family->label_count;
  Series* series = known ? store.find_or_insert(key, head.type, head.own != 0) : nullptr;
  if (head.type == MetricType::kHistogram) {
    return read_histogram(in, series != nullptr ? &store.mutable_histogram(*series) : nullptr,
                          known ? family : nullptr);
  }
  const auto value = in.get<double>();
  if (series != nullptr) {
    series->value.store(value);
  }
  return in.whole();
}

}  // namespace

bool load_metrics(MetricStore& store, std::string_view bytes,
                  std::span<const MetricFamily> catalog) {
  if (!bytes.starts_with(kMagic)) {
    return false;
  }
  Reader in(bytes.substr(kMagic.size()));
  for (;;) {
    switch (in.get<char>()) {
      case kFamily:
        if (!load_family(in, store)) {
          return false;
        }
        break;
      case kSeries:
        if (!load_series(in, store, catalog)) {
          return false;
        }
        break;
      case kEnd:
        return in.whole() && in.at_end();
      default:
        return false;
    }
  }
}

}  // namespace core
