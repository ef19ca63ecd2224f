#include "pg/postgres.hpp"

#include "providers/s3.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include "core/error.hpp"
#include "core/s3_reply.hpp"
#include "net/http_client.hpp"
#include "providers/s3_connection.hpp"
#include "providers/s3_upload.hpp"

namespace providers {
namespace {

// The first position of "bytes 100-199/200", the form of Content-Range.
std::optional<std::uint64_t> range_start(std::string_view text) {
  constexpr std::string_view kUnit = "bytes ";
  std::uint64_t start = 0;
  if (!text.starts_with(kUnit)) {
    return std::nullopt;
  }
  text.remove_prefix(kUnit.size());
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), start);
  if (error != std::errc()) {
    return std::nullopt;
  }
  return start;
}

// A download that goes on where it broke off.
class Download {
 public:
  explicit Download(const std::function<void(std::string_view)>& sink) : sink_(sink) {}

  // The headers of the next attempt.
  core::NameValues begin_attempt() {
    at_ = 0;
    started_ = false;
    core::NameValues headers;
    if (position_ > 0) {
      headers.emplace_back("range", "bytes=" + std::to_string(position_) + "-");
      // A changed object is not spliced on to the old one.
      if (!etag_.empty()) {
        headers.emplace_back("if-match", etag_);
      }
    }
    return headers;
  }

  // Whether the piece held anything new.
  bool take(const net::HttpReply& reply, std::string_view piece) {
    if (!std::exchange(started_, true)) {
      start(reply);
    }
    if (changed_) {
      return false;
    }
    // A server without ranges begins at the beginning again.
    const auto known = static_cast<std::size_t>(
        std::min<std::uint64_t>(position_ - std::min(position_, at_), piece.size()));
    at_ += piece.size();
    piece.remove_prefix(known);
    if (piece.empty()) {
      return false;
    }
    position_ += piece.size();
    sink_(piece);
    return true;
  }

  net::Verdict judge(const net::HttpReply& reply) {
    const net::Verdict verdict = judge_s3(reply);
    if (verdict != net::Verdict::kDone) {
      // Broken off after the last byte: there is no such range.
      return position_ > 0 && total_ == position_ && reply.status == 416 ? net::Verdict::kDone
                                                                         : verdict;
    }
    if (!std::exchange(started_, true)) {
      start(reply);  // it has no body
    }
    if (changed_) {
      return net::Verdict::kFail;
    }
    return !total_ || *total_ == position_ ? net::Verdict::kDone : net::Verdict::kFault;
  }

  bool changed() const { return changed_; }
  std::uint64_t position() const { return position_; }
  std::optional<std::uint64_t> total() const { return total_; }

 private:
  void start(const net::HttpReply& reply) {
    const auto length = content_length(reply);
    if (reply.status == 206) {
      const auto from = range_start(reply.header("content-range"));
      changed_ = !from || *from != position_;
      at_ = position_;
    }
    const std::string etag(reply.header("etag"));
    const std::optional<std::uint64_t> total =
        length ? std::optional<std::uint64_t>(at_ + *length) : std::nullopt;
    changed_ =
        changed_ || (position_ > 0 && (etag != etag_ || (total && total_ && total != total_)));
    etag_ = etag;
    if (!total_) {
      total_ = total;
    }
  }

  const std::function<void(std::string_view)>& sink_;
  std::uint64_t position_ = 0;  // what the sink has
  std::optional<std::uint64_t> total_;
  std::string etag_;
  std::uint64_t at_ = 0;  // in the object, of this attempt
  bool started_ = false;
  bool changed_ = false;
};

class S3Store : public BlobStore {
 public:
  S3Store(S3Config config, const std::string& request_id, net::HttpObserver& observer)
      : connection_(std::make_shared<const S3Connection>(std::move(config), request_id, observer)),
        client_(connection_->make_client()) {}

  std::string url(const std::string& name) const override { return connection_->url(name); }

  std::unique_ptr<Upload> upload(const std::string& name, int fd) override {
    return std::make_unique<S3Upload>(connection_, name, fd);
  }

  void put(const std::string& name, std::string_view content) override {
    S3Upload(connection_, name, -1).put(std::string(content));
  }

  void get(const std::string& name, const std::function<void(std::string_view)>& sink) override {
    Download download(sink);
    net::HttpCall call;
    call.make = [&] {
      S3Request get = request("GET", name);
      get.headers = download.begin_attempt();
      return connection_->sign(get);
    };
    call.sink = [&](const net::HttpReply& reply, std::string_view piece) {
      return download.take(reply, piece);
    };
    call.judge = [&](const net::HttpReply& reply) { return download.judge(reply); };
    const net::HttpReply reply = client_.perform(std::move(call));
    const bool changed = download.changed() || (reply.status == 412 && download.position() > 0);
    if (changed && reply.failure == net::HttpReply::Failure::kNone) {
      throw core::Error(core::sqlstate::kIoError, "\"" + name + "\" in the blob store \"" +
                                                      connection_->config().service +
                                                      "\" changed while it was read");
    }
    if (!reply.ok && reply.failure == net::HttpReply::Failure::kNone && reply.status < 300) {
      throw core::Error("08006", "the blob store \"" + connection_->config().service + "\" sent " +
                                     std::to_string(download.position()) + " of " +
                                     std::to_string(download.total().value_or(0)) + " bytes of \"" +
                                     name + "\"");
    }
    if (!reply.ok) {
      connection_->fail("read \"" + name + "\" from", reply);
    }
  }

  std::optional<ObjectInfo> find(const std::string& name) override {
    const net::HttpReply reply = client_.perform(connection_->call(request("HEAD", name)));
    if (reply.failure == net::HttpReply::Failure::kNone && reply.status == 404) {
      return std::nullopt;
    }
    if (!reply.ok) {
      connection_->fail("look for \"" + name + "\" in", reply);
    }
    return ObjectInfo{name, content_length(reply).value_or(0)};
  }

  std::vector<ObjectInfo> list(const std::string& prefix) override {
    std::vector<ObjectInfo> objects;
    std::string token;
    do {
      token = list_page(prefix, token, objects);
    } while (!token.empty());
    std::sort(objects.begin(), objects.end(),
              [](const ObjectInfo& a, const ObjectInfo& b) { return a.name < b.name; });
    return objects;
  }

  void remove(const std::string& name) override {
    const net::HttpReply reply = client_.perform(connection_->call(request("DELETE", name)));
    const auto error = s3_error_in(reply);
    const bool gone = reply.failure == net::HttpReply::Failure::kNone && reply.status == 404 &&
                      (!error || error->code != "NoSuchBucket");
    if (!reply.ok && !gone) {
      connection_->fail("remove \"" + name + "\" from", reply);
    }
  }

 private:
  S3Request request(const char* method, const std::string& name) const {
    S3Request result;
    result.method = method;
    result.key = connection_->key(name);
    return result;
  }

  // Returns what asks for the next page, '' after the last.
  std::string list_page(const std::string& prefix, const std::string& token,
                        std::vector<ObjectInfo>& objects) {
    S3Request page;
    page.method = "GET";
    page.query = {{"list-type", "2"}, {"prefix", connection_->key(prefix)}};
    if (!token.empty()) {
      page.query.emplace_back("continuation-token", token);
    }
    net::HttpCall call = connection_->call(std::move(page));
    call.body_limit = core::kMaxS3ReplyBytes;
    const net::HttpReply reply = client_.perform(std::move(call));
    if (!reply.ok) {
      connection_->fail("list the objects of", reply);
    }
    const auto parsed = core::read_s3_reply(reply.body);
    const auto* list = parsed ? std::get_if<core::S3ObjectList>(&*parsed) : nullptr;
    if (list == nullptr || (list->truncated && list->next_token == token)) {
      throw core::Error(core::sqlstate::kIoError,
                        "the blob store \"" + connection_->config().service +
                            "\" does not answer as S3 does when its objects are listed");
    }
    const std::string& own = connection_->config().prefix;
    for (const core::S3Object& each : list->objects) {
      if (each.key.starts_with(own)) {
        objects.push_back({each.key.substr(own.size()), each.size});
      }
    }
    return list->truncated ? list->next_token : std::string();
  }

  std::shared_ptr<const S3Connection> connection_;
  net::HttpClient client_;
};

}  // namespace

std::unique_ptr<BlobStore> open_s3(const net::Service& service, const std::string& request_id,
                                   net::HttpObserver& observer) {
  return std::make_unique<S3Store>(read_s3_config(service), request_id, observer);
}

}  // namespace providers
