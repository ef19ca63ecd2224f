// core::read_pinecone_….
#include "core/pinecone_reply.hpp"

#include <gtest/gtest.h>

#include <optional>

namespace {

using namespace core;

TEST(PineconeReply, ReadsNumbersWrittenEitherWay) {
  EXPECT_EQ(read_pinecone_dimension(R"({"dimension":1536,"namespaces":{}})"), 1536U);
  EXPECT_EQ(read_pinecone_dimension(R"({"dimension":"1536"})"), 1536U);
  EXPECT_EQ(read_pinecone_dimension(R"({"namespaces":{}})"), 0U) << "sparse";
  EXPECT_EQ(read_pinecone_record_count(R"({"name":"a","record_count":"7"})"), 7U);
  EXPECT_EQ(read_pinecone_record_count(R"({"name":"a","recordCount":7})"), 7U);
  EXPECT_EQ(read_pinecone_record_count(R"({"name":"a"})"), 0U);
  EXPECT_EQ(read_pinecone_upserted(R"({"upsertedCount":3})"), 3U);
}

TEST(PineconeReply, RefusesWhatIsNoReply) {
  for (const char* body : {"", "[]", "\"Invalid API Key\"", "{", "null", "<html>"}) {
    EXPECT_FALSE(read_pinecone_dimension(body)) << body;
    EXPECT_FALSE(read_pinecone_record_count(body)) << body;
    EXPECT_FALSE(read_pinecone_page(body)) << body;
    EXPECT_FALSE(read_pinecone_vectors(body)) << body;
    EXPECT_FALSE(read_pinecone_matches(body)) << body;
  }
  EXPECT_FALSE(read_pinecone_dimension(R"({"dimension":-1})"));
  EXPECT_FALSE(read_pinecone_record_count(R"({"record_count":"7x"})"));
  EXPECT_FALSE(read_pinecone_page(R"({"vectors":[{"name":"x"}]})"));
  EXPECT_FALSE(read_pinecone_page(R"({"vectors":["x"]})"));
  EXPECT_FALSE(read_pinecone_vectors(R"({"vectors":{"a":{"values":[1,"x"]}}})"));
  EXPECT_FALSE(read_pinecone_vectors(R"({"vectors":{"a":{}}})"));
  EXPECT_FALSE(read_pinecone_matches(R"({"matches":[{"id":"a"}]})"));
  EXPECT_FALSE(read_pinecone_matches(R"({})"));
}

TEST(PineconeReply, ReadsPages) {
  const auto page = read_pinecone_page(
      R"({"vectors":[{"id":"a"},{"id":"é\"ب"}],"pagination":{"next":"t=="},"namespace":"n"})");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->ids, (std::vector<std::string>{"a", "é\"ب"}));
  EXPECT_EQ(page->next, "t==");
  const auto last = read_pinecone_page(R"({"vectors":[],"namespace":"n"})");
  ASSERT_TRUE(last);
  EXPECT_TRUE(last->ids.empty());
  EXPECT_EQ(last->next, "");
}

TEST(PineconeReply, ReadsVectors) {
  const auto vectors = read_pinecone_vectors(
      R"({"vectors":{"a":{"id":"a","values":[0.1,-2,3e-8],"metadata":{"l":["x"],"n":1}},)"
      R"("b":{"id":"b","values":[1]}},"namespace":"n","usage":{"readUnits":1}})");
  ASSERT_TRUE(vectors);
  ASSERT_EQ(vectors->size(), 2U);
  EXPECT_EQ((*vectors)[0].id, "a");
  EXPECT_EQ((*vectors)[0].values, (std::vector<float>{0.1F, -2.0F, 3e-8F}));
  EXPECT_EQ((*vectors)[0].metadata, R"({"l":["x"],"n":1})");
  EXPECT_EQ((*vectors)[1].metadata, "{}");
  EXPECT_TRUE(read_pinecone_vectors(R"({"namespace":"n"})")->empty());
}

TEST(PineconeReply, ReadsMatches) {
  const auto matches =
      read_pinecone_matches(R"({"matches":[{"id":"b","score":0.9},{"id":"a","score":1}]})");
  ASSERT_TRUE(matches);
  ASSERT_EQ(matches->size(), 2U);
  EXPECT_EQ((*matches)[0].id, "b");
  EXPECT_DOUBLE_EQ((*matches)[0].score, 0.9);
  EXPECT_DOUBLE_EQ((*matches)[1].score, 1);
}

}  // namespace
