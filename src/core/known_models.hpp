// Sizes of the vectors of models that are not asked for another one: OpenAI's, from its
// documentation of the embeddings endpoint.
#pragma once

#include <optional>
#include <string_view>

namespace core {

inline std::optional<int> known_dimensions(std::string_view model) {
  if (model == "text-embedding-3-small" || model == "text-embedding-ada-002") {
    return 1536;
  }
  return model == "text-embedding-3-large" ? std::optional<int>(3072) : std::nullopt;
}

}  // namespace core
