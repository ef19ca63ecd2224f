#include "core/copy_text.hpp"

#include "core/json_scan.hpp"

namespace core {
namespace {

void append_copy_escaped(ByteBuffer& out, std::string_view text) {
  const char* from = text.data();
  const char* const end = from + text.size();
  while (from < end) {
    const char* const special = json_scan::find_special(from, end);
    out.append({from, static_cast<std::size_t>(special - from)});
    from = special;
    if (from == end) {
      return;
    }
    switch (*from) {
      case '\n':
        out.append("\\n");
        break;
      case '\r':
        out.append("\\r");
        break;
      case '\t':
        out.append("\\t");
        break;
      case '\\':
        out.append("\\\\");
        break;
      default:
        out.append(*from);
    }
    ++from;
  }
}

void append_quoted(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
    }
    out += c;
  }
  out += '"';
}

bool append_literal(std::string& out, const JsonValue& value, const ColumnShape& shape);

// Whether an array inside an array is a further dimension of it, rather than an element.
bool is_dimension(std::string_view array, const ColumnShape& element) {
  switch (element.kind) {
    case ColumnShape::Kind::kJson:
    case ColumnShape::Kind::kArray:
      return false;
    case ColumnShape::Kind::kVector:
      // A vector holds neither arrays nor nulls.
      return array.size() > 1 && (array[1] == '[' || array[1] == 'n');
    default:
      return true;
  }
}

// PostgreSQL's arrays have no more dimensions; what is nested deeper is left to the server to
// refuse.
constexpr int kMaxDimensions = 6;

bool append_array(std::string& out, std::string_view array, const ColumnShape& shape,
                  int dimension = 1) {
  std::vector<JsonValue> elements;
  split_json_array(array, elements);
  const ColumnShape& element_shape = shape.children.front();
  out += '{';
  for (const JsonValue& element : elements) {
    if (&element != elements.data()) {
      out += shape.delimiter;
    }
    if (element.kind == JsonKind::kArray && dimension < kMaxDimensions &&
        is_dimension(element.text, element_shape)) {
      // A further dimension of the same array.
      if (!append_array(out, element.text, shape, dimension + 1)) {
        return false;
      }
    } else if (element.kind == JsonKind::kNull) {
      out += "NULL";
    } else {
      std::string literal;
      if (!append_literal(literal, element, element_shape)) {
        return false;
      }
      append_quoted(out, literal);
    }
  }
  out += '}';
  return true;
}

bool append_vector(std::string& out, std::string_view array) {
  std::vector<JsonValue> elements;
  split_json_array(array, elements);
  for (const JsonValue& element : elements) {
    if (!out.empty()) {
      out += ' ';
    }
    if (element.kind == JsonKind::kString) {
      if (!append_unescaped(out, element.text)) {
        return false;
      }
    } else {
      out += element.text;
    }
  }
  return true;
}

bool append_composite(std::string& out, std::string_view object, const ColumnShape& shape) {
  std::vector<JsonMember> members;
  split_json_object(object, members);
  out += '(';
  for (std::size_t i = 0; i < shape.names.size(); ++i) {
    if (i > 0) {
      out += ',';
    }
    // Of a key that is repeated the last counts.
    const JsonValue* found = nullptr;
    for (const JsonMember& member : members) {
      std::string key;
      if (!append_unescaped(key, std::string("\"").append(member.key) + '"')) {
        return false;
      }
      if (key == shape.names[i]) {
        found = &member.value;
      }
    }
    if (found != nullptr && found->kind != JsonKind::kNull) {
      std::string literal;
      if (!append_literal(literal, *found, shape.children[i])) {
        return false;
      }
      append_quoted(out, literal);
    }
  }
  out += ')';
  return true;
}

// What the type's input function takes.
bool append_literal(std::string& out, const JsonValue& value, const ColumnShape& shape) {
  using Kind = ColumnShape::Kind;
  if (shape.kind == Kind::kArray && value.kind == JsonKind::kArray) {
    return append_array(out, value.text, shape);
  }
  if (shape.kind == Kind::kVector && value.kind == JsonKind::kArray) {
    return append_vector(out, value.text);
  }
  if (shape.kind == Kind::kComposite && value.kind == JsonKind::kObject) {
    return append_composite(out, value.text, shape);
  }
  if (shape.kind != Kind::kJson && value.kind == JsonKind::kString) {
    return append_unescaped(out, value.text);
  }
  out += value.text;
  return true;
}

}  // namespace

bool append_copy_field(ByteBuffer& out, const JsonValue& value, const ColumnShape& shape,
                       bool json_null) {
  if (value.kind == JsonKind::kNull && !json_null) {
    out.append("\\N");
    return true;
  }
  const bool is_string = value.kind == JsonKind::kString && shape.kind != ColumnShape::Kind::kJson;
  // The most frequent values, without a copy: a string that holds no escape, and what is JSON.
  if (is_string && value.text.find('\\') == std::string_view::npos) {
    out.append(value.text.substr(1, value.text.size() - 2));
    return true;
  }
  if (!is_string && shape.kind <= ColumnShape::Kind::kJson) {
    append_copy_escaped(out, value.text);
    return true;
  }
  std::string literal;
  literal.reserve(value.text.size());
  if (!append_literal(literal, value, shape)) {
    return false;
  }
  append_copy_escaped(out, literal);
  return true;
}

}  // namespace core
