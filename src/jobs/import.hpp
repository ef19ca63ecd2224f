// An import: the rows of an export into a table, all of them or none.
#pragma once

#include "pg/postgres.hpp"

#include "core/copy_text.hpp"
#include "jobs/artifact_source.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace jobs {

enum class OnConflict { kError, kSkip, kUpdate };
// 'error', 'skip', 'update'; 22023 for anything else.
OnConflict checked_on_conflict(const std::optional<std::string>& name);
enum class UnknownColumns { kError, kIgnore };
UnknownColumns checked_unknown_columns(const std::optional<std::string>& name);

struct ImportCounts {
  std::uint64_t read = 0;
  std::uint64_t inserted = 0;
  std::uint64_t updated = 0;
  std::uint64_t skipped = 0;
};

// A column of the table that rows go to.
struct TargetColumn {
  std::string name;
  std::string quoted;
  std::string type;  // for SQL text
  Oid type_oid = InvalidOid;
  bool generated = false;
  bool identity_always = false;
};
std::vector<TargetColumn> target_columns(Oid relation);

// Loads `source` into `relation`, which has the columns `columns`; keys that are not among these
// are left out. Checks afterwards that all that was read is what the manifest states. Errors name
// the line. Returns how many rows were inserted.
std::uint64_t load_rows(const ArtifactSource& source, Oid relation,
                        const std::vector<TargetColumn>& columns);

// Needs an SPI connection, and the caller's own rights.
ImportCounts import_rows(const ArtifactSource& source, Oid relation, OnConflict on_conflict,
                         UnknownColumns unknown);

}  // namespace jobs
