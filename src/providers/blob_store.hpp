// Where artifacts are kept outside the database server: one small interface, a file for each
// implementation (s3.cpp, file_store.cpp), and the list of them in blob_store.cpp.
//
// Names of objects are relative to the store's prefix, without leading slash:
// "app/dr_export_….ndjson". Errors are core::Error: they say what was asked of which object, the
// store's code, message and request id, and never a secret. All waiting notices cancels within a
// second.
#pragma once

#include "net/http_observer.hpp"
#include "net/service.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace providers {

struct ObjectInfo {
  std::string name;
  std::uint64_t bytes = 0;
};

// An object on its way into the store, read from a file that may still grow. One that is destroyed
// before finish() has returned is aborted: nothing of it stays in the store.
class Upload {
 public:
  Upload() = default;
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;
  virtual ~Upload() = default;

  // The file's first `bytes` bytes are final: what makes up whole parts may be sent. Moves
  // transfers on without ever waiting for the network.
  virtual void advance(std::uint64_t bytes) = 0;
  // The file is complete with `bytes` bytes: sends the rest, waits for the store's word that it has
  // all of it, and checks it.
  virtual void finish(std::uint64_t bytes) = 0;
  // The object is to stay: until then, one that is destroyed is removed again.
  virtual void keep() {}
};

class BlobStore {
 public:
  BlobStore() = default;
  BlobStore(const BlobStore&) = delete;
  BlobStore& operator=(const BlobStore&) = delete;
  virtual ~BlobStore() = default;

  // Where the object lies, for people: s3://bucket/prefix/name, file:///directory/name.
  virtual std::string url(const std::string& name) const = 0;
  // `fd`: open for reading, at least as long as the result. Nothing is sent before advance() or
  // finish().
  virtual std::unique_ptr<Upload> upload(const std::string& name, int fd) = 0;
  // A small object, in one piece. Replaces what has that name.
  virtual void put(const std::string& name, std::string_view content) = 0;
  // Hands the object on in pieces, in order, each once: a transfer that breaks off is resumed where
  // it stopped. An object that is not there: 58P01.
  virtual void get(const std::string& name, const std::function<void(std::string_view)>& sink) = 0;
  // Nothing where there is no such object.
  virtual std::optional<ObjectInfo> find(const std::string& name) = 0;
  // The objects whose names begin with `prefix`, by name.
  virtual std::vector<ObjectInfo> list(const std::string& prefix) = 0;
  // An object that is not there is no error.
  virtual void remove(const std::string& name) = 0;
};

// `request_id` is sent along as X-Request-ID. `observer` outlives the store.
std::unique_ptr<BlobStore> open_blob_store(const net::Service& service,
                                           const std::string& request_id,
                                           net::HttpObserver& observer);

}  // namespace providers
