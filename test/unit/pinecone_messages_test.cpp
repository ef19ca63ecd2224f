// core/pinecone_messages: bodies that another parser reads back, and answers as the API describes
// them.
#include "core/pinecone_messages.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"

namespace {

using nlohmann::json;

std::string record(std::string_view id, const std::vector<float>& values,
                   std::string_view metadata = {}) {
  core::ByteBuffer out;
  core::append_record(out, {id, values, metadata});
  return std::string(out.view());
}

// --- requests --------------------------------------------------------------------------------

TEST(PineconeRequest, Record) {
  EXPECT_EQ(record("a", {1, -0.5F, 0.1F}), R"({"id":"a","values":[1,-0.5,0.1]})");
  EXPECT_EQ(record("a\"é", {1}, R"({"lang":"fr"})"),
            R"({"id":"a\"é","values":[1],"metadata":{"lang":"fr"}})");
  EXPECT_EQ(record("a", {1}, "{}"), R"({"id":"a","values":[1]})");
  EXPECT_EQ(record("a", {}), R"({"id":"a","values":[]})");
}

TEST(PineconeRequest, FloatsReadBackAsTheyWere) {
  std::mt19937 random(5);
  std::vector<float> values = {0.0F,
                               -0.0F,
                               1e-45F,
                               std::numeric_limits<float>::max(),
                               std::numeric_limits<float>::lowest(),
                               std::numeric_limits<float>::min(),
                               std::numeric_limits<float>::denorm_min(),
                               16777216.0F,
                               1e20F};
  while (values.size() < 20'000) {
    const auto bits = static_cast<std::uint32_t>(random());
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isfinite(value)) {
      values.push_back(value);
    }
  }
  const auto parsed = json::parse(record("a", values));
  ASSERT_EQ(parsed["values"].size(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(parsed["values"][i].get<float>(), values[i]);
  }
}

TEST(PineconeRequest, RefusesWhatIsNotFinite) {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    EXPECT_THROW(record("a", {1, value}), core::Error);
    EXPECT_THROW(core::query_body("n", std::vector<float>{-value}, 1), core::Error);
  }
}

TEST(PineconeRequest, Upsert) {
  const std::string first = record("a", {1, 2});
  const std::string second = record("b", {3, 4}, R"({"x":true})");
  const std::vector<std::string_view> records = {first, second};
  for (const std::string_view space : {"grade-12-math-v2", "", "a/b \"ع\""}) {
    const std::string body = core::upsert_body(space, records);
    const auto parsed = json::parse(body);
    EXPECT_EQ(parsed.size(), 2U);
    EXPECT_EQ(parsed["namespace"], space);
    ASSERT_EQ(parsed["vectors"].size(), 2U);
    EXPECT_EQ(parsed["vectors"][1]["id"], "b");
    EXPECT_EQ(parsed["vectors"][1]["metadata"]["x"], true);
    EXPECT_EQ(body.size(), core::upsert_frame_bytes(space) + first.size() + 1 + second.size());
  }
  EXPECT_EQ(core::upsert_body("n", {}).size(), core::upsert_frame_bytes("n"));
}

// The usual batch, with numbers as embedders have them: no digit too many.
TEST(PineconeRequest, AHundredVectorsStayBelowTwoMegabytes) {
  std::mt19937 random(9);
  std::normal_distribution<float> values(0, 1);
  core::ByteBuffer out;
  for (int i = 0; i < 100; ++i) {
    std::vector<float> vector(1536);
    float squares = 0;
    for (float& value : vector) {
      value = values(random);
      squares += value * value;
    }
    for (float& value : vector) {
      value /= std::sqrt(squares);
    }
    core::append_record(out, {"00000000-0000-0000-0000-000000000000", vector, {}});
  }
  EXPECT_LT(out.size(), 2'000'000U);
}

TEST(PineconeRequest, Query) {
  const auto parsed = json::parse(core::query_body("n\"", std::vector<float>{0.5F, 2}, 10));
  EXPECT_EQ(parsed, json::parse(R"({"namespace":"n\"","topK":10,"includeValues":false,)"
                                R"("includeMetadata":false,"vector":[0.5,2]})"));
}

TEST(PineconeRequest, Delete) {
  EXPECT_EQ(core::delete_body("n", std::vector<std::string>{"a", "b\""}),
            R"({"namespace":"n","ids":["a","b\""]})");
}

TEST(PineconeRequest, Ids) {
  EXPECT_FALSE(core::pinecone_id_problem("a"));
  std::string letters;
  for (int i = 0; i < 512; ++i) {
    letters += "é";
  }
  EXPECT_FALSE(core::pinecone_id_problem(letters));
  EXPECT_EQ(core::pinecone_id_problem(letters + "x"),
            "its id has 513 characters, and Pinecone takes 512 at most");
  EXPECT_EQ(core::pinecone_id_problem(""),
            "its id is empty, and Pinecone wants 1 to 512 characters");
  EXPECT_TRUE(core::pinecone_id_problem(std::string_view("a\0", 2)));
}

// --- answers ---------------------------------------------------------------------------------

TEST(PineconeAnswer, UpsertedCount) {
  EXPECT_EQ(core::read_upserted_count(R"({"upsertedCount":100})"), 100U);
  EXPECT_EQ(core::read_upserted_count(R"({"upsertedCount":"100"})"), 100U);
  EXPECT_EQ(core::read_upserted_count("{}"), 0U);
  EXPECT_EQ(core::read_upserted_count(R"({"other":[1],"upsertedCount":null})"), 0U);
  for (const std::string_view body :
       {"", "[]", "1", R"({"upsertedCount":-1})", R"({"upsertedCount":1.5})",
        R"({"upsertedCount":[1]})", R"({"upsertedCount":1)", R"({"upsertedCount":1}x)"}) {
    EXPECT_EQ(core::read_upserted_count(body), std::nullopt) << body;
  }
}

TEST(PineconeAnswer, RecordCount) {
  EXPECT_EQ(
      core::read_record_count(
          R"({"name":"n","record_count":"20000","schema":{"fields":{"a":{"filterable":true}}}})"),
      20000U);
  EXPECT_EQ(core::read_record_count(R"({"name":"n"})"), 0U);
}

TEST(PineconeAnswer, IndexStats) {
  const auto stats = core::read_index_stats(
      R"({"namespaces":{"":{"vectorCount":50000},"a\/\u0639":{"vectorCount":"30000"},"e":{}},)"
      R"("indexFullness":0.4,"totalVectorCount":80000,"dimension":1024,"metric":"cosine",)"
      R"("vectorType":"dense","memory_fullness":0})");
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->dimension, 1024U);
  EXPECT_EQ(stats->total, 80000U);
  EXPECT_EQ(stats->metric, "cosine");
  EXPECT_EQ(stats->vector_type, "dense");
  EXPECT_EQ(stats->namespaces,
            (std::map<std::string, std::uint64_t>{{"", 50000}, {"a/ع", 30000}, {"e", 0}}));
  const auto empty = core::read_index_stats(R"({"namespaces":null})");
  ASSERT_TRUE(empty);
  EXPECT_EQ(empty->dimension, 0U);
  EXPECT_FALSE(core::read_index_stats(R"({"namespaces":[]})"));
  EXPECT_FALSE(core::read_index_stats(R"({"namespaces":{"a":3}})"));
  EXPECT_FALSE(core::read_index_stats(R"({"namespaces":{"\u0000":{}}})"));
}

TEST(PineconeAnswer, IdPages) {
  const auto page = core::read_id_page(
      R"({"vectors":[{"id":"document1#abb"},{"id":"\u0639"}],"pagination":{"next":"abc="},)"
      R"("namespace":"n","usage":{"readUnits":1}})");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->ids, (std::vector<std::string>{"document1#abb", "ع"}));
  EXPECT_EQ(page->next, "abc=");
  for (const std::string_view body : {R"({"vectors":[]})", "{}", R"({"pagination":null})"}) {
    const auto last = core::read_id_page(body);
    ASSERT_TRUE(last) << body;
    EXPECT_TRUE(last->ids.empty());
    EXPECT_EQ(last->next, "");
  }
  EXPECT_FALSE(core::read_id_page(R"({"vectors":[{}]})"));
  EXPECT_FALSE(core::read_id_page(R"({"vectors":["a"]})"));
  EXPECT_FALSE(core::read_id_page(R"({"vectors":[{"id":"a"})"));
}

TEST(PineconeAnswer, FetchedVectors) {
  const auto vectors = core::read_fetched_vectors(
      R"({"vectors":{"id-1":{"id":"id-1","values":[1.0,1.5,-2.5e-3],"metadata":{"a": "b"}},)"
      R"("id-2":{"values":[],"sparseValues":{"indices":[1]}}},"namespace":"n","usage":{}})");
  ASSERT_TRUE(vectors);
  ASSERT_EQ(vectors->size(), 2U);
  EXPECT_EQ((*vectors)[0].id, "id-1");
  EXPECT_EQ((*vectors)[0].values, (std::vector<float>{1, 1.5F, -2.5e-3F}));
  EXPECT_EQ((*vectors)[0].metadata, R"({"a": "b"})");
  EXPECT_EQ((*vectors)[1].id, "id-2");
  EXPECT_TRUE((*vectors)[1].values.empty());
  EXPECT_EQ((*vectors)[1].metadata, "");
  EXPECT_TRUE(core::read_fetched_vectors("{}")->empty());
  for (const std::string_view body :
       {R"({"vectors":[]})", R"({"vectors":{"a":1}})", R"({"vectors":{"":{}}})",
        R"({"vectors":{"a":{"values":[1e39]}}})", R"({"vectors":{"a":{"values":["1"]}}})",
        R"({"vectors":{"a":{"values":[NaN]}}})",
        "{\"vectors\":{\"a\":{\"metadata\":{\"x\":\"\xff\"}}}}"}) {
    EXPECT_FALSE(core::read_fetched_vectors(body)) << body;
  }
}

TEST(PineconeAnswer, WhatWasSentComesBack) {
  const std::vector<float> values = {0.1F, 1e-45F, 3.4e38F, -7.25F};
  const std::string body = R"({"vectors":{"a":)" + record("a", values, R"({"k":1})") + "}}";
  const auto vectors = core::read_fetched_vectors(body);
  ASSERT_TRUE(vectors);
  EXPECT_EQ((*vectors)[0].values, values);
  EXPECT_EQ((*vectors)[0].metadata, R"({"k":1})");
}

TEST(PineconeAnswer, QueryMatches) {
  const auto matches = core::read_query_matches(
      R"({"results":[],"matches":[{"id":"a","score":0.98,"values":[]},{"id":"b","score":-1e-400},)"
      R"({"id":"c"}],"namespace":"n","usage":{"readUnits":5}})");
  ASSERT_TRUE(matches);
  ASSERT_EQ(matches->size(), 3U);
  EXPECT_EQ((*matches)[0].id, "a");
  EXPECT_DOUBLE_EQ((*matches)[0].score, 0.98);
  EXPECT_EQ((*matches)[1].score, 0);
  EXPECT_EQ((*matches)[2].score, 0);
  EXPECT_TRUE(core::read_query_matches(R"({"matches":[]})")->empty());
  for (const std::string_view body :
       {R"({"matches":{}})", R"({"matches":[{"score":1}]})",
        R"({"matches":[{"id":"a","score":"x"}]})", R"({"matches":[{"id":"a","score":1e400}]})",
        R"({"matches":[{"id":7}]})", "null"}) {
    EXPECT_FALSE(core::read_query_matches(body)) << body;
  }
}

}  // namespace
