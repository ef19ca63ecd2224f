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

// Needs an SPI connection. Nothing where this database does not have the extension.
std::optional<Extension> find_extension();
// The same, or an error (55000).
Extension require_extension();

// Whether this server is a standby, which can write nothing.
bool in_recovery();

// The version of the library.
extern const char* const kLibraryVersion;

}  // namespace pg
