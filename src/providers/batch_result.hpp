// What becomes of a batch that is handed to an embedder or a vector store.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace providers {

// A batch under way.
using Ticket = std::uint64_t;

// What a service said in the end, after its retries: for the book-keeping, and to be raised.
struct ServiceFailure {
  // 08006 connection or retries used up, 28000 key refused, 53400 quota spent, …
  std::string sqlstate;
  std::string message;
  std::string hint;
  // False where trying again later is of no use: a key that was revoked, a quota that is spent.
  bool may_pass = true;
  // It was not asked: its breaker is open. Others know better why.
  bool unasked = false;
};

// One item (a text, a record) that the service refuses, whatever it is sent together with.
struct Refusal {
  std::size_t index = 0;
  std::string reason;
};

}  // namespace providers
