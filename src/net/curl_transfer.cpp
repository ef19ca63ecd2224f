#include "net/curl_transfer.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>

#include "core/error.hpp"

namespace net {
namespace {

constexpr std::size_t kMaxHeaderBytes = 256 * 1024;
constexpr long kUploadBuffer = 512 * 1024;
constexpr long kReceiveBuffer = 128 * 1024;
// Of a larger body that is read into a file or a table anyway: reserve no more ahead.
constexpr std::size_t kMaxReserve = 1 << 20;

[[noreturn]] void fail(CURLcode code) {
  if (code == CURLE_OUT_OF_MEMORY) {
    throw std::bad_alloc();
  }
  throw core::Error(core::sqlstate::kInternalError,
                    std::string("libcurl refuses an option: ") + curl_easy_strerror(code));
}

// COPY … PROGRAM and the like must not inherit a connection.
curl_socket_t open_socket(void*, curlsocktype, curl_sockaddr* address) noexcept {
  return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

// Before it, HTTP/2 uploads could hang or fail when they were sent again.
bool http2_is_sound() {
  static const bool sound = curl_version_info(CURLVERSION_NOW)->version_num >= 0x080201;
  return sound;
}

HttpReply::Failure failure_of(CURLcode code) {
  switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
      return HttpReply::Failure::kTimeout;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ISSUER_ERROR:
      return HttpReply::Failure::kTls;
    default:
      return HttpReply::Failure::kNetwork;
  }
}

}  // namespace

SignalsBlocked::SignalsBlocked() noexcept {
  sigset_t all;
  sigfillset(&all);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) {
    sigdelset(&all, fault);
  }
  pthread_sigmask(SIG_SETMASK, &all, &before_);
}

SignalsBlocked::~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

template <class Value>
void CurlTransfer::set(CURLoption option, Value value) {
  if (const CURLcode code = curl_easy_setopt(easy_.get(), option, value); code != CURLE_OK) {
    fail(code);
  }
}

void CurlTransfer::add_header(const std::string& line) {
  // A header that breaks its line would be one more header.
  if (line.find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "a request header may not hold a line break");
  }
  curl_slist* longer = curl_slist_append(headers_.get(), line.c_str());
  if (longer == nullptr) {
    throw std::bad_alloc();
  }
  // It is the same list, or its first entry.
  static_cast<void>(headers_.release());
  headers_.reset(longer);
}

CurlTransfer::CurlTransfer(CURLM* multi, HttpRequest request, const std::string& user_agent,
                           const std::string& request_id, const std::string& ca_file,
                           const TransferLimits& limits)
    : multi_(multi), request_(std::move(request)), limits_(limits), easy_(curl_easy_init()) {
  if (easy_ == nullptr) {
    throw std::bad_alloc();
  }
  // No "Expect: 100-continue": a server that does not know it costs a second a part.
  add_header("Expect:");
  for (const auto& [name, value] : request_.headers) {
    // libcurl drops a header without value unless it ends in a semicolon.
    add_header(value.empty() ? name + ";" : name + ": " + value);
  }
  if (!request_id.empty()) {
    add_header("X-Request-ID: " + request_id);
  }
  set_common(user_agent, ca_file);
  set_method();
  const SignalsBlocked blocked;
  if (const CURLMcode code = curl_multi_add_handle(multi_, easy_.get()); code != CURLM_OK) {
    if (code == CURLM_OUT_OF_MEMORY) {
      throw std::bad_alloc();
    }
    throw core::Error(core::sqlstate::kInternalError,
                      std::string("libcurl cannot start a request: ") + curl_multi_strerror(code));
  }
}

CurlTransfer::~CurlTransfer() {
  // Ending it may wait for, or start, what the resolver does.
  const SignalsBlocked blocked;
  curl_multi_remove_handle(multi_, easy_.get());
  easy_.reset();
}

void CurlTransfer::set_common(const std::string& user_agent, const std::string& ca_file) {
  set(CURLOPT_ERRORBUFFER, error_text_.data());
  set(CURLOPT_PRIVATE, static_cast<void*>(this));
  set(CURLOPT_URL, request_.url.c_str());
  set(CURLOPT_HTTPHEADER, headers_.get());
  set(CURLOPT_USERAGENT, user_agent.c_str());
  set(CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
  set(CURLOPT_QUICK_EXIT, 1L);
#endif
#if LIBCURL_VERSION_NUM >= 0x075500
  set(CURLOPT_PROTOCOLS_STR, "http,https");
#else
  set(CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_PROXY, "");
  set(CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  set(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
  // The path has been signed as it is.
  set(CURLOPT_PATH_AS_IS, 1L);
  if (!http2_is_sound()) {
    set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  }
  set(CURLOPT_SSL_VERIFYPEER, 1L);
  set(CURLOPT_SSL_VERIFYHOST, 2L);
  set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  if (!ca_file.empty()) {
    set(CURLOPT_CAINFO, ca_file.c_str());
  }
  set(CURLOPT_OPENSOCKETFUNCTION, &open_socket);
  set(CURLOPT_TCP_KEEPALIVE, 1L);
  set(CURLOPT_BUFFERSIZE, kReceiveBuffer);
  set(CURLOPT_UPLOAD_BUFFERSIZE, kUploadBuffer);
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(limits_.connect.count()));
  // A total would end a long upload however well it goes.
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(limits_.stall.count()));
  set(CURLOPT_TIMEOUT_MS, static_cast<long>(limits_.total.count()));
  set(CURLOPT_WRITEFUNCTION, &CurlTransfer::on_body);
  set(CURLOPT_WRITEDATA, static_cast<void*>(this));
  set(CURLOPT_HEADERFUNCTION, &CurlTransfer::on_header);
  set(CURLOPT_HEADERDATA, static_cast<void*>(this));
}

void CurlTransfer::set_method() {
  const std::string& method = request_.method;
  const bool has_body = !std::holds_alternative<std::monostate>(request_.body);
  if (has_body || method == "PUT" || method == "POST" || method == "PATCH") {
    std::uint64_t length = 0;
    if (const auto* text = std::get_if<std::string>(&request_.body)) {
      length = text->size();
    } else if (const auto* range = std::get_if<FileRange>(&request_.body)) {
      length = range->length;
    }
    set(CURLOPT_UPLOAD, 1L);
    set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(length));
    set(CURLOPT_READFUNCTION, &CurlTransfer::on_read);
    set(CURLOPT_READDATA, static_cast<void*>(this));
    // A kept connection may turn out to be closed: libcurl then sends the body once more.
    set(CURLOPT_SEEKFUNCTION, &CurlTransfer::on_seek);
    set(CURLOPT_SEEKDATA, static_cast<void*>(this));
  } else if (method == "HEAD") {
    set(CURLOPT_NOBODY, 1L);
  }
  if (method != "GET" && method != "HEAD") {
    set(CURLOPT_CUSTOMREQUEST, method.c_str());
  }
}

std::string CurlTransfer::take_received() { return std::exchange(received_, {}); }

bool CurlTransfer::was_sent() const {
  long head = 0;
  curl_easy_getinfo(easy_.get(), CURLINFO_REQUEST_SIZE, &head);
  const auto* text = std::get_if<std::string>(&request_.body);
  const auto* range = std::get_if<FileRange>(&request_.body);
  return head > 0 && sent_ >= (text != nullptr    ? text->size()
                               : range != nullptr ? range->length
                                                  : 0);
}

HttpReply CurlTransfer::finish(CURLcode code) {
  // No fault of the service's: it must neither be asked again nor be charged with it.
  if (out_of_memory_ || code == CURLE_OUT_OF_MEMORY) {
    throw std::bad_alloc();
  }
  reply_.body = streams() ? std::string() : take_received();
  if (too_large_) {
    reply_.failure = HttpReply::Failure::kTooLarge;
    reply_.problem = "its answer is longer than " + std::to_string(limits_.body) + " bytes";
  } else if (short_file_) {
    reply_.failure = HttpReply::Failure::kLocal;
    reply_.problem = "the file to be sent has become shorter";
  } else if (read_errno_ != 0) {
    reply_.failure = HttpReply::Failure::kLocal;
    reply_.problem =
        std::string("the file to be sent cannot be read: ") + std::strerror(read_errno_);
  } else if (code != CURLE_OK) {
    reply_.failure = failure_of(code);
    reply_.problem = error_text_[0] != '\0' ? error_text_.data() : curl_easy_strerror(code);
  }
  return std::move(reply_);
}

std::size_t CurlTransfer::read(char* buffer, std::size_t capacity) noexcept {
  if (const auto* text = std::get_if<std::string>(&request_.body)) {
    const std::size_t length = std::min(capacity, text->size() - static_cast<std::size_t>(sent_));
    text->copy(buffer, length, static_cast<std::size_t>(sent_));
    sent_ += length;
    return length;
  }
  const auto* range = std::get_if<FileRange>(&request_.body);
  if (range == nullptr || sent_ >= range->length) {
    return 0;
  }
  const auto length =
      static_cast<std::size_t>(std::min<std::uint64_t>(capacity, range->length - sent_));
  ssize_t count = -1;
  do {
    count = ::pread(range->fd, buffer, length, static_cast<off_t>(range->offset + sent_));
  } while (count < 0 && errno == EINTR);
  if (count <= 0) {
    read_errno_ = count < 0 ? errno : 0;
    short_file_ = count == 0;
    return CURL_READFUNC_ABORT;
  }
  sent_ += static_cast<std::uint64_t>(count);
  return static_cast<std::size_t>(count);
}

bool CurlTransfer::seek(std::int64_t offset) noexcept {
  if (offset < 0) {
    return false;
  }
  sent_ = static_cast<std::uint64_t>(offset);
  if (const auto* text = std::get_if<std::string>(&request_.body)) {
    return sent_ <= text->size();
  }
  return true;
}

bool CurlTransfer::receive(const char* data, std::size_t length) noexcept {
  try {
    if (!streams()) {
      const std::size_t room = limits_.body - std::min(limits_.body, received_.size());
      if (length > room) {
        // Of an error's text the beginning will do; what was asked for must be whole.
        too_large_ = status_ok();
        received_.append(data, room);
        return !too_large_;
      }
    } else if (received_.empty()) {
      received_.reserve(std::min(std::max<std::size_t>(length, kReceiveBuffer), kMaxReserve));
    }
    received_.append(data, length);
    return true;
  } catch (...) {
    out_of_memory_ = true;
    return false;
  }
}

bool CurlTransfer::receive_header(std::string_view line) noexcept {
  try {
    while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) {
      line.remove_suffix(1);
    }
    if (line.starts_with("HTTP/")) {
      // A new reply: the one before was informational.
      reply_.headers.clear();
      header_bytes_ = 0;
      reply_.status = 0;
      const auto space = line.find(' ');
      if (space != std::string_view::npos) {
        std::from_chars(line.data() + space + 1, line.data() + line.size(), reply_.status);
      }
      return true;
    }
    header_bytes_ += line.size();
    if (header_bytes_ > kMaxHeaderBytes) {
      return false;
    }
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) {
      return true;
    }
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : static_cast<char>(c);
    });
    std::string_view value = line.substr(colon + 1);
    const auto begin = value.find_first_not_of(" \t");
    value = begin == std::string_view::npos
                ? std::string_view()
                : value.substr(begin, value.find_last_not_of(" \t") - begin + 1);
    reply_.headers.emplace_back(std::move(name), value);
    return true;
  } catch (...) {
    out_of_memory_ = true;
    return false;
  }
}

std::size_t CurlTransfer::on_read(char* buffer, std::size_t size, std::size_t count,
                                  void* self) noexcept {
  return static_cast<CurlTransfer*>(self)->read(buffer, size * count);
}

int CurlTransfer::on_seek(void* self, curl_off_t offset, int origin) noexcept {
  return origin == SEEK_SET && static_cast<CurlTransfer*>(self)->seek(offset) ? CURL_SEEKFUNC_OK
                                                                              : CURL_SEEKFUNC_FAIL;
}

std::size_t CurlTransfer::on_body(char* data, std::size_t size, std::size_t count,
                                  void* self) noexcept {
  return static_cast<CurlTransfer*>(self)->receive(data, size * count) ? size * count : 0;
}

std::size_t CurlTransfer::on_header(char* data, std::size_t size, std::size_t count,
                                    void* self) noexcept {
  const std::size_t length = size * count;
  return static_cast<CurlTransfer*>(self)->receive_header({data, length}) ? length : 0;
}

}  // namespace net
