-- The application holds tokens for a question: wallet, reservation and ledger in one statement.
-- A student without enough tokens gets nothing. It lapses after 8 to 20 seconds, not after ten
-- minutes as in life: the demo shall not take that long.
\set student random(1, :students)
\set amount random(5, 120)
\set seconds random(8, 20)
WITH debit AS (
  UPDATE wallet SET token_balance = token_balance - :amount, updated_at = now()
  WHERE user_id = md5('student ' || :student)::uuid AND token_balance >= :amount
  RETURNING user_id
), hold AS (
  INSERT INTO reservations (user_id, amount, expires_at)
  SELECT user_id, :amount, now() + make_interval(secs => :seconds) FROM debit
  RETURNING id, user_id, amount
)
INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
SELECT user_id, -amount, 'reservation', id FROM hold;
