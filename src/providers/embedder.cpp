#include "pg/postgres.hpp"

#include "providers/embedder.hpp"

#include "core/error.hpp"
#include "providers/local_embedder.hpp"
#include "providers/openai_embedder.hpp"

namespace providers {

std::unique_ptr<Embedder> open_embedder(const net::Service& service, const std::string& model,
                                        const std::string& request_id, net::HttpLoop& loop,
                                        net::HttpObserver& observer) {
  if (service.type == "openai") {
    return open_openai_embedder(service, model, request_id, loop, observer);
  }
  if (service.type == "local") {
    return open_local_embedder(service, model);
  }
  throw core::Error(
      core::sqlstate::kInvalidParameterValue,
      "the embedder \"" + service.name + "\" has the unknown type \"" + service.type + "\"", {},
      "Types of embedders: openai, local.");
}

}  // namespace providers
