#include "pg/postgres.hpp"

#include "providers/s3_upload.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "core/sha256.hpp"
#include "pg/guard.hpp"

extern "C" {
#include "storage/ipc.h"
}

namespace providers {
namespace {

using std::chrono::milliseconds;

constexpr const char* kTokenHeader = "x-amz-meta-bacmr-upload";
constexpr std::size_t kHashPiece = std::size_t{1} << 20;
// A store puts the parts of a large object together before it answers.
constexpr std::chrono::seconds kCompleteTimeout{300};
// For all that cleaning up asks of the store; where it has not answered at all so far, little.
constexpr milliseconds kAbortLimit{4'000};
constexpr milliseconds kSilentLimit{800};

S3Upload* open_uploads = nullptr;
bool abort_at_exit = false;

std::string random_token() {
  std::array<unsigned char, 16> bytes{};
  if (!pg_strong_random(bytes.data(), bytes.size())) {
    throw core::Error(core::sqlstate::kInternalError, "could not generate random bytes");
  }
  return core::to_hex(bytes.data(), bytes.size());
}

std::string xml_escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

// The only attempt has been answered by a plain no: nothing came of it.
bool refused_at_once(const net::HttpReply& reply) {
  return !reply.ok && reply.attempts <= 1 && reply.failure == net::HttpReply::Failure::kNone &&
         reply.status >= 300 && reply.status < 500;
}

// A Complete may answer 200 and hold an error, or nothing that can be read.
net::Verdict judge_complete(const net::HttpReply& reply) {
  const net::Verdict verdict = judge_s3(reply);
  if (verdict != net::Verdict::kDone) {
    return verdict;
  }
  const auto parsed = core::read_s3_reply(reply.body);
  if (parsed && std::holds_alternative<core::S3UploadCompleted>(*parsed)) {
    return net::Verdict::kDone;
  }
  net::HttpReply as_error = reply;
  as_error.status = 400;  // so that its code decides
  return parsed ? judge_s3(as_error) : net::Verdict::kFault;
}

}  // namespace

S3Upload::S3Upload(std::shared_ptr<const S3Connection> connection, std::string name, int fd)
    : connection_(std::move(connection)),
      name_(std::move(name)),
      key_(connection_->key(name_)),
      fd_(fd),
      token_(random_token()),
      plan_(connection_->config().part_size),
      client_(connection_->make_client()) {
  if (!abort_at_exit) {
    // A session that is terminated ends without unwinding: this runs in its stead.
    pg::call([] { before_shmem_exit(abort_all, static_cast<Datum>(0)); });
    abort_at_exit = true;
  }
  next_ = std::exchange(open_uploads, this);
}

S3Upload::~S3Upload() {
  for (S3Upload** link = &open_uploads; *link != nullptr; link = &(*link)->next_) {
    if (*link == this) {
      *link = next_;
      break;
    }
  }
  abort();
}

void S3Upload::abort_all(int, Datum) noexcept {
  for (S3Upload* each = open_uploads; each != nullptr; each = each->next_) {
    each->abort();
  }
  open_uploads = nullptr;
}

core::NameValues S3Upload::object_headers() const {
  const S3Config& config = connection_->config();
  core::NameValues headers = {{"content-type", "application/octet-stream"}, {kTokenHeader, token_}};
  if (!config.storage_class.empty()) {
    headers.emplace_back("x-amz-storage-class", config.storage_class);
  }
  if (!config.encryption.empty()) {
    headers.emplace_back("x-amz-server-side-encryption", config.encryption);
  }
  if (!config.kms_key_id.empty()) {
    headers.emplace_back("x-amz-server-side-encryption-aws-kms-key-id", config.kms_key_id);
  }
  return headers;
}

S3Request S3Upload::request(const char* method, core::NameValues query) const {
  S3Request result;
  result.method = method;
  result.key = key_;
  result.query = std::move(query);
  return result;
}

S3Request S3Upload::bucket_request(const char* method, core::NameValues query) {
  S3Request result;
  result.method = method;
  result.query = std::move(query);
  return result;
}

void S3Upload::fail(const net::HttpReply& reply) const {
  connection_->fail("upload \"" + name_ + "\" to", reply);
}

void S3Upload::advance(std::uint64_t bytes) {
  if (bytes >= plan_.base() && upload_id_.empty() && !beginning_) {
    begin();
  }
  client_.pump();
  take_begun();
  start_parts(bytes, false);
}

void S3Upload::finish(std::uint64_t bytes) {
  if (upload_id_.empty() && !beginning_ && bytes < plan_.base()) {
    S3Request put = request("PUT");
    put.headers = object_headers();
    put.sha256 = hash(0, bytes);
    put.body = bytes > 0 ? net::HttpBody(net::FileRange{fd_, 0, bytes}) : net::HttpBody();
    put_whole(std::move(put), bytes);
    finished_ = false;
    return;
  }
  if (upload_id_.empty()) {
    if (!beginning_) {
      begin();
    }
    client_.wait(*beginning_);
    take_begun();
  }
  for (start_parts(bytes, true); !sending_.empty(); start_parts(bytes, true)) {
    client_.wait_any();
  }
  complete(bytes);
  verify(bytes);
  if (begun_again_) {
    const net::HttpReply reply = client_.perform(
        connection_->call(bucket_request("GET", {{"uploads", ""}, {"prefix", key_}})));
    const auto parsed = core::read_s3_reply(reply.body);
    if (const auto* list = parsed ? std::get_if<core::S3UploadList>(&*parsed) : nullptr) {
      for (const core::S3PendingUpload& each : list->uploads) {
        if (each.key == key_ && each.upload_id != upload_id_) {
          client_.perform(connection_->call(request("DELETE", {{"uploadId", each.upload_id}})));
        }
      }
    }
  }
  upload_id_.clear();
}

void S3Upload::put(std::string content) {
  S3Request put = request("PUT");
  put.headers = object_headers();
  const std::uint64_t bytes = content.size();
  put.set_body(std::move(content));
  put_whole(std::move(put), bytes);
}

void S3Upload::put_whole(S3Request put, std::uint64_t bytes) {
  may_be_there_ = true;
  const net::HttpReply reply = client_.perform(connection_->call(std::move(put)));
  if (!reply.ok) {
    may_be_there_ = !refused_at_once(reply);
    fail(reply);
  }
  verify(bytes);
  finished_ = true;
}

// --- the parts ---------------------------------------------------------------------------------

void S3Upload::begin() {
  S3Request initiate = request("POST", {{"uploads", ""}});
  initiate.headers = object_headers();
  beginning_ = client_.start(connection_->call(std::move(initiate)));
}

void S3Upload::take_begun() {
  if (!beginning_ || !client_.done(*beginning_)) {
    return;
  }
  const net::HttpReply reply = client_.take(*std::exchange(beginning_, std::nullopt));
  begun_again_ = reply.attempts > 1;
  if (!reply.ok) {
    fail(reply);
  }
  const auto parsed = core::read_s3_reply(reply.body);
  const auto* started = parsed ? std::get_if<core::S3UploadStarted>(&*parsed) : nullptr;
  if (started == nullptr) {
    throw core::Error(core::sqlstate::kIoError,
                      "the blob store \"" + connection_->config().service +
                          "\" does not answer as S3 does when an upload starts");
  }
  upload_id_ = started->upload_id;
}

void S3Upload::start_parts(std::uint64_t bytes, bool complete) {
  take_parts();
  while (!upload_id_.empty() && sending_.size() < connection_->config().parallel) {
    const auto part = plan_.next(bytes, complete);
    if (!part) {
      return;
    }
    start_part(*part);
    client_.pump();
  }
}

void S3Upload::start_part(const core::Part& part) {
  S3Request put =
      request("PUT", {{"partNumber", std::to_string(part.number)}, {"uploadId", upload_id_}});
  put.sha256 = hash(part.offset, part.length);
  put.body = net::FileRange{fd_, part.offset, part.length};
  sending_.emplace(client_.start(connection_->call(std::move(put))), part.number);
}

void S3Upload::take_parts() {
  for (auto each = sending_.begin(); each != sending_.end();) {
    if (!client_.done(each->first)) {
      ++each;
      continue;
    }
    const net::HttpReply reply = client_.take(each->first);
    const unsigned number = each->second;
    each = sending_.erase(each);
    if (!reply.ok) {
      fail(reply);
    }
    const std::string etag(reply.header("etag"));
    if (etag.empty()) {
      throw core::Error(core::sqlstate::kIoError,
                        "the blob store \"" + connection_->config().service +
                            "\" gives no ETag for a part of \"" + name_ + "\"");
    }
    etags_[number] = etag;
  }
}

// The transfers under way go on meanwhile.
std::string S3Upload::hash(std::uint64_t offset, std::uint64_t length) {
  core::Sha256 sum;
  std::vector<char> piece(static_cast<std::size_t>(std::min<std::uint64_t>(length, kHashPiece)));
  while (length > 0) {
    const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(length, piece.size()));
    const ssize_t count = ::pread(fd_, piece.data(), wanted, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count <= 0) {
      throw core::Error(core::sqlstate::kIoError,
                        "could not read what is to be uploaded as \"" + name_ +
                            "\": " + (count < 0 ? std::strerror(errno) : "the file is too short"));
    }
    sum.update(piece.data(), static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
    length -= static_cast<std::uint64_t>(count);
    pg::check_for_interrupts();
    client_.pump();
  }
  return sum.hex();
}

// --- its end -----------------------------------------------------------------------------------

void S3Upload::complete(std::uint64_t bytes) {
  std::string body = "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
  for (const auto& [number, etag] : etags_) {
    body += "<Part><PartNumber>" + std::to_string(number) + "</PartNumber><ETag>" +
            xml_escaped(etag) + "</ETag></Part>";
  }
  body += "</CompleteMultipartUpload>";
  S3Request request = this->request("POST", {{"uploadId", upload_id_}});
  request.headers = {{"content-type", "application/xml"}};
  request.set_body(std::move(body));
  net::HttpCall call = connection_->call(std::move(request));
  call.judge = judge_complete;
  call.timeout =
      std::max(kCompleteTimeout, connection_->config().timeout.value_or(kCompleteTimeout));
  may_be_there_ = true;
  const net::HttpReply reply = client_.perform(std::move(call));
  // Sent once more (libcurl does so by itself where a kept connection breaks), it may be told that
  // there is no such upload: the first was heard, and only its answer was lost.
  const bool heard = refused_at_once(reply) && reply.status != 404;
  if (!reply.ok && (heard || !arrived(bytes))) {
    fail(reply);
  }
}

// Whether this upload's object is there. Where the store does not keep what tells objects apart,
// the size has to do.
bool S3Upload::arrived(std::uint64_t bytes) {
  const net::HttpReply reply = client_.perform(connection_->call(request("HEAD")));
  const std::string_view token = reply.header(kTokenHeader);
  return reply.ok && (token.empty() ? content_length(reply) == bytes : token == token_);
}

void S3Upload::verify(std::uint64_t bytes) {
  const net::HttpReply reply = client_.perform(connection_->call(request("HEAD")));
  if (!reply.ok) {
    connection_->fail("check \"" + name_ + "\" in", reply);
  }
  const auto there = content_length(reply);
  const std::string_view token = reply.header(kTokenHeader);
  if (there != bytes || (!token.empty() && token != token_)) {
    throw core::Error(core::sqlstate::kIoError,
                      "the blob store \"" + connection_->config().service + "\" does not hold \"" +
                          name_ + "\" as it was sent",
                      there != bytes
                          ? "It was sent with " + std::to_string(bytes) +
                                " bytes, and is there with " +
                                (there ? std::to_string(*there) : "an unknown number") + "."
                          : "Another upload has replaced it meanwhile.");
  }
}

void S3Upload::abort() noexcept {
  if (std::exchange(finished_, true)) {
    return;
  }
  try {
    // A part that arrives after the abort would stay, unseen and paid for.
    for (const auto& [id, number] : std::exchange(sending_, {})) {
      client_.cancel(id);
    }
    const bool cut_off = beginning_ && !client_.done(*beginning_);
    if (cut_off) {
      client_.cancel(*beginning_);
    } else {
      take_begun();
    }
    if (cut_off || !upload_id_.empty() || may_be_there_) {
      clean_up(cut_off);
    }
  } catch (...) {
    // What stays behind is an incomplete upload, which a life-cycle rule of the bucket removes.
    upload_id_.clear();
  }
}

void S3Upload::clean_up(bool cut_off) {
  const auto until =
      std::chrono::steady_clock::now() +
      ((upload_id_.empty() && !may_be_there_) || InterruptPending ? kSilentLimit : kAbortLimit);
  net::HttpClient client = connection_->make_client(false);
  const auto perform = [&](S3Request request) {
    net::HttpCall call = connection_->call(std::move(request));
    const auto left =
        std::chrono::duration_cast<milliseconds>(until - std::chrono::steady_clock::now());
    call.deadline = std::max(left, milliseconds(1));
    return client.perform(std::move(call));
  };
  std::vector<std::string> ids;
  if (!upload_id_.empty()) {
    ids.push_back(upload_id_);
  }
  if (cut_off || begun_again_) {
    // The store may have begun, and its answer is lost: its own list tells.
    const net::HttpReply reply =
        perform(bucket_request("GET", {{"uploads", ""}, {"prefix", key_}}));
    const auto parsed = core::read_s3_reply(reply.body);
    if (const auto* list = parsed ? std::get_if<core::S3UploadList>(&*parsed) : nullptr) {
      for (const core::S3PendingUpload& each : list->uploads) {
        if (each.key == key_) {
          ids.push_back(each.upload_id);
        }
      }
    }
  }
  for (const std::string& id : ids) {
    perform(request("DELETE", {{"uploadId", id}}));
  }
  if (may_be_there_) {
    const net::HttpReply head = perform(request("HEAD"));
    if (head.ok && head.header(kTokenHeader) == token_) {
      perform(request("DELETE"));
    }
  }
}

}  // namespace providers
