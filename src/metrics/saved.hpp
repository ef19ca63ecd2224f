// The file in which the metrics outlive a clean shutdown.
#pragma once

#include "core/metric_store.hpp"

namespace metrics {

// Both run in the postmaster and raise nothing: what goes wrong is a line in the log.

// Writes the store whole or not at all.
void save(const core::MetricStore& store);

// Fills an empty store from what the last clean shutdown saved, and removes the file: after a crash
// there is none, and counters begin at 0. (An older value would look like a huge increase.) False
// where the store must be emptied again: the file was damaged, and is set aside.
bool load(core::MetricStore& store);

}  // namespace metrics
