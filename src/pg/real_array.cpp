#include "pg/real_array.hpp"

#include "core/error.hpp"
#include "pg/guard.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
#include "utils/array.h"
}

namespace pg {

std::span<const float> real_array(Datum array) {
  const ArrayType* plain = call([&] { return DatumGetArrayTypeP(array); });
  if (ARR_ELEMTYPE(plain) != FLOAT4OID) {
    throw core::Error(core::sqlstate::kInternalError, "an array is not of type real");
  }
  if (ARR_NDIM(plain) > 1) {
    throw core::Error("2202E", "a vector is an array of one dimension");
  }
  if (ARR_HASNULL(plain) &&
      call([&] { return array_contains_nulls(const_cast<ArrayType*>(plain)); })) {
    throw core::Error(core::sqlstate::kNullValueNotAllowed, "a vector may not hold a NULL");
  }
  const std::size_t size = ARR_NDIM(plain) == 0 ? 0 : static_cast<std::size_t>(ARR_DIMS(plain)[0]);
  return {reinterpret_cast<const float*>(ARR_DATA_PTR(plain)), size};
}

Datum make_real_array(std::span<const float> values) {
  return call([&] {
    const Size bytes = ARR_OVERHEAD_NONULLS(1) + values.size_bytes();
    auto* array = static_cast<ArrayType*>(palloc0(bytes));
    SET_VARSIZE(array, bytes);
    array->ndim = 1;
    array->dataoffset = 0;
    array->elemtype = FLOAT4OID;
    ARR_DIMS(array)[0] = static_cast<int>(values.size());
    ARR_LBOUND(array)[0] = 1;
    if (!values.empty()) {
      memcpy(ARR_DATA_PTR(array), values.data(), values.size_bytes());
    } else {
      array->ndim = 0;
      SET_VARSIZE(array, ARR_OVERHEAD_NONULLS(0));
    }
    return PointerGetDatum(array);
  });
}

}  // namespace pg
