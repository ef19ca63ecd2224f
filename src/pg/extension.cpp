#include "pg/extension.hpp"

#include "core/error.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "access/xlog.h"
}

#ifndef BACMR_OPS_VERSION
#error "the build defines BACMR_OPS_VERSION, from the control file"
#endif

namespace pg {

const char* const kLibraryVersion = BACMR_OPS_VERSION;

std::string Extension::object(const std::string& name) const {
  return quote_qualified(schema, name);
}

std::optional<Extension> find_extension() {
  Spi spi;
  const Rows rows = spi.query(
      "SELECT n.nspname, e.extowner, e.extversion FROM pg_catalog.pg_extension e"
      " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace"
      " WHERE e.extname OPERATOR(pg_catalog.=) 'bacmr_ops'");
  if (rows.empty()) {
    return std::nullopt;
  }
  return Extension{rows.text(0, 0), rows.oid(0, 1), rows.text(0, 2)};
}

Extension require_extension() {
  auto extension = find_extension();
  if (!extension) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "the extension bacmr_ops is not installed in this database", {},
                      "Run CREATE EXTENSION bacmr_ops.");
  }
  return *extension;
}

bool in_recovery() {
  return call([] { return RecoveryInProgress(); });
}

}  // namespace pg
