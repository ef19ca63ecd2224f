// What may be declared in a server of our wrappers and in its user mappings: one table of options
// (service_options.cpp), and the rules that connect them. Knows nothing of catalogs, and no message
// made here repeats a value: it could be a secret that was put in the wrong place.
#pragma once

#include "net/service.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace net {

struct KindNames {
  const char* wrapper;
  const char* builtin_server;  // which CREATE EXTENSION makes, with the type below and nothing else
  const char* builtin_type;
  const char* noun;
  const char* setting;  // which names the default server
};

const KindNames& names_of(ServiceKind kind);

using Options = std::map<std::string, std::string>;

// The complete list of a server's options. `superuser`: whether a superuser declares them. Errors:
// HV00D unknown or misplaced option, HV002 a required one is missing, 22023 an invalid value, 42501
// an option that is the superuser's alone.
void check_server_options(ServiceKind kind, const Options& options, bool superuser);
// The same for a user mapping. It holds for every type of the kind: a validator is not told the
// server.
void check_mapping_options(ServiceKind kind, const Options& options, bool superuser);

// For a name as `secret_access_key_file`: the secret that the file holds. Otherwise nothing.
std::optional<std::string> secret_in_file(const std::string& option);

// How providers read what the table has checked. An option that was not declared: `otherwise`.
std::int64_t number_option(const Service& service, const std::string& name, std::int64_t otherwise);
std::uint64_t size_option(const Service& service, const std::string& name,
                          std::uint64_t otherwise);                 // in bytes
bool flag_option(const Service& service, const std::string& name);  // 'true', or not

}  // namespace net
