// A Postgres error as a C++ exception, and the way back.
#pragma once

#include "pg/postgres.hpp"

#include <exception>
#include <string>

namespace pg {

// Owns a full copy of the ErrorData: SQLSTATE, message, detail, hint, context, names, source line.
//
// Whoever catches one (or any other exception that passed through Postgres calls) either lets it
// go on to the entry point or rolls back the subtransaction in which it arose (pg::Subtransaction);
// without that, locks and pins leak.
class Error : public std::exception {
 public:
  // Takes the error that is on top of Postgres' error stack off it. `caller`: the memory context
  // to return to. Throws std::bad_alloc where no memory is left to copy it.
  [[noreturn]] static void throw_current(MemoryContext caller);

  Error(const Error&) = delete;
  Error& operator=(const Error&) = delete;
  Error(Error&& other) noexcept : context_(other.context_), data_(other.data_) {
    other.context_ = nullptr;
    other.data_ = nullptr;
  }
  Error& operator=(Error&&) = delete;
  ~Error() override;

  int code() const noexcept { return data_->sqlerrcode; }
  const char* sqlstate() const noexcept { return unpack_sql_state(data_->sqlerrcode); }
  const char* message() const noexcept { return data_->message ? data_->message : ""; }
  const char* what() const noexcept override { return message(); }
  const ErrorData& data() const noexcept { return *data_; }

  // "message (detail; hint)", for a report that has one line for it.
  std::string summary() const;

  // A cancel, a statement timeout or a shutdown: the job has to stop, whatever it was doing.
  bool is_interrupt() const noexcept;

  // Puts a text in front of the message: which row, which file.
  void prepend(const std::string& text);

  // Hands the copy over to `owner`: it is freed with that memory context.
  ErrorData* release_to(MemoryContext owner) noexcept;

 private:
  Error(MemoryContext context, ErrorData* data) : context_(context), data_(data) {}

  MemoryContext context_;  // holds data_ and nothing else
  ErrorData* data_;
};

}  // namespace pg
