// Reading two columns of a table straight from the table access method, a thousand rows at a time:
// a key and an amount. One guard a batch, no executor, nothing allocated a row.
#pragma once

#include "pg/scope.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/uuid.hpp"

extern "C" {
#include "access/relscan.h"
#include "access/tableam.h"
}

namespace pg {

enum class KeyType : std::int32_t { kUuid, kInt8, kInt4 };
enum class AmountType : std::int32_t { kInt8, kInt4 };

// Plain data: it crosses to parallel workers in shared memory.
struct ScanTarget {
  Oid relation;
  AttrNumber key;
  AttrNumber amount;
};

template <class Key>
struct ScanBatch {
  static constexpr int kCapacity = 1024;
  int count = 0;
  Key keys[kCapacity];
  std::int64_t amounts[kCapacity];  // 0 where NULL
  bool null_keys[kCapacity];
  bool null_amounts[kCapacity];
};

// The ordinary tables below `relation` (itself, or the leaves of its partition tree), with the
// numbers that the two columns have in each; locked in ACCESS SHARE mode until the transaction
// ends. Nothing where the tree holds anything else (foreign tables, inheritance children, generated
// columns computed on reading). Checks the caller's rights to read, and row-level security, as the
// executor would.
std::optional<std::vector<ScanTarget>> scan_targets(Oid relation, const std::string& key,
                                                    const std::string& amount);

template <class Key>
class ColumnScan : Scope {
 public:
  // Under the active snapshot.
  ColumnScan(const ScanTarget& target, KeyType key_type, AmountType amount_type)
      : ColumnScan(target, key_type, amount_type, nullptr) {}
  // This process's share of a parallel scan.
  ColumnScan(const ScanTarget& target, KeyType key_type, AmountType amount_type,
             ParallelTableScanDesc shared);
  ~ColumnScan();

  // Fills the batch; false when no row is left. Notices cancels.
  bool next(ScanBatch<Key>& batch);

 private:
  ScanTarget target_;
  KeyType key_type_;
  AmountType amount_type_;
  Relation relation_ = nullptr;
  TableScanDesc scan_ = nullptr;
  TupleTableSlot* slot_ = nullptr;
  bool exhausted_ = false;
};

extern template class ColumnScan<core::Uuid>;
extern template class ColumnScan<std::int64_t>;

}  // namespace pg
