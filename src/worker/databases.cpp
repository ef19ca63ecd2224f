#include "pg/postgres.hpp"

#include "worker/databases.hpp"

#include "pg/guard.hpp"
#include "pg/worker_transaction.hpp"

extern "C" {
#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
}

namespace worker {

std::vector<Database> read_databases() {
  pg::WorkerTransaction transaction;
  Relation relation = pg::call([] { return table_open(DatabaseRelationId, AccessShareLock); });
  TableScanDesc scan = pg::call([&] { return table_beginscan_catalog(relation, 0, nullptr); });
  std::vector<Database> result;
  for (;;) {
    HeapTuple tuple = pg::call([&] { return heap_getnext(scan, ForwardScanDirection); });
    if (!HeapTupleIsValid(tuple)) {
      break;
    }
    const auto* row = reinterpret_cast<const FormData_pg_database*>(GETSTRUCT(tuple));
    result.push_back({row->oid, NameStr(row->datname), row->datallowconn});
  }
  pg::call([&] {
    table_endscan(scan);
    table_close(relation, AccessShareLock);
  });
  transaction.commit();
  return result;
}

}  // namespace worker
