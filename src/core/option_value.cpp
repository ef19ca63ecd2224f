#include "core/option_value.hpp"

#include <algorithm>
#include <charconv>
#include <cstddef>

namespace core {
namespace {

constexpr std::uint64_t kMegabyte = 1024ULL * 1024;
constexpr std::string_view kLettersAndDigits =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

bool is_letter_or_digit(char c) { return kLettersAndDigits.find(c) != std::string_view::npos; }

// Letters, digits and `more`; at least one, at the most `longest`.
bool consists_of(std::string_view text, std::string_view more, std::size_t longest) {
  return !text.empty() && text.size() <= longest &&
         std::all_of(text.begin(), text.end(), [&](char c) {
           return is_letter_or_digit(c) || more.find(c) != std::string_view::npos;
         });
}

// Segments between slashes: none empty, `.` or `..`. One slash at the end is allowed.
bool has_plain_segments(std::string_view path) {
  if (!path.empty() && path.back() == '/') {
    path.remove_suffix(1);
  }
  for (;;) {
    const std::size_t slash = path.find('/');
    const std::string_view segment = path.substr(0, slash);
    if (segment.empty() || segment == "." || segment == "..") {
      return false;
    }
    if (slash == std::string_view::npos) {
      return true;
    }
    path.remove_prefix(slash + 1);
  }
}

// A host name or an IPv4 address: labels between dots.
bool is_host_name(std::string_view host) {
  constexpr std::size_t kLongest = 253;
  if (!consists_of(host, ".-", kLongest)) {
    return false;
  }
  for (;;) {
    const std::size_t dot = host.find('.');
    const std::string_view label = host.substr(0, dot);
    if (label.empty() || label.size() > 63 || label.front() == '-' || label.back() == '-') {
      return false;
    }
    if (dot == std::string_view::npos) {
      return true;
    }
    host.remove_prefix(dot + 1);
  }
}

bool is_bracketed_address(std::string_view host) {
  return host.size() >= 4 && host.size() <= 47 && host.front() == '[' && host.back() == ']' &&
         host.substr(1, host.size() - 2).find_first_not_of("0123456789abcdefABCDEF:.") ==
             std::string_view::npos;
}

}  // namespace

bool is_ipv4(std::string_view host) {
  for (int parts = 1;; ++parts) {
    const std::size_t dot = host.find('.');
    if (!is_number<0, 255>(host.substr(0, dot)) || parts > 4) {
      return false;
    }
    if (dot == std::string_view::npos) {
      return parts == 4;
    }
    host.remove_prefix(dot + 1);
  }
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data(), end, number);
  if (text.empty() || stop != end || problem != std::errc()) {
    return std::nullopt;
  }
  return number;
}

// As Postgres writes sizes: kB, MB and GB are powers of 1024.
std::optional<std::uint64_t> parse_size(std::string_view text) {
  constexpr std::uint64_t kMostDigits = 9;  // so that no unit overflows
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto number = parse_number(text.substr(0, digits));
  if (!number || digits > kMostDigits) {
    return std::nullopt;
  }
  const std::string_view unit = text.substr(digits);
  if (unit == "kB") {
    return *number * 1024;
  }
  if (unit == "MB") {
    return *number * kMegabyte;
  }
  if (unit == "GB") {
    return *number * kMegabyte * 1024;
  }
  return std::nullopt;
}

bool is_part_size(std::string_view text) {
  const auto size = parse_size(text);
  return size && *size >= 5 * kMegabyte && *size <= 5 * 1024 * kMegabyte;
}

bool is_price(std::string_view text) {
  constexpr std::size_t kLongest = 20;
  const std::size_t point = text.find('.');
  const auto all_digits = [](std::string_view part) {
    return !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
  };
  return text.size() <= kLongest && all_digits(text.substr(0, point)) &&
         (point == std::string_view::npos || all_digits(text.substr(point + 1)));
}

bool is_flag(std::string_view text) { return text == "true" || text == "false"; }

bool is_addressing(std::string_view text) { return text == "path" || text == "virtual"; }

bool is_encryption(std::string_view text) { return text == "AES256" || text == "aws:kms"; }

bool is_auth_header(std::string_view text) { return text == "bearer" || text == "api-key"; }

bool is_storage_class(std::string_view text) { return consists_of(text, "_-", 64); }

bool is_kms_key(std::string_view text) { return consists_of(text, ":/_-", 2048); }

bool is_region(std::string_view text) {
  return consists_of(text, "-_", 64) && is_letter_or_digit(text.front());
}

bool is_version(std::string_view text) { return consists_of(text, ".-", 64); }

bool is_model(std::string_view text) { return consists_of(text, "._:/@+-", 200); }

bool is_bucket(std::string_view text) {
  constexpr std::size_t kShortest = 3;
  constexpr std::size_t kLongest = 222;  // Google's names with dots; others stop at 63
  return text.size() >= kShortest && consists_of(text, "._-", kLongest) &&
         is_letter_or_digit(text.front()) && is_letter_or_digit(text.back()) &&
         text.find("..") == std::string_view::npos;
}

bool is_prefix(std::string_view text) {
  return consists_of(text, "/!-_.*()", 512) && has_plain_segments(text);
}

// scheme://host[:port][/path]: no user, query or fragment, and nothing that would need escaping.
std::optional<OptionUrl> parse_option_url(std::string_view text) {
  constexpr std::size_t kLongest = 2000;
  OptionUrl url;
  if (text.size() > kLongest) {
    return std::nullopt;
  }
  if (text.starts_with("https://")) {
    url.https = true;
    text.remove_prefix(8);
  } else if (text.starts_with("http://")) {
    text.remove_prefix(7);
  } else {
    return std::nullopt;
  }
  const std::size_t slash = std::min(text.find('/'), text.size());
  std::string_view authority = text.substr(0, slash);
  url.path = text.substr(slash);
  const std::size_t colon =
      authority.find(':', authority.starts_with('[') ? authority.find(']') : 0);
  if (colon != std::string_view::npos) {
    if (!is_number<1, 65535>(authority.substr(colon + 1))) {
      return std::nullopt;
    }
    authority = authority.substr(0, colon);
  }
  url.host = authority;
  const bool good_path =
      url.path.empty() || url.path == "/" ||
      (consists_of(url.path, "/._~-", kLongest) && has_plain_segments(url.path.substr(1)));
  if (!good_path || !(is_host_name(url.host) || is_bracketed_address(url.host))) {
    return std::nullopt;
  }
  return url;
}

bool is_url(std::string_view text) { return parse_option_url(text).has_value(); }

bool is_origin(std::string_view text) {
  const auto url = parse_option_url(text);
  return url && (url->path.empty() || url->path == "/");
}

// Only what is certain without asking a resolver.
bool is_loopback(std::string_view host) {
  return host == "localhost" || host == "[::1]" || (host.starts_with("127.") && is_ipv4(host));
}

bool is_secret(std::string_view value) {
  constexpr std::size_t kLongest = 16384;
  return !value.empty() && value.size() <= kLongest &&
         std::all_of(value.begin(), value.end(), [](char c) { return c > ' ' && c <= '~'; });
}

bool is_plain_path(std::string_view value) {
  constexpr std::size_t kLongest = 1023;
  return value.size() > 1 && value.size() <= kLongest && value.front() == '/' &&
         std::none_of(value.begin(), value.end(),
                      [](unsigned char c) { return c < ' ' || c == 0x7F; }) &&
         has_plain_segments(value.substr(1));
}

}  // namespace core
