#include "pg/extension.hpp"

#include "core/error.hpp"
#include "core/version_order.hpp"
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
  Extension extension = require_extension_of_any_version();
  if (const auto problem = version_problem(extension)) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState, problem->finding, {},
                      problem->hint);
  }
  return extension;
}

Extension require_extension_of_any_version() {
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

std::optional<VersionProblem> version_problem(const Extension& extension) {
  if (extension.version == kLibraryVersion) {
    return std::nullopt;
  }
  VersionProblem problem{core::is_older(kLibraryVersion, extension.version),
                         "the SQL objects of bacmr_ops in this database are of version " +
                             extension.version + ", its library of version " + kLibraryVersion,
                         "Run ALTER EXTENSION bacmr_ops UPDATE in this database."};
  if (problem.library_is_older) {
    problem.hint = "Install the library of version " + extension.version +
                   ", and restart the server: one that was loaded is not replaced before that.";
  }
  return problem;
}

}  // namespace pg
