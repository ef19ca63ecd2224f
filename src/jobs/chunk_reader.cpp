#include "pg/postgres.hpp"

#include "jobs/chunk_reader.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <iterator>
#include <string_view>

#include "pg/spi.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
}

namespace jobs {
namespace {

std::vector<Chunk> chunks_of(const pg::Rows& rows) {
  std::vector<Chunk> chunks;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    chunks.push_back({rows.text(i, 0), rows.text(i, 1), rows.text(i, 2)});
  }
  return chunks;
}

template <class Integer>
bool is_integer(const std::string& text) {
  Integer value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && rest == end;
}

bool is_uuid(const std::string& text) {
  constexpr std::string_view kForm = "00000000-0000-0000-0000-000000000000";
  if (text.size() != kForm.size()) {
    return false;
  }
  for (std::size_t i = 0; i < kForm.size(); ++i) {
    if (kForm[i] == '-' ? text[i] != '-'
                        : std::isxdigit(static_cast<unsigned char>(text[i])) == 0) {
      return false;
    }
  }
  return true;
}

// Whether a chunk may have this id: a store may hold anything.
bool can_be_id(Oid type, const std::string& text) {
  switch (type) {
    case UUIDOID:
      return is_uuid(text);
    case INT8OID:
      return is_integer<std::int64_t>(text);
    case INT4OID:
      return is_integer<std::int32_t>(text);
    default:
      return true;
  }
}

}  // namespace

ChunkReader::ChunkReader(const sources::Source& chunks)
    : table_(chunks.sql_name()),
      id_(chunks.col("id")),
      id_type_oid_(chunks.type("id")),
      id_type_(chunks.type_name("id")),
      space_(chunks.col("namespace")) {
  // In Unicode's form C, in which nearly all text is: what reads the same is the same to a model,
  // to the cache and to who pays, however the PDF has put its accents together.
  const std::string text = chunks.col("content") + "::text";
  columns_ = id_ + "::text, CASE WHEN " + text + " IS NFC NORMALIZED THEN " + text +
             " ELSE normalize(" + text + ", NFC) END";
  const bool has_metadata = chunks.has("metadata") && (chunks.type("metadata") == JSONOID ||
                                                       chunks.type("metadata") == JSONBOID);
  if (!has_metadata) {
    columns_ += ", '{}'";
    return;
  }
  // json is not cast to jsonb, which holds less: whether the store can take it, the store says.
  const std::string metadata = chunks.col("metadata");
  columns_ += std::string(", CASE ") + (chunks.type("metadata") == JSONOID ? "json" : "jsonb") +
              "_typeof(" + metadata + ") WHEN 'object' THEN " + metadata + "::text ELSE '{}' END";
}

std::vector<Chunk> ChunkReader::next(const std::string& space,
                                     const std::optional<std::string>& after, int limit) const {
  pg::Spi spi;
  // By the column, not by the text that is read of it and has its name: 10 comes after 9.
  const std::string select =
      "SELECT " + columns_ + " FROM " + table_ + " c WHERE " + space_ + " = $1";
  // The limit in the text: of a parameter the planner assumes a tenth of the table, and sorts it.
  const std::string order = " ORDER BY c." + id_ + " LIMIT " + std::to_string(limit);
  if (!after) {
    return chunks_of(spi.query(select + order, {pg::Param::text(space)}));
  }
  return chunks_of(spi.query(select + " AND " + id_ + " > $2::" + id_type_ + order,
                             {pg::Param::text(space), pg::Param::text(*after)}));
}

std::vector<Chunk> ChunkReader::range(const std::string& space, const std::string& first,
                                      const std::string& last) const {
  pg::Spi spi;
  return chunks_of(spi.query(
      "SELECT " + columns_ + " FROM " + table_ + " c WHERE " + space_ + " = $1 AND " + id_ +
          " BETWEEN $2::" + id_type_ + " AND $3::" + id_type_ + " ORDER BY c." + id_,
      {pg::Param::text(space), pg::Param::text(first), pg::Param::text(last)}));
}

std::vector<Chunk> ChunkReader::by_ids(const std::string& space,
                                       const std::vector<std::string>& ids) const {
  std::vector<std::string> possible;
  std::ranges::copy_if(ids, std::back_inserter(possible),
                       [this](const std::string& id) { return can_be_id(id_type_oid_, id); });
  pg::Spi spi;
  return chunks_of(spi.query("SELECT " + columns_ + " FROM " + table_ + " WHERE " + space_ +
                                 " = $1 AND " + id_ + " = ANY ($2::" + id_type_ + "[])",
                             {pg::Param::text(space), pg::Param::text_array(possible)}));
}

std::int64_t ChunkReader::count(const std::string& space) const {
  pg::Spi spi;
  return spi
      .query("SELECT count(*) FROM " + table_ + " WHERE " + space_ + " = $1",
             {pg::Param::text(space)})
      .int8(0, 0);
}

std::vector<Chunk> ChunkReader::sample(const std::string& space, int size) const {
  pg::Spi spi;
  // By a hash of the id: the same ones each time, and none preferred.
  return chunks_of(spi.query("SELECT " + columns_ + " FROM " + table_ + " WHERE " + space_ +
                                 " = $1 ORDER BY hashtext(" + id_ + "::text) LIMIT $2",
                             {pg::Param::text(space), pg::Param::int8(std::int64_t{size})}));
}

std::vector<Chunk> ChunkReader::random_sample(const std::string& space, int size) const {
  pg::Spi spi;
  const std::string of_space = " FROM " + table_ + " WHERE " + space_ + " = $1";
  return chunks_of(spi.query(
      "SELECT " + columns_ + of_space + " AND " + id_ + " = ANY (ARRAY(SELECT " + id_ + of_space +
          " ORDER BY random() LIMIT $2))",
      {pg::Param::text(space), pg::Param::int8(std::int64_t{size})}, pg::Spi::Access::kReadOnly));
}

std::vector<std::string> ChunkReader::namespaces() const {
  pg::Spi spi;
  const pg::Rows rows = spi.query("SELECT DISTINCT " + space_ + "::text FROM " + table_ +
                                  " WHERE " + space_ + " IS NOT NULL ORDER BY 1");
  std::vector<std::string> names;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    names.push_back(rows.text(i, 0));
  }
  return names;
}

bool ChunkReader::has_namespace(const std::string& space) const {
  pg::Spi spi;
  return !spi.query("SELECT 1 FROM " + table_ + " WHERE " + space_ + " = $1 LIMIT 1",
                    {pg::Param::text(space)})
              .empty();
}

}  // namespace jobs
