// Whether the ids in a namespace of a vector store are those of the chunks.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/chunk_reader.hpp"
#include "providers/vector_store.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace jobs {

struct VectorCheck {
  std::int64_t expected = 0;  // chunks, without those that are left out
  std::int64_t actual = 0;    // vectors
  std::int64_t missing = 0;
  std::int64_t extra = 0;
  // The first kNamed of each.
  std::vector<std::string> missing_ids;
  std::vector<std::string> extra_ids;

  static constexpr int kNamed = 100'000;
  bool ok() const { return missing == 0 && extra == 0; }
};

// How long the table lives that a listing goes into.
enum class ListingSpan { kTransaction, kSession };

// The ids of a namespace, in a temporary table of the current user's. For a listing that spans
// transactions each of these is called in one of them, but for list_ids(): it only hands out ids,
// so that nothing has to be held while a service is waited for.
void begin_listing(ListingSpan span);
void list_ids(providers::VectorStore& store, const std::string& target,
              const std::function<void(const std::vector<std::string>&)>& each);
void add_listed(const std::vector<std::string>& ids);
void finish_listing();
void end_listing();

// The chunks beside what is listed, and `left_out`, which says which ids neither side has to have:
// all by one snapshot, so that what is written meanwhile is nowhere or everywhere. `left_out` reads
// read-only. Acts with the current user's rights.
VectorCheck compare_listed(const ChunkReader& chunks, const std::string& space,
                           const std::function<std::vector<std::string>()>& left_out);

// All of it in the caller's transaction.
VectorCheck check_vectors(const ChunkReader& chunks, const std::string& space,
                          providers::VectorStore& store, const std::string& target,
                          const std::function<std::vector<std::string>()>& left_out);

// For `left_out`.
inline std::vector<std::string> nothing() { return {}; }

}  // namespace jobs
