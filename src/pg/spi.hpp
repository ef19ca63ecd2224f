// Running SQL: one connection to SPI, queries with typed parameters, rows with typed columns.
#pragma once

#include "pg/scope.hpp"

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

extern "C" {
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
}

namespace pg {

// A query parameter: a type and a value. Values that are references live in the memory context that
// was current when they were made.
struct Param {
  Oid type;
  Datum value;
  bool null;

  static Param text(std::string_view value);
  static Param text(const std::string& value) { return text(std::string_view(value)); }
  static Param text(const char* value) { return text(std::string_view(value)); }
  static Param text(const std::optional<std::string>& value);
  static Param int2(std::int16_t value);
  static Param int8(std::int64_t value);
  static Param int8(std::optional<std::int64_t> value);
  static Param oid(Oid value);
  static Param boolean(bool value);
  static Param timestamptz(std::int64_t value);
  static Param text_array(const std::vector<std::string>& values);
  static Param text_array(const std::vector<std::optional<std::string>>& values);
  static Param int8_array(const std::vector<std::int64_t>& values);
  static Param real_array(const std::vector<float>& values);
};

// The rows of one query. Freed with the object, or with the SPI connection.
class Rows : Scope {
 public:
  Rows(SPITupleTable* table, std::uint64_t processed) : table_(table), processed_(processed) {}
  Rows(Rows&& other) noexcept
      : table_(std::exchange(other.table_, nullptr)), processed_(other.processed_) {}
  Rows& operator=(Rows&&) = delete;
  ~Rows();

  // Rows returned, or changed by a command that returns none.
  std::uint64_t size() const { return processed_; }
  bool empty() const { return processed_ == 0; }

  // Columns count from 0.
  bool is_null(std::uint64_t row, int column) const;
  Datum datum(std::uint64_t row, int column) const;
  std::string text(std::uint64_t row, int column) const;  // NULL: ''
  std::optional<std::string> maybe_text(std::uint64_t row, int column) const;
  std::int64_t int8(std::uint64_t row, int column) const;  // NULL: 0
  std::int32_t int4(std::uint64_t row, int column) const;
  bool boolean(std::uint64_t row, int column) const;                   // NULL: false
  Oid oid(std::uint64_t row, int column) const;                        // NULL: InvalidOid
  std::vector<float> real_array(std::uint64_t row, int column) const;  // NULL, no elements: empty
  // The column as a parameter of the same type for the next query.
  Param param(std::uint64_t row, int column) const;

 private:
  void check_column(int column) const;

  SPITupleTable* table_;
  std::uint64_t processed_;
};

class Spi : Scope {
 public:
  enum class Commit { kNo, kAllowed };
  enum class Access { kReadWrite, kReadOnly };

  // `kAllowed`: from a procedure that may commit (see require_commit_allowed).
  explicit Spi(Commit commit = Commit::kNo);
  ~Spi();

  // kReadOnly sees exactly the active snapshot; kReadWrite takes a new one for the query, as
  // READ COMMITTED does.
  Rows query(const std::string& sql, std::initializer_list<Param> params = {},
             Access access = Access::kReadWrite);

  // Commits and starts the next transaction.
  void commit();
};

// Throws 2D000 where the procedure `name` was called inside a transaction block or a function.
void require_commit_allowed(FunctionCallInfo fcinfo, const char* name);

// Quotes a name or a literal for use in SQL text, where that is needed.
std::string quote_identifier(const std::string& name);
std::string quote_literal(const std::string& text);
std::string quote_qualified(const std::string& schema, const std::string& name);

}  // namespace pg
