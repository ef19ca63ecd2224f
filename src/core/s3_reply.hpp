// The XML that S3 and its likes answer with, as far as a client that stores, lists and reads
// objects needs it. Strict and bounded: what a server or a proxy in between sends is not trusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace core {

// Texts are valid UTF-8 without NUL; but for that, and their length, they are what the server
// sent. What it left out is empty.
struct S3Error {
  std::string code;  // this or the message is never empty
  std::string message;
  std::string request_id;
  std::string host_id;
  std::string region;    // with AuthorizationHeaderMalformed: the one to sign for
  std::string endpoint;  // with PermanentRedirect: the one to talk to
  std::string bucket;
};

struct S3UploadStarted {
  std::string upload_id;  // never empty
};

struct S3UploadCompleted {
  std::string etag;  // with its quotation marks, if the server sent them
};

struct S3Object {
  std::string key;  // never empty
  std::uint64_t size = 0;
};

struct S3ObjectList {
  std::vector<S3Object> objects;
  bool truncated = false;
  std::string next_token;  // never empty where the list is truncated
};

struct S3PendingUpload {
  std::string key;        // never empty
  std::string upload_id;  // never empty
};

struct S3UploadList {
  std::vector<S3PendingUpload> uploads;
  bool truncated = false;
  std::string next_key_marker;  // never empty where the list is truncated
  std::string next_upload_id_marker;
};

using S3Reply =
    std::variant<S3Error, S3UploadStarted, S3UploadCompleted, S3ObjectList, S3UploadList>;

// A longer body is refused. A thousand of the longest keys fit in, with every character escaped.
inline constexpr std::size_t kMaxS3ReplyBytes = std::size_t{16} << 20;

// Nothing where the body is no such reply: empty, HTML, JSON, cut off, malformed, with a DOCTYPE,
// nested too deep, without what the reply is about, with a field twice, or with keys in an encoding
// that was not asked for.
//
// The root element decides, not the HTTP status: CompleteMultipartUpload may answer 200 and hold an
// S3Error, and blanks may precede anything.
//
// Throws nothing but std::bad_alloc.
std::optional<S3Reply> read_s3_reply(std::string_view body);

}  // namespace core
