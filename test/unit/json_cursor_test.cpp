// core/json_cursor: what it takes, and that everything else stops it.
#include "core/json_cursor.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

bool valid(std::string_view text) {
  core::JsonCursor in(text);
  in.skip();
  return in.finish();
}

TEST(JsonCursor, ReadsMembers) {
  core::JsonCursor in(R"( {"a": 12, "list" : [1, [], {}, "x"], "text":"\u00e9\n", "n":"77"} )");
  std::string_view key;
  std::uint64_t a = 0;
  std::uint64_t n = 0;
  std::string text;
  std::string_view raw;
  std::vector<std::string> keys;
  for (in.enter('{'); in.next_member(key);) {
    keys.emplace_back(key);
    if (key == "\"a\"") {
      in.read_unsigned(a);
    } else if (key == "\"n\"") {
      in.read_unsigned(n);
    } else if (key == "\"text\"") {
      in.read_string(text);
    } else {
      in.read_raw(raw);
    }
  }
  EXPECT_TRUE(in.finish());
  EXPECT_EQ(a, 12U);
  EXPECT_EQ(n, 77U);
  EXPECT_EQ(text, "é\n");
  EXPECT_EQ(raw, R"([1, [], {}, "x"])");
  EXPECT_EQ(keys, (std::vector<std::string>{"\"a\"", "\"list\"", "\"text\"", "\"n\""}));
}

TEST(JsonCursor, Valid) {
  for (const std::string_view text :
       {"{}", "[]", " [ ] ", "null", "true", "false", "0", "-0", "-12.5e-3", "1E+5", "\"\"",
        R"({"a":{"b":[{},[],[[]]]},"c":[1,2,{"d":null}]})", R"("\"\\\/\b\f\n\r\t\u00FF")"}) {
    EXPECT_TRUE(valid(text)) << text;
  }
}

TEST(JsonCursor, Invalid) {
  for (const std::string_view text : {"",
                                      " ",
                                      "{",
                                      "[",
                                      "}",
                                      "]",
                                      "[}",
                                      "{]",
                                      "[1",
                                      "[1,",
                                      "[1,]",
                                      "[,1]",
                                      "[1 2]",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{\"a\":1,}",
                                      "{\"a\":1 \"b\":2}",
                                      "{a:1}",
                                      "{1:2}",
                                      "{,}",
                                      "nul",
                                      "tru",
                                      "truex",
                                      "nan",
                                      "NaN",
                                      "-",
                                      "01",
                                      "1.",
                                      ".5",
                                      "1e",
                                      "1e+",
                                      "+1",
                                      "0x1",
                                      "\"",
                                      "\"\\",
                                      "\"\\x\"",
                                      "\"\\u12\"",
                                      "\"\\u12g4\"",
                                      "\"a\nb\"",
                                      "[] []",
                                      "{}x",
                                      "[1}",
                                      "{\"a\":1]",
                                      "'a'"}) {
    EXPECT_FALSE(valid(text)) << text;
  }
  EXPECT_FALSE(valid(std::string_view("\0", 1)));
  EXPECT_FALSE(valid(std::string_view("[1\0]", 4)));
}

TEST(JsonCursor, Depth) {
  const std::size_t deepest = core::JsonCursor::kMaxDepth;
  EXPECT_TRUE(valid(std::string(deepest, '[') + std::string(deepest, ']')));
  EXPECT_FALSE(valid(std::string(deepest + 1, '[') + std::string(deepest + 1, ']')));
  EXPECT_FALSE(valid(std::string(1'000'000, '[')));
}

TEST(JsonCursor, Unsigned) {
  const auto read = [](std::string_view text, std::uint64_t& out) {
    core::JsonCursor in(text);
    return in.read_unsigned(out) && in.finish();
  };
  std::uint64_t value = 0;
  EXPECT_TRUE(read("18446744073709551615", value));
  EXPECT_EQ(value, 18446744073709551615U);
  EXPECT_TRUE(read("\"123\"", value));
  EXPECT_EQ(value, 123U);
  for (const std::string_view text : {"18446744073709551616", "-1", "1.5", "1e3", "\"\"", "\"1a\"",
                                      "\" 1\"", "\"-1\"", "null", "true"}) {
    EXPECT_FALSE(read(text, value)) << text;
  }
}

TEST(JsonCursor, Strings) {
  const auto read = [](std::string_view text, std::string& out) {
    core::JsonCursor in(text);
    return in.read_string(out) && in.finish();
  };
  std::string value;
  EXPECT_TRUE(read(R"("\ud83d\ude42 é")", value));
  EXPECT_EQ(value, "🙂 é");
  EXPECT_FALSE(read(R"("\u0000")", value));
  EXPECT_FALSE(read(R"("\ud83d")", value));
  EXPECT_FALSE(read("\"\xff\"", value));
  EXPECT_FALSE(read("12", value));
}

TEST(JsonCursor, StaysFailed) {
  core::JsonCursor in("{\"a\":tru, \"b\":1}");
  std::string_view key;
  EXPECT_TRUE(in.enter('{'));
  EXPECT_TRUE(in.next_member(key));
  EXPECT_FALSE(in.skip());
  EXPECT_TRUE(in.failed());
  EXPECT_FALSE(in.next_member(key));
  EXPECT_FALSE(in.next_element());
  EXPECT_FALSE(in.enter('{'));
  EXPECT_EQ(in.peek(), '\0');
  EXPECT_FALSE(in.finish());
}

// An exponent of three digits.
bool has_long_exponent(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789";
  for (std::size_t at = 0; (at = text.find_first_of("eE", at)) != std::string_view::npos;) {
    ++at;
    const std::size_t digits = text.find_first_not_of("+-", at);
    if (digits != std::string_view::npos && digits <= at + 1 &&
        text.substr(digits, 3).find_first_not_of(kDigits) == std::string_view::npos &&
        text.size() - digits >= 3) {
      return true;
    }
  }
  return false;
}

// Against a parser that others trust.
TEST(JsonCursor, AgreesWithAnotherParser) {
  const std::string_view seeds[] = {
      R"({"data":[{"index":0,"embedding":[0.1,-2e-5]}],"usage":{"total_tokens":3}})",
      R"([null,true,false,"a\u00e9\\",{"x":{}},[[]],-0.5e+3])"};
  const std::string_view alphabet = "{}[],:\"\\0123456789.eE+-truefalsn \n\tu";
  std::mt19937 random(7);
  int both = 0;
  for (int i = 0; i < 40'000; ++i) {
    std::string text(seeds[random() % 2]);
    for (int edits = 1 + static_cast<int>(random() % 3); edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = alphabet[random() % alphabet.size()];
          break;
        case 1:
          text.erase(at, 1);
          break;
        default:
          text.insert(at, 1, alphabet[random() % alphabet.size()]);
      }
    }
    // The other one looks into strings for halves of surrogate pairs, and refuses numbers beyond
    // double, which take an exponent of three digits here.
    const bool expected = nlohmann::json::accept(text);
    const bool beyond = has_long_exponent(text);
    if (expected || (text.find("\\u") == std::string::npos && !beyond)) {
      ASSERT_EQ(valid(text), expected) << text;
    }
    both += expected ? 1 : 0;
  }
  EXPECT_GT(both, 500);
}

}  // namespace
