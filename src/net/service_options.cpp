#include "pg/postgres.hpp"

#include "net/service_options.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "core/option_value.hpp"

namespace net {
namespace {

// Of foreign data, by their names in the Postgres manual.
constexpr const char* kInvalidOptionName = "HV00D";  // fdw_invalid_option_name
constexpr const char* kOptionNeeded = "HV002";       // fdw_dynamic_parameter_value_needed

// --- the table --------------------------------------------------------------------------------

// `kSuperuser`: becomes part of a URL or of a path that the server opens, or weakens a connection.
enum Flags : unsigned { kAnybody = 0, kSuperuser = 1, kRequired = 2, kUrl = 4 };

struct OptionRow {
  ServiceKind kind;
  const char* type;  // '' in user mappings: theirs hold for every type
  const char* name;
  unsigned flags;
  bool (*good)(std::string_view);
  const char* expected;  // a sentence
};

constexpr ServiceKind kEmbedder = ServiceKind::kEmbedder;
constexpr ServiceKind kVectors = ServiceKind::kVectorStore;
constexpr ServiceKind kBlobs = ServiceKind::kBlobStore;

constexpr const char* kUrlExpected =
    "Expected a URL such as 'https://host.example:443/path', without user, query or fragment.";
constexpr const char* kOriginExpected =
    "Expected a URL such as 'https://host.example:443', without user, path, query or fragment.";
constexpr const char* kFlagExpected = "Expected 'true' or 'false'.";
constexpr const char* kPathExpected = "Expected an absolute path without \".\" and \"..\".";
constexpr const char* kRetriesExpected = "Expected a whole number from 0 to 100.";
constexpr const char* kTimeoutExpected = "Expected seconds, a whole number from 1 to 3600.";
constexpr const char* kDimensionsExpected = "Expected a whole number from 1 to 20000.";
constexpr const char* kRateExpected = "Expected a whole number from 1 to 1000000000.";
constexpr const char* kSecretExpected =
    "Expected printable ASCII characters without spaces, 16384 at the most.";

constexpr OptionRow kServerOptions[] = {
    {kBlobs, "s3", "bucket", kSuperuser | kRequired, core::is_bucket,
     "Expected 3 to 222 letters, digits, dots, hyphens and underscores, the first and the last a "
     "letter or a digit, and no two dots in a row."},
    {kBlobs, "s3", "prefix", kSuperuser, core::is_prefix,
     "Expected names of letters, digits and !-_.*() with single slashes between them."},
    {kBlobs, "s3", "region", kSuperuser, core::is_region,
     "Expected letters, digits, hyphens and underscores, such as 'eu-west-3'."},
    {kBlobs, "s3", "endpoint", kSuperuser | kUrl, core::is_url, kUrlExpected},
    {kBlobs, "s3", "addressing", kAnybody, core::is_addressing, "Expected 'path' or 'virtual'."},
    {kBlobs, "s3", "storage_class", kAnybody, core::is_storage_class,
     "Expected letters, digits, hyphens and underscores, such as 'STANDARD_IA'."},
    {kBlobs, "s3", "server_side_encryption", kAnybody, core::is_encryption,
     "Expected 'AES256' or 'aws:kms'."},
    {kBlobs, "s3", "kms_key_id", kAnybody, core::is_kms_key,
     "Expected the id, ARN or alias of a key: letters, digits and :/_- only."},
    {kBlobs, "s3", "part_size", kAnybody, core::is_part_size,
     "Expected a whole number with a unit (kB, MB, GB), from '5MB' to '5GB'."},
    {kBlobs, "s3", "parallel", kAnybody, core::is_number<1, 16>,
     "Expected a whole number from 1 to 16."},
    {kBlobs, "s3", "allow_http", kSuperuser, core::is_flag, kFlagExpected},
    {kBlobs, "s3", "ca_file", kSuperuser, core::is_plain_path, kPathExpected},
    {kBlobs, "s3", "timeout", kAnybody, core::is_number<1, 3600>, kTimeoutExpected},
    {kBlobs, "s3", "max_retries", kAnybody, core::is_number<0, 100>, kRetriesExpected},

    {kBlobs, "file", "directory", kSuperuser, core::is_plain_path, kPathExpected},

    {kEmbedder, "openai", "base_url", kSuperuser | kRequired | kUrl, core::is_url, kUrlExpected},
    {kEmbedder, "openai", "model", kAnybody, core::is_model,
     "Expected up to 200 letters, digits and ._:/@+- characters."},
    {kEmbedder, "openai", "dimensions", kAnybody, core::is_number<1, 20000>, kDimensionsExpected},
    {kEmbedder, "openai", "max_inputs", kAnybody, core::is_number<1, 2048>,
     "Expected inputs a request, a whole number from 1 to 2048."},
    {kEmbedder, "openai", "max_tokens", kAnybody, core::is_number<1, 10'000'000>,
     "Expected tokens a request, a whole number from 1 to 10000000."},
    // Sent as a query parameter, so it is part of the URL.
    {kEmbedder, "openai", "api_version", kSuperuser, core::is_version,
     "Expected letters, digits, dots and hyphens, such as '2024-10-21'."},
    {kEmbedder, "openai", "auth_header", kAnybody, core::is_auth_header,
     "Expected 'bearer' or 'api-key'."},
    {kEmbedder, "openai", "requests_per_minute", kAnybody, core::is_number<1, 1'000'000'000>,
     kRateExpected},
    {kEmbedder, "openai", "tokens_per_minute", kAnybody, core::is_number<1, 1'000'000'000>,
     kRateExpected},
    {kEmbedder, "openai", "price_per_million_tokens", kAnybody, core::is_price,
     "Expected a number such as '0.02', in the currency of bacmr.reindex_cost_limit."},
    {kEmbedder, "openai", "allow_http", kSuperuser, core::is_flag, kFlagExpected},
    {kEmbedder, "openai", "ca_file", kSuperuser, core::is_plain_path, kPathExpected},
    {kEmbedder, "openai", "timeout", kAnybody, core::is_number<1, 3600>, kTimeoutExpected},
    {kEmbedder, "openai", "max_retries", kAnybody, core::is_number<0, 100>, kRetriesExpected},

    {kEmbedder, "local", "dimensions", kAnybody, core::is_number<1, 20000>, kDimensionsExpected},

    {kVectors, "pinecone", "host", kSuperuser | kRequired | kUrl, core::is_origin, kOriginExpected},
    {kVectors, "pinecone", "dimension", kAnybody, core::is_number<1, 20000>, kDimensionsExpected},
    {kVectors, "pinecone", "requests_per_minute", kAnybody, core::is_number<1, 1'000'000'000>,
     kRateExpected},
    {kVectors, "pinecone", "allow_http", kSuperuser, core::is_flag, kFlagExpected},
    {kVectors, "pinecone", "ca_file", kSuperuser, core::is_plain_path, kPathExpected},
    {kVectors, "pinecone", "timeout", kAnybody, core::is_number<1, 3600>, kTimeoutExpected},
    {kVectors, "pinecone", "max_retries", kAnybody, core::is_number<0, 100>, kRetriesExpected},
};

constexpr OptionRow kMappingOptions[] = {
    {kBlobs, "", "access_key_id", kAnybody, core::is_secret, kSecretExpected},
    {kBlobs, "", "secret_access_key", kAnybody, core::is_secret, kSecretExpected},
    {kBlobs, "", "secret_access_key_file", kSuperuser, core::is_plain_path, kPathExpected},
    {kBlobs, "", "session_token", kAnybody, core::is_secret, kSecretExpected},
    {kEmbedder, "", "api_key", kAnybody, core::is_secret, kSecretExpected},
    {kEmbedder, "", "api_key_file", kSuperuser, core::is_plain_path, kPathExpected},
    {kVectors, "", "api_key", kAnybody, core::is_secret, kSecretExpected},
    {kVectors, "", "api_key_file", kSuperuser, core::is_plain_path, kPathExpected},
};

struct TypeRow {
  ServiceKind kind;
  const char* name;
};

// postgres has no row above: it takes nothing but its type.
constexpr TypeRow kTypes[] = {{kBlobs, "s3"},       {kBlobs, "file"},       {kEmbedder, "openai"},
                              {kEmbedder, "local"}, {kVectors, "pinecone"}, {kVectors, "postgres"}};

using Names = std::vector<std::string>;

Names types_of(ServiceKind kind) {
  Names types;
  for (const TypeRow& row : kTypes) {
    if (row.kind == kind) {
      types.emplace_back(row.name);
    }
  }
  return types;
}

Names server_options_of(ServiceKind kind, const std::string& type) {
  Names names = {"type"};
  for (const OptionRow& row : kServerOptions) {
    if (row.kind == kind && type == row.type) {
      names.emplace_back(row.name);
    }
  }
  return names;
}

Names mapping_options_of(ServiceKind kind) {
  Names names;
  for (const OptionRow& row : kMappingOptions) {
    if (row.kind == kind) {
      names.emplace_back(row.name);
    }
  }
  return names;
}

const OptionRow* find_server_option(ServiceKind kind, const std::string& type,
                                    const std::string& name) {
  for (const OptionRow& row : kServerOptions) {
    if (row.kind == kind && type == row.type && name == row.name) {
      return &row;
    }
  }
  return nullptr;
}

const OptionRow* find_mapping_option(ServiceKind kind, const std::string& name) {
  for (const OptionRow& row : kMappingOptions) {
    if (row.kind == kind && name == row.name) {
      return &row;
    }
  }
  return nullptr;
}

// --- messages ---------------------------------------------------------------------------------

// Levenshtein, Soviet Physics Doklady 10, 1966: insertions, deletions and replacements.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

// 0 where one is part of the other: `retries` means `max_retries`.
std::size_t unlikeness(const std::string& wanted, const std::string& name) {
  constexpr std::size_t kShortest = 3;
  const bool part = wanted.size() >= kShortest && (name.find(wanted) != std::string::npos ||
                                                   wanted.find(name) != std::string::npos);
  return part ? 0 : edit_distance(wanted, name);
}

// "a, b, c", the one that is most like `wanted` first.
std::string listed(Names names, const std::string& wanted) {
  constexpr std::size_t kLongest = 64;  // the comparison takes the product of both lengths
  if (!names.empty() && wanted.size() <= kLongest) {
    const auto closest =
        std::min_element(names.begin(), names.end(), [&](const auto& a, const auto& b) {
          return unlikeness(wanted, a) < unlikeness(wanted, b);
        });
    std::rotate(names.begin(), closest, closest + 1);
  }
  std::string list;
  for (const std::string& name : names) {
    list += (list.empty() ? "" : ", ") + name;
  }
  return list;
}

std::string quoted(const std::string& name) { return "\"" + name + "\""; }

[[noreturn]] void refuse(const char* sqlstate, const std::string& message,
                         const std::string& hint) {
  throw core::Error(sqlstate, message, {}, hint);
}

void check_value(const OptionRow& row, const std::string& value) {
  if (!row.good(value)) {
    refuse(core::sqlstate::kInvalidParameterValue,
           std::string("invalid value for option \"") + row.name + "\"", row.expected);
  }
}

void check_rights(const OptionRow& row, bool superuser) {
  if ((row.flags & kSuperuser) != 0 && !superuser) {
    refuse(core::sqlstate::kInsufficientPrivilege,
           std::string("permission denied to declare option \"") + row.name + "\"",
           "Only superusers may declare what becomes part of a URL or a path, or alter a server or "
           "user mapping that has such an option.");
  }
}

// --- rules that connect options ---------------------------------------------------------------

void check_encryption_of(const Options& options) {
  const auto encryption = options.find("server_side_encryption");
  const bool kms = encryption != options.end() && encryption->second == "aws:kms";
  if (options.count("kms_key_id") != 0 && !kms) {
    refuse(core::sqlstate::kInvalidParameterValue,
           "option \"kms_key_id\" needs server_side_encryption 'aws:kms'",
           "Declare both, or leave out \"kms_key_id\".");
  }
}

void check_transport(const OptionRow& row, const std::string& value, const Options& options) {
  const auto url = core::parse_option_url(value);
  const auto allowed = options.find("allow_http");
  if (url && !url->https && !core::is_loopback(url->host) &&
      (allowed == options.end() || allowed->second != "true")) {
    refuse(core::sqlstate::kInvalidParameterValue,
           std::string("option \"") + row.name + "\" must be an https URL",
           "Without TLS, data and secrets could be read on the way. Plain http is for loopback "
           "addresses, and for those who declare allow_http 'true'.");
  }
}

void check_addressing_of(const Options& options) {
  const auto addressing = options.find("addressing");
  const auto endpoint = options.find("endpoint");
  if (addressing == options.end() || endpoint == options.end() || addressing->second == "path") {
    return;
  }
  const auto url = core::parse_option_url(endpoint->second);
  if (url && (core::is_ipv4(url->host) || url->host.front() == '[')) {
    refuse(core::sqlstate::kInvalidParameterValue,
           "option \"addressing\" cannot be 'virtual' where the endpoint is an IP address",
           "Use addressing 'path': the bucket's name cannot be put before an address.");
  }
}

// Type, once it is known to be good.
std::string type_among(ServiceKind kind, const Options& options) {
  const Names types = types_of(kind);
  const auto type = options.find("type");
  if (type == options.end()) {
    refuse(kOptionNeeded, "option \"type\" is required",
           "Put it into OPTIONS (type '…'). Types of wrapper " + quoted(names_of(kind).wrapper) +
               ": " + listed(types, names_of(kind).builtin_type) + ".");
  }
  if (std::find(types.begin(), types.end(), type->second) == types.end()) {
    refuse(core::sqlstate::kInvalidParameterValue, "invalid value for option \"type\"",
           "Types of wrapper " + quoted(names_of(kind).wrapper) + ": " +
               listed(types, type->second) + ".");
  }
  return type->second;
}

}  // namespace

const KindNames& names_of(ServiceKind kind) {
  static constexpr KindNames kNames[] = {
      {"bacmr_embedder", "bacmr_local", "local", "embedder", "bacmr.embedder"},
      {"bacmr_vector_store", "bacmr_postgres", "postgres", "vector store", "bacmr.vector_store"},
      {"bacmr_blob_store", "bacmr_artifacts", "file", "blob store", "bacmr.blob_store"}};
  return kNames[static_cast<std::size_t>(kind)];
}

std::optional<std::string> secret_in_file(const std::string& option) {
  constexpr std::string_view kSuffix = "_file";
  if (option.size() > kSuffix.size() && std::string_view(option).ends_with(kSuffix)) {
    return option.substr(0, option.size() - kSuffix.size());
  }
  return std::nullopt;
}

void check_server_options(ServiceKind kind, const Options& options, bool superuser) {
  // First of all: whatever else is wrong, this one is urgent.
  for (const auto& [name, value] : options) {
    if (find_mapping_option(kind, name) != nullptr) {
      refuse(kInvalidOptionName, "option " + quoted(name) + " is not for servers",
             "Every user of the database can read a server's options. Put it into the USER "
             "MAPPING: CREATE USER MAPPING FOR CURRENT_USER SERVER … OPTIONS (" +
                 name + " '…').");
    }
  }
  const std::string type = type_among(kind, options);
  for (const auto& [name, value] : options) {
    if (name != "type" && find_server_option(kind, type, name) == nullptr) {
      const Names names = server_options_of(kind, type);
      refuse(kInvalidOptionName, "invalid option " + quoted(name) + " for type " + quoted(type),
             "Options of this type: " + listed(names, name) + ".");
    }
  }
  for (const auto& [name, value] : options) {
    if (const OptionRow* row = find_server_option(kind, type, name)) {
      check_rights(*row, superuser);
    }
  }
  for (const OptionRow& row : kServerOptions) {
    if (row.kind != kind || type != row.type) {
      continue;
    }
    const auto declared = options.find(row.name);
    if (declared != options.end()) {
      check_value(row, declared->second);
      if ((row.flags & kUrl) != 0) {
        check_transport(row, declared->second, options);
      }
    } else if ((row.flags & kRequired) != 0) {
      refuse(kOptionNeeded,
             std::string("option \"") + row.name + "\" is required for type " + quoted(type),
             row.expected);
    }
  }
  check_encryption_of(options);
  check_addressing_of(options);
}

void check_mapping_options(ServiceKind kind, const Options& options, bool superuser) {
  for (const auto& [name, value] : options) {
    if (find_mapping_option(kind, name) != nullptr) {
      continue;
    }
    for (const OptionRow& row : kServerOptions) {
      if (row.kind == kind && name == row.name) {
        refuse(kInvalidOptionName, "option " + quoted(name) + " is not for user mappings",
               "Put it into the SERVER's options. Options of a user mapping: " +
                   listed(mapping_options_of(kind), name) + ".");
      }
    }
    refuse(kInvalidOptionName, "invalid option " + quoted(name) + " for a user mapping",
           "Options of a user mapping: " + listed(mapping_options_of(kind), name) + ".");
  }
  for (const auto& [name, value] : options) {
    const OptionRow& row = *find_mapping_option(kind, name);
    check_rights(row, superuser);
    check_value(row, value);
    const auto secret = secret_in_file(name);
    if (secret && options.count(*secret) != 0) {
      refuse(core::sqlstate::kInvalidParameterValue,
             "options " + quoted(*secret) + " and " + quoted(name) + " exclude each other",
             "Leave out one of them.");
    }
  }
  const bool id = options.count("access_key_id") != 0;
  const bool key =
      options.count("secret_access_key") != 0 || options.count("secret_access_key_file") != 0;
  if (id != key || (!id && options.count("session_token") != 0)) {
    refuse(kOptionNeeded,
           id ? "option \"access_key_id\" needs a secret access key"
              : "option \"access_key_id\" is required beside the other credentials",
           "Declare access_key_id with secret_access_key or secret_access_key_file, and "
           "session_token where the credentials are temporary.");
  }
}

std::int64_t number_option(const Service& service, const std::string& name,
                           std::int64_t otherwise) {
  const auto number = core::parse_number(service.option(name));
  return number ? static_cast<std::int64_t>(*number) : otherwise;
}

std::uint64_t size_option(const Service& service, const std::string& name,
                          std::uint64_t otherwise) {
  return core::parse_size(service.option(name)).value_or(otherwise);
}

bool flag_option(const Service& service, const std::string& name) {
  return service.option(name) == "true";
}

}  // namespace net
