// Between the database's encoding and UTF-8, which is what leaves the server.
#pragma once

#include "pg/postgres.hpp"

#include <optional>
#include <string>
#include <string_view>

namespace pg {

// Nothing where the text cannot be converted (in a SQL_ASCII database: where it is not UTF-8).
std::optional<std::string> to_utf8(std::string_view text);
// An error of the server's where a character does not exist in the database's encoding.
std::string to_database_encoding(const std::string& utf8);

// The same for texts that people read: '?' for a character that does not exist there, and for what
// is not UTF-8.
std::string to_database_text(std::string_view utf8);

}  // namespace pg
