#include "core/uri.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cstddef>

#include "core/error.hpp"

namespace core {

namespace {

// Not <cctype>: the server's locale has no say in what a URL is.
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == '\x7F'; }

bool is_unreserved(char c) {
  return is_letter(c) || is_digit(c) || c == '-' || c == '.' || c == '_' || c == '~';
}

std::string encode(std::string_view raw, bool keep_slash) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  out.reserve(raw.size());
  for (const char c : raw) {
    if (is_unreserved(c) || (keep_slash && c == '/')) {
      out += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += '%';
      out += kDigits[byte >> 4];
      out += kDigits[byte & 0x0F];
    }
  }
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') {
      c = static_cast<char>(c - 'A' + 'a');
    }
  }
  return out;
}

[[noreturn]] void refuse(const char* why) {
  throw Error(sqlstate::kInvalidParameterValue, "invalid URL", why,
              "A URL looks like https://host:port/path.");
}

void check_name(std::string_view host) {
  // DNS allows 253 characters.
  if (host.empty()) {
    refuse("There is no host.");
  }
  if (host.size() > 253) {
    refuse("The host name is too long.");
  }
  if (!std::all_of(host.begin(), host.end(), [](char c) {
        return is_letter(c) || is_digit(c) || c == '-' || c == '.' || c == '_';
      })) {
    refuse("The host name may hold letters, digits, hyphens, underscores and dots only.");
  }
}

void check_ipv6(std::string_view address) {
  in6_addr ignored;
  // A copy: inet_pton wants an end of string.
  if (address.size() > 45 || inet_pton(AF_INET6, std::string(address).c_str(), &ignored) != 1) {
    refuse("What stands in the brackets is no IPv6 address.");
  }
}

std::uint16_t parse_port(std::string_view digits) {
  std::uint16_t port = 0;
  const char* const end = digits.data() + digits.size();
  const auto [stop, failure] = std::from_chars(digits.data(), end, port);
  if (failure != std::errc{} || stop != end || port == 0) {
    refuse("The port must be a number from 1 to 65535.");
  }
  return port;
}

void check_path(std::string_view path) {
  static constexpr std::string_view kSubDelimitersAndMore = "/!$&'()*+,;=:@";
  for (std::size_t i = 0; i < path.size(); ++i) {
    if (path[i] == '%') {
      if (path.size() - i < 3 || !is_hex(path[i + 1]) || !is_hex(path[i + 2])) {
        refuse("A percent sign in the path is not followed by two hexadecimal digits.");
      }
    } else if (!is_unreserved(path[i]) &&
               kSubDelimitersAndMore.find(path[i]) == std::string_view::npos) {
      refuse("The path holds a character that must be percent-encoded.");
    }
  }
}

}  // namespace

std::string encode_path(std::string_view raw) { return encode(raw, true); }

std::string encode_query_component(std::string_view raw) { return encode(raw, false); }

std::string Url::host_header() const {
  if (!port || *port == (scheme == "https" ? 443 : 80)) {
    return host;
  }
  return host + ":" + std::to_string(*port);
}

Url parse_url(std::string_view text) {
  if (std::any_of(text.begin(), text.end(), is_control)) {
    refuse("It holds a control character.");
  }
  if (text.find('#') != std::string_view::npos) {
    refuse("It has a fragment (#).");
  }
  if (text.find('?') != std::string_view::npos) {
    refuse("It has a query (?).");
  }

  Url url;
  const std::size_t scheme_end = text.find("://");
  url.scheme = scheme_end == std::string_view::npos ? "" : to_lower(text.substr(0, scheme_end));
  if (url.scheme != "http" && url.scheme != "https") {
    refuse("It does not start with http:// or https://.");
  }
  text.remove_prefix(scheme_end + 3);

  const std::size_t authority_end = std::min(text.find('/'), text.size());
  std::string_view authority = text.substr(0, authority_end);
  url.path = text.substr(authority_end);
  if (authority.find('@') != std::string_view::npos) {
    refuse("It holds a user name or a password (@).");
  }

  std::size_t host_end = 0;
  if (!authority.empty() && authority.front() == '[') {
    const std::size_t bracket = authority.find(']');
    if (bracket == std::string_view::npos) {
      refuse("A bracket is not closed.");
    }
    check_ipv6(authority.substr(1, bracket - 1));
    host_end = bracket + 1;
  } else {
    host_end = std::min(authority.find(':'), authority.size());
    check_name(authority.substr(0, host_end));
  }
  url.host = to_lower(authority.substr(0, host_end));

  authority.remove_prefix(host_end);
  if (!authority.empty()) {
    if (authority.front() != ':') {
      refuse("After the bracket there may be a port or a path only.");
    }
    url.port = parse_port(authority.substr(1));
  }
  check_path(url.path);
  return url;
}

}  // namespace core
