#include "pg/postgres.hpp"

#include "jobs/embedding_cache.hpp"

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
  pg::Spi spi;
  const pg::Rows rows = spi.query(
      "SELECT k.number, c.embedding FROM unnest($1) WITH ORDINALITY k(hash, number) JOIN " +
          extension_.object("bacmr_embedding_cache") +
          " c ON c.text_hash = decode(k.hash, 'hex') AND c.model = $2 AND c.dimensions = $3::int",
      {pg::Param::text_array(keys), pg::Param::text(model_),
       pg::Param::int8(std::int64_t{*dimensions})});
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    vectors[static_cast<std::size_t>(rows.int8(i, 0) - 1)] = rows.real_array(i, 1);
  }
  return vectors;
}

void EmbeddingCache::add(const std::vector<std::string>& keys,
                         const std::vector<std::vector<float>>& vectors) const {
  if (keys.empty()) {
    return;
  }
  const pg::AsExtensionOwner owner(extension_.owner);
  pg::Spi spi;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    spi.query(
        "INSERT INTO " + extension_.object("bacmr_embedding_cache") +
            " (text_hash, model, dimensions, embedding)"
            " VALUES (decode($1, 'hex'), $2, cardinality($3), $3) ON CONFLICT DO NOTHING",
        {pg::Param::text(keys[i]), pg::Param::text(model_), pg::Param::real_array(vectors[i])});
  }
}

}  // namespace jobs
