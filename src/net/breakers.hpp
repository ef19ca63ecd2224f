// The circuit breakers of all sessions: one for each server of each database, in shared memory, so
// that one session's failures spare the others theirs. Where the library is not preloaded, or the
// table is full, a session keeps its own.
//
// Only a service that has failed takes up room: a breaker that is closed without failures is
// forgotten. Nothing here raises.
#pragma once

#include "pg/postgres.hpp"

#include <string>

#include "core/circuit_breaker.hpp"

namespace net {

// Requests the shared memory. Once, from _PG_init, while preloading.
void install_breakers();

using BreakerPermit = core::CircuitBreaker::Permit;

// May a request be sent to that server of this database? The permit comes back with the outcome.
BreakerPermit admit(const std::string& service) noexcept;
void report_success(const std::string& service, const BreakerPermit& permit) noexcept;
void report_failure(const std::string& service, const BreakerPermit& permit) noexcept;
void report_abandoned(const std::string& service, const BreakerPermit& permit) noexcept;

core::CircuitBreaker::State breaker_state(const std::string& service) noexcept;

}  // namespace net
