// bacmr_active_namespace(): asked with every search, so it does one look-up and nothing else.
#include "pg/postgres.hpp"

#include "pg/entry.hpp"
#include "pg/extension.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

Datum active_namespace(pg::Args args) {
  if (args.is_null(0)) {
    return args.null();
  }
  const std::string space = *args.text(0);
  std::string active = space;
  {
    const pg::Spi connection;
    const pg::Extension extension = pg::require_extension_of_any_version();
    const pg::AsExtensionOwner owner(extension.owner);
    pg::Spi spi;
    const pg::Rows rows =
        spi.query("SELECT active_namespace FROM " + extension.object("bacmr_namespace") +
                      " WHERE namespace = $1",
                  {pg::Param::text(space)}, pg::Spi::Access::kReadOnly);
    if (!rows.empty()) {
      active = rows.text(0, 0);
    }
  }
  return pg::Value::text(active).datum;
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_active_namespace, jobs::active_namespace);
