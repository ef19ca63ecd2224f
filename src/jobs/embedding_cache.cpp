#include "pg/postgres.hpp"

#include "jobs/embedding_cache.hpp"

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "core/sha256.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

namespace jobs {

std::string EmbeddingCache::key_of(const std::string& text) { return core::sha256_hex(text); }

std::vector<std::vector<float>> EmbeddingCache::find(const std::vector<std::string>& keys,
                                                     std::optional<int> dimensions) const {
  std::vector<std::vector<float>> vectors(keys.size());
  if (!dimensions || keys.empty()) {
    return vectors;
  }
  const pg::AsExtensionOwner owner(extension_.owner);
  // While it grows it has no statistics, or old ones: the planner would rather read all of it.
  pg::PinnedSettings settings;
  settings.set("enable_seqscan", "off");
  pg::Spi spi;
  const pg::Rows rows =
      spi.query("SELECT encode(text_hash, 'hex'), embedding FROM " +
                    extension_.object("bacmr_embedding_cache") +
                    " WHERE text_hash = ANY (ARRAY(SELECT decode(k, 'hex') FROM unnest($1) k))"
                    " AND model = $2 AND dimensions = $3::int",
                {pg::Param::text_array(keys), pg::Param::text(model_),
                 pg::Param::int8(std::int64_t{*dimensions})});
  std::unordered_map<std::string, std::uint64_t> row_of;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    row_of.emplace(rows.text(i, 0), i);
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (const auto found = row_of.find(keys[i]); found != row_of.end()) {
      vectors[i] = rows.real_array(found->second, 1);
    }
  }
  return vectors;
}

void EmbeddingCache::add(const std::vector<std::string>& keys,
                         const std::vector<std::vector<float>>& vectors) const {
  if (keys.empty()) {
    return;
  }
  // In one order for all: of two who add the same texts, one waits for the other, not each.
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) -> const std::string& { return keys[i]; });
  const pg::AsExtensionOwner owner(extension_.owner);
  pg::Spi spi;
  for (const std::size_t i : order) {
    spi.query(
        "INSERT INTO " + extension_.object("bacmr_embedding_cache") +
            " (text_hash, model, dimensions, embedding)"
            " VALUES (decode($1, 'hex'), $2, cardinality($3), $3) ON CONFLICT DO NOTHING",
        {pg::Param::text(keys[i]), pg::Param::text(model_), pg::Param::real_array(vectors[i])});
  }
}

}  // namespace jobs
