#include "pg/row_store.hpp"

#include "core/error.hpp"

extern "C" {
#include "executor/tstoreReceiver.h"
#include "executor/tuptable.h"
#include "tcop/dest.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"
}

namespace pg {
namespace {

// Describes the query's columns: the tuplestore itself holds bare tuples.
TupleDesc describe(const std::string& sql, std::vector<Oid>& types) {
  return call([&]() -> TupleDesc {
    SPIPlanPtr plan = SPI_prepare(sql.c_str(), static_cast<int>(types.size()), types.data());
    if (plan == nullptr) {
      return nullptr;
    }
    List* sources = SPI_plan_get_plan_sources(plan);
    auto* source = static_cast<CachedPlanSource*>(linitial(sources));
    TupleDesc shape = CreateTupleDescCopy(source->resultDesc);
    SPI_freeplan(plan);
    return shape;
  });
}

}  // namespace

RowStore::RowStore(const std::string& sql, std::initializer_list<Param> params) {
  std::vector<Oid> types;
  for (const Param& param : params) {
    types.push_back(param.type);
  }
  TupleDesc shape = describe(sql, types);
  if (shape == nullptr) {
    throw core::Error(core::sqlstate::kInternalError, "could not prepare an internal query");
  }
  const Param* values = params.begin();
  const int count = static_cast<int>(params.size());
  const int code = call([&] {
    store_ = tuplestore_begin_heap(false, false, work_mem);
    slot_ = MakeSingleTupleTableSlot(shape, &TTSOpsMinimalTuple);
    // No parameters are no list, as SPI itself has it: Citus crashes on an empty one.
    ParamListInfo list = count > 0 ? makeParamList(count) : nullptr;
    for (int i = 0; i < count; ++i) {
      list->params[i].value = values[i].value;
      list->params[i].isnull = values[i].null;
      list->params[i].pflags = PARAM_FLAG_CONST;
      list->params[i].ptype = values[i].type;
    }
    DestReceiver* receiver = CreateDestReceiver(DestTuplestore);
    SetTuplestoreDestReceiverParams(receiver, store_, CurrentMemoryContext, false, nullptr,
                                    nullptr);
    SPIExecuteOptions options;
    memset(&options, 0, sizeof options);
    options.params = list;
    options.read_only = true;
    options.dest = receiver;
    const int result = SPI_execute_extended(sql.c_str(), &options);
    receiver->rDestroy(receiver);
    return result;
  });
  if (code < 0) {
    throw core::Error(core::sqlstate::kInternalError,
                      std::string("SPI failed: ") + SPI_result_code_string(code));
  }
}

RowStore::~RowStore() {
  if (!unwinding()) {
    cleanup([this] {
      ExecDropSingleTupleTableSlot(slot_);
      tuplestore_end(store_);
    });
  }
}

std::optional<std::vector<std::optional<std::string>>> RowStore::next() {
  const bool found = call([this] {
    CHECK_FOR_INTERRUPTS();
    return tuplestore_gettupleslot(store_, true, false, slot_);
  });
  if (!found) {
    return std::nullopt;
  }
  std::vector<std::optional<std::string>> row;
  const TupleDesc shape = slot_->tts_tupleDescriptor;
  for (int column = 0; column < shape->natts; ++column) {
    char* value = call([&]() -> char* {
      bool null = false;
      const Datum datum = slot_getattr(slot_, column + 1, &null);
      if (null) {
        return nullptr;
      }
      Oid output = InvalidOid;
      bool varlena = false;
      getTypeOutputInfo(TupleDescAttr(shape, column)->atttypid, &output, &varlena);
      return OidOutputFunctionCall(output, datum);
    });
    if (value == nullptr) {
      row.emplace_back(std::nullopt);
    } else {
      row.emplace_back(value);
      pfree(value);
    }
  }
  return row;
}

}  // namespace pg
