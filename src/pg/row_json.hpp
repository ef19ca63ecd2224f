// Rows as NDJSON, straight from tuples: each column under its own name, each value as row_to_json()
// prints it. What does not change from row to row (keys, output functions) is prepared once.
#pragma once

#include "pg/postgres.hpp"

#include "core/byte_buffer.hpp"

#include <cstdint>
#include <string>
#include <vector>

extern "C" {
#include "access/tupdesc.h"
#include "executor/tuptable.h"
}

namespace pg {

// A column to write: under which name, and which attribute holds it.
struct JsonColumn {
  std::string name;
  AttrNumber number;
};

// Where in the buffer a line and the values of two of its columns lie; plain data.
struct LineMark {
  std::size_t begin = 0;
  std::size_t id_begin = 0;  // begin == end: there is no such column
  std::size_t id_end = 0;
  std::size_t namespace_begin = 0;
  std::size_t namespace_end = 0;
};

class RowEncoder {
 public:
  // `shape` outlives the encoder. `id` and `space`: indexes into `columns` of those whose places
  // are wanted, -1 for none.
  RowEncoder(TupleDesc shape, const std::vector<JsonColumn>& columns, int id = -1, int space = -1);

  // Appends the row and a newline. May raise: to be called inside a guard. Detoasted and printed
  // values are left in the current memory context. Adds to `json_nulls` the index of each column
  // that holds JSON's null, followed by `row` (four bytes each).
  void encode(TupleTableSlot* slot, core::ByteBuffer& out, LineMark& mark, std::uint32_t row,
              core::ByteBuffer& json_nulls);

 private:
  enum class Form : std::uint8_t {
    kText,
    kInt2,
    kInt4,
    kInt8,
    kBoolean,
    kUuid,
    kDateTime,  // date, timestamp, timestamptz
    kNumber,    // printed bare where it is a number, quoted where it is NaN or an infinity
    kJson,
    kJsonb,
    kArray,
    kComposite,
    kCast,  // the type has a cast to json
    kOther  // its text, quoted
  };
  struct Field {
    AttrNumber number;
    Form form;
    Oid type;
    const char* key;  // {"name": or ,"name":
    std::size_t key_length;
    FmgrInfo function;
  };

  static Form form_of(Oid type, Oid& function);
  static void append_value(core::ByteBuffer& out, Field& field, Datum value);

  std::vector<std::string> keys_;
  std::vector<Field> fields_;
  int last_attribute_ = 0;
  int id_;
  int space_;
  bool convert_;  // the database is not in UTF-8
};

}  // namespace pg
