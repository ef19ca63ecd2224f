// How a type reads what row_to_json() has written of it.
#pragma once

#include "pg/postgres.hpp"

#include "core/copy_text.hpp"

namespace pg {

core::ColumnShape shape_of(Oid type);

}  // namespace pg
