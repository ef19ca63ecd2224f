#include "pg/postgres.hpp"

#include "providers/vector_store.hpp"

#include "core/error.hpp"
#include "providers/pinecone.hpp"
#include "providers/postgres_store.hpp"

namespace providers {

std::unique_ptr<VectorStore> open_vector_store(const net::Service& service,
                                               const std::string& request_id, net::HttpLoop& loop,
                                               net::HttpObserver& observer) {
  if (service.type == "pinecone") {
    return open_pinecone(service, request_id, loop, observer);
  }
  if (service.type == "postgres") {
    return open_postgres_store(service);
  }
  throw core::Error(
      core::sqlstate::kInvalidParameterValue,
      "the vector store \"" + service.name + "\" has the unknown type \"" + service.type + "\"", {},
      "Types of vector stores: pinecone, postgres.");
}

}  // namespace providers
