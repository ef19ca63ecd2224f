// The blob store of type s3: AWS, and whatever speaks its language.
#pragma once

#include <memory>
#include <string>

#include "providers/blob_store.hpp"

namespace providers {

std::unique_ptr<BlobStore> open_s3(const net::Service& service, const std::string& request_id,
                                   net::HttpObserver& observer);

}  // namespace providers
