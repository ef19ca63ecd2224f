// The whole result of a read-only query, held in memory up to work_mem and on disk beyond, so that
// it can be walked at leisure. Unlike a cursor, it lets the query run in parallel.
#pragma once

#include "pg/spi.hpp"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pg {

class RowStore : Scope {
 public:
  // Needs an SPI connection; the query sees the active snapshot.
  RowStore(const std::string& sql, std::initializer_list<Param> params);
  ~RowStore();

  // The next row's columns as text, or nothing after the last.
  std::optional<std::vector<std::optional<std::string>>> next();

 private:
  Tuplestorestate* store_ = nullptr;
  TupleTableSlot* slot_ = nullptr;
};

}  // namespace pg
