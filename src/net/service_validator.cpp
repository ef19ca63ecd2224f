// The validators of the three wrappers: Postgres calls them with the complete new list of options
// whenever a server, a user mapping or a wrapper is created or altered.
#include "pg/postgres.hpp"

#include <string>

#include "core/error.hpp"
#include "net/service_options.hpp"
#include "pg/catalog_options.hpp"
#include "pg/guard.hpp"
#include "pg/hidden_entry.hpp"

extern "C" {
#include "catalog/pg_foreign_data_wrapper_d.h"
#include "catalog/pg_foreign_server_d.h"
#include "catalog/pg_foreign_table_d.h"
#include "catalog/pg_user_mapping_d.h"
}

namespace net {
namespace {

void check_none(const Options& options, const char* of_what) {
  if (!options.empty()) {
    throw core::Error("HV00D", "invalid option \"" + options.begin()->first + "\" for " + of_what,
                      {}, "It takes no options: declare them for a server or a user mapping.");
  }
}

Datum validate(ServiceKind kind, pg::Args args) {
  const Options options = pg::options_from_array(args.datum(0));
  const bool is_superuser = pg::call([] { return superuser(); });
  switch (args.oid(1, "catalog")) {
    case ForeignServerRelationId:
      check_server_options(kind, options, is_superuser);
      break;
    case UserMappingRelationId:
      check_mapping_options(kind, options, is_superuser);
      break;
    case ForeignDataWrapperRelationId:
      check_none(options, "a foreign-data wrapper");
      break;
    case ForeignTableRelationId:
      throw core::Error(core::sqlstate::kFeatureNotSupported,
                        std::string("foreign tables of wrapper \"") + names_of(kind).wrapper +
                            "\" are not supported",
                        {}, "Its servers are used by the functions of bacmr_ops, not by queries.");
    default:
      check_none(options, "this object");
      break;
  }
  return pg::void_result();
}

Datum embedder_validator(pg::Args args) { return validate(ServiceKind::kEmbedder, args); }

Datum vector_store_validator(pg::Args args) { return validate(ServiceKind::kVectorStore, args); }

Datum blob_store_validator(pg::Args args) { return validate(ServiceKind::kBlobStore, args); }

}  // namespace
}  // namespace net

BACMR_HIDDEN_FUNCTION(bacmr_embedder_validator, net::embedder_validator);
BACMR_HIDDEN_FUNCTION(bacmr_vector_store_validator, net::vector_store_validator);
BACMR_HIDDEN_FUNCTION(bacmr_blob_store_validator, net::blob_store_validator);
