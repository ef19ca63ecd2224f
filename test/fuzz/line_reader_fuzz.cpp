// libFuzzer target: whatever an artifact holds, reading it line by line, taking the lines apart and
// turning their values into fields of COPY neither reads out of bounds nor fails otherwise than by
// a core::Error, and keeps what the headers promise. nlohmann/json is the judge of what JSON is.
//
// The first byte chooses the compression (modulo 3: '0' none, '1' gzip, '2' zstd); the rest is the
// file. `make fuzz` builds and runs it.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/artifact_reader.hpp"
#include "core/copy_text.hpp"
#include "core/error.hpp"
#include "core/json_line.hpp"

namespace {

using core::ColumnShape;
using core::JsonKind;
using Kind = core::ColumnShape::Kind;
using nlohmann::json;

constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 20;

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

ColumnShape shape_of(Kind kind, std::vector<ColumnShape> children = {},
                     std::vector<std::string> names = {}) {
  return {.kind = kind, .children = std::move(children), .names = std::move(names)};
}

const std::vector<ColumnShape>& shapes() {
  static const std::vector<ColumnShape> all = [] {
    const ColumnShape scalar = shape_of(Kind::kScalar);
    const ColumnShape plain_json = shape_of(Kind::kJson);
    const ColumnShape row = shape_of(
        Kind::kComposite, {scalar, shape_of(Kind::kArray, {scalar}), plain_json}, {"a", "b", "c"});
    return std::vector<ColumnShape>{scalar,
                                    plain_json,
                                    shape_of(Kind::kVector),
                                    shape_of(Kind::kArray, {scalar}),
                                    shape_of(Kind::kArray, {plain_json}),
                                    row,
                                    shape_of(Kind::kArray, {row})};
  }();
  return all;
}

// Nothing, where the judge has no say: it also wants UTF-8, whole surrogate pairs, and numbers that
// a double holds.
std::optional<json> judged(std::string_view text) {
  try {
    return json::parse(text);
  } catch (const json::out_of_range&) {
    return std::nullopt;
  } catch (const json::parse_error& e) {
    const std::string_view reason = e.what();
    require(reason.find("surrogate") != std::string_view::npos ||
            reason.find("UTF-8") != std::string_view::npos);
    return std::nullopt;
  }
}

// What the server makes of a field of COPY.
std::string without_copy_escapes(std::string_view field) {
  std::string text;
  for (std::size_t i = 0; i < field.size(); ++i) {
    require(field[i] != '\n' && field[i] != '\r' && field[i] != '\t');
    if (field[i] != '\\') {
      text += field[i];
      continue;
    }
    require(++i < field.size());
    const std::size_t letter = std::string_view("nrt\\").find(field[i]);
    require(letter != std::string_view::npos);
    text += "\n\r\t\\"[letter];
  }
  return text;
}

void check_field(const core::JsonValue& value, const ColumnShape& shape) {
  core::ByteBuffer out;
  if (!core::append_copy_field(out, value, shape, false)) {
    return;
  }
  if (value.kind == JsonKind::kNull) {
    require(out.view() == "\\N");
    return;
  }
  const std::string text = without_copy_escapes(out.view());
  if (value.kind == JsonKind::kString && shape.kind != Kind::kJson) {
    std::string meant;
    require(core::append_unescaped(meant, value.text) && text == meant);
  } else if (shape.kind == Kind::kScalar || shape.kind == Kind::kJson) {
    require(text == value.text);
  } else if (shape.kind == Kind::kArray && value.kind == JsonKind::kArray) {
    require(text.starts_with('{') && text.ends_with('}'));
  } else if (shape.kind == Kind::kComposite && value.kind == JsonKind::kObject) {
    require(text.starts_with('(') && text.ends_with(')'));
  }
}

void check_members(std::string_view line, const std::vector<core::JsonMember>& members) {
  const std::optional<json> whole = judged(line);
  require(!whole || whole->is_object());
  for (const core::JsonMember& member : members) {
    require(member.key.data() >= line.data() &&
            member.value.text.data() + member.value.text.size() <= line.data() + line.size());
    for (const ColumnShape& shape : shapes()) {
      check_field(member.value, shape);
    }
    std::string key;
    if (whole && core::append_unescaped(key, std::string("\"").append(member.key) + '"')) {
      require(whole->contains(key));
    }
  }
  if (whole && !members.empty()) {
    // Of a key that is repeated the judge keeps the last.
    const core::JsonMember& last = members.back();
    std::string key;
    if (core::append_unescaped(key, std::string("\"").append(last.key) + '"')) {
      require(whole->at(key) == json::parse(last.value.text));
    }
  }
}

void check_line(std::string_view line) {
  require(line.find('\n') == std::string_view::npos);
  std::vector<core::JsonMember> members;
  core::JsonProblem problem;
  if (core::parse_json_object(line, members, problem)) {
    check_members(line, members);
  } else {
    require(!problem.reason.empty() && problem.offset <= line.size());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const auto compression = static_cast<core::Compression>(data[0] % 3);
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  core::Descriptor file(::memfd_create("artifact", MFD_CLOEXEC));
  require(file.valid());
  core::write_all(file.get(), bytes, "artifact");
  require(::lseek(file.get(), 0, SEEK_SET) == 0);
  core::ArtifactReader reader(std::move(file), "artifact", compression, kMaxBytes);
  std::uint64_t lines = 0;
  std::uint64_t length = 0;
  try {
    for (std::string_view line; reader.next_line(line);) {
      ++lines;
      length += line.size();
      require(reader.lines() == lines);
      check_line(line);
    }
  } catch (const core::Error& e) {
    const std::string_view code = e.sqlstate();
    require(code == core::sqlstate::kBadFileFormat ||
            code == core::sqlstate::kProgramLimitExceeded);
    return 0;
  }
  require(reader.bytes() == bytes.size() && reader.sha256() == core::sha256_hex(bytes));
  // All newlines but perhaps the last.
  require(reader.ndjson_bytes() == length + lines ||
          (lines > 0 && reader.ndjson_bytes() == length + lines - 1));
  return 0;
}
