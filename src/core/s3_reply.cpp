#include "core/s3_reply.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace core {

namespace {

// S3's own replies are four levels deep, names have 30 bytes, and a value has a few hundred.
constexpr std::size_t kMaxDepth = 16;
constexpr std::size_t kMaxNameBytes = 256;
constexpr std::size_t kMaxValueBytes = std::size_t{64} << 10;

constexpr std::string_view kBlanks = " \t\r\n";

bool is_blank(char c) { return kBlanks.find(c) != std::string_view::npos; }

bool is_blank(std::string_view text) {
  return text.find_first_not_of(kBlanks) == std::string_view::npos;
}

// Beyond ASCII everything passes: such a name is none of those that are looked for.
bool starts_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

bool continues_name(char c) {
  return starts_name(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == ':';
}

// Well-formed UTF-8 of characters that XML allows.
bool is_xml_text(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) {
      if (lead < 0x20 && !is_blank(static_cast<char>(lead))) {
        return false;
      }
      continue;
    }
    std::size_t more = 0;
    std::uint32_t point = 0;
    std::uint32_t least = 0;
    if ((lead & 0xE0) == 0xC0) {
      more = 1, point = lead & 0x1F, least = 0x80;
    } else if ((lead & 0xF0) == 0xE0) {
      more = 2, point = lead & 0x0F, least = 0x800;
    } else if ((lead & 0xF8) == 0xF0) {
      more = 3, point = lead & 0x07, least = 0x10000;
    } else {
      return false;
    }
    if (text.size() - i < more) {
      return false;
    }
    for (; more > 0; --more) {
      const auto next = static_cast<unsigned char>(text[i++]);
      if ((next & 0xC0) != 0x80) {
        return false;
      }
      point = (point << 6) | (next & 0x3F);
    }
    if (point < least || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) {
      return false;
    }
  }
  return true;
}

void append_utf8(std::string& out, std::uint32_t point) {
  if (point < 0x80) {
    out += static_cast<char>(point);
    return;
  }
  if (point < 0x800) {
    out += static_cast<char>(0xC0 | (point >> 6));
  } else {
    if (point < 0x10000) {
      out += static_cast<char>(0xE0 | (point >> 12));
    } else {
      out += static_cast<char>(0xF0 | (point >> 18));
      out += static_cast<char>(0x80 | ((point >> 12) & 0x3F));
    }
    out += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
  }
  out += static_cast<char>(0x80 | (point & 0x3F));
}

// What stands between "&" and ";".
bool append_entity(std::string& out, std::string_view entity) {
  static constexpr std::array<std::pair<std::string_view, char>, 5> kNamed{
      {{"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}}};
  for (const auto& [name, character] : kNamed) {
    if (entity == name) {
      out += character;
      return true;
    }
  }
  if (entity.empty() || entity.front() != '#') {
    return false;
  }
  entity.remove_prefix(1);
  int base = 10;
  if (!entity.empty() && entity.front() == 'x') {
    entity.remove_prefix(1);
    base = 16;
  }
  std::uint32_t point = 0;
  const char* const end = entity.data() + entity.size();
  const auto [stop, failure] = std::from_chars(entity.data(), end, point, base);
  // XML 1.0 has no control characters, but keys may, and S3 lists them as &#x1;. Only NUL is more
  // than Postgres could hold.
  if (failure != std::errc{} || stop != end || point == 0 || point > 0x10FFFF ||
      (point >= 0xD800 && point <= 0xDFFF)) {
    return false;
  }
  append_utf8(out, point);
  return true;
}

// Text with its entities resolved, and line breaks as XML wants them.
bool append_text(std::string& out, std::string_view raw) {
  std::size_t i = 0;
  while (i < raw.size()) {
    const std::size_t special = std::min(raw.find_first_of("&\r", i), raw.size());
    out.append(raw.substr(i, special - i));
    i = special;
    if (i == raw.size()) {
      break;
    }
    if (raw[i] == '\r') {
      if (i + 1 == raw.size() || raw[i + 1] != '\n') {
        out += '\n';
      }
      ++i;
      continue;
    }
    const std::size_t semicolon = raw.find(';', i);
    if (semicolon == std::string_view::npos ||
        !append_entity(out, raw.substr(i + 1, semicolon - i - 1))) {
      return false;
    }
    i = semicolon + 1;
  }
  return true;
}

// The name without its namespace prefix.
std::string_view local_name(std::string_view name) {
  const std::size_t colon = name.rfind(':');
  return colon == std::string_view::npos ? name : name.substr(colon + 1);
}

// The values of a few known elements, each at most once.
template <std::size_t N>
class Fields {
 public:
  explicit constexpr Fields(const std::array<std::string_view, N>& names) : names_(names) {}

  bool knows(std::string_view name) const { return index(name) < N; }

  // False where the name has a value already.
  bool set(std::string_view name, std::string&& value) {
    auto& place = values_[index(name)];
    if (place) {
      return false;
    }
    place = std::move(value);
    return true;
  }

  // Nullptr where the reply did not hold it.
  const std::string* find(std::string_view name) const {
    const auto& place = values_[index(name)];
    return place ? &*place : nullptr;
  }
  // Takes the value out; empty where there was none.
  std::string take(std::string_view name) {
    return std::exchange(values_[index(name)], std::nullopt).value_or(std::string());
  }
  void clear() { values_.fill(std::nullopt); }

 private:
  std::size_t index(std::string_view name) const {
    return static_cast<std::size_t>(std::find(names_.begin(), names_.end(), name) - names_.begin());
  }

  const std::array<std::string_view, N>& names_;
  std::array<std::optional<std::string>, N> values_;
};

constexpr std::array<std::string_view, 14> kRootFields{"Code",          "Message",
                                                       "RequestId",     "HostId",
                                                       "Region",        "Endpoint",
                                                       "Bucket",        "BucketName",
                                                       "UploadId",      "ETag",
                                                       "IsTruncated",   "NextContinuationToken",
                                                       "NextKeyMarker", "NextUploadIdMarker"};
constexpr std::array<std::string_view, 3> kItemFields{"Key", "UploadId", "Size"};

constexpr std::string_view kError = "Error";
constexpr std::string_view kStarted = "InitiateMultipartUploadResult";
constexpr std::string_view kCompleted = "CompleteMultipartUploadResult";
constexpr std::string_view kObjects = "ListBucketResult";
constexpr std::string_view kUploads = "ListMultipartUploadsResult";

// Takes the elements as they come, and keeps of them what makes up a reply.
class Collector {
 public:
  bool open(std::string_view name) {
    ++depth_;
    is_leaf_ = true;
    value_.clear();
    if (depth_ == 1) {
      root_ = name;
      return name == kError || name == kStarted || name == kCompleted || name == kObjects ||
             name == kUploads;
    }
    if (depth_ == 2) {
      in_item_ =
          (root_ == kObjects && name == "Contents") || (root_ == kUploads && name == "Upload");
      item_.clear();
    }
    return true;
  }

  bool text(std::string_view raw) {
    return append_text(value_, raw) && value_.size() <= kMaxValueBytes;
  }
  bool cdata(std::string_view raw) {
    value_.append(raw);
    return value_.size() <= kMaxValueBytes;
  }

  bool close(std::string_view name) {
    bool good = true;
    if (depth_ == 2 && in_item_) {
      good = add_item();
    } else if (depth_ == 2) {
      good = keep(fields_, name);
      // Keys would be other than they look.
      if (name == "EncodingType" && !is_blank(value_)) {
        good = false;
      }
    } else if (depth_ == 3 && in_item_) {
      good = keep(item_, name);
    }
    is_leaf_ = false;
    --depth_;
    return good;
  }

  std::optional<S3Reply> reply() {
    if (root_ == kError) {
      return error();
    }
    if (root_ == kStarted) {
      S3UploadStarted started{fields_.take("UploadId")};
      return started.upload_id.empty() ? std::nullopt : std::optional<S3Reply>(std::move(started));
    }
    if (root_ == kCompleted) {
      return S3UploadCompleted{fields_.take("ETag")};
    }
    const std::optional<bool> truncated = is_truncated();
    if (!truncated) {
      return std::nullopt;
    }
    if (root_ == kObjects) {
      S3ObjectList list{std::move(objects_), *truncated, fields_.take("NextContinuationToken")};
      // Asking for the rest would mean asking for the same again, forever.
      if (list.truncated && list.next_token.empty()) {
        return std::nullopt;
      }
      return S3Reply(std::move(list));
    }
    S3UploadList list{std::move(uploads_), *truncated, fields_.take("NextKeyMarker"),
                      fields_.take("NextUploadIdMarker")};
    if (list.truncated && list.next_key_marker.empty()) {
      return std::nullopt;
    }
    return S3Reply(std::move(list));
  }

 private:
  template <std::size_t N>
  bool keep(Fields<N>& fields, std::string_view name) {
    if (!fields.knows(name)) {
      return true;
    }
    return is_leaf_ && fields.set(name, std::exchange(value_, {}));
  }

  bool add_item() {
    std::string key = item_.take("Key");
    if (key.empty()) {
      return false;
    }
    if (root_ == kUploads) {
      S3PendingUpload upload{std::move(key), item_.take("UploadId")};
      if (upload.upload_id.empty()) {
        return false;
      }
      uploads_.push_back(std::move(upload));
      return true;
    }
    S3Object object{std::move(key), 0};
    const std::string digits = item_.take("Size");
    const char* const end = digits.data() + digits.size();
    const auto [stop, failure] = std::from_chars(digits.data(), end, object.size);
    if (failure != std::errc{} || stop != end) {
      return false;
    }
    objects_.push_back(std::move(object));
    return true;
  }

  std::optional<S3Reply> error() {
    S3Error error;
    error.code = fields_.take("Code");
    error.message = fields_.take("Message");
    error.request_id = fields_.take("RequestId");
    error.host_id = fields_.take("HostId");
    error.region = fields_.take("Region");
    error.endpoint = fields_.take("Endpoint");
    error.bucket = fields_.take("Bucket");
    if (error.bucket.empty()) {
      error.bucket = fields_.take("BucketName");
    }
    if (error.code.empty() && error.message.empty()) {
      return std::nullopt;
    }
    return S3Reply(std::move(error));
  }

  std::optional<bool> is_truncated() const {
    const std::string* const value = fields_.find("IsTruncated");
    if (value != nullptr && *value == "true") {
      return true;
    }
    if (value != nullptr && *value == "false") {
      return false;
    }
    return std::nullopt;
  }

  std::size_t depth_ = 0;
  bool in_item_ = false;
  // No element was closed since the last one was opened: `value_` is that one's whole text.
  bool is_leaf_ = false;
  std::string value_;
  std::string_view root_;
  Fields<kRootFields.size()> fields_{kRootFields};
  Fields<kItemFields.size()> item_{kItemFields};
  std::vector<S3Object> objects_;
  std::vector<S3PendingUpload> uploads_;
};

// Walks over the markup. All functions that return bool say false where the body is malformed.
class Parser {
 public:
  explicit Parser(std::string_view body) : rest_(body) {}

  std::optional<S3Reply> parse() {
    skip("\xEF\xBB\xBF");  // byte order mark
    // A server that keeps a long request alive may send blanks before the declaration, too.
    skip_blanks();
    while (!rest_.empty()) {
      if (!step()) {
        return std::nullopt;
      }
    }
    if (!seen_root_ || depth_ != 0) {
      return std::nullopt;
    }
    return collector_.reply();
  }

 private:
  bool step() {
    if (rest_.front() != '<') {
      return text();
    }
    if (skip("<!--")) {
      std::string_view comment;
      return take_until("--", comment) && skip(">");
    }
    if (skip("<?")) {
      std::string_view instruction;
      return take_until("?>", instruction);
    }
    if (skip("<![CDATA[")) {
      std::string_view raw;
      return depth_ > 0 && take_until("]]>", raw) && collector_.cdata(raw);
    }
    if (skip("</")) {
      return end_tag();
    }
    // Neither a name nor anything of the above: a DOCTYPE, which could define entities.
    return skip("<") && start_tag();
  }

  bool text() {
    const std::string_view raw = rest_.substr(0, rest_.find('<'));
    rest_.remove_prefix(raw.size());
    if (depth_ == 0) {
      return is_blank(raw);
    }
    return raw.find("]]>") == std::string_view::npos && collector_.text(raw);
  }

  bool start_tag() {
    std::string_view name;
    if (!take_name(name) || depth_ == kMaxDepth || (depth_ == 0 && seen_root_) ||
        !collector_.open(local_name(name))) {
      return false;
    }
    seen_root_ = true;
    open_[depth_++] = name;
    while (true) {
      const bool blank = skip_blanks();
      if (skip(">")) {
        return true;
      }
      if (skip("/>")) {
        return close(name);
      }
      if (!blank || !attribute()) {
        return false;
      }
    }
  }

  // Nothing that is looked for stands in one, namespaces included; but it has to be well-formed.
  bool attribute() {
    std::string_view name;
    std::string_view raw;
    std::string ignored;
    if (!take_name(name)) {
      return false;
    }
    skip_blanks();
    if (!skip("=")) {
      return false;
    }
    skip_blanks();
    if (!(skip("\"") ? take_until("\"", raw) : skip("'") && take_until("'", raw))) {
      return false;
    }
    return raw.size() <= kMaxValueBytes && raw.find('<') == std::string_view::npos &&
           append_text(ignored, raw);
  }

  bool end_tag() {
    std::string_view name;
    if (!take_name(name)) {
      return false;
    }
    skip_blanks();
    return skip(">") && close(name);
  }

  bool close(std::string_view name) {
    if (depth_ == 0 || open_[depth_ - 1] != name) {
      return false;
    }
    --depth_;
    return collector_.close(local_name(name));
  }

  bool take_name(std::string_view& name) {
    std::size_t length = 0;
    if (!rest_.empty() && starts_name(rest_.front())) {
      length = 1;
      while (length < rest_.size() && length <= kMaxNameBytes && continues_name(rest_[length])) {
        ++length;
      }
    }
    name = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return length > 0 && length <= kMaxNameBytes && name.back() != ':';
  }

  // What precedes `mark`; both are behind afterwards.
  bool take_until(std::string_view mark, std::string_view& taken) {
    const std::size_t at = rest_.find(mark);
    if (at == std::string_view::npos) {
      return false;
    }
    taken = rest_.substr(0, at);
    rest_.remove_prefix(at + mark.size());
    return true;
  }

  bool skip(std::string_view expected) {
    if (!rest_.starts_with(expected)) {
      return false;
    }
    rest_.remove_prefix(expected.size());
    return true;
  }

  bool skip_blanks() {
    const std::size_t length = std::min(rest_.find_first_not_of(kBlanks), rest_.size());
    rest_.remove_prefix(length);
    return length > 0;
  }

  std::string_view rest_;
  std::size_t depth_ = 0;
  bool seen_root_ = false;
  std::array<std::string_view, kMaxDepth> open_;
  Collector collector_;
};

}  // namespace

std::optional<S3Reply> read_s3_reply(std::string_view body) {
  if (body.size() > kMaxS3ReplyBytes || !is_xml_text(body)) {
    return std::nullopt;
  }
  return Parser(body).parse();
}

}  // namespace core
