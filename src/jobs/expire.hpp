// Reservation expiry: a reservation whose time is over becomes 'expired', its amount goes back to
// the wallet, and one ledger row says so: all three or none.
//
// It never waits for a row that somebody else holds. The order in which it takes rows (which are
// due without locks; their wallets; their reservations; both with SKIP LOCKED) means that it can
// only ever be waited for, for as long as one batch takes.
#pragma once

#include "pg/extension.hpp"

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "jobs/job_run.hpp"
#include "sources/source.hpp"

namespace jobs {

struct ExpiryTotals {
  std::int64_t expired = 0;
  std::string tokens_refunded = "0";
  // Due, but left for the next tick or for a human.
  std::int64_t locked = 0;     // the wallet or the reservation is held by somebody
  std::int64_t no_wallet = 0;  // nobody to refund, or a NULL balance
  std::int64_t invalid = 0;    // amount NULL, not positive, or not a number
  std::int64_t failed = 0;     // an error in a trigger, a constraint, a lock that took too long
  std::string first_error;
  std::string relation;  // the reservations, where the caller gave them; in UTF-8

  bool did_something() const { return expired > 0 || failed > 0; }
  std::string detail() const;  // JSON
};

// When deferred constraints and constraint triggers of the application fire: with the batch, so
// that one that fails costs one user and not the commit; or at the caller's commit, whose
// transaction may have deferred more than ours.
enum class Deferred { kWithBatch, kAtCommit };

// One tick: everything that was due when it began, in batches. The caller decides about
// transactions: each step() does one batch, which may be committed by itself; confirm() says that
// it was.
class ExpiryTick {
 public:
  struct Books;

  // `limit`: reservations at the most. `given`: other tables than the attached ones. Throws 25001
  // above READ COMMITTED.
  ExpiryTick(const pg::Extension& extension, std::string request_id,
             std::optional<std::int64_t> limit, Deferred deferred,
             std::optional<sources::GivenTables> given = std::nullopt);

  // Works off one batch in the current transaction; false when nothing due is left to try.
  bool step();
  void confirm() { confirmed_ = totals_; }
  // Of the confirmed steps.
  const ExpiryTotals& totals() const { return confirmed_; }

 private:
  struct Due {
    std::string handle;
    std::string user;
  };
  struct BatchResult;

  static void require_rights(const Books& books);
  void require_same_owner(const Books& books);
  bool next_batch();
  bool choose(const sources::Source& reservations);
  void count(const BatchResult& result) const;
  BatchResult expire(const Books& books, const std::vector<Due>& due);
  void give_up(const std::vector<Due>& due, const std::string& sqlstate, const std::string& reason);
  void give_up_batch();

  const pg::Extension& extension_;
  std::string request_id_;
  std::optional<std::int64_t> limit_;
  std::optional<sources::GivenTables> given_;
  std::int64_t now_;
  // Where the walk through what is due has come to: past what was skipped.
  std::optional<std::int64_t> last_expires_at_;
  std::string last_id_;
  std::string last_user_;
  // What to try next: the batch just chosen, or, after one failed, its users one by one.
  std::deque<std::vector<Due>> queue_;
  bool rights_checked_ = false;
  Oid owner_ = InvalidOid;  // of the reservations, as the tick began
  int lock_timeouts_ = 0;
  int logged_failures_ = 0;
  int failures_in_a_row_ = 0;
  std::string last_sqlstate_;
  bool stopped_ = false;
  Deferred deferred_;
  ExpiryTotals totals_;
  ExpiryTotals confirmed_;
};

// Why nothing can be expired with these sources, or ''.
std::string expiry_obstacle(const sources::Sources& all);

// The argument max_reservations; throws for one that is not positive.
std::optional<std::int64_t> checked_limit(std::optional<std::int64_t> max_reservations);

// How a tick's run is recorded.
RunResult run_result(const ExpiryTotals& totals);

// The next moment at which a reservation falls due, after `now`.
std::optional<std::int64_t> next_due(const pg::Extension& extension, std::int64_t now);

}  // namespace jobs
