-- One round of a script's loop, over pgbench: a transaction a reservation.
BEGIN;
SELECT id AS reservation, user_id AS student, amount FROM reservations
WHERE status = 'reserved' AND expires_at < now() LIMIT 1 FOR UPDATE \gset
UPDATE reservations SET status = 'expired', updated_at = now() WHERE id = ':reservation';
UPDATE wallet SET token_balance = token_balance + :amount, updated_at = now()
WHERE user_id = ':student';
INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
VALUES (':student', :amount, 'reservation_expired', ':reservation');
COMMIT;
