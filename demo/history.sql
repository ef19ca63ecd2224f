-- A year in the life of an application that sells tokens to students.
-- psql variable: wallets (how many).
--
-- The same seed gives the same users, amounts and outcomes each time; only the dates move with the
-- calendar. Ids are made from names, because gen_random_uuid() has no seed.
--
-- How this application books (and bacmr_ops expects it, unless told {"refund": false}):
--   reserve    the wallet goes down, ledger −amount, a row in reservations
--   finalize   what was not used comes back
--   release    all of it comes back
--   expire     all of it comes back, reason 'reservation_expired'
BEGIN;
SELECT setseed(0.2026) \g /dev/null

INSERT INTO wallet (user_id, updated_at)
SELECT md5('student ' || n)::uuid, now() - interval '365 days'
FROM generate_series(1, :wallets) n;

-- A pack of tokens every month.
INSERT INTO wallet_ledger (user_id, delta, reason, created_at)
SELECT md5('student ' || n)::uuid, (ARRAY[500, 1000, 2500])[1 + floor(random() * 3)::int], 'top_up',
       now() - interval '365 days' + month * interval '30 days' + random() * interval '20 days'
FROM generate_series(0, 11) month, generate_series(1, :wallets) n;

-- Three questions a month, each held before the answer and settled after it. 80 of 100 are
-- finalized, 16 released, and 4 were left lying until they expired.
CREATE TEMPORARY TABLE question ON COMMIT DROP AS
SELECT md5('reservation ' || n || ' ' || k)::uuid AS id, md5('student ' || n)::uuid AS user_id,
       5 + floor(random() * 115)::int AS amount, random() AS fate, random() AS used,
       now() - interval '340 days' + k * interval '9 days' + random() * interval '8 days' AS asked
FROM generate_series(0, 35) k, generate_series(1, :wallets) n;

INSERT INTO reservations (id, user_id, amount, status, expires_at, created_at, updated_at)
SELECT id, user_id, amount,
       CASE WHEN fate < 0.80 THEN 'finalized' WHEN fate < 0.96 THEN 'released' ELSE 'expired' END,
       asked + interval '10 minutes', asked,
       asked + CASE WHEN fate < 0.96 THEN interval '8 seconds' ELSE interval '10 minutes' END
FROM question;

INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id, created_at)
SELECT user_id, delta, reason, id, moment
FROM (SELECT user_id, -amount AS delta, 'reservation' AS reason, id, asked AS moment FROM question
      UNION ALL
      SELECT user_id, amount - ceil(amount * used)::int, 'reservation_finalized', id,
             asked + interval '8 seconds'
      FROM question WHERE fate < 0.80 AND amount > ceil(amount * used)
      UNION ALL
      SELECT user_id, amount, 'reservation_released', id, asked + interval '8 seconds'
      FROM question WHERE fate >= 0.80 AND fate < 0.96
      UNION ALL
      SELECT user_id, amount, 'reservation_expired', id, asked + interval '10 minutes'
      FROM question WHERE fate >= 0.96) booking
ORDER BY moment;

UPDATE wallet w SET token_balance = l.total, updated_at = l.latest
FROM (SELECT user_id, sum(delta) AS total, max(created_at) AS latest
      FROM wallet_ledger GROUP BY user_id) l
WHERE w.user_id = l.user_id;
COMMIT;
ANALYZE wallet, wallet_ledger, reservations;
