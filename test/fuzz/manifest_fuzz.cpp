// libFuzzer target: whatever a manifest holds, core/manifest neither reads out of bounds nor fails
// otherwise than by a core::Error of bad format, and what it reads it writes so that it reads the
// same again.
//
// Each input is tried as it is, and once more with the checksum that belongs to it, which no
// mutation would ever hit. `make fuzz` builds and runs it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "core/error.hpp"
#include "core/manifest.hpp"
#include "core/sha256.hpp"

namespace {

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

std::optional<core::Manifest> parsed(std::string_view text) {
  try {
    return core::parse_manifest(text, "x.manifest.json");
  } catch (const core::Error& e) {
    require(std::string_view(e.sqlstate()) == core::sqlstate::kBadFileFormat);
    require(!e.message().empty() && !e.hint().empty());
    return std::nullopt;
  }
}

void check_promises(const core::Manifest& manifest) {
  require(manifest.sha256.size() == 64);
  for (const auto& [column, runs] : manifest.json_nulls) {
    std::uint64_t last = 0;
    for (const auto& [first, count] : runs) {
      require(first > last && count > 0 && first <= manifest.rows &&
              count <= manifest.rows - first + 1);
      last = first + count - 1;
    }
  }
}

void try_text(std::string_view text) {
  const std::optional<core::Manifest> manifest = parsed(text);
  if (!manifest) {
    return;
  }
  check_promises(*manifest);
  const std::string written = core::manifest_text(*manifest);
  const std::optional<core::Manifest> again = parsed(written);
  require(again.has_value());
  require(core::manifest_text(*again) == written);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try_text(text);
  const std::string body(text.substr(0, text.rfind("  \"manifest_sha256\"")));
  try_text(body + "  \"manifest_sha256\": \"" + core::sha256_hex(body) + "\"\n}\n");
  return 0;
}
