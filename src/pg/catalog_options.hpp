// Options as the catalogs of foreign data keep them: text[] of "name=value".
#pragma once

#include "pg/postgres.hpp"

#include <map>
#include <string>

extern "C" {
#include "nodes/pg_list.h"
}

namespace pg {

std::map<std::string, std::string> options_from_array(Datum array);
// The same, of a list of DefElem as the server's own look-ups return it.
std::map<std::string, std::string> options_from_list(const List* list);

}  // namespace pg
