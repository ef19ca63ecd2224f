#include "pg/table_tree.hpp"

#include "pg/guard.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
}

namespace pg {

void lock_tree(Oid relation) {
  call([relation] {
    LockRelationOid(relation, AccessShareLock);
    if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation))) {
      ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
              errmsg("the table was dropped while its lock was waited for"));
    }
    find_all_inheritors(relation, AccessShareLock, nullptr);
  });
}

bool has_citus() {
  return OidIsValid(
      call([] { return get_relname_relid("pg_dist_partition", PG_CATALOG_NAMESPACE); }));
}

bool is_distributed(Oid relation) {
  if (!has_citus()) {
    return false;
  }
  Spi spi;
  return !spi.query(
                 "SELECT 1 FROM pg_catalog.pg_dist_partition WHERE logicalrelid ="
                 " $1::pg_catalog.regclass",
                 {Param::oid(relation)})
              .empty();
}

void lock_to_write(Oid relation) {
  call([relation] {
    if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation))) {
      ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
              errmsg("there is no relation with the OID %u", relation));
    }
    LockRelationOid(relation, RowExclusiveLock);
    if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation))) {
      ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
              errmsg("the table was dropped while its lock was waited for"));
    }
  });
}

std::optional<std::vector<Oid>> plain_tables(Oid relation) {
  const bool partitioned =
      call([relation] { return get_rel_relkind(relation) == RELKIND_PARTITIONED_TABLE; });
  List* members = call([relation] {
    LockRelationOid(relation, AccessShareLock);
    return find_all_inheritors(relation, AccessShareLock, nullptr);
  });
  if (!partitioned && list_length(members) > 1) {
    return std::nullopt;
  }
  std::vector<Oid> tables;
  for (int i = 0; i < list_length(members); ++i) {
    const Oid member = list_nth_oid(members, i);
    const char kind = call([member] { return get_rel_relkind(member); });
    if (kind == RELKIND_PARTITIONED_TABLE) {
      continue;
    }
    if (kind != RELKIND_RELATION || is_distributed(member)) {
      return std::nullopt;
    }
    tables.push_back(member);
  }
  return tables;
}

}  // namespace pg
