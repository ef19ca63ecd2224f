#include "pg/postgres.hpp"

#include "jobs/vector_check.hpp"

#include "pg/guard.hpp"
#include "pg/security.hpp"
#include "pg/snapshot.hpp"
#include "pg/spi.hpp"

namespace jobs {
namespace {

constexpr std::size_t kPiece = 5000;
constexpr const char* kListed = "pg_temp.bacmr_listed";
std::vector<std::string> first_ids(const std::string& sql, const std::string& space,
                                   const std::vector<std::string>& without) {
  pg::Spi spi;
  const pg::Rows rows = spi.query(sql + " LIMIT " + std::to_string(VectorCheck::kNamed),
                                  {pg::Param::text(space), pg::Param::text_array(without)},
                                  pg::Spi::Access::kReadOnly);
  std::vector<std::string> ids;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    ids.push_back(rows.text(i, 0));
  }
  return ids;
}

}  // namespace

void begin_listing(ListingSpan span) {
  pg::Spi spi;
  const pg::Unrestricted creates;  // whoever acts for the job's role is restricted
  spi.query(std::string("CREATE TEMPORARY TABLE ") + kListed + " (id text) ON COMMIT " +
            (span == ListingSpan::kSession ? "PRESERVE ROWS" : "DROP"));
}

void list_ids(providers::VectorStore& store, const std::string& target,
              const std::function<void(const std::vector<std::string>&)>& each) {
  std::vector<std::string> piece;
  store.list(target, [&](const std::string& id) {
    piece.push_back(id);
    if (piece.size() == kPiece) {
      each(piece);
      piece.clear();
      pg::check_for_interrupts();
    }
  });
  if (!piece.empty()) {
    each(piece);
  }
}

void add_listed(const std::vector<std::string>& ids) {
  pg::Spi spi;
  spi.query(std::string("INSERT INTO ") + kListed + " SELECT unnest($1)",
            {pg::Param::text_array(ids)});
}

void finish_listing() {
  pg::Spi spi;
  spi.query(std::string("ANALYZE ") + kListed);
}

void end_listing() {
  pg::Spi spi;
  spi.query(std::string("DROP TABLE ") + kListed);
}

VectorCheck compare_listed(const ChunkReader& chunks, const std::string& space,
                           const std::function<std::vector<std::string>()>& left_out) {
  const pg::ActiveSnapshot now;
  const std::vector<std::string> without = left_out();
  const std::string counted = " NOT EXISTS (SELECT FROM unnest($2) AS o (id) WHERE o.id = ";
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
    pg::Spi spi;
    const pg::Rows rows = spi.query(
        "SELECT (SELECT count(*)" + of_space + "), (SELECT count(*) FROM " + kListed + " l WHERE" +
            counted + "l.id)), (SELECT count(*)" + missing + "), (SELECT count(*)" + extra + ")",
        {pg::Param::text(space), pg::Param::text_array(without)}, pg::Spi::Access::kReadOnly);
    check.expected = rows.int8(0, 0);
    check.actual = rows.int8(0, 1);
    check.missing = rows.int8(0, 2);
    check.extra = rows.int8(0, 3);
  }
  if (check.missing > 0) {
    check.missing_ids = first_ids("SELECT " + chunk + missing, space, without);
  }
  if (check.extra > 0) {
    check.extra_ids = first_ids("SELECT l.id" + extra, space, without);
  }
  return check;
}

VectorCheck check_vectors(const ChunkReader& chunks, const std::string& space,
                          providers::VectorStore& store, const std::string& target,
                          const std::function<std::vector<std::string>()>& left_out) {
  begin_listing(ListingSpan::kTransaction);
  list_ids(store, target, add_listed);
  finish_listing();
  VectorCheck check = compare_listed(chunks, space, left_out);
  end_listing();
  return check;
}

}  // namespace jobs
