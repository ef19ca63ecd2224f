#include "pg/postgres.hpp"

#include "pg/catalog_options.hpp"

#include "pg/guard.hpp"

extern "C" {
#include "access/reloptions.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
}

namespace pg {

std::map<std::string, std::string> options_from_list(const List* list) {
  std::map<std::string, std::string> options;
  const ListCell* cell = nullptr;
  foreach (cell, list) {
    const DefElem* element = lfirst_node(DefElem, cell);
    // An entry without "=" cannot come from the server's grammar, but from a direct call.
    options[element->defname] = element->arg != nullptr ? strVal(element->arg) : "";
  }
  return options;
}

std::map<std::string, std::string> options_from_array(Datum array) {
  return options_from_list(call([&] { return untransformRelOptions(array); }));
}

}  // namespace pg
