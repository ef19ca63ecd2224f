// What the body of an HTTP error says, whoever sent it, and what it means for the one who asked.
//
// The forms of OpenAI, Azure, vLLM, TEI, llama.cpp, Ollama and Pinecone:
//   {"error":{"message":…,"type":…,"code":…}}   code a string, a number or null
//   {"error":"…","error_type":…}   {"error":"…"}
//   {"message":…,"type":…,"code":…}   {"object":"error","message":…}
//   {"detail":"…"}   {"detail":[{"msg":…,"loc":[…]}]}
//   "…" as a JSON string, text as it is, HTML of a proxy (its title)
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace core {

enum class ServiceErrorKind {
  kTooLarge,   // less of it might be taken: fewer texts, or a shorter one
  kQuota,      // what was paid for is used up; waiting minutes does not help
  kAuth,       // the key is refused, or may not do this
  kRateLimit,  // the same, later
  kOther,
};

struct ServiceError {
  ServiceErrorKind kind = ServiceErrorKind::kOther;
  // One line of valid UTF-8, at most kMaxServiceMessage bytes; empty where the body says nothing.
  // Only what the service put there as its message, never other fields: some send the request back
  // in them. What looks like a key is blotted out.
  std::string message;
  std::string type;
  std::string code;
};

inline constexpr std::size_t kMaxServiceMessage = 400;

// `status`: of HTTP, at least 400.
ServiceError read_service_error(int status, std::string_view body);

}  // namespace core
