// What a service that speaks OpenAI's protocol answers to POST /embeddings, read and checked before
// anything of it is used: a vector that went to the wrong text would be found by nobody.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace core {

struct UnusableVector {
  std::size_t index = 0;  // of its text
  std::string reason;     // "its vector is all zeros"
};

struct EmbeddingReply {
  // Why nothing of the answer can be used, fit to follow "the embedder's answer cannot be used: ";
  // empty where it can. Asking again may help.
  std::string problem;
  // In the order of the texts, whatever order they came in; all finite, not all zeros, of the same
  // number of dimensions. Empty for those in `unusable`, and none at all where there is a problem.
  std::vector<std::vector<float>> vectors;
  // By index: a text for which the service has no vector, or one that no store takes. The others
  // are good; asking again would most likely bring the same.
  std::vector<UnusableVector> unusable;
  std::size_t dimensions = 0;  // 0 where no vector tells
  // What the service counted, and bills: usage.total_tokens, or else prompt_tokens; 0 where it says
  // nothing. Known even where there is a problem, if the answer got that far.
  std::uint64_t tokens = 0;
  std::string model;  // as the service calls it; may be empty
};

// `texts`: how many were sent. `dimensions`: what they have to have; nothing where any number will
// do. Vectors are read as base64 (little-endian float32) or as arrays of numbers, whichever was
// asked for: some services know only one of them.
EmbeddingReply read_embedding_reply(std::string_view body, std::size_t texts,
                                    std::optional<std::size_t> dimensions = std::nullopt);

}  // namespace core
