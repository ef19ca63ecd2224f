// core/ndjson: strings escaped eight bytes at a time are what byte by byte would give.
#include "core/ndjson.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>

namespace {

// The definition in the header, byte by byte.
std::string reference(std::string_view text) {
  std::string out = "\"";
  for (const char each : text) {
    const auto c = static_cast<unsigned char>(each);
    const std::string_view plain = "\"\\\b\f\n\r\t";
    const std::string_view letters = "\"\\bfnrt";
    if (const std::size_t at = plain.find(each); at != std::string_view::npos) {
      out += '\\';
      out += letters[at];
    } else if (c < 0x20) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\u%04x", c);
      out += buffer;
    } else {
      out += each;
    }
  }
  return out + '"';
}

// The text lies in memory of exactly its size, so that the sanitizer sees a byte read too many.
std::string escaped(std::string_view text) {
  const auto exact = std::make_unique<char[]>(text.size());
  std::copy(text.begin(), text.end(), exact.get());
  core::ByteBuffer out;
  core::ndjson::append_string(out, {exact.get(), text.size()});
  return std::string(out.view());
}

TEST(AppendString, EscapesEveryByteAtEveryPlace) {
  for (std::size_t length = 1; length <= 41; ++length) {
    for (std::size_t at = 0; at < length; ++at) {
      std::string text(length, 'a');
      for (int byte = 0; byte < 256; ++byte) {
        text[at] = static_cast<char>(byte);
        ASSERT_EQ(escaped(text), reference(text))
            << "byte " << byte << " at " << at << " of " << length;
      }
    }
  }
}

// The search for what is to be escaped calculates across a word: neighbours must not disturb it.
TEST(AppendString, EscapesEveryPairOfNeighbours) {
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      std::string text = "abc..xyz";
      text[3] = static_cast<char>(first);
      text[4] = static_cast<char>(second);
      ASSERT_EQ(escaped(text), reference(text)) << first << " " << second;
    }
  }
}

TEST(AppendString, AgreesWithTheReferenceOnRandomTexts) {
  std::mt19937 random(4);
  for (int round = 0; round < 20'000; ++round) {
    std::string text(random() % 200, ' ');
    const bool mostly_plain = random() % 2 == 0;
    for (char& c : text) {
      c = static_cast<char>(mostly_plain && random() % 16 != 0 ? 'a' + random() % 26 : random());
    }
    ASSERT_EQ(escaped(text), reference(text)) << "round " << round;
  }
}

TEST(AppendString, ParsesBackToTheSameText) {
  std::string ascii;
  for (char c = 0; c >= 0 && c < 127; ++c) {
    ascii += c;
  }
  for (const std::string& text :
       {std::string(), ascii, std::string("اختبار العربية"), std::string("é\xF0\x9F\x98\x80"),
        std::string("\xE2\x80\xA8 and \xE2\x80\xA9"), std::string("\0", 1)}) {
    EXPECT_EQ(nlohmann::json::parse(escaped(text)).get<std::string>(), text);
  }
}

// Every byte becomes six: what was reserved at the start is long used up.
TEST(AppendString, MakesRoomForWhatGrows) {
  for (std::size_t size : {681U, 682U, 683U, 4080U, 4086U, 4087U, 4088U, 4095U, 4096U, 100'000U}) {
    const std::string text(size, '\x01');
    ASSERT_EQ(escaped(text), reference(text)) << size;
    const std::string tail = std::string(size, 'a') + '\x01';
    ASSERT_EQ(escaped(tail), reference(tail)) << size;
  }
}

TEST(AppendString, AppendsToWhatIsThere) {
  core::ByteBuffer out;
  std::string expected;
  for (int i = 0; i < 3000; ++i) {
    const std::string text(static_cast<std::size_t>(i % 23), i % 3 == 0 ? '"' : 'x');
    core::ndjson::append_string(out, text);
    expected += reference(text);
  }
  EXPECT_EQ(out.view(), expected);
}

TEST(AppendString, TakesAnEmptyTextFromNowhere) {
  core::ByteBuffer out;
  core::ndjson::append_string(out, std::string_view());
  EXPECT_EQ(out.view(), "\"\"");
}

TEST(AppendInteger, WritesTheWholeRange) {
  core::ByteBuffer out;
  for (const std::int64_t value :
       {std::int64_t{0}, std::int64_t{-1}, std::int64_t{1234567890},
        std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()}) {
    core::ndjson::append_integer(out, value);
    out.append(' ');
  }
  EXPECT_EQ(out.view(), "0 -1 1234567890 -9223372036854775808 9223372036854775807 ");
}

TEST(AppendJson, PutsSpacesForLineBreaksAndLeavesTheRest) {
  core::ByteBuffer out;
  out.append("kept\n");
  core::ndjson::append_json(out, "{\n \"a\":\r\n\t\"b\\n\"\n}");
  EXPECT_EQ(out.view(), "kept\n{  \"a\":  \t\"b\\n\" }");
  EXPECT_EQ(nlohmann::json::parse(out.view().substr(5)), (nlohmann::json{{"a", "b\n"}}));
}

}  // namespace
