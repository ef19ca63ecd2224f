// core/embedding_reply: vectors end up with their texts, or not at all.
#include "core/embedding_reply.hpp"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Vectors = std::vector<std::vector<float>>;

std::string base64(const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    for (int shift = 0; shift < 32; shift += 8) {
      bytes += static_cast<char>(bits >> shift);
    }
  }
  std::string out(bytes.size() / 3 * 4 + 5, '\0');
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                     reinterpret_cast<const unsigned char*>(bytes.data()),
                                     static_cast<int>(bytes.size()));
  out.resize(static_cast<std::size_t>(length));
  return out;
}

std::string as_base64(const Vectors& vectors) {
  nlohmann::json data = nlohmann::json::array();
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    data.push_back({{"object", "embedding"}, {"index", i}, {"embedding", base64(vectors[i])}});
  }
  return nlohmann::json{{"object", "list"},
                        {"model", "text-embedding-3-small"},
                        {"data", data},
                        {"usage", {{"prompt_tokens", 7}, {"total_tokens", 9}}}}
      .dump();
}

// A reply with this as its data.
std::string reply_of(std::string_view data) {
  return R"({"object":"list","data":)" + std::string(data) +
         R"(,"usage":{"prompt_tokens":5,"total_tokens":5}})";
}

std::string problem_of(std::string_view body, std::size_t texts,
                       std::optional<std::size_t> dimensions = std::nullopt) {
  const auto reply = core::read_embedding_reply(body, texts, dimensions);
  EXPECT_TRUE(reply.problem.empty() || reply.vectors.empty());
  EXPECT_TRUE(reply.problem.empty() || reply.unusable.empty());
  return reply.problem;
}

TEST(EmbeddingReply, Base64) {
  const Vectors vectors = {{0.5F, -1.25F, 3e-20F}, {1, 2, 3}};
  const auto reply = core::read_embedding_reply(as_base64(vectors), 2, 3);
  EXPECT_EQ(reply.problem, "");
  EXPECT_EQ(reply.vectors, vectors);
  EXPECT_TRUE(reply.unusable.empty());
  EXPECT_EQ(reply.dimensions, 3U);
  EXPECT_EQ(reply.tokens, 9U);
  EXPECT_EQ(reply.model, "text-embedding-3-small");
}

TEST(EmbeddingReply, Arrays) {
  const auto reply = core::read_embedding_reply(
      reply_of(R"([ { "embedding" : [ 0.1 , -2.5e-3,1E2 ] , "index":1},)"
               R"({"index":0,"object":"embedding","embedding":[1,0,-0]}])"),
      2);
  EXPECT_EQ(reply.problem, "");
  EXPECT_EQ(reply.vectors, (Vectors{{1, 0, 0}, {0.1F, -2.5e-3F, 100}}));
  EXPECT_EQ(reply.tokens, 5U);
  EXPECT_EQ(reply.model, "");
}

TEST(EmbeddingReply, ArraysAndBase64Mixed) {
  const auto reply = core::read_embedding_reply(
      reply_of(R"([{"index":0,"embedding":[1,2]},{"index":1,"embedding":")" + base64({3, 4}) +
               "\"}]"),
      2);
  EXPECT_EQ(reply.problem, "");
  EXPECT_EQ(reply.vectors, (Vectors{{1, 2}, {3, 4}}));
}

TEST(EmbeddingReply, ByIndexWhateverTheOrder) {
  const auto reply = core::read_embedding_reply(
      reply_of(R"([{"index":2,"embedding":[3]},{"index":0,"embedding":[1]},)"
               R"({"index":1,"embedding":[2]}])"),
      3);
  EXPECT_EQ(reply.vectors, (Vectors{{1}, {2}, {3}}));
}

// Some writers of JSON escape "/" and "+".
TEST(EmbeddingReply, EscapesInBase64) {
  std::string body = as_base64({{-1.9999F, 3.3e38F, -1.1e-38F, 1.7F}});
  ASSERT_NE(body.find_first_of("+/"), std::string::npos);
  const auto plain = core::read_embedding_reply(body, 1);
  for (std::size_t at = 0; (at = body.find_first_of("+/", at)) != std::string::npos; at += 6) {
    body.replace(at, 1, body[at] == '/' ? "\\u002f" : "\\u002B");
  }
  const auto escaped = core::read_embedding_reply(body, 1);
  EXPECT_EQ(escaped.problem, "");
  EXPECT_EQ(escaped.vectors, plain.vectors);
}

TEST(EmbeddingReply, Usage) {
  const auto tokens = [](std::string_view usage) {
    return core::read_embedding_reply(
               R"({"data":[{"index":0,"embedding":[1]}],"usage":)" + std::string(usage) + "}", 1)
        .tokens;
  };
  EXPECT_EQ(tokens(R"({"total_tokens":12})"), 12U);
  EXPECT_EQ(tokens(R"({"prompt_tokens":11})"), 11U);
  EXPECT_EQ(tokens(R"({"prompt_tokens":11,"total_tokens":0})"), 11U);
  EXPECT_EQ(tokens(R"({"total_tokens":null,"details":{"x":[1]}})"), 0U);
  EXPECT_EQ(tokens("null"), 0U);
  EXPECT_EQ(core::read_embedding_reply(R"({"data":[{"index":0,"embedding":[1]}]})", 1).tokens, 0U);
}

TEST(EmbeddingReply, CountsTokensOfAnAnswerItCannotUse) {
  const auto reply = core::read_embedding_reply(reply_of(R"([{"index":0,"embedding":[1]}])"), 2);
  EXPECT_EQ(reply.problem, "it has 1 vector for 2 texts");
  EXPECT_EQ(reply.tokens, 5U);
}

TEST(EmbeddingReply, Problems) {
  const auto data = [](std::string_view text) { return reply_of(text); };
  EXPECT_EQ(problem_of(data("[]"), 1), "it has 0 vectors for 1 text");
  EXPECT_EQ(problem_of(data(R"([{"index":0,"embedding":[1]},{"index":1,"embedding":[1]}])"), 1),
            "it has 2 vectors for 1 text");
  EXPECT_EQ(problem_of(data(R"([{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}])"), 2),
            "it has two vectors with index 0");
  EXPECT_EQ(problem_of(data(R"([{"index":5,"embedding":[1]}])"), 1),
            "it has a vector with index 5 for 1 text");
  EXPECT_EQ(problem_of(data(R"([{"embedding":[1]}])"), 1), "a vector in it has no \"index\"");
  EXPECT_EQ(problem_of(data(R"([{"index":null,"embedding":[1]}])"), 1),
            "a vector in it has no \"index\"");
  EXPECT_EQ(problem_of(data(R"([{"index":0,"embedding":[1,2]},{"index":1,"embedding":[1]}])"), 2),
            "vector 1 has 1 dimension instead of 2");
  EXPECT_EQ(problem_of(data(R"([{"index":0,"embedding":[1,2]}])"), 1, 3),
            "vector 0 has 2 dimensions instead of 3");
  EXPECT_EQ(problem_of(data(R"([{"index":0,"embedding":"AAA="}])"), 1),
            "a vector in it is not base64 of 32-bit numbers");
  EXPECT_EQ(problem_of(data(R"([{"index":0,"embedding":"!!!!"}])"), 1),
            "a vector in it is not base64 of 32-bit numbers");
  EXPECT_EQ(problem_of(R"({"error":{"message":"no"}})", 1), "it has no \"data\"");
  EXPECT_EQ(problem_of(R"({"data":null})", 1), "it has no \"data\"");
}

TEST(EmbeddingReply, NotJson) {
  const std::string good = as_base64({{1, 2}});
  for (const std::string& body :
       {std::string(), std::string("<html>"), std::string("[]"), good + "x", "x" + good,
        reply_of(R"([{"index":-1,"embedding":[1]}])"),
        reply_of(R"([{"index":0,"embedding":[1,]}])"),
        reply_of(R"([{"index":0,"embedding":[,1]}])"),
        reply_of(R"([{"index":0,"embedding":[1 2]}])"),
        reply_of(R"([{"index":0,"embedding":["1"]}])"),
        reply_of(R"([{"index":0,"embedding":[+1]}])"),
        reply_of(R"([{"index":0,"embedding":[0x10]}])"),
        reply_of(R"([{"index":0,"embedding":[[1]]}])"), reply_of(R"([[1]])")}) {
    EXPECT_EQ(problem_of(body, 1), "it is not valid JSON, or cut off") << body;
  }
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_EQ(problem_of(good.substr(0, length), 1), "it is not valid JSON, or cut off");
  }
}

// One bad vector is that text's affair.
TEST(EmbeddingReply, UnusableVectors) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto reply = core::read_embedding_reply(
      as_base64({{1, 2}, {kNan, 2}, {0, -0.0F}, {3, -kInfinity}, {4, 5}}), 5, 2);
  EXPECT_EQ(reply.problem, "");
  EXPECT_EQ(reply.vectors, (Vectors{{1, 2}, {}, {}, {}, {4, 5}}));
  ASSERT_EQ(reply.unusable.size(), 3U);
  EXPECT_EQ(reply.unusable[0].index, 1U);
  EXPECT_EQ(reply.unusable[0].reason, "its vector holds a value that is not a finite number");
  EXPECT_EQ(reply.unusable[1].index, 2U);
  EXPECT_EQ(reply.unusable[1].reason, "its vector is all zeros");
  EXPECT_EQ(reply.unusable[2].index, 3U);
}

TEST(EmbeddingReply, WhatIsWrittenInsteadOfNumbers) {
  for (const std::string_view word :
       {"NaN", "nan", "-nan", "null", "Infinity", "-Infinity", "inf", "-inf", "1e39", "-1e400"}) {
    const auto reply =
        core::read_embedding_reply(reply_of(R"([{"index":0,"embedding":[1,)" + std::string(word) +
                                            R"(]},{"index":1,"embedding":[1,2]}])"),
                                   2);
    EXPECT_EQ(reply.problem, "") << word;
    ASSERT_EQ(reply.unusable.size(), 1U) << word;
    EXPECT_EQ(reply.unusable[0].index, 0U);
  }
}

TEST(EmbeddingReply, NoVectorForOneText) {
  const auto reply = core::read_embedding_reply(
      reply_of(R"([{"index":0,"embedding":null},{"index":1,"embedding":[]},{"index":2},)"
               R"({"index":3,"embedding":[1]}])"),
      4);
  EXPECT_EQ(reply.problem, "");
  ASSERT_EQ(reply.unusable.size(), 3U);
  EXPECT_EQ(reply.unusable[0].reason, "the embedder returned no vector for it");
  EXPECT_EQ(reply.dimensions, 1U);
}

TEST(EmbeddingReply, VerySmallNumbers) {
  const auto reply = core::read_embedding_reply(
      reply_of(R"([{"index":0,"embedding":[1e-46,1e-400,-1e-50,1e-40,1]}])"), 1);
  EXPECT_EQ(reply.problem, "");
  ASSERT_EQ(reply.vectors.size(), 1U);
  EXPECT_EQ(reply.vectors[0], (std::vector<float>{0, 0, 0, 1e-40F, 1}));
  // A vector so short that its square is nothing in single precision.
  EXPECT_TRUE(core::read_embedding_reply(reply_of(R"([{"index":0,"embedding":[1e-44]}])"), 1)
                  .unusable.empty());
}

TEST(EmbeddingReply, NumbersAsAnotherParserReadsThem) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> values(-1, 1);
  nlohmann::json numbers = nlohmann::json::array();
  std::vector<float> expected;
  for (int i = 0; i < 1536; ++i) {
    const double value = values(random) * std::pow(10, static_cast<int>(random() % 20) - 15);
    numbers.push_back(value);
    expected.push_back(static_cast<float>(value));
  }
  const auto reply = core::read_embedding_reply(
      reply_of(R"([{"index":0,"embedding":)" + numbers.dump(2) + "}]"), 1);
  ASSERT_EQ(reply.problem, "");
  ASSERT_EQ(reply.vectors[0].size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(reply.vectors[0][i], expected[i]);
  }
}

TEST(EmbeddingReply, MoreThanWasAskedForIsNotKept) {
  std::string data = "[";
  for (int i = 0; i < 1000; ++i) {
    data += (i > 0 ? "," : "") + ("{\"index\":" + std::to_string(i) + ",\"embedding\":[1]}");
  }
  EXPECT_EQ(problem_of(reply_of(data + "]"), 3), "it has 1000 vectors for 3 texts");
}

TEST(EmbeddingReply, NoTexts) { EXPECT_EQ(problem_of(reply_of("[]"), 0), ""); }

}  // namespace
