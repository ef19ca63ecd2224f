// Percent-encoding as AWS signatures want it, and http URLs taken apart.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace core {

// RFC 3986: letters, digits and "-._~" stay, every other byte becomes %XX with upper-case digits.
// encode_path keeps "/" as well; it neither merges slashes nor removes dots.
std::string encode_path(std::string_view raw);
// For a name or a value of a query.
std::string encode_query_component(std::string_view raw);

struct Url {
  std::string scheme;  // "http" or "https"
  std::string host;    // lower case; an IPv6 address keeps its brackets
  std::optional<std::uint16_t> port;
  std::string path;  // as written, percent-encoded; empty, or starts with "/"

  // What an HTTP client sends as Host, and a signature covers: without the scheme's own port.
  std::string host_header() const;
};

// Strict: no user name or password, query, fragment, control character, blank or anything else
// that RFC 3986 wants encoded. Throws core::Error (22023) with the reason as detail; its texts
// never hold the URL, in which somebody may have written a password.
Url parse_url(std::string_view text);

}  // namespace core
