#include "pg/column_shape.hpp"

#include "pg/encoding.hpp"
#include "pg/guard.hpp"

extern "C" {
#include "access/tupdesc.h"
#include "catalog/pg_type_d.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"
}

namespace pg {
namespace {

using core::ColumnShape;

char delimiter_of(Oid type) {
  return call([type] {
    int16 length = 0;
    bool by_value = false;
    char align = 0;
    char delimiter = ',';
    Oid io_parameter = InvalidOid;
    Oid function = InvalidOid;
    get_type_io_data(type, IOFunc_input, &length, &by_value, &align, &delimiter, &io_parameter,
                     &function);
    return delimiter;
  });
}

void add_attributes(Oid type, ColumnShape& shape) {
  TupleDesc attributes = call([type] { return lookup_rowtype_tupdesc_copy(type, -1); });
  for (int i = 0; i < attributes->natts; ++i) {
    const FormData_pg_attribute* attribute = TupleDescAttr(attributes, i);
    if (!attribute->attisdropped) {
      shape.names.push_back(to_utf8(NameStr(attribute->attname)).value_or(""));
      shape.children.push_back(shape_of(attribute->atttypid));
    }
  }
}

}  // namespace

core::ColumnShape shape_of(Oid type) {
  const Oid base = call([type] { return getBaseType(type); });
  ColumnShape shape;
  if (base == JSONOID || base == JSONBOID) {
    shape.kind = ColumnShape::Kind::kJson;
  } else if (base == INT2VECTOROID || base == OIDVECTOROID) {
    shape.kind = ColumnShape::Kind::kVector;
  } else if (const Oid element = call([base] { return get_element_type(base); });
             OidIsValid(element)) {
    shape.kind = ColumnShape::Kind::kArray;
    shape.delimiter = delimiter_of(element);
    shape.children.push_back(shape_of(element));
  } else if (call([base] { return type_is_rowtype(base); }) && base != RECORDOID) {
    shape.kind = ColumnShape::Kind::kComposite;
    add_attributes(base, shape);
  }
  return shape;
}

}  // namespace pg
