// Where this database keeps the extension's own objects, and whose they are.
#pragma once

#include "pg/postgres.hpp"

#include <optional>
#include <string>

namespace pg {

struct Extension {
  std::string schema;
  Oid owner = InvalidOid;
  std::string version;  // of the SQL objects

  // A book-keeping object's name, qualified and quoted.
  std::string object(const std::string& name) const;
};

// Whether this server is a standby, which can write nothing.
bool in_recovery();

// The version of the library.
extern const char* const kLibraryVersion;

// Needs an SPI connection. Nothing where this database does not have the extension.
std::optional<Extension> find_extension();
// The same, or an error (55000); also where library and SQL objects do not fit each other: nothing
// is done to anybody's money by tables that may mean something else.
Extension require_extension();
// For what applications call all day, and which reads one table: it must go on between the install
// of a new library and ALTER EXTENSION.
Extension require_extension_of_any_version();

// What is the matter where the versions of library and SQL objects differ, and what mends it.
struct VersionProblem {
  bool library_is_older = false;
  std::string finding;
  std::string hint;
};
std::optional<VersionProblem> version_problem(const Extension& extension);

}  // namespace pg
