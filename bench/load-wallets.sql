-- psql variables: wallets, rows. Wallets that agree with a ledger of `rows` rows, spread at random.
BEGIN;
DROP INDEX wallet_ledger_user_id_idx;   -- built afterwards: faster
INSERT INTO wallet (user_id) SELECT md5('student ' || n)::uuid FROM generate_series(1, :wallets) n;
INSERT INTO wallet_ledger (user_id, delta, reason)
SELECT md5('student ' || 1 + floor(random() * :wallets)::bigint)::uuid,
       1 + floor(random() * 2000)::bigint, 'top_up'
FROM generate_series(1, :rows);
UPDATE wallet w SET token_balance = l.total
FROM (SELECT user_id, sum(delta) AS total FROM wallet_ledger GROUP BY 1) l
WHERE w.user_id = l.user_id;
CREATE INDEX wallet_ledger_user_id_idx ON wallet_ledger (user_id);
COMMIT;
VACUUM ANALYZE wallet, wallet_ledger;
