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

// `left_out`: says, once the store has been listed, which ids neither side has to have. Before that
// no table is touched but temporary ones, so no lock is held while the store is waited for. Acts
// with the current user's rights.
VectorCheck check_vectors(const ChunkReader& chunks, const std::string& space,
                          providers::VectorStore& store, const std::string& target,
                          const std::function<std::vector<std::string>()>& left_out);

// For `left_out`.
inline std::vector<std::string> nothing() { return {}; }

}  // namespace jobs
