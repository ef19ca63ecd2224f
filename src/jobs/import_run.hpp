// An import with its book-keeping.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/import.hpp"
#include "pg/extension.hpp"

#include <cstdint>
#include <string>

namespace jobs {

struct ImportRequest {
  Oid relation = InvalidOid;  // InvalidOid: the attached chunks
  std::string source;
  OnConflict on_conflict = OnConflict::kError;
  UnknownColumns unknown_columns = UnknownColumns::kError;
};

// Does the import and finishes the run's row. Needs an SPI connection.
ImportCounts run_import(const pg::Extension& extension, const ImportRequest& request,
                        std::int64_t run_id, const std::string& request_id);

}  // namespace jobs
