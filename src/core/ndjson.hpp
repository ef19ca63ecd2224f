// Writing NDJSON: the pieces of a line that cost time. Nothing here checks UTF-8: the database has.
#pragma once

#include "core/byte_buffer.hpp"

#include <cstdint>
#include <string_view>

namespace core::ndjson {

// The longest line that is written, and read again.
inline constexpr std::size_t kMaxLineBytes = std::size_t{256} << 20;

// As a JSON string, quotes included, escaped as PostgreSQL's escape_json() does: \" \\ \b \f \n \r
// \t, \u00XX for the other control characters, everything else as it is.
void append_string(ByteBuffer& out, std::string_view text);
void append_integer(ByteBuffer& out, std::int64_t value);
// JSON that comes from elsewhere: outside strings JSON may hold line breaks, which a line must not.
void append_json(ByteBuffer& out, std::string_view json);

}  // namespace core::ndjson
