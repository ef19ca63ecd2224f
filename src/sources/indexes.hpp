// Which indexes the jobs find on the attached tables. All of it needs an SPI connection.
//
// `predicate`: an index of those rows alone will do as well as one of all. It compares a column
// with a constant, as in "status = 'reserved'", whatever the column's type.
#pragma once

#include "sources/source.hpp"

#include <string>

namespace sources {

// Whether an index begins with the column.
bool has_index(const Source& source, const char* column, const std::string& predicate = {});

// Whether a unique index forbids that a value of the column comes twice; where `with_user`, that it
// comes twice for one user.
bool is_unique(const Source& source, const char* column, const std::string& predicate,
               bool with_user);

}  // namespace sources
