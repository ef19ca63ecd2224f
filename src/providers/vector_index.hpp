// An index of pgvector's for one namespace of bacmr_vector: HNSW by cosine distance, partial, of
// the embeddings cast to the namespace's number of dimensions, since vectors of several models
// share the table. Made while the namespace is empty, so that there is nothing to sort in: but the
// whole table is read for it, vectors of other namespaces too, and nobody writes to the table
// meanwhile (SHARE). pgvector keeps it up to date from then on. Needs an SPI connection.
//
// Limits of HNSW, from pgvector's documentation: 2,000 dimensions of vector, 4,000 of halfvec.
#pragma once

#include "pg/postgres.hpp"

#include "providers/vector_table.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace providers {

struct VectorIndex {
  std::string type;  // that it casts to, for SQL text: public.vector(1536)

  // SQL for the nearest `limit` ids and their similarity to a parameter of type real[], nearest
  // first: text that the planner answers from the index.
  std::string search(const VectorTable& table, const std::string& space,
                     const std::string& parameter, const std::string& limit) const;
};

// The namespace's index, where it has one that can be used.
std::optional<VectorIndex> find_vector_index(const VectorTable& table, const std::string& space);

// Makes it, before the first vector of the namespace is written, in a transaction that writes none:
// two that each held the lock of this, and then wrote, would end in a deadlock. Does nothing where
// there is one, where the namespace holds vectors already, or where pgvector has no index for so
// many dimensions. What fails costs the index, not the vectors: a WARNING says how to make it by
// hand.
void create_vector_index(const VectorTable& table, const std::string& space, int dimensions);

// The statement that makes the index of a namespace that holds more than `many` vectors and has
// none, though it could; nothing otherwise.
std::optional<std::string> missing_vector_index(const VectorTable& table, const std::string& space,
                                                int dimensions, std::int64_t many);

// Takes it off, where there is one. What fails is a WARNING: an index of nothing does no harm.
void drop_vector_index(const VectorTable& table, const std::string& space);

}  // namespace providers
