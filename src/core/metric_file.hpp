// The metric store as a string of bytes, to outlive a shutdown. The caller adds what proves that
// the bytes came back whole.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "core/metric_store.hpp"

namespace core {

// `catalog`: the families below MetricStore::kFirstUserFamily, by their numbers.
std::string save_metrics(const MetricStore& store, std::span<const MetricFamily> catalog);

// Fills a store that is empty. A series whose family is gone or has another shape now is left out.
// False where the bytes are damaged; what the store holds then is worth nothing.
[[nodiscard]] bool load_metrics(MetricStore& store, std::string_view bytes,
                                std::span<const MetricFamily> catalog);

}  // namespace core
