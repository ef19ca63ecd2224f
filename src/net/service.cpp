#include "pg/postgres.hpp"

#include "net/service.hpp"

#include <vector>

#include "core/error.hpp"
#include "net/secret_file.hpp"
#include "net/service_options.hpp"
#include "pg/catalog_options.hpp"
#include "pg/compat.hpp"
#include "pg/guard.hpp"
#include "pg/memory.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "catalog/pg_user_mapping.h"
#include "foreign/foreign.h"
#include "utils/syscache.h"
}

namespace net {
namespace {

[[noreturn]] void no_such_server(ServiceKind kind, const std::string& name) {
  throw core::Error(core::sqlstate::kUndefinedObject, "server \"" + name + "\" does not exist", {},
                    std::string("Declare it with CREATE SERVER … FOREIGN DATA WRAPPER ") +
                        names_of(kind).wrapper + ".");
}

void check_wrapper(ServiceKind kind, const ForeignServer& server) {
  const ForeignDataWrapper* wrapper = pg::call([&] { return GetForeignDataWrapper(server.fdwid); });
  const std::string wanted = names_of(kind).wrapper;
  if (wanted != wrapper->fdwname) {
    throw core::Error(
        core::sqlstate::kWrongObjectType,
        std::string("server \"") + server.servername + "\" is no " + names_of(kind).noun,
        std::string("It is a server of wrapper \"") + wrapper->fdwname + "\".",
        "Name a server of wrapper \"" + wanted + "\".");
  }
}

void check_usage(const ForeignServer& server) {
  if (!pg::call([&] { return pg::may_use_server(server.serverid); })) {
    throw core::Error(core::sqlstate::kInsufficientPrivilege,
                      std::string("permission denied for foreign server ") + server.servername, {},
                      "Ask its owner for GRANT USAGE ON FOREIGN SERVER " +
                          pg::quote_identifier(server.servername) + ".");
  }
}

// pg_dump leaves out what was done to an extension's server: options of it would be lost in
// silence.
void check_builtin(ServiceKind kind, const Service& service) {
  const KindNames& names = names_of(kind);
  if (service.name == names.builtin_server &&
      (service.options.size() != 1 || service.type != names.builtin_type)) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "built-in server \"" + service.name + "\" takes no options", {},
                      "Undo it with ALTER SERVER … OPTIONS (DROP …), and declare a server of your "
                      "own: a dump does not keep changes of built-in ones.");
  }
}

// The user mapping of the current user, else PUBLIC's, else nothing.
Options mapping_options(Oid server) {
  HeapTuple tuple = pg::call([&] {
    HeapTuple own = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(GetUserId()),
                                    ObjectIdGetDatum(server));
    return HeapTupleIsValid(own)
               ? own
               : SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
                                 ObjectIdGetDatum(server));
  });
  if (!HeapTupleIsValid(tuple)) {
    return {};
  }
  bool none = false;
  const Datum array = pg::call([&] {
    bool is_null = false;
    const Datum stored =
        SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &is_null);
    none = is_null;
    // A copy: the tuple goes back to the cache.
    const Datum copy = is_null ? stored : PointerGetDatum(PG_DETOAST_DATUM_COPY(stored));
    ReleaseSysCache(tuple);
    return copy;
  });
  return none ? Options{} : pg::options_from_array(array);
}

Options secrets_of(Oid server) {
  Options secrets;
  for (const auto& [name, value] : mapping_options(server)) {
    const auto secret = secret_in_file(name);
    secrets[secret.value_or(name)] = secret ? read_secret_file(name, value) : value;
  }
  return secrets;
}

std::string setting_of(ServiceKind kind) {
  switch (kind) {
    case ServiceKind::kEmbedder:
      return pg::settings::embedder();
    case ServiceKind::kVectorStore:
      return pg::settings::vector_store();
    case ServiceKind::kBlobStore:
      return pg::settings::blob_store();
  }
  return {};
}

// The servers of that kind, by name, but for the built-in one.
std::vector<std::string> declared_servers(ServiceKind kind) {
  const pg::PinnedSettings settings;
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT s.srvname::text FROM pg_catalog.pg_foreign_server s"
      " JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw"
      " WHERE w.fdwname = $1 AND s.srvname <> $2 ORDER BY s.srvname",
      {pg::Param::text(names_of(kind).wrapper), pg::Param::text(names_of(kind).builtin_server)});
  std::vector<std::string> names;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    names.push_back(rows.text(i, 0));
  }
  return names;
}

}  // namespace

std::string Service::option(const std::string& option_name, const std::string& otherwise) const {
  const auto found = options.find(option_name);
  return found != options.end() ? found->second : otherwise;
}

Service load_service(ServiceKind kind, const std::string& name) {
  const pg::MemoryScope memory("bacmr_ops service");
  const ForeignServer* server =
      pg::call([&] { return GetForeignServerByName(name.c_str(), true); });
  if (server == nullptr) {
    no_such_server(kind, name);
  }
  check_wrapper(kind, *server);
  check_usage(*server);
  Service service;
  service.name = name;
  service.server = server->serverid;
  service.options = pg::options_from_list(server->options);
  service.type = service.option("type");
  check_builtin(kind, service);
  service.secrets = secrets_of(service.server);
  return service;
}

std::string default_service(ServiceKind kind) {
  const KindNames& names = names_of(kind);
  std::string named = setting_of(kind);
  if (!named.empty()) {
    return named;
  }
  const std::vector<std::string> declared = declared_servers(kind);
  if (declared.empty()) {
    return names.builtin_server;
  }
  std::string list = names.builtin_server;
  for (const std::string& server : declared) {
    list += ", " + server;
  }
  throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                    std::string("which ") + names.noun + "?", "There are several: " + list + ".",
                    std::string("Name one, or SET ") + names.setting + " = " +
                        pg::quote_literal(declared.front()) + ".");
}

std::string service_type(const std::string& name) {
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT o.option_value FROM pg_foreign_server s, pg_options_to_table(s.srvoptions) o"
      " WHERE s.srvname = $1 AND o.option_name = 'type'",
      {pg::Param::text(name)});
  return rows.empty() ? "" : rows.text(0, 0);
}

}  // namespace net
