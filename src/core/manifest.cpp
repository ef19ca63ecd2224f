#include "core/manifest.hpp"

#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/json.hpp"
#include "core/json_line.hpp"
#include "core/sha256.hpp"

namespace core {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "bacmr_ops.export";
constexpr std::string_view kChecksumStart = "  \"manifest_sha256\": \"";
constexpr std::string_view kChecksumEnd = "\"\n}\n";
constexpr std::size_t kSha256Length = 64;

[[noreturn]] void bad(const std::string& name, const std::string& reason) {
  throw Error(sqlstate::kBadFileFormat, "the manifest \"" + name + "\" cannot be used: " + reason,
              {}, "Take another copy of the export and its manifest.");
}

void member(std::string& out, std::string_view name, const std::string& value) {
  out += "  ";
  append_json_string(out, name);
  out += ": " + value + ",\n";
}

void text_member(std::string& out, std::string_view name, const std::string& value) {
  member(out, name, json_string(value));
}

void number_member(std::string& out, std::string_view name, std::uint64_t value) {
  member(out, name, std::to_string(value));
}

std::string runs_json(const LineRuns& runs) {
  JsonArray list;
  for (const auto& [first, count] : runs) {
    list.raw("[" + std::to_string(first) + "," + std::to_string(count) + "]");
  }
  return list.str();
}

bool is_sha256(const std::string& text) {
  return text.size() == kSha256Length &&
         text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// "YYYY-MM-DDTHH:MM:SS.ffffffZ", as this file writes it.
bool is_time(const std::string& text) {
  constexpr std::string_view kForm = "0000-00-00T00:00:00.000000Z";
  for (std::size_t i = 0; i < kForm.size() && i < text.size(); ++i) {
    const bool digit = text[i] >= '0' && text[i] <= '9';
    if (kForm[i] == '0' ? !digit : text[i] != kForm[i]) {
      return false;
    }
  }
  const auto field = [&](std::size_t at) { return (text[at] - '0') * 10 + (text[at + 1] - '0'); };
  return text.size() == kForm.size() && field(5) >= 1 && field(5) <= 12 && field(8) >= 1 &&
         field(8) <= 31 && field(11) <= 23 && field(14) <= 59 && field(17) <= 59;
}

// Reads members of a JSON object, with an error for what is missing or of another type.
class Reader {
 public:
  Reader(const json& object, const std::string& name) : object_(object), name_(name) {}

  const json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) {
      bad(name_, std::string("it lacks \"") + key + "\"");
    }
    return *found;
  }
  std::string text(const char* key) const {
    const json& value = at(key);
    if (!value.is_string()) {
      bad(name_, std::string("\"") + key + "\" is not a string");
    }
    return value.get<std::string>();
  }
  std::uint64_t number(const char* key) const { return number_of(at(key), key); }
  std::uint64_t number_of(const json& value, const char* key) const {
    if (!value.is_number_unsigned()) {
      bad(name_, std::string("\"") + key + "\" is not a whole number");
    }
    return value.get<std::uint64_t>();
  }
  const json& object(const char* key) const {
    const json& value = at(key);
    if (!value.is_object()) {
      bad(name_, std::string("\"") + key + "\" is not an object");
    }
    return value;
  }

 private:
  const json& object_;
  const std::string& name_;
};

void read_columns(const Reader& reader, const std::string& name, Manifest& manifest) {
  const json& columns = reader.at("columns");
  if (!columns.is_array()) {
    bad(name, "\"columns\" is not an array");
  }
  for (const json& column : columns) {
    if (!column.is_object()) {
      bad(name, "\"columns\" holds something else than objects");
    }
    const Reader each(column, name);
    manifest.columns.push_back({each.text("name"), each.text("type")});
  }
}

void read_json_nulls(const Reader& reader, const std::string& name, Manifest& manifest) {
  for (const auto& [column, runs] : reader.object("json_nulls").items()) {
    LineRuns& list = manifest.json_nulls[column];
    std::uint64_t last = 0;
    if (!runs.is_array()) {
      bad(name, "\"json_nulls\" is not made of arrays");
    }
    for (const json& run : runs) {
      if (!run.is_array() || run.size() != 2) {
        bad(name, "\"json_nulls\" holds something else than pairs");
      }
      const std::uint64_t first = reader.number_of(run[0], "json_nulls");
      const std::uint64_t count = reader.number_of(run[1], "json_nulls");
      if (first <= last || count == 0 || first > manifest.rows ||
          count > manifest.rows - first + 1) {
        bad(name, "\"json_nulls\" names lines that cannot be");
      }
      last = first + count - 1;
      list.emplace_back(first, count);
    }
  }
}

}  // namespace

std::string manifest_name(const std::string& file) { return file + ".manifest.json"; }

std::string manifest_text(const Manifest& manifest) {
  std::string out = "{\n";
  text_member(out, "format", kFormat);
  number_member(out, "format_version", kManifestVersion);
  text_member(out, "file", manifest.file);
  text_member(out, "relation", manifest.relation);
  member(out, "namespace_column",
         manifest.namespace_column.empty() ? "null" : json_string(manifest.namespace_column));
  member(out, "namespace",
         manifest.exported_namespace ? json_string(*manifest.exported_namespace) : "null");
  text_member(out, "compression", name_of(manifest.compression));
  JsonArray columns;
  for (const ManifestColumn& column : manifest.columns) {
    columns.raw(JsonObject().text("name", column.name).text("type", column.type).str());
  }
  member(out, "columns", columns.str());
  number_member(out, "rows", manifest.rows);
  number_member(out, "bytes", manifest.bytes);
  number_member(out, "ndjson_bytes", manifest.ndjson_bytes);
  text_member(out, "sha256", manifest.sha256);
  member(out, "first_id", manifest.first_id.empty() ? "null" : manifest.first_id);
  member(out, "last_id", manifest.last_id.empty() ? "null" : manifest.last_id);
  JsonObject namespaces;
  for (const auto& [name, rows] : manifest.namespaces) {
    namespaces.raw(name, std::to_string(rows));
  }
  member(out, "namespaces", namespaces.str());
  member(out, "namespaces_truncated", manifest.namespaces_truncated ? "true" : "false");
  JsonObject nulls;
  for (const auto& [column, runs] : manifest.json_nulls) {
    nulls.raw(column, runs_json(runs));
  }
  member(out, "json_nulls", nulls.str());
  text_member(out, "snapshot_at", manifest.snapshot_at);
  text_member(out, "lsn", manifest.lsn);
  text_member(out, "system_identifier", manifest.system_identifier);
  text_member(out, "database", manifest.database);
  text_member(out, "server_version", manifest.server_version);
  text_member(out, "server_encoding", manifest.server_encoding);
  text_member(out, "extension_version", manifest.extension_version);
  text_member(out, "request_id", manifest.request_id);
  const std::string checksum = sha256_hex(out);
  out.append(kChecksumStart).append(checksum).append(kChecksumEnd);
  return out;
}

Manifest parse_manifest(std::string_view text, const std::string& name) {
  const std::size_t tail = kChecksumStart.size() + kSha256Length + kChecksumEnd.size();
  if (text.size() > kMaxManifestBytes) {
    bad(name, "it is longer than " + std::to_string(kMaxManifestBytes >> 20) + " MB");
  }
  if (text.size() < tail || !text.ends_with(kChecksumEnd) ||
      !text.substr(text.size() - tail).starts_with(kChecksumStart)) {
    bad(name, "its last line is not its checksum, so it is cut off, or not a manifest");
  }
  const std::string_view body = text.substr(0, text.size() - tail);
  if (sha256_hex(body) != text.substr(text.size() - tail + kChecksumStart.size(), kSha256Length)) {
    bad(name, "its checksum does not match, so it was altered");
  }
  // Our own reader first: it has a limit of depth, and gives an id as it stands in the text.
  std::vector<JsonMember> members;
  JsonProblem problem;
  if (!parse_json_object(text, members, problem)) {
    bad(name, "it is not a JSON object: " + problem.reason);
  }
  const json parsed = json::parse(text, nullptr, false);
  if (!parsed.is_object()) {
    bad(name, "it is not a JSON object");
  }
  const Reader reader(parsed, name);
  if (reader.text("format") != kFormat) {
    bad(name, "it describes something else than an export of bacmr_ops");
  }
  if (reader.number("format_version") != kManifestVersion) {
    bad(name, "it is of format version " + std::to_string(reader.number("format_version")) +
                  ", this version reads " + std::to_string(kManifestVersion));
  }
  Manifest manifest;
  manifest.file = reader.text("file");
  manifest.relation = reader.text("relation");
  if (!reader.at("namespace_column").is_null()) {
    manifest.namespace_column = reader.text("namespace_column");
  }
  if (!reader.at("namespace").is_null()) {
    manifest.exported_namespace = reader.text("namespace");
  }
  const std::optional<Compression> compression = parse_compression(reader.text("compression"));
  if (!compression) {
    bad(name, "its compression is unknown");
  }
  manifest.compression = *compression;
  read_columns(reader, name, manifest);
  manifest.rows = reader.number("rows");
  manifest.bytes = reader.number("bytes");
  manifest.ndjson_bytes = reader.number("ndjson_bytes");
  manifest.sha256 = reader.text("sha256");
  if (!is_sha256(manifest.sha256)) {
    bad(name, "\"sha256\" is not a SHA-256 in hex");
  }
  for (const auto& [key, into] :
       {std::pair("first_id", &manifest.first_id), std::pair("last_id", &manifest.last_id)}) {
    if (!reader.at(key).is_null()) {
      for (const JsonMember& member : members) {
        if (member.key == key) {
          *into = member.value.text;
        }
      }
    }
  }
  for (const auto& [key, rows] : reader.object("namespaces").items()) {
    manifest.namespaces[key] = reader.number_of(rows, "namespaces");
  }
  const json& truncated = reader.at("namespaces_truncated");
  if (!truncated.is_boolean()) {
    bad(name, "\"namespaces_truncated\" is not true or false");
  }
  manifest.namespaces_truncated = truncated.get<bool>();
  read_json_nulls(reader, name, manifest);
  manifest.snapshot_at = reader.text("snapshot_at");
  if (!is_time(manifest.snapshot_at)) {
    bad(name, "\"snapshot_at\" is not a time such as 2026-01-31T03:00:00.000000Z");
  }
  manifest.lsn = reader.text("lsn");
  manifest.system_identifier = reader.text("system_identifier");
  manifest.database = reader.text("database");
  manifest.server_version = reader.text("server_version");
  manifest.server_encoding = reader.text("server_encoding");
  manifest.extension_version = reader.text("extension_version");
  manifest.request_id = reader.text("request_id");
  return manifest;
}

}  // namespace core
