// bacmr_log: the application's own lines in the server's log, in the extension's form.
#include "pg/postgres.hpp"

#include "core/error.hpp"
#include "pg/entry.hpp"
#include "pg/extension.hpp"
#include "pg/log.hpp"
#include "pg/result.hpp"

namespace jobs {
namespace {

Datum log_function(pg::Args args) {
  const std::string name = args.text(0, "level");
  const std::string message = args.text(1, "message");
  const std::string fields = args.json(2).value_or("{}");
  const auto level = pg::parse_log_level(name);
  if (!level) {
    throw core::Error(core::sqlstate::kInvalidParameterValue, "unknown level \"" + name + "\"", {},
                      "The levels are: debug, info, warning, error.");
  }
  if (fields.front() != '{') {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "argument \"fields\" must be a JSON object", {},
                      "For example: '{\"user_id\": 7}'.");
  }
  pg::log_line(*level, message, fields);
  return pg::void_result();
}

Datum library_version(pg::Args) { return pg::Value::text(std::string(pg::kLibraryVersion)).datum; }

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_log, jobs::log_function);
BACMR_FUNCTION(bacmr_library_version, jobs::library_version);
