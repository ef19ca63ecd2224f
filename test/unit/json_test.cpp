// core/json: whatever goes in, what comes out parses and means the same. nlohmann/json, which is
// strict about escapes and UTF-8, is the judge.
#include "core/json.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

using nlohmann::json;

const std::string kReplacement = "\xEF\xBF\xBD";  // U+FFFD

std::string round_trip(std::string_view text) {
  return json::parse(core::json_string(text)).get<std::string>();
}

std::string utf8(std::uint32_t c) {
  std::string out;
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
  return out;
}

std::string repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) {
    out += text;
  }
  return out;
}

TEST(JsonString, PlainTextStaysAsItIs) {
  EXPECT_EQ(core::json_string("wallet 42"), R"("wallet 42")");
  EXPECT_EQ(core::json_string(""), R"("")");
}

TEST(JsonString, QuotesAndBackslashesAreEscaped) {
  EXPECT_EQ(core::json_string(R"(a"b\c)"), R"("a\"b\\c")");
  EXPECT_EQ(round_trip(R"(","x":"\u0041\)"), R"(","x":"\u0041\)");
}

TEST(JsonString, EveryControlCharacterIsEscapedAndComesBack) {
  for (int c = 0; c < 0x20; ++c) {
    const std::string text(1, static_cast<char>(c));
    const std::string written = core::json_string(text);
    EXPECT_EQ(written.find(static_cast<char>(c)), std::string::npos) << "character " << c;
    EXPECT_EQ(round_trip(text), text) << "character " << c;
  }
}

TEST(JsonString, DeleteComesBack) { EXPECT_EQ(round_trip("\x7F"), "\x7F"); }

TEST(JsonString, ANulByteInsideDoesNotEndTheText) {
  const std::string text("a\0b", 3);
  EXPECT_EQ(round_trip(text), text);
}

TEST(JsonString, WrittenTextHasNoLineBreak) {
  // A JSON line in the log is one line.
  const std::string written = core::json_string("one\r\ntwo\nthree\v\f");
  EXPECT_EQ(written.find_first_of("\r\n\v\f"), std::string::npos);
}

TEST(JsonString, UnicodeIsKeptUnescaped) {
  for (const std::string text : {"رصيد المحفظة", "قيمة: ٤٢", "solde insuffisant: été",
                                 "\xF0\x9F\x92\xB8 \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB",
                                 "a\xE2\x80\xA8 b\xE2\x80\xA9 c"}) {
    EXPECT_EQ(core::json_string(text), '"' + text + '"');
    EXPECT_EQ(round_trip(text), text);
  }
}

TEST(JsonString, TheEdgesOfEachEncodedLengthAreKept) {
  for (std::uint32_t c : {0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xFFFu, 0x1000u, 0xD7FFu, 0xE000u, 0xFFFDu,
                          0xFFFEu, 0xFFFFu, 0x10000u, 0x3FFFFu, 0x40000u, 0xFFFFFu, 0x10FFFFu}) {
    EXPECT_EQ(round_trip("<" + utf8(c) + ">"), "<" + utf8(c) + ">") << std::hex << c;
  }
}

TEST(JsonString, BytesThatAreNoUtf8BecomeReplacementCharacters) {
  struct Case {
    const char* what;
    std::string bytes;
  };
  for (const auto& [what, bytes] :
       {Case{"a byte that never occurs", "\xFF"}, Case{"a byte that never occurs", "\xC0"},
        Case{"a continuation alone", "\x80"}, Case{"two continuations alone", "\xBF\x80"},
        Case{"overlong, 2 bytes", "\xC0\xAF"}, Case{"overlong, 2 bytes", "\xC1\xBF"},
        Case{"overlong, 3 bytes", "\xE0\x80\xAF"}, Case{"overlong, 3 bytes", "\xE0\x9F\xBF"},
        Case{"overlong, 4 bytes", "\xF0\x80\x80\xAF"},
        Case{"overlong, 4 bytes", "\xF0\x8F\xBF\xBF"}, Case{"the first surrogate", "\xED\xA0\x80"},
        Case{"the last surrogate", "\xED\xBF\xBF"}, Case{"beyond U+10FFFF", "\xF4\x90\x80\x80"},
        Case{"beyond U+10FFFF", "\xF5\x80\x80\x80"}, Case{"cut after 1 of 2 bytes", "\xD8"},
        Case{"cut after 2 of 3 bytes", "\xE2\x82"},
        Case{"cut after 3 of 4 bytes", "\xF0\x9F\x92"}}) {
    const std::string expected = repeat(kReplacement, static_cast<int>(bytes.size()));
    EXPECT_EQ(round_trip(bytes), expected) << what << ", alone";
    EXPECT_EQ(round_trip("a" + bytes + "b"), "a" + expected + "b") << what << ", inside";
    EXPECT_EQ(round_trip(bytes + "\""), expected + "\"") << what << ", before a quote";
    EXPECT_EQ(round_trip(bytes + "ر"), expected + "ر") << what << ", before a letter";
  }
}

TEST(JsonString, ASequenceCutByTheEndOfTheTextReadsNothingBeyondIt) {
  // The sanitizer sees a read past the end of the heap block.
  for (std::uint32_t c : {0xE9u, 0x20ACu, 0x1F4B8u}) {
    const std::string whole = utf8(c);
    for (std::size_t length = 1; length < whole.size(); ++length) {
      const std::vector<char> block(whole.begin(),
                                    whole.begin() + static_cast<std::ptrdiff_t>(length));
      EXPECT_EQ(round_trip({block.data(), block.size()}),
                repeat(kReplacement, static_cast<int>(length)));
    }
  }
}

TEST(JsonString, AnyBytesAtAllGiveTextThatParses) {
  std::mt19937 random(7);
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes(random() % 24, '\0');
    for (char& c : bytes) {
      // Half of them from the range of lead and continuation bytes.
      c = static_cast<char>(random() % 2 == 0 ? random() : 0x80 | random());
    }
    ASSERT_TRUE(json::accept(core::json_string(bytes))) << "round " << i;
  }
}

TEST(JsonString, AnyValidTextComesBackUnchanged) {
  std::mt19937 random(8);
  for (int i = 0; i < 5000; ++i) {
    std::string text;
    for (unsigned n = random() % 16; n > 0; --n) {
      std::uint32_t c = random() % 0x110000;
      c >>= random() % 21;  // short sequences as often as long ones
      if (c < 0xD800 || c > 0xDFFF) {
        text += utf8(c);
      }
    }
    ASSERT_EQ(round_trip(text), text);
  }
}

TEST(JsonString, AppendsToWhatIsThere) {
  std::string out = "[";
  core::append_json_string(out, "a");
  EXPECT_EQ(out, R"(["a")");
}

TEST(JsonObject, IsEmptyAtFirst) {
  core::JsonObject object;
  EXPECT_TRUE(object.empty());
  EXPECT_EQ(object.str(), "{}");
  object.null("a");
  EXPECT_FALSE(object.empty());
}

TEST(JsonObject, HoldsMembersOfEveryKindInTheirOrder) {
  const std::string written = core::JsonObject()
                                  .text("z", "x")
                                  .number("n", -3)
                                  .boolean("t", true)
                                  .boolean("f", false)
                                  .null("nothing")
                                  .raw("list", "[1, 2.50]")
                                  .str();
  EXPECT_EQ(written, R"({"z":"x","n":-3,"t":true,"f":false,"nothing":null,"list":[1, 2.50]})");
}

TEST(JsonObject, NumbersOf64BitsAreExact) {
  for (std::int64_t n : {std::numeric_limits<std::int64_t>::min(),
                         std::numeric_limits<std::int64_t>::max(), std::int64_t{0}}) {
    const json parsed = json::parse(core::JsonObject().number("n", n).str());
    EXPECT_EQ(parsed["n"].get<std::int64_t>(), n);
  }
}

TEST(JsonObject, KeysAreEscapedToo) {
  const std::string key = "a\"b\n\xFF" + std::string("ر");
  const json parsed = json::parse(core::JsonObject().number(key, 1).str());
  EXPECT_EQ(parsed.items().begin().key(), "a\"b\n" + kReplacement + "ر");
}

TEST(JsonArray, HoldsTextsAndJsonInTheirOrder) {
  EXPECT_EQ(core::JsonArray().str(), "[]");
  EXPECT_TRUE(core::JsonArray().empty());
  const std::string inner = core::JsonObject().text("k", "\t").str();
  const core::JsonArray array = core::JsonArray().text("a\"").raw(inner).raw("null");
  EXPECT_FALSE(array.empty());
  EXPECT_EQ(json::parse(array.str()), (json{"a\"", {{"k", "\t"}}, nullptr}));
}

}  // namespace
