#include "pg/postgres.hpp"

#include "jobs/table_key.hpp"

#include "pg/guard.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "utils/lsyscache.h"
}

namespace jobs {

std::string sql_name(Oid relation) {
  return pg::quote_qualified(
      pg::call([relation] { return get_namespace_name(get_rel_namespace(relation)); }),
      pg::call([relation] { return get_rel_name(relation); }));
}

std::vector<KeyColumn> key_of(Oid relation, KeyKind kind) {
  pg::Spi spi;
  // Unique indexes are B-trees (access method 403), in which equality is strategy 3.
  const pg::Rows rows = spi.query(
      "SELECT a.attname::text, quote_ident(a.attname), format('OPERATOR(%I.%s)', n.nspname, "
      "o.oprname)"
      " FROM (SELECT indexrelid, indkey, indclass, indnkeyatts FROM pg_index"
      "  WHERE indrelid = $1 AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL"
      "  AND indexprs IS NULL AND (indisprimary OR $2) ORDER BY indisprimary DESC, indexrelid"
      "  LIMIT 1) i CROSS JOIN generate_series(0, i.indnkeyatts - 1) k"
      " JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = i.indkey[k]"
      " JOIN pg_opclass c ON c.oid = i.indclass[k]"
      " JOIN pg_amop s ON s.amopfamily = c.opcfamily AND s.amopmethod = 403 AND s.amopstrategy = 3"
      "  AND s.amoplefttype = c.opcintype AND s.amoprighttype = c.opcintype"
      " JOIN pg_operator o ON o.oid = s.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace"
      " ORDER BY k",
      {pg::Param::oid(relation), pg::Param::boolean(kind == KeyKind::kAnyUnique)});
  std::vector<KeyColumn> key;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    key.push_back({rows.text(i, 0), rows.text(i, 1), rows.text(i, 2)});
  }
  return key;
}

std::string key_match(const std::vector<KeyColumn>& key, const std::string& a,
                      const std::string& b) {
  std::string match;
  for (const KeyColumn& column : key) {
    match.append(match.empty() ? "" : " AND ")
        .append(a + "." + column.quoted + " " + column.equals + " " + b + "." + column.quoted);
  }
  return match;
}

}  // namespace jobs
