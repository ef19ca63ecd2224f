// Embeddings that have been paid for, by the SHA-256 of the text, the model and the dimensions.
#pragma once

#include "pg/postgres.hpp"

#include "pg/extension.hpp"

#include <optional>
#include <string>
#include <vector>

namespace jobs {

class EmbeddingCache {
 public:
  // `dimensions`: 0 where the service has not told yet; then nothing is found.
  EmbeddingCache(const pg::Extension& extension, std::string model)
      : extension_(extension), model_(std::move(model)) {}

  static std::string key_of(const std::string& text);

  // In the order of the keys; empty where there is none.
  std::vector<std::vector<float>> find(const std::vector<std::string>& keys,
                                       std::optional<int> dimensions) const;
  void add(const std::vector<std::string>& keys,
           const std::vector<std::vector<float>>& vectors) const;

 private:
  const pg::Extension& extension_;
  std::string model_;
};

}  // namespace jobs
