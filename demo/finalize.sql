-- The answer has come: some reservation is finalized, and what it did not use goes back.
\set place random(0, 599)
\set percent random(0, 60)
WITH answered AS MATERIALIZED (
  SELECT id FROM reservations
  WHERE status = 'reserved' AND expires_at > now()
    AND expires_at < now() + interval '1 minute'   -- its own: the planted ones last an hour
  ORDER BY expires_at, id OFFSET :place LIMIT 1
), closed AS (
  UPDATE reservations r SET status = 'finalized', updated_at = now()
  FROM answered a WHERE r.id = a.id AND r.status = 'reserved'
  RETURNING r.id, r.user_id, r.amount * :percent / 100 AS unused
), credit AS (
  UPDATE wallet w SET token_balance = token_balance + c.unused, updated_at = now()
  FROM closed c WHERE w.user_id = c.user_id AND c.unused > 0
  RETURNING c.id, c.user_id, c.unused
)
INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
SELECT user_id, unused, 'reservation_finalized', id FROM credit;
