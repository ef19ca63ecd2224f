-- psql variables: wallets, backlog. Everything anew: `backlog` reservations that have fallen due,
-- roughly in the order in which they were made, as a time limit from their creation makes them.
TRUNCATE wallet, wallet_ledger, reservations;
INSERT INTO wallet (user_id, token_balance)
SELECT md5('student ' || n)::uuid, 100000 FROM generate_series(1, :wallets) n;
INSERT INTO wallet_ledger (user_id, delta, reason) SELECT user_id, 100000, 'top_up' FROM wallet;
INSERT INTO reservations (user_id, amount, expires_at)
SELECT md5('student ' || 1 + floor(random() * :wallets)::bigint)::uuid, 5 + floor(random() * 115)::bigint,
       now() - (:backlog - n) * interval '10 minutes' / :backlog - random() * interval '30 seconds'
FROM generate_series(1, :backlog) n;
VACUUM ANALYZE wallet, wallet_ledger, reservations;
CHECKPOINT;
