#include "core/service_error.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>
#include <span>

#include "core/utf8.hpp"

namespace core {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxBody = 64 * 1024;
constexpr std::size_t kMaxWord = 60;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

bool mentions(const std::string& text, std::span<const std::string_view> phrases) {
  return std::any_of(phrases.begin(), phrases.end(), [&](std::string_view phrase) {
    return text.find(phrase) != std::string::npos;
  });
}

// Blanks and control characters run together to one blank; what is not UTF-8 becomes U+FFFD.
std::string one_line(std::string_view text, std::size_t limit) {
  std::string out;
  bool blank = false;
  std::size_t at = 0;
  while (at < text.size() && out.size() <= limit) {
    const utf8::CodePoint point = utf8::decode(text, at);
    if (utf8::is_blank(point.value) || point.value < 0x20 || point.value == 0x7F) {
      blank = !out.empty();
    } else {
      if (blank) {
        out += ' ';
        blank = false;
      }
      if (point.valid) {
        out += text.substr(at, point.length);
      } else {
        out += "\xEF\xBF\xBD";
      }
    }
    at += point.length;
  }
  if (out.size() > limit) {
    constexpr std::string_view kEllipsis = "…";
    out.resize(utf8::boundary_before(out, limit - kEllipsis.size()));
    out += kEllipsis;
  }
  return out;
}

// Whether a word is a key, or what a service lets be seen of one.
bool looks_secret(const std::string& word, const std::string& previous) {
  constexpr std::array<std::string_view, 3> kStarts = {"sk-", "pcsk_", "pckey_"};
  const std::size_t start = word.find_first_not_of("\"'`(<[{");
  const std::string_view bare =
      start == std::string::npos ? std::string_view() : std::string_view(word).substr(start);
  return std::any_of(kStarts.begin(), kStarts.end(),
                     [&](std::string_view prefix) { return bare.starts_with(prefix); }) ||
         word.find("***") != std::string::npos || lower(previous) == "bearer" ||
         previous == "provided:";
}

std::string without_secrets(const std::string& line) {
  std::string out;
  std::string previous;
  for (std::size_t at = 0; at < line.size();) {
    const std::size_t end = std::min(line.find(' ', at), line.size());
    const std::string word = line.substr(at, end - at);
    if (!out.empty()) {
      out += ' ';
    }
    out += looks_secret(word, previous) ? "…" : word;
    previous = word;
    at = end + 1;
  }
  return out;
}

std::string text_of(const json& value) {
  if (value.is_string()) {
    return value.get<std::string>();
  }
  return value.is_number_integer() ? value.dump() : std::string();
}

std::string member(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? std::string() : text_of(*found);
}

// FastAPI's: the first complaint and where it belongs. Not its "input", which is what was sent.
std::string first_detail(const json& list) {
  if (list.empty() || !list.front().is_object()) {
    return {};
  }
  const json& first = list.front();
  std::string place;
  if (const auto loc = first.find("loc"); loc != first.end() && loc->is_array()) {
    for (const json& part : *loc) {
      place += (place.empty() ? "" : ".") + text_of(part);
    }
  }
  const std::string message = member(first, "msg");
  return place.empty() || message.empty() ? message : place + ": " + message;
}

void take_object(const json& object, ServiceError& out) {
  out.message = member(object, "message");
  out.type = member(object, "type");
  out.code = member(object, "code");
  if (out.code.empty()) {
    out.code = member(object, "status");  // google.rpc.Status by name, as Pinecone has it
  }
}

void take_json(const json& body, ServiceError& out) {
  if (body.is_string()) {
    out.message = body.get<std::string>();
    return;
  }
  if (!body.is_object()) {
    return;
  }
  take_object(body, out);
  const auto error = body.find("error");
  if (error != body.end() && error->is_object()) {
    take_object(*error, out);
  } else if (error != body.end() && error->is_string()) {
    const std::string text = error->get<std::string>();
    // {"error":"Bad Request","message":"what is wrong"}
    (out.message.empty() ? out.message : out.type) = text;
    if (const std::string type = member(body, "error_type"); !type.empty()) {
      out.type = type;
    }
  }
  const auto detail = body.find("detail");
  if (out.message.empty() && detail != body.end()) {
    out.message = detail->is_array() ? first_detail(*detail) : text_of(*detail);
  }
}

// A proxy's page: its title says it all.
std::string html_title(std::string_view body) {
  const std::string small = lower(body);
  const std::size_t tag = small.find("<title");
  if (tag == std::string::npos) {
    return {};
  }
  const std::size_t begin = small.find('>', tag);
  const std::size_t end = small.find("</title", tag);
  if (begin == std::string::npos || end == std::string::npos || end < begin) {
    return {};
  }
  return std::string(body.substr(begin + 1, end - begin - 1));
}

constexpr std::array<std::string_view, 3> kQuotaCodes = {
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active"};
constexpr std::array<std::string_view, 3> kQuotaPhrases = {"exceeded your current quota",
                                                           "current month", "monthly"};

constexpr std::array<std::string_view, 7> kTooLargeCodes = {
    "context_length_exceeded",   "max_tokens_per_request", "string_above_max_length",
    "array_above_max_length",    "request_too_large",      "exceed_context_size_error",
    "invalid_request_too_large",
};
// As OpenAI, Azure, vLLM, TEI, llama.cpp, Ollama and Pinecone word it. Phrases rather than words:
// "invalid token" is no question of size, nor is a dimension that does not match.
constexpr std::array<std::string_view, 20> kTooLargePhrases = {
    "context length",
    "context size",
    "context window",
    "too large",
    "too long",
    "too big",
    "too many tokens",
    "too many inputs",
    "tokens per request",
    "batch size",
    "must have less than",
    "maximum supported size",
    "maximum input length",
    "maximum number of tokens",
    "max_tokens",
    "max length",
    "maximum length",
    "exceeds the limit of",
    "input length exceeds",
    "should have at most",
};

ServiceErrorKind classify(int status, const ServiceError& error) {
  const std::string type = lower(error.type);
  const std::string code = lower(error.code);
  const std::string message = lower(error.message);
  const auto is = [&](std::span<const std::string_view> words) {
    return std::any_of(words.begin(), words.end(),
                       [&](std::string_view word) { return type == word || code == word; });
  };
  if (status == 402 || is(kQuotaCodes) || (status == 429 && mentions(message, kQuotaPhrases))) {
    return ServiceErrorKind::kQuota;
  }
  if (status == 429) {
    return ServiceErrorKind::kRateLimit;
  }
  if (status == 401 || status == 403) {
    return ServiceErrorKind::kAuth;
  }
  if (status == 413) {
    return ServiceErrorKind::kTooLarge;
  }
  if (status == 400 || status == 422 || status == 500) {
    constexpr std::array<std::string_view, 2> kAuthCodes = {"invalid_api_key",
                                                            "authentication_error"};
    if (is(kTooLargeCodes) || mentions(message, kTooLargePhrases)) {
      return ServiceErrorKind::kTooLarge;
    }
    if (is(kAuthCodes)) {
      return ServiceErrorKind::kAuth;
    }
  }
  return ServiceErrorKind::kOther;
}

}  // namespace

ServiceError read_service_error(int status, std::string_view body) {
  ServiceError error;
  const std::string_view bounded = body.substr(0, kMaxBody);
  const json parsed = json::parse(bounded, nullptr, false);
  if (!parsed.is_discarded()) {
    take_json(parsed, error);
  } else if (const std::size_t start = bounded.find_first_not_of(" \t\r\n");
             start != std::string_view::npos) {
    if (bounded[start] == '<') {
      error.message = html_title(bounded);
    } else if (bounded[start] != '{' && bounded[start] != '[') {
      error.message = bounded.substr(start, bounded.find('\n', start) - start);
    }
  }
  // By all of the message, before it is cut.
  error.kind = classify(status, error);
  error.message = one_line(without_secrets(one_line(error.message, 4 * kMaxServiceMessage)),
                           kMaxServiceMessage);
  error.type = one_line(error.type, kMaxWord);
  error.code = one_line(error.code, kMaxWord);
  return error;
}

}  // namespace core
