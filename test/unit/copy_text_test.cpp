// core/copy_text: JSON values as fields of COPY, and as the literals that types read.
#include "core/copy_text.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace {

using core::ColumnShape;
using Kind = core::ColumnShape::Kind;

core::JsonValue value_of(const std::string& json, std::string& holder) {
  holder = "{\"v\":" + json + "}";
  std::vector<core::JsonMember> members;
  core::JsonProblem problem;
  EXPECT_TRUE(core::parse_json_object(holder, members, problem)) << json << ": " << problem.reason;
  return members.empty() ? core::JsonValue{} : members[0].value;
}

std::string field(const std::string& json, const ColumnShape& shape, bool json_null = false) {
  std::string holder;
  const core::JsonValue value = value_of(json, holder);
  core::ByteBuffer out;
  return core::append_copy_field(out, value, shape, json_null) ? std::string(out.view())
                                                               : "(refused)";
}

// What the server makes of a field before the type reads it.
std::string read_back(const std::string& json, const ColumnShape& shape) {
  const std::string raw = field(json, shape);
  EXPECT_EQ(raw.find_first_of("\n\r\t"), std::string::npos) << "would end the field: " << raw;
  std::string text;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] != '\\') {
      text += raw[i];
      continue;
    }
    const char c = i + 1 < raw.size() ? raw[++i] : '?';
    text += c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c == '\\' ? '\\' : '?';
  }
  return text;
}

const ColumnShape kScalar;
const ColumnShape kJson{.kind = Kind::kJson, .children = {}, .names = {}};
const ColumnShape kVector{.kind = Kind::kVector, .children = {}, .names = {}};

ColumnShape array_of(ColumnShape element, char delimiter = ',') {
  return {.kind = Kind::kArray, .delimiter = delimiter, .children = {element}, .names = {}};
}

ColumnShape composite(const std::vector<std::pair<std::string, ColumnShape>>& attributes) {
  ColumnShape shape{.kind = Kind::kComposite, .children = {}, .names = {}};
  for (const auto& [name, each] : attributes) {
    shape.names.push_back(name);
    shape.children.push_back(each);
  }
  return shape;
}

TEST(CopyScalar, StandsAsItIs) {
  EXPECT_EQ(field("1.50", kScalar), "1.50");
  EXPECT_EQ(field("-0e+5", kScalar), "-0e+5");
  EXPECT_EQ(field("true", kScalar), "true");
  EXPECT_EQ(field("\"text\"", kScalar), "text");
  EXPECT_EQ(field("\"\"", kScalar), "") << "the empty text, which is not NULL";
  EXPECT_EQ(field("\"العربية \xF0\x9F\x98\x80\"", kScalar), "العربية \xF0\x9F\x98\x80");
  EXPECT_EQ(field(R"({"a":[1]})", kScalar), R"({"a":[1]})") << "for the type to judge";
  EXPECT_EQ(field("[1,2]", kScalar), "[1,2]");
}

TEST(CopyScalar, EscapesWhatEndsAFieldOrARow) {
  EXPECT_EQ(field(R"("a\tb\nc\rd\\e")", kScalar), R"(a\tb\nc\rd\\e)");
  EXPECT_EQ(field(R"("\u0009\u000a\u005c")", kScalar), R"(\t\n\\)");
  EXPECT_EQ(read_back(R"("\\N")", kScalar), "\\N");
  EXPECT_EQ(field(R"("\\N")", kScalar), R"(\\N)") << "a text, not NULL";
  EXPECT_EQ(field(R"("\\.")", kScalar), R"(\\.)") << "a text, not the end of the data";
  EXPECT_EQ(field(R"("\u00e9\"\/\b\f")", kScalar), "é\"/\b\f");
  EXPECT_EQ(field(R"("\ud83d\ude00")", kScalar), "\xF0\x9F\x98\x80");
}

TEST(CopyNull, IsSqlsNull) {
  for (const ColumnShape& shape :
       {kScalar, kJson, kVector, array_of(kScalar), composite({{"a", kScalar}})}) {
    EXPECT_EQ(field("null", shape), "\\N");
  }
  EXPECT_EQ(field("\"null\"", kScalar), "null");
}

TEST(CopyJson, KeepsTheTextWithItsEscapes) {
  EXPECT_EQ(field("null", kJson, true), "null") << "JSON's null, where the manifest says so";
  EXPECT_EQ(field("1.0", kJson), "1.0");
  EXPECT_EQ(field("\"a\"", kJson), "\"a\"");
  EXPECT_EQ(field(R"({"a":"b\nc","d":"\\"})", kJson), R"({"a":"b\\nc","d":"\\\\"})");
  EXPECT_EQ(read_back(R"({"a" : "b\nc\u0041", "d" : [ null ] })", kJson),
            R"({"a" : "b\nc\u0041", "d" : [ null ] })");
  EXPECT_EQ(read_back("[1,\t2]", kJson), "[1,\t2]");
  EXPECT_EQ(read_back(R"("\u0000")", kJson), R"("\u0000")") << "json holds it, jsonb refuses it";
}

TEST(CopyArray, QuotesEveryElement) {
  EXPECT_EQ(read_back("[]", array_of(kScalar)), "{}");
  EXPECT_EQ(read_back("[1,2,-3.5]", array_of(kScalar)), R"({"1","2","-3.5"})");
  EXPECT_EQ(read_back("[true,false]", array_of(kScalar)), R"({"true","false"})");
  EXPECT_EQ(read_back(R"(["a b","","NULL",null,"{","}",",","'"])", array_of(kScalar)),
            R"({"a b","","NULL",NULL,"{","}",",","'"})");
  EXPECT_EQ(read_back(R"(["a\"b","c\\d","e\nf\t"])", array_of(kScalar)),
            "{\"a\\\"b\",\"c\\\\d\",\"e\nf\t\"}");
  EXPECT_EQ(field(R"(["a\"b\\c\n"])", array_of(kScalar)), R"({"a\\"b\\\\c\n"})");
}

TEST(CopyArray, MayHaveDimensions) {
  EXPECT_EQ(read_back("[[1,2],[3,null]]", array_of(kScalar)), R"({{"1","2"},{"3",NULL}})");
  EXPECT_EQ(read_back("[[[1]],[[2]]]", array_of(kScalar)), R"({{{"1"}},{{"2"}}})");
}

TEST(CopyArray, HasTheDelimiterOfItsType) {
  EXPECT_EQ(read_back(R"~(["(1,1),(0,0)","(2,2),(0,0)"])~", array_of(kScalar, ';')),
            R"~({"(1,1),(0,0)";"(2,2),(0,0)"})~");
  EXPECT_EQ(read_back(R"~([["(1,1),(0,0)"],[null]])~", array_of(kScalar, ';')),
            R"~({{"(1,1),(0,0)"};{NULL}})~");
}

TEST(CopyArray, OfJsonKeepsEachElementAsItIs) {
  EXPECT_EQ(read_back(R"([{"a":"b\n"},"c",1,[2,3]])", array_of(kJson)),
            R"({"{\"a\":\"b\\n\"}","\"c\"","1","[2,3]"})");
}

TEST(CopyArray, ThatIsAStringIsLeftToTheType) {
  EXPECT_EQ(read_back(R"("{1,2}")", array_of(kScalar)), "{1,2}");
  EXPECT_EQ(read_back("1", array_of(kScalar)), "1");
}

TEST(CopyArray, OfVectorsIsNoArrayWithMoreDimensions) {
  EXPECT_EQ(read_back("[[1,2],[3]]", array_of(kVector)), R"({"1 2","3"})");
}

TEST(CopyVector, DividesBySpaces) {
  EXPECT_EQ(read_back("[]", kVector), "");
  EXPECT_EQ(read_back("[1,2,-3]", kVector), "1 2 -3");
  EXPECT_EQ(read_back(R"(["1","2"])", kVector), "1 2");
  EXPECT_EQ(read_back(R"("1 2")", kVector), "1 2");
}

TEST(CopyComposite, TakesItsAttributesInTheirOrder) {
  const ColumnShape shape = composite({{"a", kScalar}, {"b", kScalar}, {"c", kScalar}});
  EXPECT_EQ(read_back(R"({"c":"x","a":1,"b":true})", shape), R"(("1","true","x"))");
  EXPECT_EQ(read_back(R"({"b":2})", shape), R"((,"2",))") << "what is missing is NULL";
  EXPECT_EQ(read_back(R"({"a":null,"b":"","c":null})", shape), R"((,"",))");
  EXPECT_EQ(read_back("{}", shape), "(,,)");
  EXPECT_EQ(read_back(R"~({"a":"q\"b\\(,)","b":" ","c":"\n"})~", shape),
            "(\"q\\\"b\\\\(,)\",\" \",\"\n\")");
  EXPECT_EQ(read_back("{}", composite({})), "()");
}

TEST(CopyComposite, FindsKeysThatAreEscaped) {
  EXPECT_EQ(
      read_back(R"({"\u0061":1,"\u00e9\"":2})", composite({{"a", kScalar}, {"é\"", kScalar}})),
      R"(("1","2"))");
}

TEST(CopyComposite, TakesOneValueWhereAKeyIsRepeated) {
  EXPECT_EQ(read_back(R"({"a":1,"a":2})", composite({{"a", kScalar}})), R"(("2"))")
      << "the last one, as jsonb does";
}

TEST(CopyComposite, MayHoldAndBeHeld) {
  const ColumnShape inner = composite({{"x", kScalar}, {"y", array_of(kScalar)}});
  EXPECT_EQ(read_back(R"({"x":"a\"","y":["b\\"]})", inner), R"(("a\"","{\"b\\\\\"}"))");
  EXPECT_EQ(read_back(R"({"i":{"x":"a\"","y":[1]}})", composite({{"i", inner}})),
            R"~(("(\"a\\\"\",\"{\\\"1\\\"}\")"))~");
  EXPECT_EQ(read_back(R"([{"x":1,"y":null},null])", array_of(inner)), R"~({"(\"1\",)",NULL})~");
  EXPECT_EQ(read_back(R"({"j":{"k":"\n"}})", composite({{"j", kJson}})), R"(("{\"k\":\"\\n\"}"))");
}

TEST(CopyField, RefusesWhatNoTextCanHold) {
  const ColumnShape pair = composite({{"a", kScalar}, {"b", array_of(kScalar)}});
  for (const char* bad : {R"("\u0000")", R"("\ud800")", R"("\ude00")"}) {
    const std::string text = bad;
    EXPECT_EQ(field(text, kScalar), "(refused)") << bad;
    EXPECT_EQ(field("[" + text + "]", array_of(kScalar)), "(refused)") << bad;
    EXPECT_EQ(field("[[" + text + "]]", array_of(kScalar)), "(refused)") << bad;
    EXPECT_EQ(field("[" + text + "]", kVector), "(refused)") << bad;
    EXPECT_EQ(field("{\"a\":" + text + "}", pair), "(refused)") << bad;
    EXPECT_EQ(field("{\"b\":[1," + text + "]}", pair), "(refused)") << bad;
    EXPECT_EQ(field("{" + text + ":1}", pair), "(refused)") << bad;
  }
}

TEST(CopyField, AppendsToWhatIsThere) {
  core::ByteBuffer out;
  std::string holder;
  for (const char* json : {"1", "\"a\\t\"", "null", "[2]"}) {
    ASSERT_TRUE(core::append_copy_field(out, value_of(json, holder), array_of(kScalar), false));
    out.append('\t');
  }
  EXPECT_EQ(out.view(), "1\ta\\t\t\\N\t{\"2\"}\t");
}

// As deep as a line may be: for the type to refuse, not for the stack to end.
TEST(CopyField, TakesTheDeepestValue) {
  const std::string deep =
      std::string(core::kMaxJsonDepth, '[') + std::string(core::kMaxJsonDepth, ']');
  EXPECT_EQ(read_back(deep, kJson), deep);
  // An array has six dimensions at the most: what is nested deeper is an element, as it stands,
  // which the server refuses.
  EXPECT_EQ(read_back("[[[[[[7]]]]]]", array_of(kScalar)), "{{{{{{\"7\"}}}}}}");
  EXPECT_EQ(read_back("[[[[[[[7]]]]]]]", array_of(kScalar)), "{{{{{{\"[7]\"}}}}}}");
}

}  // namespace
