// A batch of a reindex job on its way: read, embedded, stored, recorded.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/chunk_reader.hpp"
#include "jobs/reindex_changes.hpp"
#include "providers/embedder.hpp"
#include "providers/vector_store.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace jobs {

struct ReindexUnit {
  // The batch in bacmr_reindex_batch; nothing for one that deals with changes.
  std::optional<std::int64_t> batch;
  std::string first_id;
  std::string last_id;
  Changes changes;
  std::vector<Chunk> chunks;
  std::vector<std::string> gone;            // changed chunks that are not there any more
  std::vector<std::string> keys;            // of the cache, by chunk
  std::vector<std::vector<float>> vectors;  // by chunk; empty: none yet, or failed
  std::vector<std::size_t> to_embed;        // chunks that are paid for
  std::vector<std::pair<std::size_t, std::string>> failed;  // chunks, and why
  std::int64_t estimated_tokens = 0;
  std::int64_t tokens = 0;

  enum class Phase { kEmbedding, kStoring, kRemoving, kDone };
  Phase phase = Phase::kEmbedding;
  std::optional<providers::Ticket> ticket;
  std::vector<std::size_t> stored;  // chunk of each record that was handed to the store
  std::size_t refused = 0;          // of these, by the store

  // How many units had passed at some moment.
  struct Passed {
    std::int64_t embedded = 0;
    std::int64_t recorded = 0;
  };
  Passed begun;
  // That it, or the larger batch that it is a part of, fails where others do not.
  struct Trouble {
    int failures = 0;
    Passed first;  // when it first did
  };
  Trouble trouble;
};

}  // namespace jobs
