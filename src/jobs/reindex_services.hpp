// The services of a reindex job, opened with the rights of the role that queued it.
#pragma once

#include "pg/postgres.hpp"

#include "jobs/http_metrics.hpp"
#include "jobs/reindex_job.hpp"
#include "net/http_loop.hpp"
#include "providers/embedder.hpp"
#include "providers/vector_store.hpp"

#include <memory>
#include <string>

namespace jobs {

// Outlives the providers that it has opened.
struct ServiceContext {
  HttpMetrics http;
  net::HttpLoop loop;
};

std::unique_ptr<providers::Embedder> open_embedder(ServiceContext& context,
                                                   const std::string& server,
                                                   const std::string& model,
                                                   const std::string& request_id);
// Whether that server is one that embeds in this process, and so for nothing.
bool embeds_here(const std::string& server);
std::unique_ptr<providers::VectorStore> open_vector_store(ServiceContext& context,
                                                          const std::string& server,
                                                          const std::string& request_id);

}  // namespace jobs
