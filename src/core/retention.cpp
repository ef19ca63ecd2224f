#include "core/retention.hpp"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "core/manifest.hpp"

namespace core {
namespace {

bool all_digits(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

struct Dated {
  std::time_t when;
  long number;  // of those of one second
  std::string file;
};

// "YYYYMMDD_HHMMSS" or "YYYYMMDD_HHMMSS_n", followed by ".ndjson" and a suffix.
std::optional<Dated> parse(const std::string& file, const std::string& prefix) {
  constexpr std::size_t kStamp = 15;
  if (!file.starts_with(prefix)) {
    return std::nullopt;
  }
  const std::size_t end = file.find(".ndjson", prefix.size() + kStamp);
  if (end == std::string::npos) {
    return std::nullopt;
  }
  const std::string suffix = file.substr(end + 7);
  if (!suffix.empty() && suffix != suffix_of(Compression::kGzip) &&
      suffix != suffix_of(Compression::kZstd)) {
    return std::nullopt;
  }
  const std::string stamp = file.substr(prefix.size(), kStamp);
  const std::string number = file.substr(prefix.size() + kStamp, end - prefix.size() - kStamp);
  if (stamp[8] != '_' || !all_digits(stamp.substr(0, 8)) || !all_digits(stamp.substr(9)) ||
      (!number.empty() &&
       (number[0] != '_' || number.size() > 8 || !all_digits(number.substr(1))))) {
    return std::nullopt;
  }
  const auto field = [&](std::size_t at, std::size_t length) {
    return std::atoi(stamp.substr(at, length).c_str());
  };
  std::tm parts{};
  parts.tm_year = field(0, 4) - 1900;
  parts.tm_mon = field(4, 2) - 1;
  parts.tm_mday = field(6, 2);
  parts.tm_hour = field(9, 2);
  parts.tm_min = field(11, 2);
  parts.tm_sec = field(13, 2);
  return Dated{::timegm(&parts), number.empty() ? 1 : std::atol(number.c_str() + 1), file};
}

}  // namespace

std::vector<std::string> expired_exports(const std::vector<std::string>& files,
                                         const std::string& name, const Retention& retention,
                                         std::time_t now) {
  const std::set<std::string> all(files.begin(), files.end());
  std::vector<Dated> exports;
  for (const std::string& file : files) {
    // One from the future was named while the clock was wrong: it must not pass for the latest, and
    // push out those that were made since.
    if (const auto dated = parse(file, "dr_export_" + name + "_");
        dated && dated->when <= now && all.count(manifest_name(file)) != 0) {
      exports.push_back(*dated);
    }
  }
  std::ranges::sort(exports, [](const Dated& a, const Dated& b) {
    return a.when != b.when ? a.when < b.when : a.number < b.number;
  });
  std::vector<std::string> expired;
  for (std::size_t i = 0; i + retention.keep < exports.size(); ++i) {
    if (now - exports[i].when >= retention.younger_than &&
        retention.protected_names.count(exports[i].file) == 0) {
      expired.push_back(exports[i].file);
    }
  }
  return expired;
}

}  // namespace core
