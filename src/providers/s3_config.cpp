#include "pg/postgres.hpp"

#include "providers/s3_config.hpp"

#include <algorithm>
#include <string_view>

#include "core/error.hpp"
#include "core/option_value.hpp"
#include "core/part_plan.hpp"
#include "net/service_options.hpp"

namespace providers {
namespace {

constexpr std::uint64_t kDefaultPart = std::uint64_t{8} << 20;
constexpr std::int64_t kDefaultParallel = 4;
constexpr std::int64_t kMaxParallel = 16;

std::string aws_endpoint(const std::string& region) {
  return "https://s3." + region +
         (region.starts_with("cn-") ? ".amazonaws.com.cn" : ".amazonaws.com");
}

bool is_address(std::string_view host) {
  return host.starts_with('[') || host.find_first_not_of("0123456789.") == std::string_view::npos;
}

// The validator has checked all this; what was declared before an update, or restored, may differ.
void check(const S3Config& config, const net::Service& service) {
  const auto refuse = [&](const std::string& what, const std::string& hint) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "the blob store \"" + config.service + "\" " + what, {}, hint);
  };
  if (config.bucket.empty() || config.bucket.find_first_of("/?#@:\\ ") != std::string::npos) {
    refuse("names no bucket that can be used", "Set its option bucket.");
  }
  if (config.endpoint.scheme != "https" && !net::flag_option(service, "allow_http") &&
      !core::is_loopback(config.endpoint.host)) {
    refuse("would be reached without encryption",
           "Give an https endpoint, or set its option allow_http to 'true'.");
  }
}

core::SigV4Credentials read_credentials(const net::Service& service) {
  const auto secret = [&](const char* name) {
    const auto found = service.secrets.find(name);
    return found == service.secrets.end() ? std::string() : found->second;
  };
  core::SigV4Credentials credentials{secret("access_key_id"), secret("secret_access_key"),
                                     secret("session_token")};
  if (credentials.access_key.empty() || credentials.secret_key.empty()) {
    throw core::Error("28000",
                      "there are no credentials for the blob store \"" + service.name + "\"", {},
                      "CREATE USER MAPPING FOR CURRENT_USER SERVER … OPTIONS (access_key_id '…', "
                      "secret_access_key_file '…').");
  }
  return credentials;
}

}  // namespace

S3Config read_s3_config(const net::Service& service) {
  S3Config config;
  config.service = service.name;
  config.bucket = service.option("bucket");
  config.prefix = service.option("prefix");
  if (!config.prefix.empty() && !config.prefix.ends_with('/')) {
    config.prefix += '/';
  }
  config.region = service.option("region", "us-east-1");
  std::string endpoint = service.option("endpoint");
  const bool at_aws = endpoint.empty();
  if (at_aws) {
    endpoint = aws_endpoint(config.region);
  }
  config.endpoint = core::parse_url(endpoint);
  while (config.endpoint.path.ends_with('/')) {
    config.endpoint.path.pop_back();
  }
  // A certificate for *.s3.… does not cover a bucket with dots, and an address has no subdomains.
  const bool dotted = config.bucket.find('.') != std::string::npos;
  const std::string addressing =
      service.option("addressing", at_aws && !dotted ? "virtual" : "path");
  config.virtual_hosts = addressing == "virtual" && !is_address(config.endpoint.host);
  config.storage_class = service.option("storage_class");
  config.encryption = service.option("server_side_encryption");
  config.kms_key_id = service.option("kms_key_id");
  config.part_size = std::clamp(net::size_option(service, "part_size", kDefaultPart),
                                core::PartPlan::kSmallestPart, core::PartPlan::kLargestPart);
  config.parallel = static_cast<unsigned>(std::clamp<std::int64_t>(
      net::number_option(service, "parallel", kDefaultParallel), 1, kMaxParallel));
  config.ca_file = service.option("ca_file");
  if (service.has("max_retries")) {
    config.max_retries = static_cast<int>(
        std::clamp<std::int64_t>(net::number_option(service, "max_retries", 0), 0, 100));
  }
  if (service.has("timeout")) {
    config.timeout = std::chrono::seconds(
        std::clamp<std::int64_t>(net::number_option(service, "timeout", 60), 1, 3600));
  }
  check(config, service);
  config.credentials = read_credentials(service);
  return config;
}

std::string S3Config::host() const {
  return (virtual_hosts ? bucket + "." : std::string()) + endpoint.host_header();
}

std::string S3Config::path(const std::string& key) const {
  std::string result = endpoint.path + "/";
  if (!virtual_hosts) {
    result += bucket;
    if (!key.empty()) {
      result += "/";
    }
  }
  return result + core::encode_path(key);
}

}  // namespace providers
