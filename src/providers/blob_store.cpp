#include "pg/postgres.hpp"

#include "providers/blob_store.hpp"

#include "core/error.hpp"
#include "providers/file_store.hpp"
#include "providers/s3.hpp"

namespace providers {

std::unique_ptr<BlobStore> open_blob_store(const net::Service& service,
                                           const std::string& request_id,
                                           net::HttpObserver& observer) {
  if (service.type == "s3") {
    return open_s3(service, request_id, observer);
  }
  if (service.type == "file") {
    return open_file_store(service);
  }
  throw core::Error(
      core::sqlstate::kInvalidParameterValue,
      "the blob store \"" + service.name + "\" has the unknown type \"" + service.type + "\"", {},
      "Types of blob stores: s3, file.");
}

}  // namespace providers
