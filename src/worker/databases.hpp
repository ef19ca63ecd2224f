// The databases of this cluster, for processes that have none of their own.
#pragma once

#include "pg/postgres.hpp"

#include <string>
#include <vector>

namespace worker {

struct Database {
  Oid oid;
  std::string name;
  bool connectable;
};

// In a transaction of its own.
std::vector<Database> read_databases();

}  // namespace worker
