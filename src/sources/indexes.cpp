#include "sources/indexes.hpp"

#include "pg/spi.hpp"

namespace sources {
namespace {

// The server prints ((reason)::text = 'x'::text), or (status = 'x'::shop."State"): compared without
// parentheses and casts.
constexpr const char* kOfRows =
    "SELECT 1 FROM pg_index WHERE indrelid = $1 AND indisvalid AND (indpred IS NULL OR"
    " regexp_replace(pg_get_expr(indpred, indrelid),"
    R"( '::("([^"]|"")*"|[[:alnum:]_.])+|[()]', '', 'g') = $2) AND )";

bool exists(const Source& source, const char* column, const std::string& predicate,
            const std::string& condition, bool with_user) {
  pg::Spi spi;
  return !spi.query(kOfRows + condition + " LIMIT 1",
                    {pg::Param::oid(source.oid), pg::Param::text(predicate),
                     pg::Param::int2(source.columns.at(column).number),
                     pg::Param::int2(source.columns.at("user_id").number),
                     pg::Param::boolean(with_user)})
              .empty();
}

}  // namespace

bool has_index(const Source& source, const char* column, const std::string& predicate) {
  return exists(source, column, predicate, "indkey[0] = $3", false);
}

bool is_unique(const Source& source, const char* column, const std::string& predicate,
               bool with_user) {
  return exists(source, column, predicate,
                "indisunique AND (indnkeyatts = 1 AND indkey[0] = $3 OR $5 AND indnkeyatts = 2"
                " AND $3 IN (indkey[0], indkey[1]) AND $4 IN (indkey[0], indkey[1])"
                " AND (SELECT attnotnull FROM pg_attribute WHERE attrelid = $1 AND attnum = $4))",
                with_user);
}

}  // namespace sources
