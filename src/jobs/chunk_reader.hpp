// Reading the attached chunks for a reindex job, with the rights of the role that queued it.
#pragma once

#include "pg/postgres.hpp"

#include "sources/source.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace jobs {

struct Chunk {
  std::string id;
  std::string content;   // in Unicode's normal form C
  std::string metadata;  // a JSON object
};

class ChunkReader {
 public:
  explicit ChunkReader(const sources::Source& chunks);

  // The next ones behind `after` in the order of their ids; from the beginning without it.
  std::vector<Chunk> next(const std::string& space, const std::optional<std::string>& after,
                          int limit) const;
  // From `first` to `last`, both included.
  std::vector<Chunk> range(const std::string& space, const std::string& first,
                           const std::string& last) const;
  // Those of them that are there.
  std::vector<Chunk> by_ids(const std::string& space, const std::vector<std::string>& ids) const;
  std::int64_t count(const std::string& space) const;
  // Others each time; by the active snapshot.
  std::vector<Chunk> random_sample(const std::string& space, int size) const;
  // Some, spread over the namespace; the same ones each time.
  std::vector<Chunk> sample(const std::string& space, int size) const;
  std::vector<std::string> namespaces() const;
  bool has_namespace(const std::string& space) const;

  const std::string& table() const { return table_; }
  const std::string& id() const { return id_; }
  const std::string& space() const { return space_; }

 private:
  std::string table_;
  std::string id_;
  Oid id_type_oid_;
  std::string id_type_;
  std::string space_;
  std::string columns_;
};

}  // namespace jobs
