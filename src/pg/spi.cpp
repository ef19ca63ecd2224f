#include "pg/spi.hpp"

#include <unordered_map>
#include <utility>

#include "core/error.hpp"
#include "pg/real_array.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "nodes/parsenodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
}

namespace pg {
namespace {

// SPI reports misuse by a negative code; each of them would be a defect of ours.
void check(int code) {
  if (code < 0) {
    throw core::Error(core::sqlstate::kInternalError,
                      std::string("SPI failed: ") + SPI_result_code_string(code));
  }
}

// A worker says the same few things every minute: their plans are kept for the session. Postgres
// itself plans them anew when tables, search_path or the role's policies change. Commands that
// cannot be planned, and whatever comes once the store is full, go without.
constexpr std::size_t kMaxPlans = 256;
std::unordered_map<std::string, SPIPlanPtr> plans;

bool can_be_planned(const std::string& sql) {
  for (const char* verb : {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}) {
    if (sql.starts_with(verb)) {
      return true;
    }
  }
  return false;
}

SPIPlanPtr find_plan(const std::string& sql, std::vector<Oid>& types) {
  std::string key = sql;
  for (const Oid type : types) {
    key.append(1, '\0').append(std::to_string(type));
  }
  if (const auto found = plans.find(key); found != plans.end()) {
    return found->second;
  }
  if (plans.size() >= kMaxPlans || !can_be_planned(sql)) {
    return nullptr;
  }
  // Room first: a plan that is kept must not be lost to a failed insertion.
  SPIPlanPtr& slot = plans[key];
  try {
    slot = call([&] {
      int options = CURSOR_OPT_PARALLEL_OK;
      for (const Oid type : types) {
        // The right plan depends on how long the array is; a generic one guesses ten elements.
        options |= OidIsValid(get_element_type(type)) ? CURSOR_OPT_CUSTOM_PLAN : 0;
      }
      SPIPlanPtr plan =
          SPI_prepare_cursor(sql.c_str(), static_cast<int>(types.size()), types.data(), options);
      if (plan != nullptr) {
        SPI_keepplan(plan);
      }
      return plan;
    });
  } catch (...) {
    plans.erase(key);
    throw;
  }
  return slot;
}

}  // namespace

Param Param::text(std::string_view value) {
  const Datum datum = call([&] {
    return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size())));
  });
  return {TEXTOID, datum, false};
}

Param Param::text(const std::optional<std::string>& value) {
  return value ? text(std::string_view(*value)) : Param{TEXTOID, static_cast<Datum>(0), true};
}

Param Param::int2(std::int16_t value) { return {INT2OID, Int16GetDatum(value), false}; }

Param Param::int8(std::int64_t value) { return {INT8OID, Int64GetDatum(value), false}; }

Param Param::int8(std::optional<std::int64_t> value) {
  return value ? int8(*value) : Param{INT8OID, static_cast<Datum>(0), true};
}

Param Param::oid(Oid value) { return {OIDOID, ObjectIdGetDatum(value), false}; }

Param Param::boolean(bool value) { return {BOOLOID, BoolGetDatum(value), false}; }

Param Param::timestamptz(std::int64_t value) {
  return {TIMESTAMPTZOID, Int64GetDatum(value), false};
}

Param Param::text_array(const std::vector<std::string>& values) {
  std::vector<Datum> datums;
  datums.reserve(values.size());
  for (const std::string& value : values) {
    datums.push_back(text(std::string_view(value)).value);
  }
  const Datum array = call([&] {
    return PointerGetDatum(construct_array(datums.data(), static_cast<int>(datums.size()), TEXTOID,
                                           -1, false, TYPALIGN_INT));
  });
  return {TEXTARRAYOID, array, false};
}

Param Param::text_array(const std::vector<std::optional<std::string>>& values) {
  std::vector<Datum> datums;
  std::vector<char> nulls;
  datums.reserve(values.size());
  nulls.reserve(values.size());
  for (const auto& value : values) {
    const Param element = text(value);
    datums.push_back(element.value);
    nulls.push_back(element.null ? 1 : 0);
  }
  const Datum array = call([&] {
    int dimensions[1] = {static_cast<int>(datums.size())};
    int lower_bounds[1] = {1};
    return PointerGetDatum(construct_md_array(datums.data(), reinterpret_cast<bool*>(nulls.data()),
                                              1, dimensions, lower_bounds, TEXTOID, -1, false,
                                              TYPALIGN_INT));
  });
  return {TEXTARRAYOID, array, false};
}

Param Param::int8_array(const std::vector<std::int64_t>& values) {
  std::vector<Datum> datums;
  datums.reserve(values.size());
  for (const std::int64_t value : values) {
    datums.push_back(Int64GetDatum(value));
  }
  const Datum array = call([&] {
    return PointerGetDatum(construct_array(datums.data(), static_cast<int>(datums.size()), INT8OID,
                                           sizeof(std::int64_t), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
  });
  return {INT8ARRAYOID, array, false};
}

Param Param::real_array(const std::vector<float>& values) {
  return {FLOAT4ARRAYOID, make_real_array(values), false};
}

Rows::~Rows() {
  if (table_ != nullptr && !unwinding()) {
    cleanup([this] { SPI_freetuptable(table_); });
  }
}

void Rows::check_column(int column) const {
  if (column >= table_->tupdesc->natts) {
    throw core::Error(core::sqlstate::kInternalError, "an internal query has too few columns");
  }
}

bool Rows::is_null(std::uint64_t row, int column) const {
  check_column(column);
  bool null = false;
  call([&] { SPI_getbinval(table_->vals[row], table_->tupdesc, column + 1, &null); });
  return null;
}

Datum Rows::datum(std::uint64_t row, int column) const {
  check_column(column);
  bool null = false;
  return call([&] { return SPI_getbinval(table_->vals[row], table_->tupdesc, column + 1, &null); });
}

std::optional<std::string> Rows::maybe_text(std::uint64_t row, int column) const {
  check_column(column);
  char* value = call([&] { return SPI_getvalue(table_->vals[row], table_->tupdesc, column + 1); });
  if (value == nullptr) {
    return std::nullopt;
  }
  std::string copy(value);
  pfree(value);
  return copy;
}

std::string Rows::text(std::uint64_t row, int column) const {
  return maybe_text(row, column).value_or(std::string());
}

std::int64_t Rows::int8(std::uint64_t row, int column) const {
  return DatumGetInt64(datum(row, column));
}

std::int32_t Rows::int4(std::uint64_t row, int column) const {
  return DatumGetInt32(datum(row, column));
}

bool Rows::boolean(std::uint64_t row, int column) const { return DatumGetBool(datum(row, column)); }

Oid Rows::oid(std::uint64_t row, int column) const { return DatumGetObjectId(datum(row, column)); }

std::vector<float> Rows::real_array(std::uint64_t row, int column) const {
  if (is_null(row, column)) {
    return {};
  }
  const Datum value = datum(row, column);
  const ArrayType* array = call([&] { return DatumGetArrayTypeP(value); });
  const int count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
  const auto* elements = reinterpret_cast<const float*>(ARR_DATA_PTR(array));
  return {elements, elements + count};
}

Param Rows::param(std::uint64_t row, int column) const {
  check_column(column);
  bool null = false;
  const Datum value =
      call([&] { return SPI_getbinval(table_->vals[row], table_->tupdesc, column + 1, &null); });
  return {SPI_gettypeid(table_->tupdesc, column + 1), value, null};
}

Spi::Spi(Commit commit) {
  check(call(
      [commit] { return SPI_connect_ext(commit == Commit::kAllowed ? SPI_OPT_NONATOMIC : 0); }));
}

Spi::~Spi() {
  if (!unwinding()) {
    cleanup([] { SPI_finish(); });
  }
}

Rows Spi::query(const std::string& sql, std::initializer_list<Param> params, Access access) {
  std::vector<Oid> types;
  std::vector<Datum> values;
  std::string nulls;
  for (const Param& param : params) {
    types.push_back(param.type);
    values.push_back(param.value);
    nulls.push_back(param.null ? 'n' : ' ');
  }
  const bool read_only = access == Access::kReadOnly;
  SPIPlanPtr plan = find_plan(sql, types);
  check(call([&] {
    return plan != nullptr
               ? SPI_execute_plan(plan, values.data(), nulls.c_str(), read_only, 0)
               : SPI_execute_with_args(sql.c_str(), static_cast<int>(types.size()), types.data(),
                                       values.data(), nulls.c_str(), read_only, 0);
  }));
  return {SPI_tuptable, SPI_processed};
}

void Spi::commit() {
  call([] { SPI_commit(); });
}

void require_commit_allowed(FunctionCallInfo fcinfo, const char* name) {
  const Node* context = fcinfo->context;
  const bool allowed = context != nullptr && IsA(context, CallContext) &&
                       !reinterpret_cast<const CallContext*>(context)->atomic;
  if (!allowed) {
    throw core::Error(
        core::sqlstate::kInvalidTransactionTermination,
        std::string(name) + " commits, so it cannot run inside a transaction block", {},
        std::string("Call it by itself: outside BEGIN … COMMIT, not from a function, not together "
                    "with another command in one string."));
  }
}

std::string quote_identifier(const std::string& name) {
  return call([&] { return ::quote_identifier(name.c_str()); });
}

std::string quote_literal(const std::string& text) {
  return call([&] { return quote_literal_cstr(text.c_str()); });
}

std::string quote_qualified(const std::string& schema, const std::string& name) {
  return quote_identifier(schema) + "." + quote_identifier(name);
}

}  // namespace pg
