#include "core/batch_packer.hpp"

#include <algorithm>

namespace core {
namespace {

// Sizes may be anything; their sums must not wrap around into what seems to fit.
std::uint64_t plus(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t sum = a + b;
  return sum < a ? std::numeric_limits<std::uint64_t>::max() : sum;
}

Batch empty_batch(std::size_t first, const BatchLimits& limits) {
  Batch batch;
  batch.first = first;
  batch.bytes = limits.frame_bytes;
  return batch;
}

Batch with(const Batch& batch, const ItemSize& item, const BatchLimits& limits) {
  Batch grown = batch;
  if (batch.count > 0) {
    grown.bytes = plus(grown.bytes, limits.separator_bytes);
  }
  grown.bytes = plus(grown.bytes, item.bytes);
  grown.tokens = plus(grown.tokens, item.tokens);
  ++grown.count;
  return grown;
}

bool fits(const Batch& batch, const BatchLimits& limits) {
  return batch.count <= std::max<std::size_t>(limits.max_items, 1) &&
         batch.tokens <= limits.max_tokens && batch.bytes <= limits.max_bytes;
}

Batch range(std::size_t first, std::size_t count, std::span<const ItemSize> items,
            const BatchLimits& limits) {
  Batch batch = empty_batch(first, limits);
  for (std::size_t i = 0; i < count; ++i) {
    batch = with(batch, items[first + i], limits);
  }
  batch.too_large = count == 1 && !fits(batch, limits);
  return batch;
}

}  // namespace

std::vector<Batch> pack_batches(std::span<const ItemSize> items, const BatchLimits& limits) {
  std::vector<Batch> batches;
  Batch open = empty_batch(0, limits);
  const auto close = [&](std::size_t next) {
    if (open.count > 0) {
      batches.push_back(open);
    }
    open = empty_batch(next, limits);
  };
  for (std::size_t i = 0; i < items.size(); ++i) {
    Batch grown = with(open, items[i], limits);
    if (!fits(grown, limits)) {
      close(i);
      grown = with(open, items[i], limits);
    }
    open = grown;
    if (!fits(open, limits)) {
      open.too_large = true;
      close(i + 1);
    }
  }
  close(items.size());
  return batches;
}

std::pair<Batch, Batch> halve_batch(const Batch& batch, std::span<const ItemSize> items,
                                    const BatchLimits& limits) {
  const std::size_t half = batch.count / 2;
  return {range(batch.first, half, items, limits),
          range(batch.first + half, batch.count - half, items, limits)};
}

}  // namespace core
