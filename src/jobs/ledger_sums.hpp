// The sum of the ledger of every user, by a scan that all processes at hand share.
#pragma once

#include "pg/column_scan.hpp"

#include <cstdint>
#include <vector>

#include "core/sum_table.hpp"

namespace jobs {

template <class Key>
struct LedgerSums {
  LedgerSums(std::size_t memory, std::uint64_t seed) : table(memory, seed) {}

  core::SumTable<Key> table;
  // Ledger rows that name no user.
  std::int64_t nobody_sum = 0;
  std::int64_t nobody_rows = 0;
  std::int64_t nobody_nulls = 0;
  std::int64_t rows = 0;
  // False: memory, or a sum beyond 64 bits. The sums are worthless then; SQL has to do it.
  bool fits = true;
  int workers = 0;  // parallel workers that took part
};

// Scans the targets under the active snapshot. `memory`: bytes that the hash tables of all
// processes together may take.
template <class Key>
LedgerSums<Key> sum_ledger(const std::vector<pg::ScanTarget>& targets, pg::KeyType key_type,
                           pg::AmountType amount_type, std::size_t memory);

extern template LedgerSums<core::Uuid> sum_ledger(const std::vector<pg::ScanTarget>&, pg::KeyType,
                                                  pg::AmountType, std::size_t);
extern template LedgerSums<std::int64_t> sum_ledger(const std::vector<pg::ScanTarget>&, pg::KeyType,
                                                    pg::AmountType, std::size_t);

}  // namespace jobs
