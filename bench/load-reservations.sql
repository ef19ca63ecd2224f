-- psql variables: wallets, reservations. Settled ones, but for every five-hundredth: open, and not
-- due for a day.
TRUNCATE wallet, wallet_ledger, reservations;
INSERT INTO wallet (user_id, token_balance)
SELECT md5('student ' || n)::uuid, 100000 FROM generate_series(1, :wallets) n;
INSERT INTO wallet_ledger (user_id, delta, reason) SELECT user_id, 100000, 'top_up' FROM wallet;
INSERT INTO reservations (user_id, amount, status, expires_at)
SELECT md5('student ' || 1 + n % :wallets)::uuid, 50,
       CASE WHEN n % 500 = 0 THEN 'reserved' ELSE 'finalized' END,
       now() + CASE WHEN n % 500 = 0 THEN interval '1 day' ELSE - random() * interval '1 year' END
FROM generate_series(1, :reservations) n;
VACUUM ANALYZE wallet, wallet_ledger, reservations;
