#include "pg/encoding.hpp"

#include <algorithm>

#include "pg/guard.hpp"

extern "C" {
#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
}

namespace pg {

std::optional<std::string> to_utf8(std::string_view text) {
  if (GetDatabaseEncoding() == PG_UTF8) {
    return std::string(text);
  }
  const int length = static_cast<int>(text.size());
  if (GetDatabaseEncoding() == PG_SQL_ASCII) {
    // Any bytes may stand in such a database.
    if (!pg_verify_mbstr(PG_UTF8, text.data(), length, true)) {
      return std::nullopt;
    }
    return std::string(text);
  }
  std::string result(text.size() * MAX_CONVERSION_GROWTH + 1, '\0');
  const int converted = call([&] {
    const Oid procedure = FindDefaultConversionProc(GetDatabaseEncoding(), PG_UTF8);
    return OidIsValid(procedure)
               ? pg_do_encoding_conversion_buf(
                     procedure, GetDatabaseEncoding(), PG_UTF8,
                     reinterpret_cast<unsigned char*>(const_cast<char*>(text.data())), length,
                     reinterpret_cast<unsigned char*>(result.data()),
                     static_cast<int>(result.size()), true)
               : -1;
  });
  if (converted != length) {
    return std::nullopt;
  }
  result.resize(std::char_traits<char>::length(result.c_str()));
  return result;
}

std::string to_database_encoding(const std::string& utf8) {
  const char* converted =
      call([&] { return pg_any_to_server(utf8.data(), static_cast<int>(utf8.size()), PG_UTF8); });
  // The same pointer: nothing had to be converted.
  return converted == utf8.data() ? utf8 : std::string(converted);
}

std::string to_database_text(std::string_view utf8) {
  std::string result;
  std::string piece;
  while (!utf8.empty()) {
    // As much of it as is UTF-8, then as much of that as can be converted.
    const int good = static_cast<int>(
        pg_encoding_verifymbstr(PG_UTF8, utf8.data(), static_cast<int>(utf8.size())));
    int converted = good;
    if (GetDatabaseEncoding() == PG_UTF8 || GetDatabaseEncoding() == PG_SQL_ASCII) {
      result.append(utf8.substr(0, static_cast<std::size_t>(good)));
    } else {
      piece.assign(static_cast<std::size_t>(good) * MAX_CONVERSION_GROWTH + 1, '\0');
      converted = call([&] {
        const Oid procedure = FindDefaultConversionProc(PG_UTF8, GetDatabaseEncoding());
        return OidIsValid(procedure)
                   ? pg_do_encoding_conversion_buf(
                         procedure, PG_UTF8, GetDatabaseEncoding(),
                         reinterpret_cast<unsigned char*>(const_cast<char*>(utf8.data())), good,
                         reinterpret_cast<unsigned char*>(piece.data()),
                         static_cast<int>(piece.size()), true)
                   : 0;
      });
      piece.resize(std::char_traits<char>::length(piece.c_str()));
      result.append(piece);
    }
    utf8.remove_prefix(static_cast<std::size_t>(converted));
    if (!utf8.empty()) {
      result += '?';
      const std::size_t skipped =
          converted < good ? static_cast<std::size_t>(pg_encoding_mblen(PG_UTF8, utf8.data())) : 1;
      utf8.remove_prefix(std::min(skipped, utf8.size()));
    }
  }
  return result;
}

}  // namespace pg
