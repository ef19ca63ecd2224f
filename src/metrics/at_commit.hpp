// Recording what a job did, once its transaction has committed: a run that is rolled back moves no
// counter. (Of a transaction that is prepared for two-phase commit nothing is recorded.)
#pragma once

#include <initializer_list>
#include <string_view>

#include "metrics/registry.hpp"

namespace metrics {

void record_at_commit(Metric metric, std::initializer_list<std::string_view> labels, Change change,
                      double amount);

}  // namespace metrics
