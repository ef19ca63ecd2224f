#include "sources/indexes.hpp"

#include "pg/spi.hpp"

namespace sources {

bool has_index(const Source& source, const char* column, bool unique,
               const std::string& predicate) {
  pg::Spi spi;
  // The server prints ((reason)::text = 'x'::text), or (status = 'x'::shop."State"): compared
  // without parentheses and casts.
  return !spi.query(
                 "SELECT 1 FROM pg_index WHERE indrelid = $1 AND indisvalid AND indkey[0] = $2"
                 " AND (NOT $3 OR (indisunique AND indnkeyatts = 1))"
                 " AND (indpred IS NULL OR regexp_replace(pg_get_expr(indpred, indrelid),"
                 R"(  '::("([^"]|"")*"|[[:alnum:]_.])+|[()]', '', 'g') = $4) LIMIT 1)",
                 {pg::Param::oid(source.oid), pg::Param::int2(source.columns.at(column).number),
                  pg::Param::boolean(unique), pg::Param::text(predicate)})
              .empty();
}

}  // namespace sources
