WITH due AS (
  UPDATE reservations SET status = 'expired', updated_at = now()
  WHERE status = 'reserved' AND expires_at < now() RETURNING id, user_id, amount, request_id
), credit AS (
  UPDATE wallet w SET token_balance = token_balance + s.amount, updated_at = now()
  FROM (SELECT user_id, sum(amount) AS amount FROM due GROUP BY user_id) s
  WHERE w.user_id = s.user_id
)
INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id, request_id)
SELECT user_id, amount, 'reservation_expired', id, request_id FROM due;
