// What differs between the major versions of PostgreSQL that the extension supports: 15 to 18. The
// only place with version checks.
#pragma once

#include "pg/postgres.hpp"

extern "C" {
#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/syscache.h"
}

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "bacmr_ops supports PostgreSQL 15 to 18"
#endif

// What follows may raise: call it in a guard, or from C.
namespace pg {

// Of the sessions that pgstat_fetch_stat_numbackends() counts, from 1.
inline const PgBackendStatus& session_status(int index) {
#if PG_VERSION_NUM >= 160000
  return pgstat_get_local_beentry_by_index(index)->backendStatus;
#else
  return pgstat_fetch_stat_local_beentry(index)->backendStatus;
#endif
}

inline bool holds_lock(const LOCKTAG& tag, LOCKMODE mode) {
#if PG_VERSION_NUM >= 170000
  return LockHeldByMe(&tag, mode, false);
#else
  return LockHeldByMe(&tag, mode);
#endif
}

inline bool owns_database(Oid database) {
#if PG_VERSION_NUM >= 160000
  return object_ownercheck(DatabaseRelationId, database, GetUserId());
#else
  return pg_database_ownercheck(database, GetUserId());
#endif
}

// Whether the current user has USAGE on the foreign server.
inline bool may_use_server(Oid server) {
#if PG_VERSION_NUM >= 160000
  return object_aclcheck(ForeignServerRelationId, server, GetUserId(), ACL_USAGE) == ACLCHECK_OK;
#else
  return pg_foreign_server_aclcheck(server, GetUserId(), ACL_USAGE) == ACLCHECK_OK;
#endif
}

// A generated column whose value is not stored (from PostgreSQL 18 on).
inline bool is_virtual_column([[maybe_unused]] Oid relation, [[maybe_unused]] AttrNumber column) {
#if PG_VERSION_NUM >= 180000
  HeapTuple tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relation), Int16GetDatum(column));
  if (!HeapTupleIsValid(tuple)) {
    return false;
  }
  const bool is_virtual = reinterpret_cast<Form_pg_attribute>(GETSTRUCT(tuple))->attgenerated ==
                          ATTRIBUTE_GENERATED_VIRTUAL;
  ReleaseSysCache(tuple);
  return is_virtual;
#else
  return false;
#endif
}

}  // namespace pg
