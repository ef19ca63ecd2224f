// The blob store of type file: a directory of the database server's own, or one mounted there.
#pragma once

#include <memory>

#include "providers/blob_store.hpp"

namespace providers {

std::unique_ptr<BlobStore> open_file_store(const net::Service& service);

}  // namespace providers
