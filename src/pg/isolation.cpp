#include "pg/postgres.hpp"

#include "pg/isolation.hpp"

#include "core/error.hpp"

extern "C" {
#include "access/xact.h"
}

namespace pg {

void require_read_committed(const std::string& message, const std::string& detail) {
  if (IsolationUsesXactSnapshot()) {
    throw core::Error(core::sqlstate::kActiveSqlTransaction, message, detail,
                      "Run it by itself, or begin with BEGIN ISOLATION LEVEL READ COMMITTED.");
  }
}

}  // namespace pg
