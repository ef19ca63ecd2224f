// Which of a set of exports are old enough to go.
#pragma once

#include <cstddef>
#include <ctime>
#include <set>
#include <string>
#include <vector>

namespace core {

struct Retention {
  std::size_t keep = 1;                   // the latest ones
  std::time_t younger_than = 0;           // seconds of age below which all stay
  std::set<std::string> protected_names;  // never removed
};

// `files`: names in one folder. Considered are those named
// dr_export_<name>_YYYYMMDD_HHMMSS[_n].ndjson with any suffix of a compression, whose manifest is
// among `files` too, and whose time is not later than `now`. Returns what may go, oldest first.
std::vector<std::string> expired_exports(const std::vector<std::string>& files,
                                         const std::string& name, const Retention& retention,
                                         std::time_t now);

}  // namespace core
