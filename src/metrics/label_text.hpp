// Texts of this database as label values: UTF-8, whatever the database's encoding.
#pragma once

#include "pg/postgres.hpp"

#include <optional>
#include <string_view>

#include "core/label_values.hpp"

namespace metrics {

// Adds a value; returns nullptr, or the reason why it cannot be one, as a label of
// bacmr_metrics_rejected_total. Raises nothing.
const char* add_label(core::LabelValues& labels, std::optional<std::string_view> text);

}  // namespace metrics
