// The embedder of type openai: POST {base_url}/embeddings, as OpenAI, Azure, Ollama, vLLM, TEI,
// llama.cpp and others answer it.
#pragma once

#include "providers/embedder.hpp"

namespace providers {

std::unique_ptr<Embedder> open_openai_embedder(const net::Service& service,
                                               const std::string& model,
                                               const std::string& request_id, net::HttpLoop& loop,
                                               net::HttpObserver& observer);

}  // namespace providers
