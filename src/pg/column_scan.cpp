#include "pg/column_scan.hpp"

#include <algorithm>
#include <type_traits>

#include "core/error.hpp"
#include "pg/compat.hpp"
#include "pg/spi.hpp"
#include "pg/table_tree.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_attribute.h"
#include "executor/tuptable.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/uuid.h"
}

namespace pg {
namespace {

void require_read_access(Oid relation, const std::string& key, const std::string& amount) {
  Spi spi;
  const Rows rows = spi.query(
      "SELECT has_schema_privilege(relnamespace, 'USAGE')"
      "   AND (has_table_privilege(oid, 'SELECT')"
      "        OR (has_column_privilege(oid, $2, 'SELECT')"
      "            AND has_column_privilege(oid, $3, 'SELECT'))), oid::regclass::text"
      " FROM pg_class WHERE oid = $1",
      {Param::oid(relation), Param::text(std::string_view(key)),
       Param::text(std::string_view(amount))});
  if (!rows.empty() && !rows.boolean(0, 0)) {
    throw core::Error(core::sqlstate::kInsufficientPrivilege,
                      "permission denied for table " + rows.text(0, 1), {},
                      "GRANT SELECT on it (and USAGE on its schema) to the role that reconciles.");
  }
  // With row_security = off this raises where a policy would hide rows from the caller.
  call([relation] { check_enable_rls(relation, InvalidOid, false); });
}

}  // namespace

std::optional<std::vector<ScanTarget>> scan_targets(Oid relation, const std::string& key,
                                                    const std::string& amount) {
  require_read_access(relation, key, amount);
  const std::optional<std::vector<Oid>> tables = plain_tables(relation);
  if (!tables) {
    return std::nullopt;
  }
  std::vector<ScanTarget> targets;
  for (const Oid member : *tables) {
    const ScanTarget target{member, call([&] { return get_attnum(member, key.c_str()); }),
                            call([&] { return get_attnum(member, amount.c_str()); })};
    if (target.key == InvalidAttrNumber || target.amount == InvalidAttrNumber || call([&] {
          return is_virtual_column(member, target.key) || is_virtual_column(member, target.amount);
        })) {
      return std::nullopt;
    }
    targets.push_back(target);
  }
  return targets;
}

template <class Key>
ColumnScan<Key>::ColumnScan(const ScanTarget& target, KeyType key_type, AmountType amount_type,
                            ParallelTableScanDesc shared)
    : target_(target), key_type_(key_type), amount_type_(amount_type) {
  call([&] {
    relation_ = table_open(target_.relation, AccessShareLock);
    slot_ = table_slot_create(relation_, nullptr);
    scan_ = shared != nullptr ? table_beginscan_parallel(relation_, shared)
                              : table_beginscan(relation_, GetActiveSnapshot(), 0, nullptr);
  });
}

template <class Key>
ColumnScan<Key>::~ColumnScan() {
  if (!unwinding()) {
    cleanup([this] {
      table_endscan(scan_);
      ExecDropSingleTupleTableSlot(slot_);
      table_close(relation_, NoLock);
    });
  }
}

template <class Key>
bool ColumnScan<Key>::next(ScanBatch<Key>& batch) {
  batch.count = 0;
  if (exhausted_) {
    return false;  // asked once more, the table would begin anew
  }
  const int last_column = std::max(target_.key, target_.amount);
  call([&] {
    CHECK_FOR_INTERRUPTS();
    while (batch.count < ScanBatch<Key>::kCapacity) {
      if (!table_scan_getnextslot(scan_, ForwardScanDirection, slot_)) {
        exhausted_ = true;
        break;
      }
      slot_getsomeattrs(slot_, last_column);
      const int i = batch.count++;
      const int key = target_.key - 1;
      const int amount = target_.amount - 1;
      batch.null_keys[i] = slot_->tts_isnull[key];
      batch.null_amounts[i] = slot_->tts_isnull[amount];
      if (!batch.null_keys[i]) {
        const Datum value = slot_->tts_values[key];
        if constexpr (std::is_same_v<Key, core::Uuid>) {
          batch.keys[i] = core::Uuid::from_bytes(DatumGetUUIDP(value)->data);
        } else {
          batch.keys[i] = key_type_ == KeyType::kInt4 ? DatumGetInt32(value) : DatumGetInt64(value);
        }
      }
      const Datum value = slot_->tts_values[amount];
      batch.amounts[i] = batch.null_amounts[i]               ? 0
                         : amount_type_ == AmountType::kInt4 ? DatumGetInt32(value)
                                                             : DatumGetInt64(value);
    }
  });
  return batch.count > 0;
}

template class ColumnScan<core::Uuid>;
template class ColumnScan<std::int64_t>;

}  // namespace pg
