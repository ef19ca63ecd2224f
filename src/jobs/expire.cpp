#include "pg/postgres.hpp"

#include "jobs/expire.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "core/check.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/job_run.hpp"
#include "jobs/refund.hpp"
#include "metrics/at_commit.hpp"
#include "pg/encoding.hpp"
#include "pg/entry.hpp"
#include "pg/isolation.hpp"
#include "pg/lock.hpp"
#include "pg/log.hpp"
#include "pg/memory.hpp"
#include "pg/result.hpp"
#include "pg/security.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"

extern "C" {
#include "access/xact.h"
#include "common/pg_prng.h"
#include "utils/timestamp.h"
}

namespace jobs {
namespace {

using sources::Source;

// Whatever can wait in spite of SKIP LOCKED (a foreign key's parent row, DDL, a trigger) may take
// this long once, and then little: the batch's wallets are held meanwhile.
constexpr int kLockTimeoutMs = 1000;
constexpr int kLaterLockTimeoutMs = 50;
constexpr int kMaxLoggedFailures = 10;
constexpr int kMaxFailuresInARow = 10;

std::string lock_timeout(bool first) {
  return pg::yielding_lock_timeout(first ? kLockTimeoutMs : kLaterLockTimeoutMs);
}

void require_read_committed() {
  pg::require_read_committed(
      "reservations can only be expired in a READ COMMITTED transaction",
      "In a fixed snapshot, rows that changed since would end it with a serialization failure.");
}

}  // namespace

// The tables that a refund takes. Where the application holds without debiting, reservations alone.
struct ExpiryTick::Books {
  const Source* reservations = nullptr;
  const Source* wallet = nullptr;
  const Source* ledger = nullptr;
};

namespace {

ExpiryTick::Books require_books(const sources::Sources& all) {
  ExpiryTick::Books books;
  books.reservations = &all.require_for_expiry("reservations");
  if (books.reservations->refund) {
    books.wallet = &all.require_for_expiry("wallet");
    books.ledger = &all.require_for_expiry("wallet_ledger");
  }
  return books;
}

}  // namespace

std::string expiry_obstacle(const sources::Sources& all) {
  try {
    require_books(all);
    return {};
  } catch (const core::Error& e) {
    return e.message();
  }
}

// A role without rights is refused at once; charged to each user it would look like bad data.
void ExpiryTick::require_rights(const Books& books) {
  pg::Spi spi;
  for (const auto& [source, privilege] :
       {std::pair(books.reservations, "UPDATE"), std::pair(books.wallet, "UPDATE"),
        std::pair(books.ledger, "INSERT"), std::pair(books.ledger, "SELECT")}) {
    if (source != nullptr && !spi.query("SELECT has_any_column_privilege($1, $2)",
                                        {pg::Param::oid(source->oid), pg::Param::text(privilege)})
                                  .boolean(0, 0)) {
      throw core::Error(core::sqlstate::kInsufficientPrivilege,
                        "permission denied for table " + source->sql_name(), {},
                        std::string("GRANT ") + privilege + " ON " + source->sql_name() +
                            " TO the role that expires reservations.");
    }
  }
}

// The worker acts as the owner whom it found at first; the names are resolved for every batch.
void ExpiryTick::require_same_owner(const Books& books) {
  if (!OidIsValid(owner_)) {
    owner_ = books.reservations->owner;
  }
  if (books.reservations->owner != owner_) {
    throw core::Error(core::sqlstate::kObjectNotInPrerequisiteState,
                      books.reservations->sql_name() + " has another owner now than a moment ago",
                      {}, "The next run goes on with the table as it is then.");
  }
}

// What one batch did, to be added up once it is certain.
struct ExpiryTick::BatchResult {
  std::int64_t expired = 0;
  std::int64_t locked = 0;
  std::int64_t no_wallet = 0;
  std::string tokens_refunded;
};

std::string ExpiryTotals::detail() const {
  core::JsonObject detail;
  detail.number("expired", expired)
      .raw("tokens_refunded", tokens_refunded)
      .number("skipped_locked", locked)
      .number("skipped_no_wallet", no_wallet)
      .number("skipped_invalid", invalid)
      .number("failed", failed);
  if (!relation.empty()) {
    detail.text("relation", relation);
  }
  return detail.str();
}

ExpiryTick::ExpiryTick(const pg::Extension& extension, std::string request_id,
                       std::optional<std::int64_t> limit, Deferred deferred,
                       std::optional<sources::GivenTables> given)
    : extension_(extension),
      request_id_(std::move(request_id)),
      limit_(limit),
      given_(given),
      now_(GetCurrentTimestamp()),
      deferred_(deferred) {
  require_read_committed();
}

bool ExpiryTick::step() {
  const bool more = !stopped_ && next_batch();
  if (deferred_ == Deferred::kWithBatch) {
    // The caller commits this batch and, at the end, the record of the run, which flushes them all.
    // A crash before that takes back whole batches, which are due again then.
    pg::set_local("synchronous_commit", "off");
  }
  return more;
}

bool ExpiryTick::next_batch() {
  const pg::MemoryScope memory("bacmr_ops expiry");
  pg::PinnedSettings settings;
  settings.set("lock_timeout", lock_timeout(lock_timeouts_ == 0).c_str());
  const sources::Sources all = given_ ? sources::Sources::load_given(extension_, *given_)
                                      : sources::Sources::load(extension_);
  const Books books = require_books(all);
  require_same_owner(books);
  if (given_) {
    totals_.relation = pg::to_utf8(books.reservations->sql_name()).value_or("?");
  }
  if (!rights_checked_) {
    require_rights(books);
    rights_checked_ = true;
  }
  if (queue_.empty() && !choose(*books.reservations)) {
    return false;
  }
  if (queue_.empty()) {
    return true;  // a page of rows that cannot expire: walk on
  }
  const std::vector<Due> due = std::move(queue_.front());
  queue_.pop_front();
  try {
    pg::Subtransaction attempt;
    const BatchResult result = expire(books, due);
    attempt.commit();
    count(result);
    failures_in_a_row_ = 0;
    totals_.expired += result.expired;
    totals_.locked += result.locked;
    totals_.no_wallet += result.no_wallet;
    totals_.tokens_refunded = result.tokens_refunded;
  } catch (const pg::Error& e) {
    if (e.is_interrupt()) {
      throw;
    }
    lock_timeouts_ += e.code() == ERRCODE_LOCK_NOT_AVAILABLE ? 1 : 0;
    give_up(due, e.sqlstate(), e.summary());
  } catch (const core::Error& e) {
    give_up(due, e.sqlstate(), e.message());
  }
  return true;
}

// Once the batch is committed, whoever commits it.
void ExpiryTick::count(const BatchResult& result) const {
  using metrics::Change;
  using metrics::Metric;
  if (result.expired > 0) {
    const auto expired = static_cast<double>(result.expired);
    metrics::record_at_commit(Metric::kWalletReservations, {"expired"}, Change::kAdd, expired);
    metrics::record_at_commit(Metric::kExpiredReservations, {}, Change::kAdd, expired);
    metrics::record_at_commit(
        Metric::kRefundedTokens, {}, Change::kAdd,
        std::stod(result.tokens_refunded) - std::stod(totals_.tokens_refunded));
  }
}

bool ExpiryTick::choose(const Source& reservations) {
  const std::int64_t batch = std::min<std::int64_t>(
      pg::settings::expire_batch_size(),
      limit_ ? *limit_ - totals_.expired : std::numeric_limits<std::int64_t>::max());
  if (batch <= 0) {
    return false;
  }
  // With an alias throughout: ORDER BY id alone would mean the text in the first output column.
  const sources::RowHandle row = reservations.row_handle("id");
  const std::string id = "r." + reservations.col("id");
  const std::string expires = "r." + reservations.col("expires_at");
  // Many users may have a reservation of the same id and time.
  const bool with_user = reservations.id_with_user;
  const std::string user = "r." + reservations.col("user_id");
  const std::string key = expires + ", " + id + (with_user ? ", " + user : "");
  std::string past = with_user ? " AND " + user + " IS NOT NULL" : "";
  if (last_expires_at_) {
    past += " AND (" + key + ") > ($3, $4::" + reservations.type_name("id") +
            (with_user ? ", $5::" + reservations.type_name("user_id") : "") + ")";
  }
  pg::Spi spi;
  const pg::Rows rows =
      spi.query("SELECT " + id + "::text, r." + reservations.col("user_id") + "::text, " + expires +
                    ", coalesce(" + reservations.payable("amount", "r.") + ", false), r." +
                    row.column + "::text FROM " + row.table + " r WHERE r." +
                    reservations.col("status") + " = 'reserved' AND " + expires +
                    // Without an id it could be neither refunded nor walked past.
                    " <= $1 AND " + id + " IS NOT NULL" + past + " ORDER BY " + key + " LIMIT $2",
                {pg::Param::timestamptz(now_), pg::Param::int8(batch),
                 pg::Param::timestamptz(last_expires_at_.value_or(0)), pg::Param::text(last_id_),
                 pg::Param::text(last_user_)});
  std::vector<Due> due;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    if (!rows.boolean(i, 3)) {
      ++totals_.invalid;
    } else if (rows.is_null(i, 1)) {
      ++totals_.no_wallet;
    } else {
      due.push_back({rows.text(i, 4), rows.text(i, 1)});
    }
    last_expires_at_ = rows.int8(i, 2);
    last_id_ = rows.text(i, 0);
    last_user_ = rows.text(i, 1);
  }
  if (!due.empty()) {
    queue_.push_back(std::move(due));
  }
  return !rows.empty();
}

ExpiryTick::BatchResult ExpiryTick::expire(const Books& books, const std::vector<Due>& due) {
  BatchResult result;
  std::set<std::string> users;
  for (const Due& each : due) {
    users.insert(each.user);
  }
  pg::Spi spi;
  Balances balances;
  if (books.wallet != nullptr) {
    balances = lock_wallets(spi, *books.wallet, {users.begin(), users.end()});
    users = {balances.users.begin(), balances.users.end()};
  }
  std::vector<std::string> handles;
  std::vector<std::string> owners;
  std::vector<std::string> left;
  for (const Due& each : due) {
    if (users.contains(each.user)) {
      handles.push_back(each.handle);
      owners.push_back(each.user);
    } else {
      left.push_back(each.user);
    }
  }
  if (!left.empty()) {
    const std::set<std::string> held = users_with_wallet(spi, *books.wallet, left);
    for (const std::string& user : left) {
      ++(held.contains(user) ? result.locked : result.no_wallet);
    }
  }
  const pg::Rows marked =
      mark_expired(spi, *books.reservations, now_, handles, owners, totals_.tokens_refunded);
  result.expired = marked.int8(0, kMarked);
  const auto wanted = static_cast<std::int64_t>(handles.size());
  // By their keys, where those are unique together with the user only, more rows may be found.
  core::ensure(result.expired <= wanted || books.reservations->row_handle("id").column != "ctid",
               "no more reservations expire than were chosen");
  result.locked += std::max<std::int64_t>(wanted - result.expired, 0);
  result.tokens_refunded =
      books.wallet != nullptr ? marked.text(0, kTotal) : totals_.tokens_refunded;
  if (books.wallet != nullptr && result.expired > 0) {
    credit_wallets(spi, *books.wallet, balances, marked);
    write_ledger(spi, *books.ledger, marked, request_id_);
  }
  if (deferred_ == Deferred::kWithBatch) {
    spi.query("SET CONSTRAINTS ALL IMMEDIATE");
  }
  if (books.wallet != nullptr && result.expired > 0) {
    verify_refund(spi, *books.reservations, *books.wallet, *books.ledger, balances, marked);
  }
  return result;
}

// A batch that failed is tried again user by user; a user that fails alone is left until the next
// tick.
void ExpiryTick::give_up(const std::vector<Due>& due, const std::string& sqlstate,
                         const std::string& reason) {
  std::map<std::string, std::vector<Due>> by_user;
  for (const Due& each : due) {
    by_user[each.user].push_back(each);
  }
  if (by_user.size() > 1) {
    for (auto& [user, reservations] : by_user) {
      queue_.push_back(std::move(reservations));
    }
    // In an order of chance: some that always fail must not always stand in front of the others.
    std::shuffle(queue_.begin(), queue_.end(),
                 std::minstd_rand(pg_prng_uint32(&pg_global_prng_state)));
    return;
  }
  totals_.failed += static_cast<std::int64_t>(due.size());
  if (totals_.first_error.empty()) {
    totals_.first_error = "user " + due.front().user + ": " + reason;
  }
  if (++logged_failures_ <= kMaxLoggedFailures) {
    pg::log_line(pg::LogLevel::kWarning, "reservations of a user could not be expired",
                 core::JsonObject()
                     .text("user_id", due.front().user)
                     .number("reservations", static_cast<std::int64_t>(due.size()))
                     .text("sqlstate", sqlstate)
                     .text("error", reason)
                     .str(),
                 request_id_);
  }
  failures_in_a_row_ = last_sqlstate_ == sqlstate ? failures_in_a_row_ + 1 : 1;
  last_sqlstate_ = sqlstate;
  if (failures_in_a_row_ >= kMaxFailuresInARow) {
    give_up_batch();
  }
}

// What fails for so many, one after the other, is nobody's data: a table lock, a column that was
// added. The rest of the batch is left for the next tick; a lock stops the whole walk, since
// everything behind it would wait as well.
void ExpiryTick::give_up_batch() {
  for (const std::vector<Due>& due : queue_) {
    totals_.failed += static_cast<std::int64_t>(due.size());
  }
  queue_.clear();
  stopped_ = last_sqlstate_ == core::sqlstate::kLockNotAvailable;
}

std::optional<std::int64_t> next_due(const pg::Extension& extension, std::int64_t now) {
  const pg::PinnedSettings settings;
  const sources::Sources all = sources::Sources::load(extension);
  const Source& reservations = all.require_for_expiry("reservations");
  pg::Spi spi;
  const std::string expires = reservations.col("expires_at");
  const pg::Rows rows =
      spi.query("SELECT min(" + expires + ") FROM " + reservations.sql_name() + " WHERE " +
                    reservations.col("status") + " = 'reserved' AND " + expires + " > $1",
                {pg::Param::timestamptz(now)});
  if (rows.is_null(0, 0)) {
    return std::nullopt;
  }
  return rows.int8(0, 0);
}

std::optional<std::int64_t> checked_limit(std::optional<std::int64_t> max_reservations) {
  if (max_reservations && *max_reservations <= 0) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "max_reservations must be greater than 0", {},
                      "Leave it out, or give NULL, for no limit.");
  }
  return max_reservations;
}

RunResult run_result(const ExpiryTotals& totals) {
  RunResult result;
  result.detail = totals.detail();
  if (totals.failed > 0) {
    result.status = RunStatus::kFailed;
    result.error =
        std::to_string(totals.failed) + " reservations could not be expired; " + totals.first_error;
  }
  return result;
}

namespace {

Datum expire(const pg::Args& args, std::optional<std::int64_t> max_reservations,
             std::optional<sources::GivenTables> given) {
  const std::optional<std::int64_t> limit = checked_limit(max_reservations);
  const pg::Extension extension = pg::require_extension();
  const std::int64_t started_at = GetCurrentTimestamp();
  const std::string request_id = new_request_id();
  ExpiryTick tick(extension, request_id, limit, Deferred::kAtCommit, given);
  while (tick.step()) {
    tick.confirm();
  }
  tick.confirm();
  const ExpiryTotals& totals = tick.totals();
  if (totals.did_something()) {
    const pg::PinnedSettings settings;
    record_run(extension, Job::kExpire, request_id, started_at, run_result(totals));
  }
  if (totals.locked + totals.no_wallet + totals.invalid > 0) {
    pg::notice_client("reservations that are due were left as they are: " +
                          std::to_string(totals.locked) + " held by another session, " +
                          std::to_string(totals.no_wallet) + " without a wallet to refund, " +
                          std::to_string(totals.invalid) + " with an amount that is no amount",
                      "Held ones expire in a later run; bacmr_reconcile() names the others.");
  }
  if (totals.failed > 0) {
    pg::warn_client(*run_result(totals).error, {},
                    "The others have been expired. Mend the cause; the next run tries again.");
  }
  return pg::record(args,
                    {pg::Value::int8(totals.expired), pg::Value::numeric(totals.tokens_refunded)});
}

Datum expire_attached(pg::Args args) { return expire(args, args.int8(0), std::nullopt); }

// The wallet and the ledger may be NULL where nothing is refunded.
Datum expire_given(pg::Args args) {
  const auto maybe_oid = [&](int i) {
    return args.is_null(i) ? std::nullopt : std::optional<Oid>(DatumGetObjectId(args.datum(i)));
  };
  const sources::GivenTables given{args.oid(0, "reservations"), maybe_oid(1), maybe_oid(2)};
  return expire(args, args.int8(3), given);
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_expire_reservations, jobs::expire_attached);
BACMR_FUNCTION(bacmr_expire_in, jobs::expire_given);
