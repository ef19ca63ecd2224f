// core/json_line: accepts what RFC 8259 accepts. nlohmann/json, a strict parser, is the judge.
#include "core/json_line.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

using core::JsonKind;
using nlohmann::json;

bool accepts(std::string_view line) {
  std::vector<core::JsonMember> members;
  core::JsonProblem problem;
  const bool good = core::parse_json_object(line, members, problem);
  if (!good) {
    EXPECT_NE(problem.reason, "") << line;
    EXPECT_LE(problem.offset, line.size()) << line;
  }
  return good;
}

enum class Verdict { kAccepts, kRefuses, kNoJudge };

// The judge is stricter, rightly for a reader of values: about UTF-8, halves of surrogate pairs and
// numbers that no double holds. And it takes a NUL for the end, and skips a byte order mark.
Verdict judge(std::string_view line) {
  if (line.find('\0') != std::string_view::npos || line.starts_with("\xEF\xBB\xBF")) {
    return Verdict::kNoJudge;
  }
  try {
    return json::parse(line).is_object() ? Verdict::kAccepts : Verdict::kRefuses;
  } catch (const json::out_of_range&) {
    return Verdict::kNoJudge;
  } catch (const json::parse_error& e) {
    const std::string_view reason = e.what();
    return reason.find("surrogate") != std::string_view::npos ||
                   reason.find("UTF-8") != std::string_view::npos
               ? Verdict::kNoJudge
               : Verdict::kRefuses;
  }
}

std::vector<core::JsonMember> members_of(std::string_view line) {
  std::vector<core::JsonMember> members;
  core::JsonProblem problem;
  EXPECT_TRUE(core::parse_json_object(line, members, problem)) << line << ": " << problem.reason;
  return members;
}

std::string unescaped(std::string_view quoted) {
  std::string out;
  return core::append_unescaped(out, quoted) ? out : "(refused)";
}

// --- what is accepted ------------------------------------------------------------------------

constexpr std::string_view kGood[] = {
    R"({})",
    R"( { } )",
    "\t\r\n{\n}\r\n",
    R"({"a":1})",
    R"({"":null})",
    R"({"a":true,"b":false,"c":null})",
    R"({"a":0,"b":-0,"c":0.0,"d":-0.0e0,"e":1E+5,"f":10e-10,"g":123456789012345678901234567890})",
    R"({"a":"\"\\\/\b\f\n\r\té\ud83d\ude00"})",
    R"({"a":[],"b":[ ],"c":[[]],"d":{},"e":[{}],"f":[1,[2,[3,{"g":[4]}]]]})",
    R"({"a" : [ 1 , 2 ] , "b" : { "c" : "d" } })",
    R"({"a":1,"a":2})",
    "{\"a\":\"\x7F \xD8\xB9 \xF0\x9F\x98\x80 \xE2\x80\xA8\"}",
    R"({"\u0061":"key with an escape"})",
};

constexpr std::string_view kBad[] = {
    "",
    " ",
    "{",
    "}",
    "[]",
    "1",
    "null",
    "\"a\"",
    "{}{}",
    "{} {}",
    "{}x",
    "{},",
    "{,}",
    R"({"a"})",
    R"({"a":})",
    R"({"a":1,})",
    R"({,"a":1})",
    R"({"a":1 "b":2})",
    R"({"a":1,,"b":2})",
    R"({a:1})",
    R"({'a':1})",
    R"({1:1})",
    R"({"a":'b'})",
    R"({"a"=1})",
    R"({"a"::1})",
    R"({"a":01})",
    R"({"a":-})",
    R"({"a":-01})",
    R"({"a":+1})",
    R"({"a":.5})",
    R"({"a":1.})",
    R"({"a":1.e5})",
    R"({"a":1e})",
    R"({"a":1e+})",
    R"({"a":1e+-5})",
    R"({"a":1e5.5})",
    R"({"a":0x10})",
    R"({"a":1_000})",
    R"({"a":NaN})",
    R"({"a":Infinity})",
    R"({"a":-Infinity})",
    R"({"a":undefined})",
    R"({"a":True})",
    R"({"a":tru})",
    R"({"a":truee})",
    R"({"a":nul)",
    R"({"a":nulll})",
    R"({"a":"b)",
    R"({"a":"b\)",
    R"({"a":"\")",
    R"({"a":"\x"})",
    R"({"a":"\'"})",
    R"({"a":"\u"})",
    R"({"a":"\u12"})",
    R"({"a":"\u12g4"})",
    R"({"a":"\U0041"})",
    R"({"a":"\u00)",
    "{\"a\":\"tab\there\"}",
    "{\"a\":\"line\nbreak\"}",
    "{\"a\tb\":1}",
    "{\"a\":\"\x1F\"}",
    R"({"a":[})",
    R"({"a":[1,]})",
    R"({"a":[,1]})",
    R"({"a":[,]})",
    R"({"a":[1 2]})",
    R"({"a":[1}})",
    R"({"a":{"b":1]})",
    R"({"a":[1]]})",
    R"({"a":{}}})",
    R"({"a":{"b"}})",
    R"({"a":{"b":1,}})",
    R"({"a":{1}})",
    R"({"a":["b":1]})",
    R"({"a":1}/* comment */)",
    R"({"a":1}//)",
    R"({/**/})",
    "\x0B{}",
    "\x0C{}",
    "\xC2\xA0{}",
};

TEST(ParseJsonObject, AcceptsWhatIsAnObject) {
  for (const std::string_view line : kGood) {
    EXPECT_TRUE(accepts(line)) << line;
    EXPECT_EQ(judge(line), Verdict::kAccepts) << line;
  }
}

TEST(ParseJsonObject, RefusesWhatIsNone) {
  for (const std::string_view line : kBad) {
    EXPECT_FALSE(accepts(line)) << line;
    EXPECT_EQ(judge(line), Verdict::kRefuses) << line;
  }
}

// Where the judge has no say.
TEST(ParseJsonObject, KeepsToTheGrammarAlone) {
  EXPECT_TRUE(accepts(R"({"a":1e999})"));
  EXPECT_TRUE(accepts(R"({"a":"\ud800"})")) << "append_unescaped() refuses it";
  EXPECT_TRUE(accepts("{\"a\":\"\xFF\"}")) << "UTF-8 is for the caller";
  EXPECT_FALSE(accepts("\xEF\xBB\xBF{}")) << "RFC 8259, 8.1: none may be added";
  EXPECT_FALSE(accepts(std::string_view("{}\0", 3)));
  EXPECT_FALSE(accepts(std::string_view("{\"a\":\"\0\"}", 9)));
  EXPECT_FALSE(accepts(std::string_view("{\"a\":1\0}", 8)));
}

TEST(ParseJsonObject, RefusesWhatIsCutOffAtAnyByte) {
  for (const std::string_view line : kGood) {
    const std::size_t end = line.rfind('}');
    for (std::size_t size = 0; size <= end; ++size) {
      EXPECT_FALSE(accepts(line.substr(0, size))) << line.substr(0, size);
    }
  }
}

TEST(ParseJsonObject, AgreesWithTheJudgeOnAlteredTexts) {
  constexpr std::string_view kPieces[] = {"{",      "}",     "[", "]",    ",",  ":", "\"", "\\",
                                          "\\u",    "00e9",  "0", "-",    "1",  ".", "e",  "E+",
                                          "true",   "null",  " ", "\n",   "\t", "a", "{}", "[]",
                                          "\"k\":", "[1,2]", "/", "\x01", "é"};
  std::mt19937 random(12);
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::string line(kGood[random() % std::size(kGood)]);
    for (std::size_t changes = random() % 4; changes > 0; --changes) {
      const std::size_t at = random() % (line.size() + 1);
      const std::string_view piece = kPieces[random() % std::size(kPieces)];
      switch (random() % 3) {
        case 0:
          line.insert(at, piece);
          break;
        case 1:
          line.erase(at, 1 + random() % 3);
          break;
        default:
          line.replace(at, piece.size(), piece);
      }
    }
    const Verdict verdict = judge(line);
    if (verdict != Verdict::kNoJudge) {
      ASSERT_EQ(accepts(line), verdict == Verdict::kAccepts) << line;
      (verdict == Verdict::kAccepts ? accepted : refused) += 1;
    }
  }
  EXPECT_GT(accepted, 20'000);
  EXPECT_GT(refused, 20'000);
}

TEST(ParseJsonObject, HasALimitOfDepth) {
  const auto nested = [](std::size_t depth, char open, char close) {
    std::string text = "{\"a\":";
    for (std::size_t i = 0; i < depth; ++i) {
      text += open == '[' || i == 0 ? std::string(1, open) : std::string("\"a\":") + open;
    }
    return text + std::string(depth, close) + "}";
  };
  for (const auto& [open, close] : {std::pair('[', ']'), std::pair('{', '}')}) {
    EXPECT_TRUE(accepts(nested(core::kMaxJsonDepth, open, close)));
    EXPECT_FALSE(accepts(nested(core::kMaxJsonDepth + 1, open, close)));
    EXPECT_FALSE(accepts(nested(1'000'000, open, close)));
  }
  std::vector<core::JsonMember> members;
  core::JsonProblem problem;
  EXPECT_FALSE(core::parse_json_object(nested(6001, '[', ']'), members, problem));
  EXPECT_NE(problem.reason.find("deep"), std::string::npos) << problem.reason;
  // The limit is one of depth, not of length.
  std::string wide = "{\"a\":[";
  for (int i = 0; i < 20'000; ++i) {
    wide += "[],";
  }
  EXPECT_TRUE(accepts(wide + "1]}"));
}

TEST(ParseJsonObject, SaysWhereItWentWrong) {
  const struct {
    const char* line;
    std::size_t offset;
    const char* reason;
  } cases[] = {
      {"[1]", 0, "object"},
      {R"({"a":1,})", 7, "key"},
      {R"({"a" 1})", 5, "':'"},
      {R"({"a":x})", 5, "value"},
      {R"({"a":1}x)", 7, "follows"},
      {"{\"a\":\"b\nc\"}", 7, "control"},
      {R"({"a":"\q"})", 7, "escape"},
      {R"({"a":"\u12x4"})", 10, "hexadecimal"},
      {R"({"a":"b)", 7, "without its end"},
      {R"({"a":1.})", 7, "digit"},
      {R"({"a":[1 2]})", 8, "closing bracket"},
      {R"({"a":1 "b":2})", 7, "'}'"},
  };
  for (const auto& each : cases) {
    std::vector<core::JsonMember> members;
    core::JsonProblem problem;
    EXPECT_FALSE(core::parse_json_object(each.line, members, problem)) << each.line;
    EXPECT_EQ(problem.offset, each.offset) << each.line;
    EXPECT_NE(problem.reason.find(each.reason), std::string::npos)
        << each.line << ": " << problem.reason;
  }
}

// --- taking apart ----------------------------------------------------------------------------

TEST(Members, StandAsTheyStandInTheLine) {
  const std::string line =
      R"( { "a" : 1.50 , "b\"c":"d\n", "e":[1, {"f":2}] ,"g":{ "h" : [] },"i":null,"j":true} )";
  const auto members = members_of(line);
  const struct {
    const char* key;
    JsonKind kind;
    const char* text;
  } expected[] = {
      {"a", JsonKind::kNumber, "1.50"},
      {R"(b\"c)", JsonKind::kString, R"("d\n")"},
      {"e", JsonKind::kArray, R"([1, {"f":2}])"},
      {"g", JsonKind::kObject, R"({ "h" : [] })"},
      {"i", JsonKind::kNull, "null"},
      {"j", JsonKind::kBoolean, "true"},
  };
  ASSERT_EQ(members.size(), std::size(expected));
  for (std::size_t i = 0; i < members.size(); ++i) {
    EXPECT_EQ(members[i].key, expected[i].key);
    EXPECT_EQ(members[i].value.kind, expected[i].kind);
    EXPECT_EQ(members[i].value.text, expected[i].text);
    EXPECT_GE(members[i].value.text.data(), line.data()) << "nothing is copied";
    EXPECT_LT(members[i].value.text.data(), line.data() + line.size());
  }
}

TEST(Members, OfTheLineBeforeAreForgotten) {
  std::vector<core::JsonMember> members;
  core::JsonProblem problem;
  ASSERT_TRUE(core::parse_json_object(R"({"a":1,"b":2})", members, problem));
  ASSERT_TRUE(core::parse_json_object(R"({"c":3})", members, problem));
  ASSERT_EQ(members.size(), 1U);
  EXPECT_EQ(members[0].key, "c");
}

TEST(SplitJsonObject, GivesTheMembersOfAnyObject) {
  std::vector<core::JsonMember> members = {{}};
  core::split_json_object("{}", members);
  EXPECT_TRUE(members.empty());
  core::split_json_object(R"({ "a":[1,2] , "b":"}" })", members);
  ASSERT_EQ(members.size(), 2U);
  EXPECT_EQ(members[0].value.text, "[1,2]");
  EXPECT_EQ(members[1].value.text, "\"}\"");
}

TEST(SplitJsonArray, GivesTheElementsOfAnyArray) {
  std::vector<core::JsonValue> elements = {{}};
  core::split_json_array("[]", elements);
  EXPECT_TRUE(elements.empty());
  core::split_json_array("[ \n ]", elements);
  EXPECT_TRUE(elements.empty());
  core::split_json_array(R"([ 1 ,"],", [2,[3]],{"a":[4]},null,false ])", elements);
  const std::pair<JsonKind, const char*> expected[] = {
      {JsonKind::kNumber, "1"},      {JsonKind::kString, "\"],\""},
      {JsonKind::kArray, "[2,[3]]"}, {JsonKind::kObject, "{\"a\":[4]}"},
      {JsonKind::kNull, "null"},     {JsonKind::kBoolean, "false"},
  };
  ASSERT_EQ(elements.size(), std::size(expected));
  for (std::size_t i = 0; i < elements.size(); ++i) {
    EXPECT_EQ(elements[i].kind, expected[i].first);
    EXPECT_EQ(elements[i].text, expected[i].second);
  }
}

// --- strings ---------------------------------------------------------------------------------

TEST(AppendUnescaped, GivesWhatTheJudgeGives) {
  for (const std::string& quoted :
       {std::string(R"("")"), std::string(R"("plain")"), std::string(R"("\"\\\/\b\f\n\r\t")"),
        std::string(R"("\u0041\u00e9\u00E9\u0639\u20ac\uFFFD\uffff")"),
        std::string(R"("\ud83d\ude00 \uD83D\uDE00 \uD800\uDC00 \uDBFF\uDFFF")"),
        std::string(R"("\u007f\u0080\u07ff\u0800\ud7ff\ue000")"),
        std::string("\"\xD8\xB9 and \\u0639\""), std::string(R"("\\u0041")"),
        std::string(R"("end\\")")}) {
    EXPECT_EQ(unescaped(quoted), json::parse(quoted).get<std::string>()) << quoted;
  }
}

TEST(AppendUnescaped, AgreesWithTheJudgeOnEveryCodePoint) {
  for (unsigned c = 1; c <= 0x10FFFF; c += c < 0x3000 || (c > 0xD000 && c < 0xE100) ? 1 : 37) {
    char quoted[16];
    if (c < 0x10000) {
      std::snprintf(quoted, sizeof quoted, "\"\\u%04x\"", c);
    } else {
      std::snprintf(quoted, sizeof quoted, "\"\\u%04x\\u%04x\"", 0xD800 + ((c - 0x10000) >> 10),
                    0xDC00 + ((c - 0x10000) & 0x3FF));
    }
    const json parsed = json::parse(quoted, nullptr, false);
    ASSERT_EQ(unescaped(quoted), parsed.is_discarded() ? "(refused)" : parsed.get<std::string>())
        << quoted;
  }
}

TEST(AppendUnescaped, RefusesWhatNoTextCanHold) {
  for (const char* quoted : {R"("\u0000")", R"("a\u0000b")", R"("\ud800")", R"("\ud800x")",
                             R"("\ud83d\u0041")", R"("\ud83d\ud83d")", R"("\ude00")",
                             R"("\ude00\ud83d")", R"("\ud83d\n")", R"("\ud83d\\udE00")"}) {
    std::string out;
    EXPECT_FALSE(core::append_unescaped(out, quoted)) << quoted;
  }
}

TEST(AppendUnescaped, AppendsToWhatIsThere) {
  std::string out = "a";
  EXPECT_TRUE(core::append_unescaped(out, R"("b\n")"));
  EXPECT_EQ(out, "ab\n");
}

}  // namespace
