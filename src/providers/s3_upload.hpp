// An object on its way to S3: one PUT where it is small, else a multipart upload whose parts are
// sent side by side, straight from the file.
#pragma once

#include "net/http_client.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/part_plan.hpp"
#include "providers/blob_store.hpp"
#include "providers/s3_connection.hpp"

namespace providers {

class S3Upload : public Upload {
 public:
  S3Upload(std::shared_ptr<const S3Connection> connection, std::string name, int fd);
  // Aborts an upload that is not finished, within a few seconds, whatever the store does.
  ~S3Upload() override;

  void advance(std::uint64_t bytes) override;
  void finish(std::uint64_t bytes) override;
  void keep() override { finished_ = true; }

  // The whole content, instead of a file.
  void put(std::string content);

 private:
  using Id = net::HttpClient::Id;

  core::NameValues object_headers() const;
  S3Request request(const char* method, core::NameValues query = {}) const;
  static S3Request bucket_request(const char* method, core::NameValues query);
  [[noreturn]] void fail(const net::HttpReply& reply) const;
  void put_whole(S3Request put, std::uint64_t bytes);
  void begin();
  void take_begun();
  void start_parts(std::uint64_t bytes, bool complete);
  void start_part(const core::Part& part);
  void take_parts();
  std::string hash(std::uint64_t offset, std::uint64_t length);
  void complete(std::uint64_t bytes);
  bool arrived(std::uint64_t bytes);
  void verify(std::uint64_t bytes);
  void abort() noexcept;
  void clean_up(bool cut_off);
  static void abort_all(int code, Datum argument) noexcept;

  std::shared_ptr<const S3Connection> connection_;
  std::string name_;
  std::string key_;
  int fd_;
  std::string token_;  // goes with the object, so that it can be told from others of its name
  core::PartPlan plan_;
  std::optional<Id> beginning_;
  std::string upload_id_;
  std::map<Id, unsigned> sending_;         // the part of each call
  std::map<unsigned, std::string> etags_;  // of the parts that are there
  bool may_be_there_ = false;              // the object may have come into being
  bool finished_ = false;
  bool begun_again_ = false;  // the store may hold an upload whose id was lost
  S3Upload* next_ = nullptr;  // among those that are open
  // Last: its calls refer to the rest.
  net::HttpClient client_;
};

}  // namespace providers
