#include "pg/row_json.hpp"

#include <algorithm>

#include "core/ndjson.hpp"
#include "pg/guard.hpp"

extern "C" {
#include "access/transam.h"
#include "catalog/pg_type_d.h"
#include "mb/pg_wchar.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"
#include "utils/uuid.h"
}

namespace pg {
namespace {

namespace ndjson = core::ndjson;

std::string_view bytes_of(Datum value) {
  const varlena* text = PG_DETOAST_DATUM_PACKED(value);
  return {VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text)};
}

// The server's functions for arrays and rows return text, and keep what a json value inside holds.
void append_json_result(core::ByteBuffer& out, Datum text) {
  ndjson::append_json(out, bytes_of(text));
}

void append_uuid(core::ByteBuffer& out, const unsigned char* bytes) {
  constexpr char kHex[] = "0123456789abcdef";
  constexpr std::size_t kLength = 38;
  char* to = out.reserve(kLength);
  *to++ = '"';
  for (int i = 0; i < UUID_LEN; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) {
      *to++ = '-';
    }
    *to++ = kHex[bytes[i] >> 4];
    *to++ = kHex[bytes[i] & 15];
  }
  *to = '"';
  out.commit(kLength);
}

void append_number(core::ByteBuffer& out, std::string_view text) {
  const char first = text.front() == '-' && text.size() > 1 ? text[1] : text.front();
  if (first >= '0' && first <= '9') {
    out.append(text);
  } else {
    ndjson::append_string(out, text);
  }
}

// What was appended since `begin`, from the database's encoding to UTF-8.
void convert(core::ByteBuffer& out, std::size_t begin) {
  char* text = out.mutable_data() + begin;
  const std::size_t length = out.size() - begin;
  if (length > MaxAllocSize / MAX_CONVERSION_GROWTH) {
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
            errmsg("a value is too long to be converted to UTF-8"));
  }
  char* converted = pg_server_to_any(text, static_cast<int>(length), PG_UTF8);
  if (converted != text) {
    out.truncate(begin);
    out.append(std::string_view(converted));
    pfree(converted);
  }
}

bool is_json_null(std::string_view json) {
  const std::size_t first = json.find_first_not_of(" \t");
  return first != std::string_view::npos && json[first] == 'n';
}

}  // namespace

RowEncoder::RowEncoder(TupleDesc shape, const std::vector<JsonColumn>& columns, int id, int space)
    : id_(id), space_(space), convert_(GetDatabaseEncoding() != PG_UTF8) {
  keys_.reserve(columns.size());
  for (const JsonColumn& column : columns) {
    core::ByteBuffer key;
    key.append(keys_.empty() ? '{' : ',');
    ndjson::append_string(key, column.name);
    if (convert_) {
      call([&] { convert(key, 0); });
    }
    key.append(':');
    keys_.emplace_back(key.view());
    Field field{};
    field.number = column.number;
    field.type = TupleDescAttr(shape, column.number - 1)->atttypid;
    field.key = keys_.back().data();
    field.key_length = keys_.back().size();
    call([&] {
      field.type = getBaseType(field.type);
      Oid function = InvalidOid;
      field.form = form_of(field.type, function);
      if (OidIsValid(function)) {
        fmgr_info_cxt(function, &field.function, CurrentMemoryContext);
      }
    });
    last_attribute_ = std::max<int>(last_attribute_, column.number);
    fields_.push_back(field);
  }
}

// As json.c sorts types.
RowEncoder::Form RowEncoder::form_of(Oid type, Oid& function) {
  switch (type) {
    case TEXTOID:
    case VARCHAROID:
    case BPCHAROID:
      return Form::kText;
    case INT2OID:
      return Form::kInt2;
    case INT4OID:
      return Form::kInt4;
    case INT8OID:
      return Form::kInt8;
    case BOOLOID:
      return Form::kBoolean;
    case UUIDOID:
      return Form::kUuid;
    case DATEOID:
    case TIMESTAMPOID:
    case TIMESTAMPTZOID:
      return Form::kDateTime;
    case JSONOID:
      return Form::kJson;
    case JSONBOID:
      return Form::kJsonb;
    default:
      break;
  }
  if (OidIsValid(get_element_type(type)) || type == ANYARRAYOID || type == RECORDARRAYOID) {
    return Form::kArray;
  }
  if (type_is_rowtype(type)) {
    return Form::kComposite;
  }
  if (type >= FirstNormalObjectId &&
      find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT, &function) == COERCION_PATH_FUNC &&
      OidIsValid(function)) {
    return Form::kCast;
  }
  bool is_varlena = false;
  getTypeOutputInfo(type, &function, &is_varlena);
  return type == NUMERICOID || type == FLOAT4OID || type == FLOAT8OID ? Form::kNumber
                                                                      : Form::kOther;
}

void RowEncoder::append_value(core::ByteBuffer& out, Field& field, Datum value) {
  switch (field.form) {
    case Form::kText:
      ndjson::append_string(out, bytes_of(value));
      return;
    case Form::kInt2:
      ndjson::append_integer(out, DatumGetInt16(value));
      return;
    case Form::kInt4:
      ndjson::append_integer(out, DatumGetInt32(value));
      return;
    case Form::kInt8:
      ndjson::append_integer(out, DatumGetInt64(value));
      return;
    case Form::kBoolean:
      out.append(DatumGetBool(value) ? std::string_view("true") : std::string_view("false"));
      return;
    case Form::kUuid:
      append_uuid(out, DatumGetUUIDP(value)->data);
      return;
    case Form::kDateTime: {
      char buffer[MAXDATELEN + 1];
      JsonEncodeDateTime(buffer, value, field.type, nullptr);
      out.append('"');
      out.append(std::string_view(buffer));
      out.append('"');
      return;
    }
    case Form::kNumber:
      append_number(out, OutputFunctionCall(&field.function, value));
      return;
    case Form::kJson:
      ndjson::append_json(out, bytes_of(value));
      return;
    case Form::kJsonb: {
      Jsonb* json = DatumGetJsonbP(value);
      out.append(std::string_view(JsonbToCString(nullptr, &json->root, VARSIZE(json))));
      return;
    }
    case Form::kArray:
      append_json_result(out, DirectFunctionCall1(array_to_json, value));
      return;
    case Form::kComposite:
      append_json_result(out, DirectFunctionCall1(row_to_json, value));
      return;
    case Form::kCast:
      append_json_result(out, FunctionCall1(&field.function, value));
      return;
    case Form::kOther:
      ndjson::append_string(out, OutputFunctionCall(&field.function, value));
      return;
  }
}

void RowEncoder::encode(TupleTableSlot* slot, core::ByteBuffer& out, LineMark& mark,
                        std::uint32_t row, core::ByteBuffer& json_nulls) {
  slot_getsomeattrs(slot, last_attribute_);
  const std::size_t start = out.size();
  mark = LineMark{start, start, start, start, start};
  for (std::size_t i = 0; i < fields_.size(); ++i) {
    Field& field = fields_[i];
    out.append(std::string_view(field.key, field.key_length));
    const std::size_t begin = out.size();
    if (slot->tts_isnull[field.number - 1]) {
      out.append(std::string_view("null"));
    } else {
      append_value(out, field, slot->tts_values[field.number - 1]);
      if (convert_) {
        convert(out, begin);
      }
      if ((field.form == Form::kJson || field.form == Form::kJsonb) &&
          is_json_null(out.view().substr(begin))) {
        const std::uint32_t found[2] = {static_cast<std::uint32_t>(i), row};
        json_nulls.append(std::string_view(reinterpret_cast<const char*>(found), sizeof found));
      }
    }
    if (static_cast<int>(i) == id_) {
      mark.id_begin = begin;
      mark.id_end = out.size();
    } else if (static_cast<int>(i) == space_) {
      mark.namespace_begin = begin;
      mark.namespace_end = out.size();
    }
  }
  out.append(fields_.empty() ? std::string_view("{}\n") : std::string_view("}\n"));
  if (out.size() - start > ndjson::kMaxLineBytes) {
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
            errmsg("a row takes more than %zu MB as JSON", ndjson::kMaxLineBytes >> 20),
            errhint("That is the limit for one line of an export. Split the value, or dump the "
                    "table with pg_dump."));
  }
}

}  // namespace pg
