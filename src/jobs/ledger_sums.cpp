// How a parallel run goes: the leader puts a header, one shared scan a table and one queue a worker
// into dynamic shared memory; everybody, leader included, takes blocks from the shared scans and
// sums into a hash table of its own; workers then send theirs to the leader, which merges them.
#include "pg/postgres.hpp"

#include "jobs/ledger_sums.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/check.hpp"
#include "core/error.hpp"
#include "pg/entry.hpp"

extern "C" {
#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "common/pg_prng.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "storage/bufmgr.h"
#include "storage/shm_mq.h"
#include "storage/shm_toc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
}

namespace jobs {
namespace {

constexpr std::uint64_t kHeaderKey = 1;
constexpr std::uint64_t kQueuesKey = 2;
constexpr std::uint64_t kFirstScanKey = 3;
constexpr Size kQueueBytes = 256 * 1024;

struct Header {
  pg::KeyType key_type;
  pg::AmountType amount_type;
  std::size_t memory;  // for each process
  int target_count;
  pg::ScanTarget targets[FLEXIBLE_ARRAY_MEMBER];
};

// A worker's first message; its entries follow, some at a time.
struct Summary {
  bool fits;
  std::int64_t nobody_sum;
  std::int64_t nobody_rows;
  std::int64_t nobody_nulls;
  std::int64_t rows;
};

// Each process has its own: what one table's order does to another's probing stays chance.
std::uint64_t random_seed() { return pg_prng_uint64(&pg_global_prng_state); }

template <class Key>
bool add_nobody(LedgerSums<Key>& sums, std::int64_t sum, std::int64_t rows, std::int64_t nulls) {
  sums.nobody_rows += rows;
  sums.nobody_nulls += nulls;
  return !__builtin_add_overflow(sums.nobody_sum, sum, &sums.nobody_sum);
}

template <class Key>
bool add_batch(LedgerSums<Key>& sums, const pg::ScanBatch<Key>& batch) {
  // The table is larger than the caches: ask for all slots of a batch first, then use them.
  for (int i = 0; i < batch.count; ++i) {
    sums.table.prefetch(batch.keys[i]);
  }
  for (int i = 0; i < batch.count; ++i) {
    const std::uint32_t nulls = batch.null_amounts[i] ? 1 : 0;
    const bool added = batch.null_keys[i]
                           ? add_nobody(sums, batch.amounts[i], 1, nulls)
                           : sums.table.add(batch.keys[i], batch.amounts[i], 1, nulls);
    if (!added) {
      return false;
    }
  }
  sums.rows += batch.count;
  return true;
}

template <class Key>
void scan(LedgerSums<Key>& sums, pg::ColumnScan<Key>& rows) {
  const auto batch = std::make_unique<pg::ScanBatch<Key>>();
  while (sums.fits && rows.next(*batch)) {
    sums.fits = add_batch(sums, *batch);
  }
}

const Header& header_of(shm_toc* toc) {
  return *static_cast<const Header*>(
      pg::call([toc] { return shm_toc_lookup(toc, kHeaderKey, false); }));
}

template <class Key>
void scan_share(LedgerSums<Key>& sums, const Header& header, shm_toc* toc) {
  for (int i = 0; i < header.target_count && sums.fits; ++i) {
    auto* shared = static_cast<ParallelTableScanDesc>(
        pg::call([&] { return shm_toc_lookup(toc, kFirstScanKey + i, false); }));
    pg::ColumnScan<Key> rows(header.targets[i], header.key_type, header.amount_type, shared);
    scan(sums, rows);
  }
}

// Worker's side.

void send(shm_mq_handle* queue, const void* data, Size bytes) {
  const shm_mq_result result =
      pg::call([&] { return shm_mq_send(queue, bytes, data, false, true); });
  if (result != SHM_MQ_SUCCESS) {
    throw core::Error(core::sqlstate::kInternalError,
                      "the leader of the reconciliation scan has gone");
  }
}

template <class Key>
void send_sums(shm_mq_handle* queue, const LedgerSums<Key>& sums) {
  using Entry = typename core::SumTable<Key>::Entry;
  const Summary summary{sums.fits, sums.nobody_sum, sums.nobody_rows, sums.nobody_nulls, sums.rows};
  send(queue, &summary, sizeof summary);
  if (!sums.fits) {
    return;
  }
  std::vector<Entry> block;
  constexpr std::size_t kBlock = 1024;
  block.reserve(kBlock);
  sums.table.for_each([&](const Entry& entry) {
    block.push_back(entry);
    if (block.size() == kBlock) {
      send(queue, block.data(), block.size() * sizeof(Entry));
      block.clear();
    }
  });
  if (!block.empty()) {
    send(queue, block.data(), block.size() * sizeof(Entry));
  }
}

template <class Key>
void work(const Header& header, shm_toc* toc, shm_mq_handle* queue) {
  LedgerSums<Key> sums(header.memory, random_seed());
  scan_share(sums, header, toc);
  send_sums(queue, sums);
}

void worker_main(dsm_segment* segment, shm_toc* toc) {
  const Header& header = header_of(toc);
  shm_mq_handle* queue = pg::call([&] {
    char* queues = static_cast<char*>(shm_toc_lookup(toc, kQueuesKey, false));
    auto* own = reinterpret_cast<shm_mq*>(queues + ParallelWorkerNumber * kQueueBytes);
    shm_mq_set_sender(own, MyProc);
    return shm_mq_attach(own, segment, nullptr);
  });
  if (header.key_type == pg::KeyType::kUuid) {
    work<core::Uuid>(header, toc, queue);
  } else {
    work<std::int64_t>(header, toc, queue);
  }
  pg::call([&] { shm_mq_detach(queue); });
}

// Leader's side.

template <class Key>
void merge_from(shm_mq_handle* queue, LedgerSums<Key>& sums) {
  using Entry = typename core::SumTable<Key>::Entry;
  bool first = true;
  for (;;) {
    Size bytes = 0;
    void* data = nullptr;
    const shm_mq_result result =
        pg::call([&] { return shm_mq_receive(queue, &bytes, &data, false); });
    if (result != SHM_MQ_SUCCESS) {
      // Detached: the worker is through, or failed, which the parallel machinery raises at the end.
      return;
    }
    if (first) {
      first = false;
      Summary summary;
      core::ensure(bytes == sizeof summary, "a scan worker's first message is its summary");
      std::memcpy(&summary, data, sizeof summary);
      sums.rows += summary.rows;
      sums.fits = sums.fits && summary.fits &&
                  add_nobody(sums, summary.nobody_sum, summary.nobody_rows, summary.nobody_nulls);
      continue;
    }
    core::ensure(bytes % sizeof(Entry) == 0, "a scan worker sends whole entries");
    const auto* entries = static_cast<const Entry*>(data);
    for (std::size_t i = 0; i < bytes / sizeof(Entry) && sums.fits; ++i) {
      const Entry& entry = entries[i];
      sums.fits = sums.table.add(entry.key, entry.sum, entry.rows, entry.nulls);
    }
  }
}

// As many as the planner would take: one more each time the table triples, within the settings.
int wanted_workers(const std::vector<pg::ScanTarget>& targets) {
  return pg::call([&] {
    BlockNumber pages = 0;
    bool shareable = !IsInParallelMode() && !IsolationIsSerializable();
    for (const pg::ScanTarget& target : targets) {
      Relation relation = table_open(target.relation, AccessShareLock);
      pages += RelationGetNumberOfBlocks(relation);
      // Workers cannot see the leader's temporary tables.
      shareable = shareable && relation->rd_rel->relpersistence != RELPERSISTENCE_TEMP;
      table_close(relation, NoLock);
    }
    int workers = 0;
    std::int64_t threshold = std::max(min_parallel_table_scan_size, 1);
    while (shareable && workers < max_parallel_workers_per_gather && pages >= threshold) {
      ++workers;
      threshold *= 3;
    }
    return workers;
  });
}

template <class Key>
LedgerSums<Key> sum_alone(const std::vector<pg::ScanTarget>& targets, pg::KeyType key_type,
                          pg::AmountType amount_type, std::size_t memory) {
  LedgerSums<Key> sums(memory, random_seed());
  for (const pg::ScanTarget& target : targets) {
    pg::ColumnScan<Key> rows(target, key_type, amount_type);
    scan(sums, rows);
  }
  return sums;
}

// The parallel context with everything the workers need in it.
ParallelContext* prepare(const std::vector<pg::ScanTarget>& targets, const Header& shape,
                         int workers) {
  const Size header_bytes = offsetof(Header, targets) + targets.size() * sizeof(pg::ScanTarget);
  return pg::call([&] {
    EnterParallelMode();
    ParallelContext* context = CreateParallelContext("bacmr_ops", "bacmr_sum_worker", workers);
    Size* scan_bytes = static_cast<Size*>(palloc(targets.size() * sizeof(Size)));
    shm_toc_estimate_chunk(&context->estimator, header_bytes);
    shm_toc_estimate_chunk(&context->estimator, workers * kQueueBytes);
    shm_toc_estimate_keys(&context->estimator, 2 + targets.size());
    for (std::size_t i = 0; i < targets.size(); ++i) {
      Relation relation = table_open(targets[i].relation, NoLock);
      scan_bytes[i] = table_parallelscan_estimate(relation, GetActiveSnapshot());
      table_close(relation, NoLock);
      shm_toc_estimate_chunk(&context->estimator, scan_bytes[i]);
    }
    InitializeParallelDSM(context);

    auto* header = static_cast<Header*>(shm_toc_allocate(context->toc, header_bytes));
    *header = shape;
    memcpy(header->targets, targets.data(), targets.size() * sizeof(pg::ScanTarget));
    shm_toc_insert(context->toc, kHeaderKey, header);
    auto* queues = static_cast<char*>(shm_toc_allocate(context->toc, workers * kQueueBytes));
    for (int i = 0; i < workers; ++i) {
      shm_mq_set_receiver(shm_mq_create(queues + i * kQueueBytes, kQueueBytes), MyProc);
    }
    shm_toc_insert(context->toc, kQueuesKey, queues);
    for (std::size_t i = 0; i < targets.size(); ++i) {
      auto* shared =
          static_cast<ParallelTableScanDesc>(shm_toc_allocate(context->toc, scan_bytes[i]));
      Relation relation = table_open(targets[i].relation, NoLock);
      table_parallelscan_initialize(relation, shared, GetActiveSnapshot());
      table_close(relation, NoLock);
      shm_toc_insert(context->toc, kFirstScanKey + i, shared);
    }
    return context;
  });
}

template <class Key>
LedgerSums<Key> sum_together(const std::vector<pg::ScanTarget>& targets, pg::KeyType key_type,
                             pg::AmountType amount_type, std::size_t memory, int workers) {
  Header shape;
  shape.key_type = key_type;
  shape.amount_type = amount_type;
  shape.memory = memory / (workers + 1);
  shape.target_count = static_cast<int>(targets.size());
  // What is raised from here on aborts the (sub)transaction, which ends workers and parallel mode.
  ParallelContext* context = prepare(targets, shape, workers);
  LedgerSums<Key> sums(shape.memory, random_seed());
  std::vector<shm_mq_handle*> queues;
  pg::call([&] { LaunchParallelWorkers(context); });
  queues.reserve(static_cast<std::size_t>(context->nworkers_launched));
  for (int i = 0; i < context->nworkers_launched; ++i) {
    queues.push_back(pg::call([&] {
      char* all = static_cast<char*>(shm_toc_lookup(context->toc, kQueuesKey, false));
      return shm_mq_attach(reinterpret_cast<shm_mq*>(all + i * kQueueBytes), context->seg,
                           context->worker[i].bgwhandle);
    }));
  }
  sums.workers = context->nworkers_launched;
  scan_share(sums, header_of(context->toc), context->toc);
  for (shm_mq_handle* queue : queues) {
    merge_from(queue, sums);
  }
  pg::call([&] {
    WaitForParallelWorkersToFinish(context);
    DestroyParallelContext(context);
    ExitParallelMode();
  });
  return sums;
}

}  // namespace

template <class Key>
LedgerSums<Key> sum_ledger(const std::vector<pg::ScanTarget>& targets, pg::KeyType key_type,
                           pg::AmountType amount_type, std::size_t memory) {
  const int workers = wanted_workers(targets);
  return workers == 0 ? sum_alone<Key>(targets, key_type, amount_type, memory)
                      : sum_together<Key>(targets, key_type, amount_type, memory, workers);
}

template LedgerSums<core::Uuid> sum_ledger(const std::vector<pg::ScanTarget>&, pg::KeyType,
                                           pg::AmountType, std::size_t);
template LedgerSums<std::int64_t> sum_ledger(const std::vector<pg::ScanTarget>&, pg::KeyType,
                                             pg::AmountType, std::size_t);

}  // namespace jobs

// Called by the parallel machinery, which looks the name up in this library.
extern "C" {
PGDLLEXPORT void bacmr_sum_worker(dsm_segment* segment, shm_toc* toc);
void bacmr_sum_worker(dsm_segment* segment, shm_toc* toc) {
  pg::from_postgres([&] { jobs::worker_main(segment, toc); });
}
}
