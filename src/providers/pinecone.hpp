// The vector store of type pinecone: one index, by its data plane, API version 2025-10.
#pragma once

#include "providers/vector_store.hpp"

namespace providers {

std::unique_ptr<VectorStore> open_pinecone(const net::Service& service,
                                           const std::string& request_id, net::HttpLoop& loop,
                                           net::HttpObserver& observer);

}  // namespace providers
