// The arguments of a SQL-callable function, by position, as C++ values.
#pragma once

#include "pg/postgres.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pg {

// An error (42P13): the SQL objects declare a function otherwise than this library has it.
[[noreturn]] void refuse_definition();

class Args {
 public:
  explicit Args(FunctionCallInfo fcinfo) : fcinfo_(fcinfo) {}

  FunctionCallInfo fcinfo() const { return fcinfo_; }
  bool is_null(int i) const { return argument(i).isnull; }
  Datum datum(int i) const { return argument(i).value; }

  // The value, or an error (22004) that names the argument, for arguments that must be given.
  std::string text(int i, const char* name) const;
  std::string name(int i, const char* argument) const;  // of type name
  Oid oid(int i, const char* name) const;

  std::optional<std::string> text(int i) const;
  // The bytes of a text without a copy, where they lie plain in memory.
  std::optional<std::string_view> text_view(int i) const;
  std::optional<std::string> json(int i) const;  // jsonb, as text
  std::optional<std::int64_t> int8(int i) const;
  std::optional<std::int32_t> int4(int i) const;
  std::optional<bool> boolean(int i) const;
  // A numeric, as near as a double comes.
  std::optional<double> numeric(int i) const;
  // An interval, in microseconds (a month counts as 30 days, as in extract(epoch …)'s arithmetic
  // for months).
  std::optional<std::int64_t> interval_us(int i) const;

  Datum null() const {
    fcinfo_->isnull = true;
    return static_cast<Datum>(0);
  }

 private:
  // SQL objects of another version may give fewer.
  const NullableDatum& argument(int i) const {
    if (i >= fcinfo_->nargs) {
      refuse_definition();
    }
    return fcinfo_->args[i];
  }
  void require(int i, const char* name) const;
  FunctionCallInfo fcinfo_;
};

inline Datum void_result() { return static_cast<Datum>(0); }

}  // namespace pg
