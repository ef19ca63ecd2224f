// Metrics that a database's users define. The table bacmr_metric_definition is the truth, so that a
// definition outlives a crash and comes along in a dump; shared memory holds copies.
#pragma once

#include "metrics/registry.hpp"

namespace metrics {

// The definition of a metric, read from the table if need be; or an error (42704).
Definition require_definition(const std::string& name);

}  // namespace metrics
