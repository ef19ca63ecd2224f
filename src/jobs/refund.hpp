// The statements that expire one batch, in the order in which they run. Each checks that the rows
// came out as they must: a trigger of the application's that keeps a status, or alters an amount,
// ends the batch with an error, not with money moved twice.
#pragma once

#include "pg/spi.hpp"

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "sources/source.hpp"

namespace jobs {

// Wallets that are locked now: keys, row handles and balances as text, side by side.
struct Balances {
  std::vector<std::string> users;
  std::vector<std::string> handles;
  std::vector<std::string> balances;
};

// Locks what wallets of `users` nobody else holds. One with a NULL balance is left alone: there is
// no sum to add to.
Balances lock_wallets(pg::Spi& spi, const sources::Source& wallet,
                      const std::vector<std::string>& users);

// Which of `users` have a wallet that could be refunded, held by somebody or not.
std::set<std::string> users_with_wallet(pg::Spi& spi, const sources::Source& wallet,
                                        const std::vector<std::string>& users);

// Locks what reservations of `handles` (row handles, as text; `users` are theirs, one each) nobody
// else holds, looks at them again, and marks them expired. Returns one row, with the columns below:
// arrays of the same length, a count, and `tokens_before` plus the amounts, as text.
enum MarkedColumn { kIds, kUsers, kAmounts, kRequestIds, kMarked, kTotal };
pg::Rows mark_expired(pg::Spi& spi, const sources::Source& reservations, std::int64_t now,
                      const std::vector<std::string>& handles,
                      const std::vector<std::string>& users, const std::string& tokens_before);

// Adds one sum to each wallet. `before`: the balances that were locked.
void credit_wallets(pg::Spi& spi, const sources::Source& wallet, const Balances& before,
                    const pg::Rows& marked);

// Writes one ledger row a reservation.
void write_ledger(pg::Spi& spi, const sources::Source& ledger, const pg::Rows& marked,
                  const std::string& request_id);

// Looks once more, when every trigger has fired: a trigger after the ledger row, or after the
// status, may have moved the balance or the status again. Only where there are triggers.
void verify_refund(pg::Spi& spi, const sources::Source& reservations, const sources::Source& wallet,
                   const sources::Source& ledger, const Balances& before, const pg::Rows& marked);

}  // namespace jobs
