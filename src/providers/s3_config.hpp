// What a server of type s3 declares, read once: where the bucket is, how to address it, how to cut
// and encrypt objects, and the credentials.
#pragma once

#include "net/service.hpp"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "core/sigv4.hpp"
#include "core/uri.hpp"

namespace providers {

struct S3Config {
  std::string service;  // the server's name, for messages
  std::string bucket;
  std::string prefix;  // '' or with a slash at its end
  std::string region;
  core::Url endpoint;  // its path without a slash at the end
  bool virtual_hosts = false;
  std::string storage_class;
  std::string encryption;
  std::string kms_key_id;
  std::uint64_t part_size = 0;
  unsigned parallel = 0;
  std::string ca_file;
  std::optional<int> max_retries;
  std::optional<std::chrono::seconds> timeout;
  core::SigV4Credentials credentials;

  // What the Host header says, and the URL's path, encoded. `key`: '' means the bucket itself.
  std::string host() const;
  std::string path(const std::string& key) const;
};

// Errors: 22023 for options that cannot work, 28000 where there are no credentials.
S3Config read_s3_config(const net::Service& service);

}  // namespace providers
