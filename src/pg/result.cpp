#include "pg/result.hpp"

#include "core/error.hpp"
#include "pg/guard.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
}

namespace pg {
namespace {

void split(const std::vector<Value>& values, std::vector<Datum>& datums, std::vector<char>& nulls) {
  for (const Value& value : values) {
    datums.push_back(value.datum);
    nulls.push_back(value.null ? 1 : 0);
  }
}

}  // namespace

Value Value::text(const std::string& value) {
  return {call([&] {
            return PointerGetDatum(
                cstring_to_text_with_len(value.data(), static_cast<int>(value.size())));
          }),
          false};
}

Value Value::text(const std::optional<std::string>& value) {
  return value ? text(*value) : Value{};
}

Value Value::int8(std::int64_t value) { return {Int64GetDatum(value), false}; }

Value Value::int8(std::optional<std::int64_t> value) { return value ? int8(*value) : Value{}; }

Value Value::boolean(bool value) { return {BoolGetDatum(value), false}; }

Value Value::float8(double value) { return {Float8GetDatum(value), false}; }

Value Value::float8_array(std::span<const double> values) {
  std::vector<Datum> datums;
  for (const double value : values) {
    datums.push_back(Float8GetDatum(value));
  }
  return {call([&] {
            return PointerGetDatum(construct_array(datums.data(), static_cast<int>(datums.size()),
                                                   FLOAT8OID, sizeof(double), FLOAT8PASSBYVAL,
                                                   TYPALIGN_DOUBLE));
          }),
          false};
}

Value Value::int8_array(std::span<const std::int64_t> values) {
  std::vector<Datum> datums;
  for (const std::int64_t value : values) {
    datums.push_back(Int64GetDatum(value));
  }
  return {call([&] {
            return PointerGetDatum(construct_array(datums.data(), static_cast<int>(datums.size()),
                                                   INT8OID, sizeof(std::int64_t), FLOAT8PASSBYVAL,
                                                   TYPALIGN_DOUBLE));
          }),
          false};
}

Value Value::oid(Oid value) {
  return OidIsValid(value) ? Value{ObjectIdGetDatum(value), false} : Value{};
}

Value Value::timestamptz(std::optional<std::int64_t> value) {
  return value ? Value{Int64GetDatum(*value), false} : Value{};
}

Value Value::numeric(const std::string& decimal) {
  return {call([&] {
            return DirectFunctionCall3(numeric_in, CStringGetDatum(decimal.c_str()),
                                       ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
          }),
          false};
}

Value Value::jsonb(const std::string& json) {
  return {call([&] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.c_str())); }),
          false};
}

Value Value::jsonb(const std::optional<std::string>& json) { return json ? jsonb(*json) : Value{}; }

Datum record(const Args& args, const std::vector<Value>& values) {
  std::vector<Datum> datums;
  std::vector<char> nulls;
  split(values, datums, nulls);
  TupleDesc shape = call([&] {
    TupleDesc found = nullptr;
    if (get_call_result_type(args.fcinfo(), nullptr, &found) != TYPEFUNC_COMPOSITE) {
      return TupleDesc{nullptr};
    }
    return BlessTupleDesc(found);
  });
  if (shape == nullptr || static_cast<std::size_t>(shape->natts) != values.size()) {
    refuse_definition();
  }
  return call([&] {
    return HeapTupleGetDatum(
        heap_form_tuple(shape, datums.data(), reinterpret_cast<bool*>(nulls.data())));
  });
}

ResultSet::ResultSet(const Args& args)
    : info_(reinterpret_cast<ReturnSetInfo*>(args.fcinfo()->resultinfo)) {
  call([&] { InitMaterializedSRF(args.fcinfo(), 0); });
}

void ResultSet::row(const std::vector<Value>& values) {
  std::vector<Datum> datums;
  std::vector<char> nulls;
  split(values, datums, nulls);
  if (static_cast<std::size_t>(info_->setDesc->natts) != values.size()) {
    refuse_definition();
  }
  call([&] {
    tuplestore_putvalues(info_->setResult, info_->setDesc, datums.data(),
                         reinterpret_cast<bool*>(nulls.data()));
  });
}

}  // namespace pg
