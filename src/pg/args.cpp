#include "pg/args.hpp"

#include "core/error.hpp"
#include "pg/extension.hpp"
#include "pg/guard.hpp"

extern "C" {
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
}

namespace pg {

void refuse_definition() {
  throw core::Error("42P13",
                    std::string("the SQL definition of the function does not fit the library of "
                                "bacmr_ops, which is of version ") +
                        kLibraryVersion,
                    {},
                    "Run ALTER EXTENSION bacmr_ops UPDATE; if the library is the older, install "
                    "that of the same version, and restart the server.");
}

void Args::require(int i, const char* name) const {
  if (is_null(i)) {
    throw core::Error(core::sqlstate::kNullValueNotAllowed,
                      std::string("argument \"") + name + "\" must not be NULL", {},
                      "Call the function with a value for it.");
  }
}

std::string Args::text(int i, const char* name) const {
  require(i, name);
  return *text(i);
}

std::string Args::name(int i, const char* argument) const {
  require(i, argument);
  return NameStr(*DatumGetName(datum(i)));
}

Oid Args::oid(int i, const char* name) const {
  require(i, name);
  return DatumGetObjectId(datum(i));
}

std::optional<std::string> Args::text(int i) const {
  if (is_null(i)) {
    return std::nullopt;
  }
  const char* value = call([&] {
    return text_to_cstring(reinterpret_cast<const ::text*>(PG_DETOAST_DATUM_PACKED(datum(i))));
  });
  return std::string(value);
}

std::optional<std::string_view> Args::text_view(int i) const {
  if (is_null(i)) {
    return std::nullopt;
  }
  auto* value = reinterpret_cast<varlena*>(DatumGetPointer(datum(i)));
  if (VARATT_IS_EXTENDED(value) && !VARATT_IS_SHORT(value)) {
    value = call([&] { return PG_DETOAST_DATUM_PACKED(datum(i)); });
  }
  return std::string_view(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

std::optional<std::string> Args::json(int i) const {
  if (is_null(i)) {
    return std::nullopt;
  }
  const char* value = call([&] {
    Jsonb* json = DatumGetJsonbP(datum(i));
    return JsonbToCString(nullptr, &json->root, VARSIZE(json));
  });
  return std::string(value);
}

std::optional<std::int64_t> Args::int8(int i) const {
  if (is_null(i)) {
    return std::nullopt;
  }
  return DatumGetInt64(datum(i));
}

std::optional<std::int32_t> Args::int4(int i) const {
  return is_null(i) ? std::nullopt : std::optional(DatumGetInt32(datum(i)));
}

std::optional<bool> Args::boolean(int i) const {
  return is_null(i) ? std::nullopt : std::optional(DatumGetBool(datum(i)));
}

std::optional<double> Args::numeric(int i) const {
  if (is_null(i)) {
    return std::nullopt;
  }
  return DatumGetFloat8(call([&] { return DirectFunctionCall1(numeric_float8, datum(i)); }));
}

std::optional<std::int64_t> Args::interval_us(int i) const {
  if (is_null(i)) {
    return std::nullopt;
  }
  const Interval* span = DatumGetIntervalP(datum(i));
  const std::int64_t days = static_cast<std::int64_t>(span->month) * DAYS_PER_MONTH + span->day;
  std::int64_t result = 0;
  if (__builtin_mul_overflow(days, USECS_PER_DAY, &result) ||
      __builtin_add_overflow(result, span->time, &result)) {
    throw core::Error("22008", "interval out of range");
  }
  return result;
}

}  // namespace pg
