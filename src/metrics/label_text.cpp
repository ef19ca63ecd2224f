#include "metrics/label_text.hpp"

#include "pg/encoding.hpp"

extern "C" {
#include "mb/pg_wchar.h"
}

namespace metrics {

const char* add_label(core::LabelValues& labels, std::optional<std::string_view> text) {
  if (!text) {
    return "null";
  }
  if (GetDatabaseEncoding() == PG_UTF8) {
    return labels.add(*text) ? nullptr : "too_long";
  }
  const auto converted = pg::to_utf8(*text);
  if (!converted) {
    return "encoding";
  }
  return labels.add(*converted) ? nullptr : "too_long";
}

}  // namespace metrics
