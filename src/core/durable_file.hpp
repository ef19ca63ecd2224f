// Files that are whole or not there: written under a temporary name, synced, renamed, and the
// directory synced. Plain POSIX; failures are core::Error with the SQLSTATE that Postgres itself
// would use.
#pragma once

#include <ctime>
#include <string>
#include <string_view>

namespace core {

// "YYYYMMDD_HHMMSS" in UTC.
std::string utc_stamp(std::time_t when);

// Creates `directory` and its missing parents, mode 0700. One that exists is left as it is.
void make_private_directory(const std::string& directory);

// Writes `content` to `<directory>/<stem><suffix>`, mode 0600; where that name is taken, to
// `<stem>_2<suffix>`, `_3` and so on. An existing file is never replaced. Returns the full path.
std::string write_new_file(const std::string& directory, const std::string& stem,
                           const std::string& suffix, std::string_view content);

}  // namespace core
