// What may stand in an option of a declared service: one check a kind of value. Values become parts
// of URLs, paths and header lines, so whatever could break out of those is refused.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace core {

// Digits alone, that fit into 64 bits.
std::optional<std::uint64_t> parse_number(std::string_view text);
// As Postgres writes sizes: kB, MB and GB are powers of 1024.
std::optional<std::uint64_t> parse_size(std::string_view text);

template <std::uint64_t kLeast, std::uint64_t kMost>
bool is_number(std::string_view text) {
  const auto number = parse_number(text);
  return number && *number >= kLeast && *number <= kMost;
}

bool is_part_size(std::string_view text);   // of a multipart upload: 5MB to 5GB
bool is_price(std::string_view text);       // digits, with a decimal point or without
bool is_flag(std::string_view text);        // 'true', 'false'
bool is_addressing(std::string_view text);  // 'path', 'virtual'
bool is_encryption(std::string_view text);  // of S3: 'AES256', 'aws:kms'
bool is_kms_key(std::string_view text);
bool is_storage_class(std::string_view text);
bool is_auth_header(std::string_view text);  // 'bearer', 'api-key'
bool is_region(std::string_view text);
bool is_version(std::string_view text);
bool is_model(std::string_view text);
bool is_bucket(std::string_view text);
// Of object names: plain segments between slashes.
bool is_prefix(std::string_view text);
// Printable ASCII without spaces, so that it cannot end a header line. Up to 16 kB.
bool is_secret(std::string_view value);
// An absolute path without `.` or `..`.
bool is_plain_path(std::string_view value);

struct OptionUrl {
  bool https = false;
  std::string_view host;  // an IPv6 address with its brackets
  std::string_view path;
};
// scheme://host[:port][/path]: no user, query or fragment, and nothing that would need escaping.
std::optional<OptionUrl> parse_option_url(std::string_view text);
bool is_url(std::string_view text);
bool is_origin(std::string_view text);  // without a path
bool is_ipv4(std::string_view host);
// Only what is certain without asking a resolver.
bool is_loopback(std::string_view host);

}  // namespace core
