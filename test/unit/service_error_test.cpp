// core/service_error: bodies as services write them, and what follows from them.
#include "core/service_error.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "core/utf8.hpp"

namespace {

using Kind = core::ServiceErrorKind;

struct Sample {
  int status;
  std::string_view body;
  Kind kind;
  std::string_view message;
  std::string_view type = "";
  std::string_view code = "";
};

void expect(const Sample& sample) {
  const auto error = core::read_service_error(sample.status, sample.body);
  EXPECT_EQ(static_cast<int>(error.kind), static_cast<int>(sample.kind)) << sample.body;
  EXPECT_EQ(error.message, sample.message);
  EXPECT_EQ(error.type, sample.type) << sample.body;
  EXPECT_EQ(error.code, sample.code) << sample.body;
}

TEST(ServiceError, OpenAi) {
  expect({429,
          R"({"error":{"message":"You exceeded your current quota, please check your plan.",)"
          R"("type":"insufficient_quota","param":null,"code":"insufficient_quota"}})",
          Kind::kQuota, "You exceeded your current quota, please check your plan.",
          "insufficient_quota", "insufficient_quota"});
  expect({429,
          R"({"error":{"message":"Rate limit reached for text-embedding-3-small on tokens per )"
          R"(min (TPM): Limit 1000000, Used 999000.","type":"tokens","param":null,)"
          R"("code":"rate_limit_exceeded"}})",
          Kind::kRateLimit,
          "Rate limit reached for text-embedding-3-small on tokens per min (TPM): Limit 1000000, "
          "Used 999000.",
          "tokens", "rate_limit_exceeded"});
  expect({400,
          R"({"error":{"message":"Requested 346134 tokens, max 300000 tokens per request",)"
          R"("type":"max_tokens_per_request","param":null,"code":"max_tokens_per_request"}})",
          Kind::kTooLarge, "Requested 346134 tokens, max 300000 tokens per request",
          "max_tokens_per_request", "max_tokens_per_request"});
  expect({400,
          R"({"error":{"message":"This model's maximum context length is 8192 tokens, however )"
          R"(you requested 25701 tokens.","type":"invalid_request_error","param":null,)"
          R"("code":null}})",
          Kind::kTooLarge,
          "This model's maximum context length is 8192 tokens, however you requested 25701 tokens.",
          "invalid_request_error", ""});
  expect({400,
          R"({"error":{"message":"'$.input' is invalid. Please check the API reference.",)"
          R"("type":"invalid_request_error","param":null,"code":null}})",
          Kind::kOther, "'$.input' is invalid. Please check the API reference.",
          "invalid_request_error", ""});
  expect({404,
          R"({"error":{"message":"The model `x` does not exist","type":"invalid_request_error",)"
          R"("param":null,"code":"model_not_found"}})",
          Kind::kOther, "The model `x` does not exist", "invalid_request_error",
          "model_not_found"});
}

TEST(ServiceError, Azure) {
  expect({429,
          R"({"error":{"code":"429","message":"Requests to the Embeddings_Create Operation have )"
          R"(exceeded call rate limit. Please retry after 54 seconds. Please go here: )"
          R"(https://aka.ms/oai/quotaincrease"}})",
          Kind::kRateLimit,
          "Requests to the Embeddings_Create Operation have exceeded call rate limit. Please retry "
          "after 54 seconds. Please go here: https://aka.ms/oai/quotaincrease",
          "", "429"});
  expect({401, R"({"statusCode":401,"message":"Unauthorized. Access token is missing."})",
          Kind::kAuth, "Unauthorized. Access token is missing."});
  expect({400, R"({"error":{"message":"Too many inputs. The max number of inputs is 16."}})",
          Kind::kTooLarge, "Too many inputs. The max number of inputs is 16."});
}

TEST(ServiceError, LocalServers) {
  // Ollama
  expect({400, R"({"error":"the input length exceeds the context length"})", Kind::kTooLarge,
          "the input length exceeds the context length"});
  expect({404, R"({"error":"model \"x\" not found, try pulling it first"})", Kind::kOther,
          "model \"x\" not found, try pulling it first"});
  // vLLM, of old and now
  expect({400,
          R"({"object":"error","message":"This model's maximum context length is 512 tokens.",)"
          R"("type":"BadRequestError","param":null,"code":400})",
          Kind::kTooLarge, "This model's maximum context length is 512 tokens.", "BadRequestError",
          "400"});
  expect({400,
          R"({"error":{"message":"Model does not support matryoshka representation",)"
          R"("type":"BadRequestError","param":null,"code":400}})",
          Kind::kOther, "Model does not support matryoshka representation", "BadRequestError",
          "400"});
  // TEI
  expect({413,
          R"({"message":"batch size 33 > maximum allowed batch size 32","type":"Validation",)"
          R"("code":413})",
          Kind::kTooLarge, "batch size 33 > maximum allowed batch size 32", "Validation", "413"});
  expect(
      {413,
       R"({"error":"`inputs` must have less than 512 tokens. Given: 1000","error_type":"Validation"})",
       Kind::kTooLarge, "`inputs` must have less than 512 tokens. Given: 1000", "Validation"});
  expect({429, R"({"error":"Model is overloaded","error_type":"overloaded"})", Kind::kRateLimit,
          "Model is overloaded", "overloaded"});
  // llama.cpp
  expect({500,
          R"({"error":{"code":500,"message":"input is too large to process. increase the physical )"
          R"(batch size","type":"server_error"}})",
          Kind::kTooLarge, "input is too large to process. increase the physical batch size",
          "server_error", "500"});
  expect({401,
          R"({"error":{"message":"Invalid API Key","type":"authentication_error","code":401}})",
          Kind::kAuth, "Invalid API Key", "authentication_error", "401"});
  expect({500, R"({"error":{"code":500,"message":"out of memory","type":"server_error"}})",
          Kind::kOther, "out of memory", "server_error", "500"});
  // FastAPI
  expect({422,
          R"({"detail":[{"type":"missing","loc":["body","input"],"msg":"Field required",)"
          R"("input":"the whole secret text"}]})",
          Kind::kOther, "body.input: Field required"});
  expect({404, R"({"detail":"Not Found"})", Kind::kOther, "Not Found"});
}

TEST(ServiceError, Pinecone) {
  expect({401, "Invalid API Key", Kind::kAuth, "Invalid API Key"});
  expect({401, "\"Unauthorized\"", Kind::kAuth, "Unauthorized"});
  expect({400,
          R"({"code":3,"message":"Vector dimension 768 does not match the dimension of the index )"
          R"(1536","details":[]})",
          Kind::kOther, "Vector dimension 768 does not match the dimension of the index 1536", "",
          "3"});
  expect({400,
          R"({"code":3,"message":"metadata size is 114146 bytes, which exceeds the limit of 40960 )"
          R"(bytes per vector","details":[]})",
          Kind::kTooLarge,
          "metadata size is 114146 bytes, which exceeds the limit of 40960 bytes per vector", "",
          "3"});
  expect({400,
          R"({"code":11,"message":"Your request is larger than the maximum supported size - 2MB"})",
          Kind::kTooLarge, "Your request is larger than the maximum supported size - 2MB", "",
          "11"});
  expect(
      {429,
       R"({"error":{"code":"RESOURCE_EXHAUSTED","message":"You've reached your write unit limit )"
       R"(for the current month (2000000)."},"status":429})",
       Kind::kQuota, "You've reached your write unit limit for the current month (2000000).", "",
       "RESOURCE_EXHAUSTED"});
  expect({429, R"({"code":8,"message":"Too many requests."})", Kind::kRateLimit,
          "Too many requests.", "", "8"});
}

TEST(ServiceError, ProxiesAndRubbish) {
  expect({413,
          "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>x</body>",
          Kind::kTooLarge, "413 Request Entity Too Large"});
  expect({502, "<!DOCTYPE html><TITLE lang=en> 502\n Bad Gateway </TITLE>", Kind::kOther,
          "502 Bad Gateway"});
  expect({502, "<html><body>no title</body></html>", Kind::kOther, ""});
  expect({503, "upstream connect error\nwith more", Kind::kOther, "upstream connect error"});
  expect({503, "", Kind::kOther, ""});
  expect({503, " \r\n ", Kind::kOther, ""});
  expect({402, "{}", Kind::kQuota, ""});
  expect({403, "[]", Kind::kAuth, ""});
  expect({500, R"({"error":{"message":"cut o)", Kind::kOther, ""});
  expect({500, "null", Kind::kOther, ""});
  expect({400, R"({"error":{"message":{"a":1},"type":[],"code":1.5}})", Kind::kOther, ""});
  expect({400, R"({"error":"Bad Request","message":"what is wrong"})", Kind::kOther,
          "what is wrong", "Bad Request"});
}

TEST(ServiceError, MessageIsOneBoundedLine) {
  const auto lines = core::read_service_error(400, "{\"message\":\"a\\n\\tb\\u0000 c\\u00a0d \"}");
  EXPECT_EQ(lines.message, "a b c d");

  std::string text;
  for (int i = 0; i < 1000; ++i) {
    text += "é";
  }
  const auto bounded = core::read_service_error(400, "{\"message\":\"" + text + "\"}");
  EXPECT_LE(bounded.message.size(), core::kMaxServiceMessage);
  EXPECT_GT(bounded.message.size(), core::kMaxServiceMessage - 10);
  EXPECT_TRUE(bounded.message.ends_with("é…"));
  EXPECT_TRUE(core::utf8::is_valid(bounded.message));

  const auto broken = core::read_service_error(500, "bad \xff\xfe bytes");
  EXPECT_EQ(broken.message, "bad \uFFFD\uFFFD bytes");
  EXPECT_TRUE(core::read_service_error(500, std::string(5'000'000, 'x')).message.size() <=
              core::kMaxServiceMessage);
  EXPECT_EQ(core::read_service_error(500, std::string(1'000'000, '[')).message, "");
}

// What makes it too large may stand behind the cut.
TEST(ServiceError, ClassifiesByTheWholeMessage) {
  const std::string text = std::string(1000, 'x') + " is too long";
  EXPECT_EQ(core::read_service_error(400, "{\"error\":\"" + text + "\"}").kind, Kind::kTooLarge);
}

TEST(ServiceError, KeysAreBlottedOut) {
  expect({401,
          R"({"error":{"message":"Incorrect API key provided: sk-abc***xyz. Find yours online.",)"
          R"("code":"invalid_api_key"}})",
          Kind::kAuth, "Incorrect API key provided: … Find yours online.", "", "invalid_api_key"});
  expect({401, "Bad header: Authorization: Bearer pcsk_123_456 refused", Kind::kAuth,
          "Bad header: Authorization: Bearer … refused"});
  expect(
      {401, "Incorrect API key provided: hunter2", Kind::kAuth, "Incorrect API key provided: …"});
  expect({401, "The key 'sk-proj-123' is unknown", Kind::kAuth, "The key … is unknown"});
  expect({401, "A risk-free disk-based task", Kind::kAuth, "A risk-free disk-based task"});
}

}  // namespace
