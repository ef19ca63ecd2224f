// The embedder of type local: core::LocalEmbedder, in this process. Options: dimensions (256).
#pragma once

#include "providers/embedder.hpp"

namespace providers {

// `model`: '' for the server's own, or local-<dimensions>.
std::unique_ptr<Embedder> open_local_embedder(const net::Service& service,
                                              const std::string& model);

}  // namespace providers
