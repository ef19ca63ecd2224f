-- tokens of which the ledger does not know: somebody looked, and the wallets are right
INSERT INTO wallet_ledger (user_id, delta, reason)
SELECT user_id, discrepancy, 'correction' FROM fault
WHERE kind = 'balance_mismatch' AND discrepancy > 0;

-- the lost wallet: made again from its ledger
INSERT INTO wallet (user_id, token_balance)
SELECT user_id, ledger_sum FROM fault WHERE kind = 'missing_wallet';

-- below zero: a gift
WITH gift AS (UPDATE wallet w SET token_balance = 0 FROM fault f
              WHERE f.kind = 'negative_balance' AND w.user_id = f.user_id
              RETURNING f.user_id, -f.current_balance AS tokens)
INSERT INTO wallet_ledger (user_id, delta, reason)
SELECT user_id, tokens, 'goodwill' FROM gift;

-- amounts that are NULL: mended, and forbidden
DELETE FROM wallet_ledger WHERE delta IS NULL;
UPDATE wallet w SET token_balance = f.ledger_sum FROM fault f
WHERE f.kind = 'null_amount' AND w.user_id = f.user_id AND w.token_balance IS NULL;
ALTER TABLE wallet ALTER token_balance SET NOT NULL;
ALTER TABLE wallet_ledger ALTER delta SET NOT NULL;

-- the second refund: taken back, and forbidden
WITH second AS (DELETE FROM wallet_ledger WHERE id IN
                  (SELECT max(l.id) FROM wallet_ledger l JOIN fault f USING (reservation_id)
                   WHERE f.kind = 'duplicate_refund' AND l.reason = 'reservation_expired'
                   GROUP BY reservation_id)
                RETURNING user_id, delta)
UPDATE wallet w SET token_balance = token_balance - s.delta FROM second s
WHERE w.user_id = s.user_id;
CREATE UNIQUE INDEX wallet_ledger_reservation_expired_key ON wallet_ledger (reservation_id)
  WHERE reason = 'reservation_expired';

-- refunds that never came, or came too small: paid
WITH owed AS (SELECT r.id, r.user_id, r.amount - coalesce(l.delta, 0) AS tokens
              FROM fault f JOIN reservations r ON r.id = f.reservation_id
              LEFT JOIN wallet_ledger l ON l.reservation_id = r.id
                                       AND l.reason = 'reservation_expired'
              WHERE f.kind = 'unrefunded_expiry'),
  paid AS (UPDATE wallet w SET token_balance = token_balance + o.tokens FROM owed o
           WHERE w.user_id = o.user_id)
INSERT INTO wallet_ledger AS l (user_id, delta, reason, reservation_id)
SELECT user_id, tokens, 'reservation_expired', id FROM owed
ON CONFLICT (reservation_id) WHERE reason = 'reservation_expired'
DO UPDATE SET delta = l.delta + excluded.delta;

-- reservations of nobody, and of nothing: released
UPDATE reservations r SET status = 'released' FROM fault f
WHERE r.id = f.reservation_id AND r.status = 'reserved'
  AND (f.kind = 'orphan_reservation' OR r.amount = 0);

-- the reservation without an end: it ends now, and the worker will refund it
UPDATE reservations SET expires_at = now() WHERE expires_at IS NULL;
ALTER TABLE reservations ALTER expires_at SET NOT NULL;
