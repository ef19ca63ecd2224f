#include "pg/utility_hook.hpp"

#include "pg/compat.hpp"
#include "pg/extension.hpp"

extern "C" {
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
}

namespace pg {
namespace {

UtilityWatch watch;
ProcessUtility_hook_type next_hook = nullptr;

const char* option(List* options, const char* name) {
  ListCell* cell = nullptr;
  foreach (cell, options) {
    auto* element = static_cast<DefElem*>(lfirst(cell));
    if (strcmp(element->defname, name) == 0 && element->arg != nullptr) {
      return defGetString(element);
    }
  }
  return nullptr;
}

// The database that the command needs for itself, or nullptr.
const char* exclusive_database(Node* command) {
  switch (nodeTag(command)) {
    case T_DropdbStmt:
      return reinterpret_cast<DropdbStmt*>(command)->dbname;
    case T_CreatedbStmt: {
      const char* source = option(reinterpret_cast<CreatedbStmt*>(command)->options, "template");
      return source != nullptr ? source : "template1";
    }
    case T_RenameStmt: {
      auto* rename = reinterpret_cast<RenameStmt*>(command);
      return rename->renameType == OBJECT_DATABASE ? rename->subname : nullptr;
    }
    case T_AlterDatabaseStmt: {
      auto* alter = reinterpret_cast<AlterDatabaseStmt*>(command);
      return option(alter->options, "tablespace") != nullptr ? alter->dbname : nullptr;
    }
    default:
      return nullptr;
  }
}

// Whether the command can succeed as far as rights go: a worker must not leave because somebody
// types the name of a database that is not theirs.
bool may_take(Node* command, Oid database) {
  if (superuser() || owns_database(database)) {
    return true;
  }
  if (!IsA(command, CreatedbStmt)) {
    return false;
  }
  HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
  if (!HeapTupleIsValid(tuple)) {
    return false;
  }
  const bool copyable = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple))->datistemplate;
  ReleaseSysCache(tuple);
  return copyable;
}

bool names_extension(List* objects) {
  ListCell* cell = nullptr;
  foreach (cell, objects) {
    auto* object = static_cast<Node*>(lfirst(cell));
    if (IsA(object, String) && strcmp(strVal(object), "bacmr_ops") == 0) {
      return true;
    }
  }
  return false;
}

bool changes_extension(Node* command) {
  switch (nodeTag(command)) {
    case T_CreateExtensionStmt:
      return strcmp(reinterpret_cast<CreateExtensionStmt*>(command)->extname, "bacmr_ops") == 0;
    case T_AlterExtensionStmt:
      return strcmp(reinterpret_cast<AlterExtensionStmt*>(command)->extname, "bacmr_ops") == 0;
    case T_DropStmt: {
      auto* drop = reinterpret_cast<DropStmt*>(command);
      return drop->removeType == OBJECT_EXTENSION && names_extension(drop->objects);
    }
    default:
      return false;
  }
}

// A script that names a function which the library lacks: Postgres' own message does not say which
// library that is, nor why.
void name_the_library(void*) {
  if (geterrcode() == ERRCODE_UNDEFINED_FUNCTION) {
    errcontext(
        "the library of bacmr_ops that this server has loaded is of version %s; where a newer one "
        "is installed, restart the server",
        kLibraryVersion);
  }
}

void call_next(PlannedStmt* statement, const char* query, bool read_only_tree,
               ProcessUtilityContext context, ParamListInfo params, QueryEnvironment* environment,
               DestReceiver* receiver, QueryCompletion* completion) {
  (next_hook != nullptr ? next_hook : standard_ProcessUtility)(
      statement, query, read_only_tree, context, params, environment, receiver, completion);
}

void on_utility(PlannedStmt* statement, const char* query, bool read_only_tree,
                ProcessUtilityContext context, ParamListInfo params, QueryEnvironment* environment,
                DestReceiver* receiver, QueryCompletion* completion) {
  Node* command = statement->utilityStmt;
  const char* name = exclusive_database(command);
  const Oid database = name != nullptr ? get_database_oid(name, true) : InvalidOid;
  if (OidIsValid(database) && may_take(command, database)) {
    watch.before_exclusive(database);
  } else if (changes_extension(command)) {
    watch.extension_changed();
    ErrorContextCallback in_context{error_context_stack, name_the_library, nullptr};
    error_context_stack = &in_context;
    call_next(statement, query, read_only_tree, context, params, environment, receiver, completion);
    error_context_stack = in_context.previous;
    return;
  }
  call_next(statement, query, read_only_tree, context, params, environment, receiver, completion);
}

}  // namespace

void watch_utility(const UtilityWatch& wanted) {
  watch = wanted;
  next_hook = ProcessUtility_hook;
  ProcessUtility_hook = on_utility;
}

}  // namespace pg
