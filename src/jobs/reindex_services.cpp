#include "pg/postgres.hpp"

#include "jobs/reindex_services.hpp"

#include "net/service.hpp"

namespace jobs {

std::unique_ptr<providers::Embedder> open_embedder(ServiceContext& context,
                                                   const std::string& server,
                                                   const std::string& model,
                                                   const std::string& request_id) {
  return providers::open_embedder(net::load_service(net::ServiceKind::kEmbedder, server), model,
                                  request_id, context.loop, context.http);
}

bool embeds_here(const std::string& server) {
  return net::load_service(net::ServiceKind::kEmbedder, server).type == "local";
}

std::unique_ptr<providers::VectorStore> open_vector_store(ServiceContext& context,
                                                          const std::string& server,
                                                          const std::string& request_id) {
  return providers::open_vector_store(net::load_service(net::ServiceKind::kVectorStore, server),
                                      request_id, context.loop, context.http);
}

}  // namespace jobs
