// core/manifest: every member comes back, and not one byte may differ.
#include "core/manifest.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/sha256.hpp"
#include "temporary_folder.hpp"

namespace {

using core::Manifest;
using nlohmann::json;
using test::error_of;

Manifest sample() {
  Manifest manifest;
  manifest.file = "dr_export_chunks_20260104_030000.ndjson.zst";
  manifest.relation = "public.\"Les \\ morceaux\"";
  manifest.namespace_column = "espace \"de\" noms";
  manifest.exported_namespace = "الرياضيات";
  manifest.compression = core::Compression::kZstd;
  manifest.columns = {{"id", "bigint"}, {"espace \"de\" noms", "text"}, {"méta", "jsonb"}};
  manifest.rows = 1000;
  manifest.bytes = 123'456'789'012;
  manifest.ndjson_bytes = 9'007'199'254'740'993;  // one that no double holds
  manifest.sha256 = core::sha256_hex("some file");
  manifest.first_id = "1";
  manifest.last_id = "\"00000000-0000-4000-8000-0000000003e8\"";
  manifest.namespaces = {{"الرياضيات", 999}, {"", 1}};
  manifest.namespaces_truncated = true;
  manifest.json_nulls = {{"méta", {{1, 1}, {3, 5}, {1000, 1}}}, {"b", {}}};
  manifest.snapshot_at = "2026-01-04T03:00:00.000001Z";
  manifest.lsn = "0/16B3748";
  manifest.system_identifier = "7311111111111111111";
  manifest.database = "école";
  manifest.server_version = "15.20 (Debian 15.20-0+deb12u1)";
  manifest.server_encoding = "UTF8";
  manifest.extension_version = "0.4.0";
  manifest.request_id = "6a2f4e7c";
  return manifest;
}

void expect_same(const Manifest& a, const Manifest& b) {
  EXPECT_EQ(a.file, b.file);
  EXPECT_EQ(a.relation, b.relation);
  EXPECT_EQ(a.namespace_column, b.namespace_column);
  EXPECT_EQ(a.exported_namespace, b.exported_namespace);
  EXPECT_EQ(a.compression, b.compression);
  ASSERT_EQ(a.columns.size(), b.columns.size());
  for (std::size_t i = 0; i < a.columns.size(); ++i) {
    EXPECT_EQ(a.columns[i].name, b.columns[i].name);
    EXPECT_EQ(a.columns[i].type, b.columns[i].type);
  }
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.bytes, b.bytes);
  EXPECT_EQ(a.ndjson_bytes, b.ndjson_bytes);
  EXPECT_EQ(a.sha256, b.sha256);
  EXPECT_EQ(a.first_id, b.first_id);
  EXPECT_EQ(a.last_id, b.last_id);
  EXPECT_EQ(a.namespaces, b.namespaces);
  EXPECT_EQ(a.namespaces_truncated, b.namespaces_truncated);
  EXPECT_EQ(a.json_nulls, b.json_nulls);
  EXPECT_EQ(a.snapshot_at, b.snapshot_at);
  EXPECT_EQ(a.lsn, b.lsn);
  EXPECT_EQ(a.system_identifier, b.system_identifier);
  EXPECT_EQ(a.database, b.database);
  EXPECT_EQ(a.server_version, b.server_version);
  EXPECT_EQ(a.server_encoding, b.server_encoding);
  EXPECT_EQ(a.extension_version, b.extension_version);
  EXPECT_EQ(a.request_id, b.request_id);
}

// The body with the checksum that belongs to it: what a careless or ill-meaning writer would make.
std::string sealed(const std::string& body) {
  return body + "  \"manifest_sha256\": \"" + core::sha256_hex(body) + "\"\n}\n";
}

std::string sealed(json object) {
  object.erase("manifest_sha256");
  std::string body = object.dump();
  body.pop_back();
  return sealed(body + ",\n");
}

json sample_json() { return json::parse(core::manifest_text(sample())); }

std::string refusal_of(const std::string& text) {
  const core::Error error = error_of([&] { core::parse_manifest(text, "x.manifest.json"); });
  EXPECT_STREQ(error.sqlstate(), "22P04") << error.what();
  EXPECT_NE(error.message().find("\"x.manifest.json\""), std::string::npos) << error.what();
  EXPECT_NE(error.hint(), "");
  return error.message();
}

void expect_refused_with(const std::string& key, const json& value) {
  json object = sample_json();
  object[key] = value;
  EXPECT_NE(refusal_of(sealed(object)).find(key), std::string::npos)
      << key << " = " << value << ": the error names the member";
}

// --- round trips -----------------------------------------------------------------------------

TEST(ManifestText, ComesBackWithEveryMember) {
  expect_same(core::parse_manifest(core::manifest_text(sample()), "x"), sample());
}

TEST(ManifestText, OfNothingComesBackToo) {
  Manifest manifest;
  manifest.sha256 = core::sha256_hex("");
  manifest.snapshot_at = sample().snapshot_at;
  expect_same(core::parse_manifest(core::manifest_text(manifest), "x"), manifest);
}

TEST(ManifestText, HoldsTheLargestNumbers) {
  Manifest manifest = sample();
  manifest.rows = manifest.bytes = manifest.ndjson_bytes =
      std::numeric_limits<std::uint64_t>::max();
  manifest.namespaces = {{"a", std::numeric_limits<std::int64_t>::max()}};
  manifest.json_nulls = {{"a", {{1, manifest.rows}}}, {"b", {{1, 1}, {manifest.rows, 1}}}};
  expect_same(core::parse_manifest(core::manifest_text(manifest), "x"), manifest);
}

TEST(ManifestText, IsWrittenAgainAsItWasReadWhateverTheNumbers) {
  json object = sample_json();
  object["namespaces"] = {{"a", std::numeric_limits<std::uint64_t>::max()}};
  Manifest manifest;
  try {
    manifest = core::parse_manifest(sealed(object), "x");
  } catch (const core::Error&) {
    return;  // refusing it is as good
  }
  expect_same(core::parse_manifest(core::manifest_text(manifest), "x"), manifest);
}

TEST(ManifestText, HoldsManyNamespacesAndRuns) {
  Manifest manifest = sample();
  manifest.namespaces.clear();
  for (std::size_t i = 0; i < core::kMaxNamespaces; ++i) {
    manifest.namespaces["namespace " + std::to_string(i)] = i;
  }
  manifest.rows = 1'000'000;
  manifest.json_nulls.clear();
  for (std::uint64_t line = 1; line <= manifest.rows; line += 10) {
    manifest.json_nulls["méta"].emplace_back(line, 2);
  }
  expect_same(core::parse_manifest(core::manifest_text(manifest), "x"), manifest);
}

TEST(ManifestText, IsJsonWithOneMemberALine) {
  const std::string text = core::manifest_text(sample());
  const json object = json::parse(text);
  EXPECT_EQ(object["format"], "bacmr_ops.export");
  EXPECT_EQ(object["format_version"], core::kManifestVersion);
  EXPECT_EQ(object["first_id"], 1);
  EXPECT_EQ(object["namespaces"]["الرياضيات"], 999);
  EXPECT_EQ(object["json_nulls"]["méta"], (json{{1, 1}, {3, 5}, {1000, 1}}));
  EXPECT_EQ(static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')), object.size() + 2)
      << "the brackets have a line each";
}

// As the documentation tells: head -n -2 FILE | sha256sum.
TEST(ManifestText, HasAChecksumThatOtherToolsCanCheck) {
  const std::string text = core::manifest_text(sample());
  const std::size_t last = text.rfind('\n', text.size() - 4);
  EXPECT_EQ(json::parse(text)["manifest_sha256"], core::sha256_hex(text.substr(0, last + 1)));
}

TEST(ManifestText, HasNullWhereThereIsNothing) {
  Manifest manifest = sample();
  manifest.namespace_column = "";
  manifest.exported_namespace.reset();
  manifest.first_id = manifest.last_id = "";
  const std::string text = core::manifest_text(manifest);
  for (const char* key : {"namespace_column", "namespace", "first_id", "last_id"}) {
    EXPECT_TRUE(json::parse(text)[key].is_null()) << key;
  }
  expect_same(core::parse_manifest(text, "x"), manifest);
}

TEST(ManifestText, TellsTheEmptyNamespaceFromAll) {
  Manifest manifest = sample();
  manifest.exported_namespace = "";
  expect_same(core::parse_manifest(core::manifest_text(manifest), "x"), manifest);
  EXPECT_EQ(json::parse(core::manifest_text(manifest))["namespace"], "");
}

TEST(ManifestName, IsTheFilesWithASuffix) {
  EXPECT_EQ(core::manifest_name("x.ndjson.gz"), "x.ndjson.gz.manifest.json");
}

// --- what is not whole -----------------------------------------------------------------------

TEST(ManifestDamage, OfAnyByteIsRefused) {
  const std::string text = core::manifest_text(sample());
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (const int change : {0x01, 0x20, 0x80, 0xFF}) {
      std::string altered = text;
      altered[at] = static_cast<char>(altered[at] ^ change);
      ASSERT_NE(refusal_of(altered), "") << "byte " << at;
    }
  }
}

TEST(ManifestDamage, ByACutAnywhereIsRefused) {
  const std::string text = core::manifest_text(sample());
  for (std::size_t size = 0; size < text.size(); ++size) {
    ASSERT_NE(refusal_of(text.substr(0, size)), "") << size;
    ASSERT_NE(refusal_of(text.substr(text.size() - size)), "") << size;
  }
}

TEST(ManifestDamage, ByAByteMoreOrLessIsRefused) {
  const std::string text = core::manifest_text(sample());
  for (std::size_t at = 0; at < text.size(); ++at) {
    std::string less = text;
    less.erase(at, 1);
    ASSERT_NE(refusal_of(less), "") << at;
    std::string more = text;
    more.insert(at, 1, ' ');
    ASSERT_NE(refusal_of(more), "") << at;
  }
  for (const char* more : {"\n", " ", "}", "\n}\n"}) {
    refusal_of(text + more);
  }
}

TEST(ManifestDamage, IsToldApart) {
  const std::string text = core::manifest_text(sample());
  EXPECT_NE(refusal_of(text.substr(0, 100)).find("cut off"), std::string::npos);
  std::string altered = text;
  altered[10] = 'X';
  EXPECT_NE(refusal_of(altered).find("altered"), std::string::npos);
}

// --- whole, but not one of ours --------------------------------------------------------------

TEST(ManifestMembers, AreTakenInAnyOrderAndWithOthersBesides) {
  json object = sample_json();
  object["added_by_a_later_version"] = {1, 2, 3};
  expect_same(core::parse_manifest(sealed(object), "x"), sample());
}

TEST(ManifestMembers, MustAllBeThere) {
  const json whole = sample_json();
  int members = 0;
  for (const auto& [key, value] : whole.items()) {
    if (key == "manifest_sha256") {
      continue;
    }
    json object = whole;
    object.erase(key);
    EXPECT_NE(refusal_of(sealed(object)).find("\"" + key + "\""), std::string::npos) << key;
    ++members;
  }
  EXPECT_EQ(members, 25);
}

TEST(ManifestMembers, MustBeOfTheirType) {
  const std::vector<json> values = {json(nullptr),
                                    json(true),
                                    json(1),
                                    json(-1),
                                    json(1.5),
                                    json("text"),
                                    json::array({1, 2}),
                                    json::object({{"a", "b"}})};
  const json whole = sample_json();
  for (const auto& [key, good] : whole.items()) {
    if (key == "manifest_sha256" || key == "first_id" || key == "last_id") {
      continue;  // an id is whatever the column holds
    }
    for (const json& value : values) {
      const bool fits = (good.is_string() && value.is_string() && key != "format" &&
                         key != "compression" && key != "sha256") ||
                        (good.is_number() && value.is_number_integer() && value >= 0) ||
                        (good.is_boolean() && value.is_boolean()) ||
                        ((key == "namespace" || key == "namespace_column") && value.is_null());
      if (!fits) {
        json object = whole;
        object[key] = value;
        EXPECT_STREQ(error_of([&] { core::parse_manifest(sealed(object), "x"); }).sqlstate(),
                     "22P04")
            << key << " = " << value;
      }
    }
  }
}

TEST(ManifestMembers, MustBeOfAVersionThatIsKnown) {
  for (const json& version :
       {json(0), json(2), json(-1), json(1.0), json("1"), json(std::uint64_t{1} << 32)}) {
    json other = sample_json();
    other["format_version"] = version;
    EXPECT_NE(refusal_of(sealed(other)).find("version"), std::string::npos) << version;
  }
  json object = sample_json();
  object["format_version"] = 2;
  const std::string reason = refusal_of(sealed(object));
  EXPECT_NE(reason.find("version 2"), std::string::npos) << reason;
  EXPECT_NE(reason.find("reads 1"), std::string::npos) << reason;
}

TEST(ManifestMembers, MustMakeSense) {
  expect_refused_with("compression", "lz4");
  const std::string sum = sample().sha256;
  std::string capitals = sum;
  for (char& c : capitals) {
    c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  for (const std::string& other : {capitals, sum + "0", sum.substr(1), std::string()}) {
    expect_refused_with("sha256", other);
  }
  expect_refused_with("columns", json::array({"id"}));
  json object = sample_json();
  object["columns"] = json::array({{{"name", "id"}}});
  EXPECT_NE(refusal_of(sealed(object)).find("\"type\""), std::string::npos);
  expect_refused_with("namespaces", {{"a", -1}});
  expect_refused_with("namespaces", {{"a", 1.5}});
  expect_refused_with("namespaces", {{"a", "1"}});
}

TEST(ManifestMembers, MustNameLinesThatThereAre) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  const auto refused = [](const json& runs) {
    expect_refused_with("json_nulls", {{"méta", runs}});
  };
  refused(json::array({{0, 1}}));            // lines count from 1
  refused(json::array({{1, 0}}));            // an empty run
  refused(json::array({{1001, 1}}));         // behind the last row
  refused(json::array({{1, 1001}}));         // reaching behind it
  refused(json::array({{1000, 2}}));         //
  refused(json::array({{2, kMost}}));        // a sum that wraps around
  refused(json::array({{kMost, 1}}));        //
  refused(json::array({{1, 5}, {5, 1}}));    // overlapping
  refused(json::array({{5, 1}, {1, 1}}));    // backwards
  refused(json::array({{-1, 1}}));           //
  refused(json::array({json::array({1})}));  // no pairs
  refused(json::array({json::array({1, 2, 3})}));
  refused(json::array({1, 2}));
  refused(json::object());
  refused(json("text"));
  json object = sample_json();
  object["json_nulls"] = {{"méta", json::array({{1, 1000}})}};
  EXPECT_EQ(core::parse_manifest(sealed(object), "x").json_nulls["méta"],
            (core::LineRuns{{1, 1000}}));
}

TEST(ManifestMembers, MustBeJson) {
  refusal_of(sealed(std::string("{")));
  refusal_of(sealed(std::string()));
  refusal_of(sealed(std::string("[\n")));
  refusal_of(sealed(std::string("{\"format\": \"\xFF\",\n")));
  refusal_of(sealed(std::string("{\"rows\": 1e999,\n")));
  refusal_of(sealed(std::string("not json,\n")));
}

TEST(ManifestSize, HasALimitThatIsNamed) {
  Manifest manifest = sample();
  manifest.request_id = std::string(core::kMaxManifestBytes, 'x');
  EXPECT_NE(refusal_of(core::manifest_text(manifest)).find("64 MB"), std::string::npos);
}

// The checksum says that a manifest is whole, not that its writer meant well.
TEST(ManifestSize, OfNestedBracketsDoesNotExhaustTheStack) {
  const std::string text = core::manifest_text(sample());
  for (const char* key : {"first_id", "columns", "another"}) {
    std::string body = text.substr(0, text.rfind("  \"manifest_sha256\""));
    const std::string name = std::string("  \"") + key + "\": ";
    if (const std::size_t at = body.find(name); at != std::string::npos) {
      body.erase(at, body.find('\n', at) + 1 - at);
    }
    constexpr std::size_t kDepth = 1'000'000;
    body += name + std::string(kDepth, '[') + std::string(kDepth, ']') + ",\n";
    const core::Error error = error_of([&] { core::parse_manifest(sealed(body), "x"); });
    if (std::string(key) != "another") {
      EXPECT_STREQ(error.sqlstate(), "22P04") << key;
    }
  }
}

}  // namespace
