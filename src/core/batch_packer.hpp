// Cuts a sequence of items into batches that keep a service's limits on count, tokens and bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace core {

struct ItemSize {
  std::uint64_t bytes = 0;
  std::uint64_t tokens = 0;
};

struct BatchLimits {
  std::size_t max_items = std::numeric_limits<std::size_t>::max();  // 0 is taken as 1
  std::uint64_t max_tokens = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t max_bytes = std::numeric_limits<std::uint64_t>::max();
  // What a request has around its items, and what stands between two of them; both count as bytes.
  std::uint64_t frame_bytes = 0;
  std::uint64_t separator_bytes = 0;
};

// Items `first` … `first + count - 1`. A batch holds at least one.
struct Batch {
  std::size_t first = 0;
  std::size_t count = 0;
  std::uint64_t bytes = 0;  // with frame and separators
  std::uint64_t tokens = 0;
  // One item that exceeds a limit all by itself.
  bool too_large = false;
};

// Keeps the order: each batch takes what still fits, and an item that would not fit into an empty
// batch either is a batch of its own.
std::vector<Batch> pack_batches(std::span<const ItemSize> items, const BatchLimits& limits);

// For a service that calls a batch too large all the same: two halves, by count. The batch has two
// items at least; `items` are those that it was packed from.
std::pair<Batch, Batch> halve_batch(const Batch& batch, std::span<const ItemSize> items,
                                    const BatchLimits& limits);

}  // namespace core
