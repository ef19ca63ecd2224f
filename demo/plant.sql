-- Faults of every kind that a reconciliation knows, and beside each what it must report.
-- psql variable: first (students from this number on are left alone by the application, so that
-- what is planted stays as it was planted).
--
-- The reference tables forbid some of these faults. Real tables often lack such a constraint, so it
-- is dropped first; repair.sql puts it back.

-- A refund can be written twice only without this index:
DROP INDEX wallet_ledger_reservation_expired_key;
-- Amounts and times can be NULL only without NOT NULL:
ALTER TABLE wallet ALTER token_balance DROP NOT NULL;
ALTER TABLE wallet_ledger ALTER delta DROP NOT NULL;
ALTER TABLE reservations ALTER expires_at DROP NOT NULL;
-- A reservation can go stale only while nobody expires it:
SELECT bacmr_pause('expire', 'somebody paused it last night, and forgot');

CREATE TABLE demo_planted (
  kind text NOT NULL, user_id text, discrepancy numeric, reservation_id text, story text NOT NULL
);

BEGIN;
CREATE FUNCTION pg_temp.student(n int) RETURNS uuid LANGUAGE sql IMMUTABLE
  RETURN md5('student ' || n)::uuid;

-- A reservation as the application makes it: debited, and in the ledger.
CREATE FUNCTION pg_temp.reserve(who uuid, tokens bigint, until timestamptz, state text)
  RETURNS uuid LANGUAGE sql AS $$
  UPDATE wallet SET token_balance = token_balance - tokens WHERE user_id = who;
  WITH hold AS (INSERT INTO reservations (user_id, amount, expires_at, status)
                VALUES (who, tokens, until, state) RETURNING id)
  INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
  SELECT who, -tokens, 'reservation', id FROM hold RETURNING reservation_id
$$;

-- 1. balance_mismatch, three ways to get there.
UPDATE wallet SET token_balance = token_balance + 500 WHERE user_id = pg_temp.student(:first);
INSERT INTO demo_planted VALUES ('balance_mismatch', pg_temp.student(:first), 500, NULL,
  'support credited 500 tokens without a ledger row');

WITH lost AS (DELETE FROM wallet_ledger
              WHERE id = (SELECT max(id) FROM wallet_ledger
                          WHERE user_id = pg_temp.student(:first + 1) AND reason = 'top_up')
              RETURNING user_id, delta)
INSERT INTO demo_planted SELECT 'balance_mismatch', user_id, delta, NULL,
  'a ledger row was deleted' FROM lost;

INSERT INTO wallet (user_id, token_balance) VALUES (md5('newcomer')::uuid, 100);
INSERT INTO demo_planted VALUES ('balance_mismatch', md5('newcomer')::uuid, 100, NULL,
  'a wallet came with 100 tokens and no ledger row');

-- 2. missing_wallet: an inner join would never see this one.
DELETE FROM wallet WHERE user_id = pg_temp.student(:first + 2);
INSERT INTO demo_planted SELECT 'missing_wallet', user_id, -sum(delta), NULL,
  'the wallet was deleted, its ledger was not'
FROM wallet_ledger WHERE user_id = pg_temp.student(:first + 2) GROUP BY user_id;

-- 3. negative_balance: wallet and ledger agree, on less than nothing.
WITH overdrawn AS (UPDATE wallet w SET token_balance = -40 FROM wallet before
                   WHERE w.user_id = pg_temp.student(:first + 3) AND before.user_id = w.user_id
                   RETURNING w.user_id, before.token_balance AS was)
INSERT INTO wallet_ledger (user_id, delta, reason)
SELECT user_id, -40 - was, 'spent twice' FROM overdrawn;
INSERT INTO demo_planted VALUES ('negative_balance', pg_temp.student(:first + 3), 0, NULL,
  'two requests spent the same tokens');

-- 4. null_amount, in the ledger and in a wallet. A NULL balance counts as 0, so that user does not
-- agree with the ledger either.
INSERT INTO wallet_ledger (user_id, delta, reason)
VALUES (pg_temp.student(:first + 4), NULL, 'top_up');
INSERT INTO demo_planted VALUES ('null_amount', pg_temp.student(:first + 4), 0, NULL,
  'a ledger row without an amount');
UPDATE wallet SET token_balance = NULL WHERE user_id = pg_temp.student(:first + 5);
INSERT INTO demo_planted
SELECT kind, user_id, CASE kind WHEN 'balance_mismatch' THEN -sum(delta) END, NULL,
       'a wallet whose balance is NULL'
FROM wallet_ledger, (VALUES ('null_amount'), ('balance_mismatch')) k(kind)
WHERE user_id = pg_temp.student(:first + 5) GROUP BY user_id, kind;

-- 5. duplicate_refund: the balance agrees, and yet tokens came from nowhere.
WITH again AS (INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
               SELECT user_id, delta, reason, reservation_id FROM wallet_ledger
               WHERE reason = 'reservation_expired' AND user_id IN
                 (SELECT pg_temp.student(n) FROM generate_series(:first + 20, :first + 99) n)
               ORDER BY user_id, id LIMIT 1 RETURNING user_id, delta, reservation_id),
  credit AS (UPDATE wallet w SET token_balance = token_balance + delta FROM again
             WHERE w.user_id = again.user_id RETURNING w.user_id, again.reservation_id)
INSERT INTO demo_planted SELECT 'duplicate_refund', user_id, NULL, reservation_id,
  'a reservation was refunded twice' FROM credit;

-- 6. unrefunded_expiry, without a refund and with too small a one.
INSERT INTO demo_planted VALUES ('unrefunded_expiry', pg_temp.student(:first + 6), NULL,
  pg_temp.reserve(pg_temp.student(:first + 6), 60, now(), 'expired'),
  'a reservation was marked expired, never refunded');
WITH expiry AS (SELECT pg_temp.reserve(pg_temp.student(:first + 7), 60, now(), 'expired') AS id),
  part AS (INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
           SELECT pg_temp.student(:first + 7), 30, 'reservation_expired', id FROM expiry
           RETURNING user_id, reservation_id)
INSERT INTO demo_planted SELECT 'unrefunded_expiry', user_id, NULL, reservation_id,
  'a refund of 30 for a reservation of 60' FROM part;
UPDATE wallet SET token_balance = token_balance + 30 WHERE user_id = pg_temp.student(:first + 7);

-- 7. orphan_reservation
WITH orphan AS (INSERT INTO reservations (user_id, amount, expires_at)
                VALUES (md5('nobody')::uuid, 25, now() + interval '1 hour') RETURNING user_id, id)
INSERT INTO demo_planted SELECT 'orphan_reservation', user_id, NULL, id,
  'a reservation of a user who has no wallet' FROM orphan;

-- 8. invalid_reservation
WITH invalid AS (INSERT INTO reservations (user_id, amount, expires_at)
                 VALUES (pg_temp.student(:first + 8), 0, now() + interval '1 hour')
                 RETURNING user_id, id)
INSERT INTO demo_planted SELECT 'invalid_reservation', user_id, NULL, id,
  'a reservation of nothing' FROM invalid;
INSERT INTO demo_planted VALUES ('invalid_reservation', pg_temp.student(:first + 9), NULL,
  pg_temp.reserve(pg_temp.student(:first + 9), 35, NULL, 'reserved'),
  'a reservation that never ends: no expires_at');

-- 9. stale_reservation
INSERT INTO demo_planted VALUES ('stale_reservation', pg_temp.student(:first + 10), NULL,
  pg_temp.reserve(pg_temp.student(:first + 10), 45, now() - interval '10 minutes', 'reserved'),
  'due for 10 minutes, and nobody came');
COMMIT;
