// Loading rows as COPY FROM does it: in bulk, with defaults, constraints, triggers, partitions and
// identity columns as COPY treats them. The rows come from a function, in COPY's text format,
// UTF-8.
#pragma once

#include "pg/postgres.hpp"

#include "core/byte_buffer.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace pg {

// Appends one row with its newline; false when there is none left.
using NextRow = std::function<bool(core::ByteBuffer& row)>;

// Returns how many rows were inserted (those that a trigger suppressed are not counted). Checks the
// caller's rights as COPY would. An error that belongs to a row says which in `line`, counted from
// 1; 0: it belongs to none.
std::uint64_t copy_rows(Oid relation, const std::vector<std::string>& columns,
                        const NextRow& next_row, std::uint64_t& line);

}  // namespace pg
