// Entry points whose caller's statement may hold a secret: validators of user mappings.
//
//   BACMR_HIDDEN_FUNCTION(bacmr_embedder_validator, net::embedder_validator)
//
// is BACMR_FUNCTION, but for its errors: the server writes them to its log without the statement
// that caused them, and without the context in which PL/pgSQL would repeat it.
#pragma once

#include "pg/postgres.hpp"

#include "pg/entry.hpp"

namespace pg {

[[noreturn]] void raise_without_statement(const PendingError& pending);

}  // namespace pg

#define BACMR_HIDDEN_FUNCTION(name, body)                  \
  extern "C" {                                             \
  PG_FUNCTION_INFO_V1(name);                               \
  Datum name(PG_FUNCTION_ARGS) {                           \
    return pg::from_postgres<pg::raise_without_statement>( \
        [fcinfo] { return body(pg::Args(fcinfo)); });      \
  }                                                        \
  }                                                        \
  static_assert(true)
