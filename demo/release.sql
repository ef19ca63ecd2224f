-- The student has changed their mind: a reservation is released, and all of it goes back.
\set place random(0, 599)
WITH cancelled AS MATERIALIZED (
  SELECT id FROM reservations
  WHERE status = 'reserved' AND expires_at > now()
    AND expires_at < now() + interval '1 minute'   -- its own: the planted ones last an hour
  ORDER BY expires_at, id OFFSET :place LIMIT 1
), closed AS (
  UPDATE reservations r SET status = 'released', updated_at = now()
  FROM cancelled c WHERE r.id = c.id AND r.status = 'reserved'
  RETURNING r.id, r.user_id, r.amount
), credit AS (
  UPDATE wallet w SET token_balance = token_balance + c.amount, updated_at = now()
  FROM closed c WHERE w.user_id = c.user_id
  RETURNING c.id, c.user_id, c.amount
)
INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
SELECT user_id, amount, 'reservation_released', id FROM credit;
