// Turning the values of an NDJSON line into the fields of a row in COPY's text format.
#pragma once

#include "core/byte_buffer.hpp"
#include "core/json_line.hpp"

#include <string>
#include <vector>

namespace core {

// How a column's type reads JSON.
struct ColumnShape {
  enum class Kind {
    kScalar,     // a string's text, or a number or boolean as it stands
    kJson,       // JSON itself
    kArray,      // an array literal; children[0]: the elements
    kVector,     // int2vector and oidvector: elements divided by spaces
    kComposite,  // a row literal; children and names: the attributes, in their order
  };
  Kind kind = Kind::kScalar;
  char delimiter = ',';  // between the elements of an array
  std::vector<ColumnShape> children;
  std::vector<std::string> names;
};

// Appends the field; false where the value holds something that no text of the database can hold
// (\u0000, half a surrogate pair). A null of kind kJson is SQL's NULL unless `json_null`.
bool append_copy_field(ByteBuffer& out, const JsonValue& value, const ColumnShape& shape,
                       bool json_null);

}  // namespace core
