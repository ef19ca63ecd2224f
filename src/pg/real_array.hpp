// Arrays of type real, seen as what they are: floats in a row.
#pragma once

#include "pg/postgres.hpp"

#include <span>
#include <vector>

namespace pg {

// Lives in the current memory context, or where the datum does. Errors: 2202E where it has several
// dimensions, 22004 where it holds a NULL.
std::span<const float> real_array(Datum array);

// In the current memory context.
Datum make_real_array(std::span<const float> values);

}  // namespace pg
