// The manifest: what an export is, and how to tell that it is whole. A JSON object with one member
// a line, whose last member is the SHA-256 of all lines before its own, so that coreutils and jq
// can check it. The format is documented in docs/exports.md; `kManifestVersion` is its version.
#pragma once

#include "core/compression.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace core {

inline constexpr int kManifestVersion = 1;
// A manifest that is longer than this is not read.
inline constexpr std::size_t kMaxManifestBytes = std::size_t{64} << 20;

struct ManifestColumn {
  std::string name;
  std::string type;  // as format_type() prints it
};

// Lines, counted from 1: the first, and how many follow each other.
using LineRuns = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

struct Manifest {
  std::string file;
  std::string relation;
  std::string namespace_column;                   // '' where there is none
  std::optional<std::string> exported_namespace;  // only this one
  Compression compression = Compression::kNone;
  std::vector<ManifestColumn> columns;
  std::uint64_t rows = 0;
  std::uint64_t bytes = 0;         // of the file
  std::uint64_t ndjson_bytes = 0;  // before compression
  std::string sha256;              // of the file, in lower-case hex
  // The value of "id" in the first and last line, as JSON; '' where there is none.
  std::string first_id;
  std::string last_id;
  // Rows by the value of "namespace", where that is a column; the first kMaxNamespaces of them.
  std::map<std::string, std::uint64_t> namespaces;
  bool namespaces_truncated = false;
  // Where a column of type json or jsonb held JSON's null: in the lines, SQL's looks the same.
  std::map<std::string, LineRuns> json_nulls;
  std::string snapshot_at;  // RFC 3339, UTC
  std::string lsn;
  std::string system_identifier;
  std::string database;
  std::string server_version;
  std::string server_encoding;
  std::string extension_version;
  std::string request_id;
};

inline constexpr std::size_t kMaxNamespaces = 10'000;

// The name of a file's manifest.
std::string manifest_name(const std::string& file);

std::string manifest_text(const Manifest& manifest);
// Checks checksum, version and every member. An error (22P04) says what is wrong; `name` is for its
// text.
Manifest parse_manifest(std::string_view text, const std::string& name);

}  // namespace core
