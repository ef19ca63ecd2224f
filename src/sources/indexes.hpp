// Which indexes the jobs find on the attached tables.
#pragma once

#include "sources/source.hpp"

#include <string>

namespace sources {

// Whether an index of all rows, or of those that `predicate` names, begins with the column; where
// `unique`: a unique one on that column alone. `predicate` compares a column with a constant, as in
// "status = 'reserved'", whatever the column's type. Needs an SPI connection.
bool has_index(const Source& source, const char* column, bool unique,
               const std::string& predicate = {});

}  // namespace sources
