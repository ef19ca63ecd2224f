// core/vector_metadata: the rules of the header, one by one.
#include "core/vector_metadata.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>

namespace {

std::string flat(std::string_view metadata) {
  const auto result = core::flatten_metadata(metadata);
  EXPECT_EQ(result.reason, "") << metadata;
  return result.json;
}

std::string reason(std::string_view metadata) {
  const auto result = core::flatten_metadata(metadata);
  EXPECT_EQ(result.json, "") << metadata;
  return result.reason;
}

TEST(VectorMetadata, FlatOnesStay) {
  EXPECT_EQ(flat(R"({"lang": "fr", "page": 12, "ok": true, "no": false, "tags": ["a","b"]})"),
            R"({"lang":"fr","no":false,"ok":true,"page":12,"tags":["a","b"]})");
  EXPECT_EQ(flat("{}"), "{}");
  EXPECT_EQ(flat(" { } "), "{}");
  EXPECT_EQ(flat(""), "{}");
  EXPECT_EQ(flat("null"), "{}");
}

TEST(VectorMetadata, Sorted) {
  EXPECT_EQ(flat(R"({"b":1,"a":2,"B":3,"é":4,"aa":5})"), R"({"B":3,"a":2,"aa":5,"b":1,"é":4})");
}

TEST(VectorMetadata, NestedObjects) {
  EXPECT_EQ(flat(R"({"a":{"b":1,"c":{"d":"x"}},"e":{}})"), R"({"a.b":1,"a.c.d":"x"})");
}

TEST(VectorMetadata, TheLessFlattenedKeyWins) {
  EXPECT_EQ(flat(R"({"a":{"b":1},"a.b":2})"), R"({"a.b":2})");
  EXPECT_EQ(flat(R"({"a.b":2,"a":{"b":1}})"), R"({"a.b":2})");
  EXPECT_EQ(flat(R"({"a":{"b":{"c":1}},"a.b":{"c":2}})"), R"({"a.b.c":2})");
  EXPECT_EQ(flat(R"({"a":{"b.c":1},"a.b":{"c":2}})"), R"({"a.b.c":1})");
  EXPECT_EQ(flat(R"({"a":{"b":1},"a.b":null})"), R"({"a.b":1})");
}

TEST(VectorMetadata, Nulls) {
  EXPECT_EQ(flat(R"({"a":null,"b":{"c":null},"d":[null,"x",null]})"), R"({"d":["x"]})");
  EXPECT_EQ(flat(R"({"a":[null]})"), R"({"a":[]})");
}

TEST(VectorMetadata, Lists) {
  EXPECT_EQ(flat(R"({"a":["a", 1, true, {"b":2}, [1, "x"], 1.50]})"),
            R"({"a":["a","1","true","{\"b\":2}","[1, \"x\"]","1.50"]})");
  EXPECT_EQ(flat(R"({"a":[]})"), R"({"a":[]})");
  EXPECT_EQ(flat(R"({"a":{"b":["x"]}})"), R"({"a.b":["x"]})");
}

TEST(VectorMetadata, Numbers) {
  EXPECT_EQ(flat(R"({"a":1.5,"b":-0,"c":1e10,"d":0.1})"), R"({"a":1.5,"b":-0,"c":1e10,"d":0.1})");
  // 2^53 is exact, 2^53 + 1 is not.
  EXPECT_EQ(flat(R"({"a":9007199254740992,"b":9007199254740993,"c":-9007199254740993})"),
            R"({"a":9007199254740992,"b":"9007199254740993","c":"-9007199254740993"})");
  EXPECT_EQ(flat(R"({"a":12345678901234567890})"), R"({"a":"12345678901234567890"})");
  EXPECT_EQ(flat(R"({"a":1e400,"b":-1e400,"c":1e-400})"),
            R"({"a":"1e400","b":"-1e400","c":"1e-400"})");
  EXPECT_EQ(flat(R"({"a":0.3333333333333333333333333333333333333333})"),
            R"({"a":0.3333333333333333})");
}

TEST(VectorMetadata, ReservedAndEmptyKeys) {
  EXPECT_EQ(flat(R"({"$ref":"x","a":{"$b":1},"":2})"), R"({"_":2,"_$ref":"x","a.$b":1})");
  EXPECT_EQ(flat(R"({"$a":1,"_$a":2})"), R"({"_$a":2})");
  EXPECT_EQ(flat(R"({"_$a":2,"$a":1})"), R"({"_$a":2})");
}

TEST(VectorMetadata, Texts) {
  EXPECT_EQ(flat(R"({"a":"\u0645\u00e9\n\"\\\/","\u00e9":"x"})"), R"({"a":"مé\n\"\\/","é":"x"})");
  EXPECT_EQ(flat(R"({"a":"😀"})"), R"({"a":"😀"})");
}

TEST(VectorMetadata, WhatCannotBeSent) {
  EXPECT_EQ(reason("[1]"), "its metadata is not a JSON object");
  EXPECT_EQ(reason("\"x\""), "its metadata is not a JSON object");
  EXPECT_EQ(reason("{\"a\":}"), "its metadata is not a JSON object");
  EXPECT_EQ(reason("{\"a\":\"\xff\"}"), "its metadata is not a JSON object");
  const std::string kept =
      "its metadata holds a text that no store can keep: NUL, or half of a character";
  EXPECT_EQ(reason(R"({"a":"\u0000"})"), kept);
  EXPECT_EQ(reason(R"({"a":["\ud800"]})"), kept);
  EXPECT_EQ(reason(R"({"\u0000":1})"), kept);
}

TEST(VectorMetadata, TooLarge) {
  // {"a":"…"} has 8 bytes around the text.
  const std::string fits = "{\"a\":\"" + std::string(core::kMaxVectorMetadata - 8, 'x') + "\"}";
  EXPECT_EQ(flat(fits), fits);
  const std::string beyond = "{\"a\":\"" + std::string(core::kMaxVectorMetadata - 7, 'x') + "\"}";
  EXPECT_EQ(reason(beyond), "its metadata has 40,961 bytes, and the store takes 40,960");
  EXPECT_EQ(core::flatten_metadata("{\"a\":1}", 6).reason,
            "its metadata has 7 bytes, and the store takes 6");
  EXPECT_EQ(reason("{\"a\":\"" + std::string(1'234'560, 'x') + "\"}"),
            "its metadata has 1,234,568 bytes, and the store takes 40,960");
}

TEST(VectorMetadata, DeepNestingBecomesText) {
  std::string text;
  for (int i = 0; i < 5000; ++i) {
    text += "{\"a\":";
  }
  text += "1" + std::string(5000, '}');
  const auto result = core::flatten_metadata(text);
  EXPECT_EQ(result.reason, "");
  const auto parsed = nlohmann::json::parse(result.json);
  ASSERT_EQ(parsed.size(), 1U);
  EXPECT_EQ(
      parsed.begin().key(), "a" + [] {
        std::string dots;
        for (int i = 0; i < 31; ++i) {
          dots += ".a";
        }
        return dots;
      }());
  EXPECT_TRUE(parsed.begin().value().is_string());
}

// Whatever goes in, the result is what a store takes.
TEST(VectorMetadata, AnyObject) {
  std::mt19937 random(11);
  const auto value = [&](auto& self, int depth) -> nlohmann::json {
    switch (random() % (depth > 3 ? 6U : 8U)) {
      case 0:
        return nullptr;
      case 1:
        return random() % 2 == 0;
      case 2:
        return static_cast<double>(random()) / 7;
      case 3:
        return std::string(random() % 5, '"');
      case 4:
        return (std::int64_t{1} << (random() % 63)) + 1;
      case 5:
        return "é$" + std::to_string(random() % 10);
      case 6: {
        nlohmann::json list = nlohmann::json::array();
        for (auto i = random() % 4; i > 0; --i) {
          list.push_back(self(self, depth + 1));
        }
        return list;
      }
      default: {
        nlohmann::json object = nlohmann::json::object();
        for (auto i = random() % 4; i > 0; --i) {
          object[std::string(1, "a.$b"[random() % 4])] = self(self, depth + 1);
        }
        return object;
      }
    }
  };
  for (int i = 0; i < 5000; ++i) {
    nlohmann::json object = nlohmann::json::object();
    for (auto count = random() % 5; count > 0; --count) {
      object[std::string(random() % 3, "$.ab"[random() % 4])] = value(value, 0);
    }
    const std::string text = object.dump();
    const auto result = core::flatten_metadata(text);
    ASSERT_EQ(result.reason, "") << text;
    const auto parsed = nlohmann::json::parse(result.json);
    ASSERT_TRUE(parsed.is_object());
    for (const auto& [key, entry] : parsed.items()) {
      ASSERT_TRUE(!key.empty() && key.front() != '$') << text;
      ASSERT_TRUE(entry.is_string() || entry.is_number() || entry.is_boolean() || entry.is_array())
          << text;
      if (entry.is_array()) {
        for (const auto& element : entry) {
          ASSERT_TRUE(element.is_string()) << text;
        }
      }
    }
    // What is flat already stays.
    ASSERT_EQ(core::flatten_metadata(result.json).json, result.json);
  }
}

}  // namespace
