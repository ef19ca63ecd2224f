#include "pg/postgres.hpp"

#include "jobs/vector_check.hpp"

#include "pg/guard.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

constexpr std::size_t kPiece = 5000;
constexpr const char* kListed = "pg_temp.bacmr_listed";
constexpr const char* kLeftOut = "pg_temp.bacmr_left_out";

void insert(const char* table, const std::vector<std::string>& ids) {
  if (!ids.empty()) {
    pg::Spi spi;
    spi.query(std::string("INSERT INTO ") + table + " SELECT unnest($1)",
              {pg::Param::text_array(ids)});
  }
}

std::vector<std::string> first_ids(const std::string& sql, const std::string& space) {
  pg::Spi spi;
  const pg::Rows rows =
      spi.query(sql + " LIMIT " + std::to_string(VectorCheck::kNamed), {pg::Param::text(space)});
  std::vector<std::string> ids;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    ids.push_back(rows.text(i, 0));
  }
  return ids;
}

}  // namespace

VectorCheck check_vectors(const ChunkReader& chunks, const std::string& space,
                          providers::VectorStore& store, const std::string& target,
                          const std::function<std::vector<std::string>()>& left_out) {
  pg::Spi spi;
  for (const char* table : {kListed, kLeftOut}) {
    const pg::Unrestricted creates;  // whoever acts for the job's role is restricted
    spi.query(std::string("CREATE TEMPORARY TABLE ") + table + " (id text) ON COMMIT DROP");
  }
  std::vector<std::string> piece;
  store.list(target, [&](const std::string& id) {
    piece.push_back(id);
    if (piece.size() == kPiece) {
      insert(kListed, piece);
      piece.clear();
      pg::check_for_interrupts();
    }
  });
  insert(kListed, piece);
  insert(kLeftOut, left_out());
  spi.query(std::string("ANALYZE ") + kListed);
  const std::string counted =
      std::string(" NOT EXISTS (SELECT FROM ") + kLeftOut + " o WHERE o.id = ";
  const std::string chunk = "c." + chunks.id() + "::text";
  const std::string of_space = " FROM " + chunks.table() + " c WHERE c." + chunks.space() +
                               " = $1 AND" + counted + chunk + ")";
  const std::string missing = of_space + " AND NOT EXISTS (SELECT FROM " + std::string(kListed) +
                              " l WHERE l.id = " + chunk + ")";
  const std::string extra = std::string(" FROM ") + kListed + " l WHERE" + counted +
                            "l.id) AND NOT EXISTS (SELECT FROM " + chunks.table() + " c WHERE c." +
                            chunks.space() + " = $1 AND " + chunk + " = l.id)";
  VectorCheck check;
  {
    const pg::Rows rows = spi.query(
        "SELECT (SELECT count(*)" + of_space + "), (SELECT count(*) FROM " + kListed + " l WHERE" +
            counted + "l.id)), (SELECT count(*)" + missing + "), (SELECT count(*)" + extra + ")",
        {pg::Param::text(space)});
    check.expected = rows.int8(0, 0);
    check.actual = rows.int8(0, 1);
    check.missing = rows.int8(0, 2);
    check.extra = rows.int8(0, 3);
  }
  if (check.missing > 0) {
    check.missing_ids = first_ids("SELECT " + chunk + missing, space);
  }
  if (check.extra > 0) {
    check.extra_ids = first_ids("SELECT l.id" + extra, space);
  }
  for (const char* table : {kListed, kLeftOut}) {
    spi.query(std::string("DROP TABLE ") + table);
  }
  return check;
}

}  // namespace jobs
