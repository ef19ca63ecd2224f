// Building what a SQL function returns: one record, or a set of rows.
#pragma once

#include "pg/args.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

extern "C" {
#include "nodes/execnodes.h"
}

namespace pg {

// A value on its way into a result column. Made in the memory context of the call.
struct Value {
  Datum datum = 0;
  bool null = true;

  static Value text(const std::string& value);
  static Value text(const char* value) { return text(std::string(value)); }
  static Value text(const std::optional<std::string>& value);
  static Value int8(std::int64_t value);
  static Value int8(std::optional<std::int64_t> value);
  static Value boolean(bool value);
  static Value float8(double value);
  static Value float8_array(std::span<const double> values);
  static Value int8_array(std::span<const std::int64_t> values);
  static Value oid(Oid value);  // InvalidOid: NULL
  static Value timestamptz(std::optional<std::int64_t> value);
  static Value numeric(const std::string& decimal);
  static Value jsonb(const std::string& json);
  static Value jsonb(const std::optional<std::string>& json);
};

// The record that the function's OUT columns declare.
Datum record(const Args& args, const std::vector<Value>& values);

// A set-returning function that hands over its rows at once (materialize mode).
class ResultSet {
 public:
  explicit ResultSet(const Args& args);
  void row(const std::vector<Value>& values);

 private:
  ReturnSetInfo* info_;
};

}  // namespace pg
