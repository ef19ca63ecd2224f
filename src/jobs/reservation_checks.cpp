#include "pg/postgres.hpp"

#include "jobs/reservation_checks.hpp"

#include "pg/row_store.hpp"
#include "pg/security.hpp"
#include "sources/indexes.hpp"

extern "C" {
#include "catalog/pg_class.h"
}

namespace jobs {
namespace {

using sources::Source;

// Later than any worker's tick: who is still reserved by then has been forgotten.
constexpr const char* kStaleAfter = "interval '5 minutes'";

struct Check {
  const Source& wallet;
  const Source& ledger;
  const Source& reservations;
  const UserFilter* filter;

  std::string user_filter(const Source& source, const char* alias) const {
    if (filter == nullptr) {
      return {};
    }
    const std::string key = std::string(alias) + "." + source.col("user_id");
    return " AND (" + key + " = ANY ($2::" + source.type_name("user_id") + "[]) OR ($3 AND " + key +
           " IS NULL))";
  }
};

// The moment at which a reservation expired, as well as the table can tell: not before it was due,
// whether or not somebody kept updated_at.
std::string expired_at(const Source& reservations) {
  const std::string expires = "r." + reservations.col("expires_at");
  return reservations.has("updated_at")
             ? "greatest(r." + reservations.col("updated_at") + ", " + expires + ")"
             : expires;
}

// Where an id belongs to a user, so does its refund. (By that, Citus finds both on one node.)
std::string same_user(const Check& check) {
  return check.reservations.id_with_user
             ? " AND l." + check.ledger.col("user_id") + " = r." + check.reservations.col("user_id")
             : "";
}

std::string since_literal(const Source& reservations) {
  return pg::quote_literal(reservations.since) + "::timestamptz";
}

// Each query returns kind, user and detail. $1: now, $2: the users, $3: whether nobody counts too.

std::string open_reservations_query(const Check& check) {
  const Source& r = check.reservations;
  const std::string amount = "r." + r.col("amount");
  const std::string expires = "r." + r.col("expires_at");
  return "SELECT k.kind, q.user_id, q.detail FROM ("
         "SELECT r." +
         r.col("user_id") + "::text AS user_id, jsonb_build_object('reservation_id', r." +
         r.col("id") + "::text, 'amount', " + amount + ", 'expires_at', " + expires +
         ")::text AS detail, w." + check.wallet.col("user_id") + " IS NULL AS orphan, (" + expires +
         " IS NULL OR r." + r.col("id") + " IS NULL OR NOT coalesce(" + r.payable("amount", "r.") +
         ", false)) AS invalid, coalesce(" + expires + " < $1 - " + kStaleAfter +
         ", false) AS stale FROM " + r.sql_name() + " r LEFT JOIN " + check.wallet.sql_name() +
         " w ON w." + check.wallet.col("user_id") + " = r." + r.col("user_id") + " WHERE r." +
         r.col("status") + " = 'reserved'" + check.user_filter(r, "r") +
         ") q, LATERAL (VALUES ('orphan_reservation', q.orphan), ('invalid_reservation', "
         "q.invalid),"
         " ('stale_reservation', q.stale)) k(kind, applies) WHERE k.applies";
}

std::string unrefunded_query(const Check& check) {
  const Source& r = check.reservations;
  const Source& l = check.ledger;
  return "SELECT 'unrefunded_expiry', r." + r.col("user_id") +
         "::text, jsonb_build_object('reservation_id', r." + r.col("id") + "::text, 'amount', r." +
         r.col("amount") + ")::text FROM " + r.sql_name() + " r WHERE r." + r.col("status") +
         " = 'expired' AND " + expired_at(r) + " >= " + since_literal(r) +
         check.user_filter(r, "r") + " AND NOT EXISTS (SELECT FROM " + l.sql_name() +
         " l WHERE l." + l.col("reason") + " = 'reservation_expired' AND l." +
         l.col("reservation_id") + " = r." + r.col("id") + " AND l." + l.col("delta") + " = r." +
         r.col("amount") + same_user(check) + ")";
}

// One refund may have gone to one user and the second to another: the finding is that of the user
// whom it names, so the filter must look at the group and not at its rows.
std::string duplicate_filter(const Check& check) {
  if (check.filter == nullptr) {
    return {};
  }
  const std::string user = "min(l." + check.ledger.col("user_id") + "::text)";
  return " AND (" + user + " = ANY ($2) OR ($3 AND " + user + " IS NULL))";
}

std::string duplicate_query(const Check& check) {
  const Source& r = check.reservations;
  const Source& l = check.ledger;
  const std::string id = "l." + l.col("reservation_id");
  // The latest of the rows decides whether the matter is older than the attachment.
  const std::string moment = l.has("created_at") ? "max(l." + l.col("created_at") + ")"
                                                 : "(SELECT " + expired_at(r) + " FROM " +
                                                       r.sql_name() + " r WHERE r." + r.col("id") +
                                                       " = " + id + same_user(check) + ")";
  return "SELECT 'duplicate_refund', min(l." + l.col("user_id") +
         "::text), jsonb_build_object('reservation_id', " + id +
         "::text, 'refunds', count(*),"
         " 'refunded', sum(l." +
         l.col("delta") + "))::text FROM " + l.sql_name() + " l WHERE l." + l.col("reason") +
         " = 'reservation_expired' AND " + id + " IS NOT NULL GROUP BY " + id +
         (r.id_with_user ? ", l." + l.col("user_id") : "") + " HAVING count(*) > 1 AND coalesce(" +
         moment + " >= " + since_literal(r) + ", true)" + duplicate_filter(check);
}

// Where a unique index forbids a second refund, looking for one is in vain.
bool index_forbids_duplicates(const Check& check) {
  const Source& ledger = check.ledger;
  // An index knows nothing of the rows of inheritance children.
  return (ledger.kind == RELKIND_PARTITIONED_TABLE || !ledger.has_children) &&
         sources::is_unique(ledger, "reservation_id",
                            ledger.col("reason") + " = 'reservation_expired'",
                            check.reservations.id_with_user);
}

}  // namespace

void check_reservations(const sources::Sources& all, std::int64_t now, const UserFilter* filter,
                        const std::function<void(Finding)>& report) {
  if (all.find("reservations") == nullptr) {
    return;
  }
  const Check check{all.require("wallet", "reconcile"), all.require("wallet_ledger", "reconcile"),
                    all.require("reservations", "reconcile"), filter};
  pg::PinnedSettings settings;  // anew, as in compare_balances_by_sql
  plan_by_partition(settings);
  pg::Spi spi;
  std::vector<std::string> queries = {open_reservations_query(check)};
  if (check.reservations.refund && check.ledger.has("reservation_id")) {
    queries.push_back(unrefunded_query(check));
    if (!index_forbids_duplicates(check)) {
      queries.push_back(duplicate_query(check));
    }
  }
  const UserFilter everybody;
  const UserFilter& chosen = filter != nullptr ? *filter : everybody;
  for (const std::string& query : queries) {
    pg::RowStore rows(query, {pg::Param::timestamptz(now), pg::Param::text_array(chosen.users),
                              pg::Param::boolean(chosen.nobody)});
    while (const auto row = rows.next()) {
      Finding finding;
      finding.kind = (*row)[0].value_or("");
      finding.user = (*row)[1];
      finding.detail = (*row)[2].value_or("{}");
      report(std::move(finding));
    }
  }
}

}  // namespace jobs
