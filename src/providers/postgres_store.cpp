#include "pg/postgres.hpp"

#include "providers/postgres_store.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "core/error.hpp"
#include "pg/guard.hpp"
#include "pg/memory.hpp"
#include "pg/real_array.hpp"
#include "pg/row_store.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "providers/vector_index.hpp"
#include "providers/vector_table.hpp"

extern "C" {
#include "miscadmin.h"
}

namespace providers {
namespace {

// Writing runs the code of the table's owner: triggers, checks, expressions of indexes. A superuser
// does it as that owner, as the server itself does for VACUUM.
class AsWriter {
 public:
  explicit AsWriter(const VectorTable& table) {
    if (pg::call([&] { return superuser() && !superuser_arg(table.owner); })) {
      owner_.emplace(table.owner, SECURITY_RESTRICTED_OPERATION);
    }
  }

 private:
  std::optional<pg::AsUser> owner_;
};

// The table is looked for each time: what one transaction has made, its abort takes away.
class PostgresStore : public VectorStore {
 public:
  std::optional<int> dimension() override {
    pg::Spi spi;
    const auto table = find_vector_table();
    return table ? table->dimension : std::nullopt;
  }
  std::optional<std::string> refusal(const std::string& id,
                                     const std::string& metadata) const override;
  bool is_table() const override { return true; }
  void prepare(const std::string& space, int dimensions) override {
    pg::Spi spi;
    const VectorTable table = require_vector_table();
    const AsWriter writer(table);
    create_vector_index(table, space, dimensions);
  }

  Ticket upsert(const std::string& space, std::vector<VectorRecord> records) override;
  Ticket remove(const std::string& space, std::vector<std::string> ids) override;
  void pump() override {}
  bool done(Ticket ticket) const override { return results_.count(ticket) != 0; }
  StoreResult take(Ticket ticket) override {
    StoreResult result = std::move(results_.at(ticket));
    results_.erase(ticket);
    return result;
  }
  void cancel(Ticket ticket) noexcept override { results_.erase(ticket); }

  std::uint64_t count(const std::string& space) override;
  std::optional<bool> caught_up(const std::string& /*space*/) const override { return true; }
  void list(const std::string& space,
            const std::function<void(const std::string& id)>& each) override;
  std::vector<VectorRecord> fetch(const std::string& space,
                                  const std::vector<std::string>& ids) override;
  std::vector<Match> query(const std::string& space, const std::vector<float>& vector,
                           int k) override;
  void delete_namespace(const std::string& space) override;

 private:
  Ticket finish(StoreResult result) {
    results_.emplace(++last_ticket_, std::move(result));
    return last_ticket_;
  }

  std::map<Ticket, StoreResult> results_;
  Ticket last_ticket_ = 0;
};

// Whether jsonb might refuse what json takes: an escape such as \u0000, a number beyond numeric.
bool may_exceed_jsonb(const std::string& json) {
  constexpr std::size_t kMostDigits = 100'000;
  if (json.size() > kMostDigits || json.find("\\u") != std::string::npos) {
    return true;
  }
  for (std::size_t i = 1; i < json.size(); ++i) {
    if ((json[i] == 'e' || json[i] == 'E') && json[i - 1] >= '0' && json[i - 1] <= '9') {
      return true;
    }
  }
  return false;
}

std::optional<std::string> PostgresStore::refusal(const std::string& /*id*/,
                                                  const std::string& metadata) const {
  if (!may_exceed_jsonb(metadata)) {
    return std::nullopt;
  }
  try {
    pg::Subtransaction attempt;
    {
      pg::Spi spi;
      spi.query("SELECT $1::pg_catalog.jsonb", {pg::Param::text(metadata)});
    }
    attempt.commit();
  } catch (const pg::Error& e) {
    if (e.is_interrupt()) {
      throw;
    }
    return "its metadata do not fit into jsonb: " + e.summary();
  }
  return std::nullopt;
}

Ticket PostgresStore::upsert(const std::string& space, std::vector<VectorRecord> records) {
  pg::Spi spi;
  const VectorTable table = require_vector_table();
  const AsWriter writer(table);
  const std::string sql = "INSERT INTO " + table.name +
                          " AS v (namespace, id, embedding, metadata) VALUES ($1, $2, " +
                          table.from_real("$3") +
                          ", $4::pg_catalog.jsonb) ON CONFLICT (namespace, id) DO UPDATE"
                          " SET embedding = EXCLUDED.embedding, metadata = EXCLUDED.metadata";
  // In one order for all, so that two who write the same ids do not deadlock.
  std::vector<std::size_t> order(records.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return records[a].id < records[b].id; });
  for (const std::size_t i : order) {
    const pg::MemoryScope memory("bacmr_ops vector");
    const VectorRecord& record = records[i];
    spi.query(sql, {pg::Param::text(space), pg::Param::text(record.id),
                    pg::Param::real_array(record.values),
                    pg::Param::text(record.metadata.empty() ? "{}" : record.metadata)});
  }
  return finish({});
}

Ticket PostgresStore::remove(const std::string& space, std::vector<std::string> ids) {
  pg::Spi spi;
  if (const auto table = find_vector_table()) {
    const AsWriter writer(*table);
    spi.query("DELETE FROM " + table->name +
                  " WHERE namespace OPERATOR(pg_catalog.=) $1"
                  " AND id OPERATOR(pg_catalog.=) ANY ($2)",
              {pg::Param::text(space), pg::Param::text_array(ids)});
  }
  return finish({});
}

std::uint64_t PostgresStore::count(const std::string& space) {
  pg::Spi spi;
  const auto table = find_vector_table();
  if (!table) {
    return 0;
  }
  const pg::Rows rows = spi.query("SELECT pg_catalog.count(*) FROM " + table->name +
                                      " WHERE namespace OPERATOR(pg_catalog.=) $1",
                                  {pg::Param::text(space)});
  return static_cast<std::uint64_t>(rows.int8(0, 0));
}

void PostgresStore::list(const std::string& space,
                         const std::function<void(const std::string& id)>& each) {
  pg::Spi spi;
  const auto table = find_vector_table();
  if (!table) {
    return;
  }
  pg::RowStore ids("SELECT id FROM " + table->name + " WHERE namespace OPERATOR(pg_catalog.=) $1",
                   {pg::Param::text(space)});
  while (const auto row = ids.next()) {
    each(row->front().value());
  }
}

std::vector<VectorRecord> PostgresStore::fetch(const std::string& space,
                                               const std::vector<std::string>& ids) {
  pg::Spi spi;
  std::vector<VectorRecord> records;
  const auto table = find_vector_table();
  if (!table) {
    return records;
  }
  const pg::Rows rows =
      spi.query("SELECT id, " + table->to_real() + ", metadata::text FROM " + table->name +
                    " WHERE namespace OPERATOR(pg_catalog.=) $1"
                    " AND id OPERATOR(pg_catalog.=) ANY ($2)",
                {pg::Param::text(space), pg::Param::text_array(ids)});
  records.reserve(rows.size());
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    const pg::MemoryScope memory("bacmr_ops vector");
    VectorRecord record;
    record.id = rows.text(i, 0);
    const std::span<const float> values = pg::real_array(rows.datum(i, 1));
    record.values.assign(values.begin(), values.end());
    record.metadata = rows.text(i, 2);
    records.push_back(std::move(record));
  }
  return records;
}

std::vector<Match> PostgresStore::query(const std::string& space, const std::vector<float>& vector,
                                        int k) {
  pg::Spi spi;
  std::vector<Match> matches;
  const auto table = find_vector_table();
  if (!table) {
    return matches;
  }
  const auto index = find_vector_index(*table, space);
  pg::PinnedSettings settings;
  if (index) {
    // Of how many candidates the nearest are taken: pgvector's limits, with room for k.
    settings.set("hnsw.ef_search", std::to_string(std::clamp(4 * k, 100, 1000)).c_str());
  }
  const std::string scored = index ? index->search(*table, space, "$2", "$3")
                                   : "SELECT id, " + table->similarity("$2") + " AS score FROM " +
                                         table->name + " WHERE namespace OPERATOR(pg_catalog.=) $1";
  const pg::Rows rows =
      spi.query("SELECT v.id, v.score FROM (" + scored +
                    ") v WHERE v.score IS NOT NULL"
                    " AND v.score OPERATOR(pg_catalog.<>) 'NaN'::pg_catalog.float8"
                    " AND $1 IS NOT NULL ORDER BY v.score DESC, v.id LIMIT $3",
                {pg::Param::text(space), pg::Param::real_array(vector), pg::Param::int8(k)});
  matches.reserve(rows.size());
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    matches.push_back({rows.text(i, 0), DatumGetFloat8(rows.datum(i, 1))});
  }
  return matches;
}

void PostgresStore::delete_namespace(const std::string& space) {
  pg::Spi spi;
  if (const auto table = find_vector_table()) {
    const AsWriter writer(*table);
    spi.query("DELETE FROM " + table->name + " WHERE namespace OPERATOR(pg_catalog.=) $1",
              {pg::Param::text(space)});
    drop_vector_index(*table, space);
  }
}

}  // namespace

std::unique_ptr<VectorStore> open_postgres_store(const net::Service& /*service*/) {
  return std::make_unique<PostgresStore>();
}

}  // namespace providers
