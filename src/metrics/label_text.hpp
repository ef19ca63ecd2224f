// Texts of this database as label values: UTF-8, whatever the database's encoding.
#pragma once

#include "pg/postgres.hpp"

#include <optional>
#include <string>
#include <string_view>

#include "core/label_values.hpp"

namespace metrics {

// Adds a value; returns nullptr, or the reason why it cannot be one, as a label of
// bacmr_metrics_rejected_total. Raises nothing.
const char* add_label(core::LabelValues& labels, std::optional<std::string_view> text);

// A text of this database in UTF-8; nothing where a character has no place in it.
std::optional<std::string> to_utf8(std::string_view text);

// From UTF-8 to the database's encoding, for results.
std::string to_database_encoding(const std::string& utf8);

}  // namespace metrics
