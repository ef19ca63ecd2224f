// Where external systems and their secrets are declared: foreign servers of the wrappers
// bacmr_embedder, bacmr_vector_store and bacmr_blob_store, with the user mapping of the current
// user, else PUBLIC's.
#pragma once

#include "pg/postgres.hpp"

#include <map>
#include <string>

namespace net {

enum class ServiceKind { kEmbedder, kVectorStore, kBlobStore };

struct Service {
  std::string name;  // of the server
  Oid server = InvalidOid;
  std::string type;                            // 's3', 'file', 'openai', …
  std::map<std::string, std::string> options;  // of the server, as declared
  // Of the user mapping: api_key, access_key_id, secret_access_key, session_token. What a `_file`
  // option names has been read and stands under the plain name. Never to be written anywhere.
  std::map<std::string, std::string> secrets;

  bool has(const std::string& option) const { return options.count(option) != 0; }
  // The option, or `otherwise`.
  std::string option(const std::string& name, const std::string& otherwise = {}) const;
};

// The server of that name; needs USAGE on it. Errors: 42704 where there is none, 42809 where it is
// of another wrapper, 42501 without USAGE.
Service load_service(ServiceKind kind, const std::string& name);

// The type of a server of one of the wrappers; '' where there is no such server. Asks for no right.
std::string service_type(const std::string& name);

// What the setting (bacmr.blob_store, …) names; where it names nothing, the built-in server. Where
// a user has declared a server of that kind, that is not taken silently: 55000, which asks which.
std::string default_service(ServiceKind kind);

}  // namespace net
