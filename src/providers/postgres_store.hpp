// The vector store of type postgres: the table bacmr_vector, in this database.
#pragma once

#include "providers/vector_store.hpp"

namespace providers {

std::unique_ptr<VectorStore> open_postgres_store(const net::Service& service);

}  // namespace providers
