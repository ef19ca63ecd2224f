// bacmr_attach, bacmr_detach and the rows of the view bacmr_sources.
#include "pg/postgres.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/json.hpp"
#include "pg/entry.hpp"
#include "pg/log.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "pg/transaction_end.hpp"
#include "sources/attach.hpp"
#include "sources/identity.hpp"
#include "sources/source.hpp"

extern "C" {
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
}

namespace sources {
namespace {

struct Request {
  std::string source;
  std::string schema;
  std::string relation;
  std::string columns = "{}";
  std::string options = "{}";
};

std::string all_sources() { return "wallet, wallet_ledger, reservations, chunks"; }

void require_source_name(const std::string& source) {
  if (!is_source(source)) {
    throw core::Error(core::sqlstate::kInvalidParameterValue, "unknown source \"" + source + "\"",
                      {}, "The sources are: " + all_sources() + ".");
  }
}

std::string column_names(const std::string& source) {
  std::string list;
  for (const ColumnRule& rule : column_rules()) {
    if (source == rule.source) {
      list.append(list.empty() ? "" : ", ").append(rule.name);
    }
  }
  return list;
}

void check_columns(pg::Spi& spi, const Request& request) {
  const pg::Rows rows =
      spi.query("SELECT jsonb_typeof($1::jsonb) = 'object'", {pg::Param::text(request.columns)});
  if (!rows.boolean(0, 0)) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "argument \"columns\" must be a JSON object", {},
                      "For example: '{\"token_balance\": \"credits\"}'.");
  }
  const pg::Rows entries = spi.query("SELECT key, jsonb_typeof(value) FROM jsonb_each($1::jsonb)",
                                     {pg::Param::text(request.columns)});
  for (std::uint64_t i = 0; i < entries.size(); ++i) {
    const std::string key = entries.text(i, 0);
    const bool known = std::ranges::any_of(column_rules(), [&](const ColumnRule& rule) {
      return request.source == rule.source && key == rule.name;
    });
    if (!known) {
      throw core::Error(core::sqlstate::kInvalidParameterValue,
                        "source \"" + request.source + "\" has no column \"" + key + "\"", {},
                        "Its columns are: " + column_names(request.source) +
                            ". Write the contract's name first, then yours.");
    }
    if (entries.text(i, 1) != "string") {
      throw core::Error(core::sqlstate::kInvalidParameterValue,
                        "the name given for column \"" + key + "\" is not a string", {},
                        "For example: '{\"token_balance\": \"credits\"}'.");
    }
  }
}

// Checks the options and writes a time among them with its zone, so that it means the same moment
// under every TimeZone.
void check_options(pg::Spi& spi, Request& request) {
  const pg::Param options = pg::Param::text(request.options);
  if (!spi.query("SELECT jsonb_typeof($1::jsonb) = 'object'", {options}).boolean(0, 0)) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "argument \"options\" must be a JSON object", {},
                      "For example: '{\"refund\": false}'.");
  }
  const pg::Rows entries =
      spi.query("SELECT key, jsonb_typeof(value) FROM jsonb_each($1::jsonb)", {options});
  for (std::uint64_t i = 0; i < entries.size(); ++i) {
    const std::string key = entries.text(i, 0);
    const std::string type = entries.text(i, 1);
    if (request.source != "reservations" || (key != "refund" && key != "since")) {
      throw core::Error(core::sqlstate::kInvalidParameterValue,
                        "source \"" + request.source + "\" has no option \"" + key + "\"", {},
                        "The source \"reservations\" has the options refund and since; the others "
                        "have none.");
    }
    if (type != (key == "refund" ? "boolean" : "string")) {
      throw core::Error(core::sqlstate::kInvalidParameterValue,
                        "option \"" + key + "\" must be a " +
                            (key == "refund" ? "boolean" : "timestamp in a string"));
    }
  }
  request.options = spi.query(
                           "SELECT CASE WHEN $1::jsonb ? 'since' THEN jsonb_set($1::jsonb,"
                           " '{since}', to_jsonb(($1::jsonb->>'since')::timestamptz))"
                           " ELSE $1::jsonb END::text",
                           {options})
                        .text(0, 0);
}

// The name is what is stored; the lock keeps it true until the end of the transaction.
void lock_and_name(Oid relation, Request& request) {
  const char* name = pg::call([relation] {
    LockRelationOid(relation, AccessShareLock);
    return get_rel_name(relation);
  });
  if (name == nullptr) {
    throw core::Error(core::sqlstate::kUndefinedTable,
                      "relation with OID " + std::to_string(relation) + " does not exist", {},
                      "It was dropped meanwhile: name a table that is there.");
  }
  request.relation = name;
  request.schema = pg::call([relation] { return get_namespace_name(get_rel_namespace(relation)); });
}

void require_ownership(const Source& source, const char* action) {
  if (!pg::has_privileges_of(source.owner)) {
    throw core::Error(
        core::sqlstate::kInsufficientPrivilege,
        std::string("must be owner of ") + source.sql_name() + " to " + action + " it", {},
        "Run this as the role " + pg::quote_identifier(pg::role_name(source.owner)) +
            " or as a superuser.");
  }
}

// The same for an attachment whose table may be gone for the moment: its owner's it is still.
void require_control(const Source& source, const char* action) {
  if (source.exists()) {
    require_ownership(source, action);
    return;
  }
  const Oid owner = pg::call([&] { return get_role_oid(source.attached_owner.c_str(), true); });
  if (!(OidIsValid(owner) ? pg::has_privileges_of(owner) : pg::call([] { return superuser(); }))) {
    throw core::Error(core::sqlstate::kInsufficientPrivilege,
                      "the source \"" + source.source + "\" belongs to the role " +
                          pg::quote_identifier(source.attached_owner) + ", though " +
                          source.sql_name() + " is missing",
                      {},
                      std::string("Run this as that role or as a superuser to ") + action + " it.");
  }
}

bool holds_money(const std::string& source) { return source != "chunks"; }

// One job works on wallet, ledger and reservations together, and runs the code of all their
// owners: who attaches one of them must have a say in the others.
void require_right_to_attach(const Sources& before, const std::string& source) {
  if (const Source* current = before.find(source)) {
    require_control(*current, "replace");
  }
  const std::string action = "attach \"" + source + "\" beside";
  for (const Source& each : before.all()) {
    if (each.source != source && holds_money(source) && holds_money(each.source)) {
      require_control(each, action.c_str());
    }
  }
}

void store(const pg::Extension& extension, const Request& request) {
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  // An unchanged table keeps its time of attaching, from which the refund checks count.
  spi.query("INSERT INTO " + extension.object("bacmr_source") +
                " AS s (source, schema_name, relation_name, columns, options,"
                "  system_identifier, database_oid, database_name, relation_oid, owner_name)"
                " SELECT $1, $2, $3, $4::jsonb, $5::jsonb, $6, $7, current_database(),"
                "  c.oid, pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_namespace n"
                "   ON n.oid = c.relnamespace WHERE n.nspname = $2 AND c.relname = $3"
                " ON CONFLICT (source) DO UPDATE SET schema_name = excluded.schema_name,"
                "  relation_name = excluded.relation_name, columns = excluded.columns,"
                "  options = excluded.options, resolved = '{}',"
                "  system_identifier = excluded.system_identifier,"
                "  database_oid = excluded.database_oid, database_name = excluded.database_name,"
                "  relation_oid = excluded.relation_oid, owner_name = excluded.owner_name,"
                "  attached_at = CASE"
                "   WHEN (s.schema_name, s.relation_name)"
                "        = (excluded.schema_name, excluded.relation_name)"
                "   THEN s.attached_at ELSE excluded.attached_at END",
            {pg::Param::text(request.source), pg::Param::text(request.schema),
             pg::Param::text(request.relation), pg::Param::text(request.columns),
             pg::Param::text(request.options), pg::Param::text(cluster_identity()),
             pg::Param::oid(MyDatabaseId)});
}

Source store_and_load(const pg::Extension& extension, const Request& request) {
  store(extension, request);
  const Sources now = Sources::load(extension);
  const Source* source = now.find(request.source);
  if (source == nullptr || !source->exists()) {
    throw core::Error(
        core::sqlstate::kUndefinedTable,
        "relation " + pg::quote_qualified(request.schema, request.relation) + " does not exist");
  }
  return *source;
}

// Notes the columns that the table has, so that one that vanishes later is missed.
void remember_columns(const pg::Extension& extension, const Source& source) {
  core::JsonObject names;
  for (const auto& [name, column] : source.columns) {
    names.text(name, column.name);
  }
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  spi.query(
      "UPDATE " + extension.object("bacmr_source") + " SET resolved = $2::jsonb WHERE source = $1",
      {pg::Param::text(source.source), pg::Param::text(names.str())});
}

// Found by their names alone, a table that somebody has put beside the application's would pass for
// one of them, and its triggers run with the rights of the others' owner. Returns what is wrong, or
// nothing. (Of superusers' tables there is nothing to fear; they count as one owner.)
std::string mixed_owners(pg::Spi& spi, const std::vector<SchemaAttachment>& found) {
  std::vector<std::string> oids;
  for (const SchemaAttachment& each : found) {
    if (holds_money(each.source)) {
      oids.push_back(std::to_string(each.relation));
    }
  }
  const Sources now = Sources::load(pg::require_extension());
  for (const Source& each : now.all()) {
    if (holds_money(each.source) && each.exists()) {
      oids.push_back(std::to_string(each.oid));
    }
  }
  const pg::Rows rows = spi.query(
      "SELECT string_agg(DISTINCT quote_ident(r.rolname), ', ')"
      " FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = ANY ($1::oid[])"
      " HAVING count(DISTINCT CASE WHEN r.rolsuper THEN 0 ELSE r.oid END) > 1",
      {pg::Param::text_array(oids)});
  return rows.empty()
             ? std::string()
             : "wallet, wallet_ledger and reservations belong to different roles (" +
                   rows.text(0, 0) +
                   "), so their names are not trusted: attach each by bacmr_attach(source, "
                   "relation), or give them one owner";
}

// Attaches what `schema` holds under the source's own name; says what came of it.
std::string attach_by_name(const pg::Extension& extension, const std::string& source, Oid relation,
                           const std::string& distrust, Request request) {
  request.source = source;
  lock_and_name(relation, request);
  const Sources before = Sources::load(extension);
  const Source* current = before.find(source);
  if (current != nullptr && current->oid == relation) {
    if (current->problem.empty()) {
      return current->status();
    }
    // Perhaps what is wrong is a column that is gone: look at the table afresh.
    request.columns = current->columns_json;
    request.options = current->options_json;
  }
  require_right_to_attach(before, source);
  pg::Subtransaction attempt;
  const Source stored = store_and_load(extension, request);
  require_ownership(stored, "attach");
  if (holds_money(source) && !distrust.empty()) {
    return "invalid: " + distrust;  // the attempt is undone
  }
  if (stored.problem.empty()) {
    remember_columns(extension, stored);
    attempt.commit();
  }
  return stored.status();
}

Oid find_relation(pg::Spi& spi, const std::string& schema, const std::string& name) {
  const pg::Rows rows = spi.query(
      "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
      " WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r','p','v','m','f')",
      {pg::Param::text(schema), pg::Param::text(name)});
  return rows.empty() ? InvalidOid : rows.oid(0, 0);
}

void require_schema(pg::Spi& spi, const std::string& schema) {
  if (spi.query("SELECT 1 FROM pg_namespace WHERE nspname = $1", {pg::Param::text(schema)})
          .empty()) {
    throw core::Error("3F000", "schema \"" + schema + "\" does not exist", {},
                      "Name the schema that holds your tables.");
  }
}

Datum attach_schema_function(pg::Args args) {
  const std::string schema = args.name(0, "schema");
  std::vector<SchemaAttachment> attached = attach_schema(schema);
  pg::ResultSet result(args);
  for (const SchemaAttachment& each : attached) {
    result.row({pg::Value::text(each.source), pg::Value::oid(each.relation),
                pg::Value::text(each.status)});
  }
  return pg::void_result();
}

Datum attach(pg::Args args) {
  Request request;
  request.source = args.text(0, "source");
  const Oid relation = args.oid(1, "relation");
  request.columns = args.json(2).value_or("{}");
  request.options = args.json(3).value_or("{}");
  require_source_name(request.source);

  const pg::PinnedSettings settings;
  const pg::Extension extension = pg::require_extension();
  settle_identity(extension);
  {
    pg::Spi spi;
    check_columns(spi, request);
    check_options(spi, request);
  }
  lock_and_name(relation, request);
  require_right_to_attach(Sources::load(extension), request.source);
  const Source stored = store_and_load(extension, request);
  require_ownership(stored, "attach");
  if (!stored.problem.empty()) {
    throw core::Error(
        core::sqlstate::kInvalidTableDefinition,
        stored.sql_name() + " cannot be attached as \"" + request.source + "\": " + stored.problem,
        {}, "Mend the table, or attach another one; nothing was changed.");
  }
  remember_columns(extension, stored);
  if (!stored.expiry_problem.empty()) {
    pg::warn_client(stored.sql_name() + " cannot be used for expiry: " + stored.expiry_problem,
                    "It is attached; reconciliation works with it.");
  }
  pg::wake_worker_at_commit();
  return pg::void_result();
}

Datum detach(pg::Args args) {
  const std::string source = args.text(0, "source");
  require_source_name(source);
  const pg::PinnedSettings settings;
  const pg::Extension extension = pg::require_extension();
  settle_identity(extension);
  const Sources now = Sources::load(extension);
  const Source* current = now.find(source);
  if (current == nullptr) {
    throw core::Error(core::sqlstate::kUndefinedObject, "source \"" + source + "\" is not attached",
                      {}, "SELECT * FROM bacmr_sources shows what is.");
  }
  require_control(*current, "detach");
  const pg::AsExtensionOwner owner(extension.owner);
  pg::Spi spi;
  // No other than the one that was looked at: another session may be about to replace it.
  const pg::Rows gone =
      spi.query("DELETE FROM " + extension.object("bacmr_source") +
                    " WHERE source = $1 AND schema_name = $2 AND relation_name = $3 RETURNING 1",
                {pg::Param::text(source), pg::Param::text(current->schema),
                 pg::Param::text(current->relation)});
  if (gone.empty()) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      "another session has just changed the source \"" + source + "\"", {},
                      "SELECT * FROM bacmr_sources shows what is attached now.");
  }
  return pg::void_result();
}

Datum source_status(pg::Args args) {
  const Sources now = Sources::load(pg::require_extension());
  pg::ResultSet result(args);
  for (const Source& source : now.all()) {
    result.row({pg::Value::text(source.source), pg::Value::text(source.sql_name()),
                pg::Value::jsonb(source.columns_json), pg::Value::jsonb(source.options_json),
                pg::Value::text(source.status())});
  }
  return pg::void_result();
}

}  // namespace

std::vector<SchemaAttachment> attach_schema(const std::string& schema) {
  const pg::PinnedSettings settings;
  const pg::Extension extension = pg::require_extension();
  settle_identity(extension);
  pg::Spi spi;
  require_schema(spi, schema);
  std::vector<SchemaAttachment> result;
  for (const char* source : {"wallet", "wallet_ledger", "reservations", "chunks"}) {
    result.push_back({source, find_relation(spi, schema, source), "missing"});
  }
  const std::string distrust = mixed_owners(spi, result);
  for (SchemaAttachment& each : result) {
    if (OidIsValid(each.relation)) {
      each.status = attach_by_name(extension, each.source, each.relation, distrust, Request{});
    }
  }
  pg::wake_worker_at_commit();
  return result;
}

}  // namespace sources

BACMR_FUNCTION(bacmr_attach_schema, sources::attach_schema_function);
BACMR_FUNCTION(bacmr_attach, sources::attach);
BACMR_FUNCTION(bacmr_detach, sources::detach);
BACMR_FUNCTION(bacmr_source_status, sources::source_status);
