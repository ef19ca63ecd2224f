#include "pg/postgres.hpp"

#include "jobs/refund.hpp"

#include "core/error.hpp"
#include "pg/security.hpp"

extern "C" {
#include "catalog/pg_type.h"
}

namespace jobs {
namespace {

using sources::Source;

// "= ANY (…)" over keys that come as text, $n.
std::string any_of(const Source& source, const char* column, const char* parameter) {
  return std::string(" = ANY (") + parameter + "::" + source.type_name(column) + "[])";
}

std::string touch(const Source& source) {
  return source.has("updated_at") ? ", " + source.col("updated_at") + " = clock_timestamp()" : "";
}

// Wallets w of the users $1 that have a sum to add to.
std::string refundable(const Source& wallet) {
  return "w." + wallet.col("user_id") + any_of(wallet, "user_id", "$1") + " AND w." +
         wallet.col("token_balance") + " IS NOT NULL";
}

void require_all(const Source& source, std::int64_t wanted, std::int64_t right) {
  if (wanted != right) {
    throw core::Error("27000",
                      "a trigger or rule on " + source.sql_name() +
                          " does not let expiry write what it must: " + std::to_string(right) +
                          " of " + std::to_string(wanted) + " rows came out right",
                      "A refund is the status, the balance and the ledger row together, to the "
                      "last token, or nothing.",
                      "Let the trigger pass the rows that bacmr_ops writes.");
  }
}

}  // namespace

Balances lock_wallets(pg::Spi& spi, const Source& wallet, const std::vector<std::string>& users) {
  const sources::RowHandle row = wallet.row_handle("user_id");
  // A thousand keys out of some hundred thousand: a scan of the whole table looks cheaper to the
  // planner, which reckons with a disk, and is several times slower for every batch. (Here only: no
  // trigger fires under this setting.)
  pg::PinnedSettings settings;
  settings.set("enable_seqscan", "off");
  const pg::Rows rows =
      spi.query("SELECT w." + wallet.col("user_id") + "::text, w." + row.column + "::text, w." +
                    wallet.col("token_balance") + "::text FROM " + row.table + " w WHERE " +
                    refundable(wallet) + " ORDER BY w." + wallet.col("user_id") +
                    " FOR NO KEY UPDATE SKIP LOCKED",
                {pg::Param::text_array(users)});
  Balances locked;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    locked.users.push_back(rows.text(i, 0));
    locked.handles.push_back(rows.text(i, 1));
    locked.balances.push_back(rows.text(i, 2));
  }
  return locked;
}

std::set<std::string> users_with_wallet(pg::Spi& spi, const Source& wallet,
                                        const std::vector<std::string>& users) {
  const pg::Rows rows = spi.query("SELECT w." + wallet.col("user_id") + "::text FROM " +
                                      wallet.sql_name() + " w WHERE " + refundable(wallet),
                                  {pg::Param::text_array(users)});
  std::set<std::string> found;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    found.insert(rows.text(i, 0));
  }
  return found;
}

pg::Rows mark_expired(pg::Spi& spi, const Source& reservations, std::int64_t now,
                      const std::vector<std::string>& handles,
                      const std::vector<std::string>& users, const std::string& tokens_before) {
  const sources::RowHandle row = reservations.row_handle("id");
  const std::string status = reservations.col("status");
  // Where rows are found by their key, that may be unique together with the user only.
  const bool by_pair = row.column != "ctid" && reservations.id_with_user;
  const std::string chosen = by_pair ? " AND (" + row.column + ", " + reservations.col("user_id") +
                                           ") IN (SELECT * FROM unnest($2::" + row.type +
                                           "[], $3::" + reservations.type_name("user_id") + "[]))"
                                     : "";
  const std::string same_user =
      row.column == "ctid" ? "" : " AND r." + reservations.col("user_id") + " = p.user_id";
  const std::string request =
      reservations.has("request_id") ? reservations.col("request_id") + "::text" : "NULL::text";
  pg::Rows rows = spi.query(
      "WITH picked AS MATERIALIZED (SELECT " + row.column + " AS handle, " +
          reservations.col("id") + " AS id, " + reservations.col("user_id") + " AS user_id, " +
          reservations.col("amount") + " AS amount, " + request + " AS request_id FROM " +
          row.table + " WHERE " + row.column + " = ANY ($2::" + row.type + "[]) AND " +
          reservations.col("user_id") + any_of(reservations, "user_id", "$3") + " AND " + status +
          " = 'reserved' AND " + reservations.col("expires_at") + " <= $1 AND " +
          reservations.payable("amount") + chosen +
          " FOR NO KEY UPDATE SKIP LOCKED), done AS (UPDATE " + row.table + " r SET " + status +
          " = 'expired'" + touch(reservations) + " FROM picked p WHERE r." + row.column +
          " = p.handle" + same_user + " RETURNING p.id, p.user_id, p.amount, p.request_id, r." +
          status +
          " = 'expired' AS expired)"
          " SELECT array_agg(id), array_agg(user_id), array_agg(amount), array_agg(request_id),"
          "  count(*) FILTER (WHERE expired), ($4::numeric + coalesce(sum(amount), 0))::text,"
          "  (SELECT count(*) FROM picked) FROM done",
      {pg::Param::timestamptz(now), pg::Param::text_array(handles), pg::Param::text_array(users),
       pg::Param::text(tokens_before)});
  require_all(reservations, rows.int8(0, 6), rows.int8(0, kMarked));
  return rows;
}

void credit_wallets(pg::Spi& spi, const Source& wallet, const Balances& before,
                    const pg::Rows& marked) {
  const sources::RowHandle row = wallet.row_handle("user_id");
  const std::string balance = wallet.col("token_balance");
  // Whoever refunds in a trigger of its own, as well, shows here.
  const pg::Rows rows = spi.query(
      "WITH refund AS MATERIALIZED (SELECT l.handle, l.balance, l.balance + r.amount AS wanted,"
      "  r.amount FROM (SELECT u, sum(a) AS amount FROM unnest($1, $2) t(u, a) GROUP BY u) r"
      "  JOIN unnest($3::" +
          wallet.type_name("user_id") + "[], $4::" + row.type +
          "[], $5::numeric[]) l(u, handle, balance) USING (u)),"
          " credited AS (UPDATE " +
          row.table + " w SET " + balance + " = w." + balance + " + refund.amount" + touch(wallet) +
          " FROM refund WHERE w." + row.column + " = refund.handle RETURNING w." + balance +
          " = refund.wanted AS correct)"
          " SELECT (SELECT count(DISTINCT u) FROM unnest($1) u),"
          "  (SELECT count(*) FROM credited WHERE correct)",
      {marked.param(0, kUsers), marked.param(0, kAmounts), pg::Param::text_array(before.users),
       pg::Param::text_array(before.handles), pg::Param::text_array(before.balances)});
  require_all(wallet, rows.int8(0, 0), rows.int8(0, 1));
}

void write_ledger(pg::Spi& spi, const Source& ledger, const pg::Rows& marked,
                  const std::string& request_id) {
  std::string columns =
      ledger.col("user_id") + ", " + ledger.col("delta") + ", " + ledger.col("reason");
  std::string values = "u, a, 'reservation_expired'::" + ledger.type_name("reason");
  if (ledger.has("reservation_id")) {
    columns += ", " + ledger.col("reservation_id");
    values += ", id";
  }
  if (ledger.has("request_id")) {
    columns += ", " + ledger.col("request_id");
    // A request id of the session's own making need not be a uuid.
    values += ledger.type("request_id") == UUIDOID
                  ? ", coalesce(r::uuid, CASE WHEN $5 ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-"
                    "[0-9a-fA-F]{12}$' THEN $5::uuid ELSE gen_random_uuid() END)"
                  : ", coalesce(r, $5)";
  }
  if (ledger.has("created_at")) {
    columns += ", " + ledger.col("created_at");
    values += ", clock_timestamp()";
  }
  // What came out must be what went in, row by row; a table without triggers changes nothing.
  const bool linked = ledger.has("reservation_id");
  const std::string came_out =
      ledger.has_triggers || ledger.has_children
          ? std::string(
                "(SELECT count(*) FROM (SELECT u, a, id FROM entry WHERE reason ="
                " 'reservation_expired' INTERSECT ALL SELECT u::text, a::numeric, ") +
                (linked ? "id::text" : "NULL") + " FROM unnest($1, $2, $3) t(id, u, a)) same)"
          : "(SELECT count(*) FROM entry)";
  const pg::Rows rows = spi.query(
      "WITH entry AS (INSERT INTO " + ledger.sql_name() + " (" + columns + ") SELECT " + values +
          " FROM unnest($1, $2, $3, $4) t(id, u, a, r) RETURNING " + ledger.col("user_id") +
          "::text AS u, " + ledger.col("delta") + "::numeric AS a, " +
          (linked ? ledger.col("reservation_id") + "::text" : "NULL") + " AS id, " +
          ledger.col("reason") +
          "::text AS reason)"
          " SELECT " +
          came_out + ", coalesce(sum(a), 0) = (SELECT sum(a) FROM unnest($3) a) FROM entry",
      {marked.param(0, kIds), marked.param(0, kUsers), marked.param(0, kAmounts),
       marked.param(0, kRequestIds), pg::Param::text(request_id)});
  const std::int64_t wanted = marked.int8(0, kMarked);
  require_all(ledger, wanted, rows.boolean(0, 1) ? rows.int8(0, 0) : 0);
}

void verify_refund(pg::Spi& spi, const Source& reservations, const Source& wallet,
                   const Source& ledger, const Balances& before, const pg::Rows& marked) {
  bool triggers = false;
  for (const Source* source : {&reservations, &wallet, &ledger}) {
    // A partition may have triggers that its parent knows nothing of.
    triggers = triggers || source->has_triggers || source->has_children;
  }
  if (!triggers) {
    return;
  }
  const pg::Rows wallets = spi.query(
      "SELECT count(*), count(*) FILTER (WHERE w." + wallet.col("token_balance") +
          " = l.balance + r.amount) FROM"
          " (SELECT u, sum(a) AS amount FROM unnest($1, $2) t(u, a) GROUP BY u) r"
          " JOIN unnest($3::" +
          wallet.type_name("user_id") + "[], $4::numeric[]) l(u, balance) USING (u) LEFT JOIN " +
          wallet.sql_name() + " w ON w." + wallet.col("user_id") + " = r.u",
      {marked.param(0, kUsers), marked.param(0, kAmounts), pg::Param::text_array(before.users),
       pg::Param::text_array(before.balances)});
  require_all(wallet, wallets.int8(0, 0), wallets.int8(0, 1));
  const pg::Rows statuses = spi.query(
      "SELECT count(*) FROM unnest($1, $2) t(i, u) JOIN " + reservations.sql_name() + " r ON r." +
          reservations.col("id") + " = i AND r." + reservations.col("user_id") + " = u WHERE r." +
          reservations.col("status") + " = 'expired'",
      {marked.param(0, kIds), marked.param(0, kUsers)});
  require_all(reservations, marked.int8(0, kMarked), statuses.int8(0, 0));
}

}  // namespace jobs
