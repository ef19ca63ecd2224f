-- Triggers of the application that change what expiry writes, or that fail for everybody: a refund
-- is status, balance and ledger row together, to the last token, or nothing; it is reported, and
-- the other users are served.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
SET check_function_bodies = off;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');
SELECT bacmr_create_tables();
-- It would hide a second refund behind an error.
DROP INDEX wallet_ledger_reservation_expired_key;

CREATE FUNCTION u(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid$$;
CREATE FUNCTION last_run() RETURNS bacmr_job_run LANGUAGE sql AS
  $$SELECT * FROM bacmr_job_run WHERE job = 'expire' ORDER BY run_id DESC LIMIT 1$$;
-- Users 1 to n with 90 tokens each, after each has reserved 10, which are due.
CREATE FUNCTION due_users(n int) RETURNS void LANGUAGE sql AS $$
  TRUNCATE wallet, wallet_ledger, reservations;
  INSERT INTO wallet (user_id, token_balance) SELECT u(i), 90 FROM generate_series(1, n) i;
  INSERT INTO wallet_ledger (user_id, delta, reason) SELECT u(i), 90, 'x' FROM generate_series(1, n) i;
  INSERT INTO reservations (user_id, amount, expires_at)
    SELECT u(i), 10, now() - interval '1 minute' FROM generate_series(1, n) i;
$$;

-- ---------------------------------------------------------------------------------------------
-- Triggers that change what is written, for user 2 alone
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION keep_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = public.u(2) AND NEW.status = 'expired' THEN NEW.status := OLD.status; END IF;
  RETURN NEW;
END $$;
CREATE FUNCTION alter_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = public.u(2) THEN NEW.token_balance := NEW.token_balance + 1; END IF;
  RETURN NEW;
END $$;
CREATE FUNCTION keep_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = public.u(2) THEN NEW.token_balance := OLD.token_balance; END IF;
  RETURN NEW;
END $$;
CREATE FUNCTION halve_delta() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = public.u(2) THEN NEW.delta := NEW.delta / 2; END IF;
  RETURN NEW;
END $$;
CREATE FUNCTION refund_by_itself() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = public.u(2) AND NEW.status = 'expired' THEN
    UPDATE public.wallet SET token_balance = token_balance + NEW.amount WHERE user_id = NEW.user_id;
  END IF;
  RETURN NEW;
END $$;
CREATE FUNCTION reserve_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = public.u(2) AND NEW.status = 'expired' THEN
    UPDATE public.reservations SET status = 'reserved' WHERE id = NEW.id;
  END IF;
  RETURN NULL;
END $$;
-- As where the application keeps its wallets by a trigger on the ledger.
CREATE FUNCTION apply_to_wallet() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = public.u(2) THEN
    UPDATE public.wallet SET token_balance = token_balance + NEW.delta WHERE user_id = NEW.user_id;
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION nothing_by_half(table_name text, event text, function_name text, description text)
  RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE got record;
BEGIN
  PERFORM due_users(3);
  EXECUTE format('CREATE TRIGGER t %s ON %I FOR EACH ROW EXECUTE FUNCTION %I()', event, table_name,
                 function_name);
  SELECT * INTO got FROM bacmr_expire_reservations();
  RETURN NEXT is((got.expired, got.tokens_refunded), (2::bigint, 20::numeric),
                 description || ': the other users are served');
  PERFORM bacmr_expire_reservations();
  PERFORM bacmr_expire_reservations();
  RETURN NEXT is((SELECT array_agg(token_balance ORDER BY user_id) FROM wallet), '{100,90,100}'::bigint[],
                 description || ': this user''s wallet is as it was, however often it is tried');
  RETURN NEXT is((SELECT array_agg(user_id ORDER BY user_id) FROM wallet_ledger
                  WHERE reason = 'reservation_expired'), ARRAY[u(1), u(3)],
                 description || ': so is the ledger');
  RETURN NEXT is((SELECT status FROM reservations WHERE user_id = u(2)), 'reserved',
                 description || ': and the reservation');
  RETURN NEXT is(((last_run()).status, (last_run()).detail->'failed'), ('failed'::text, '1'::jsonb),
                 description || ': the run says so');
  RETURN NEXT alike((last_run()).error, '%' || u(2) || '%', description || ': and names the user');
  EXECUTE format('DROP TRIGGER t ON %I', table_name);
  SELECT * INTO got FROM bacmr_expire_reservations();
  RETURN NEXT is((got.expired, got.tokens_refunded), (1::bigint, 10::numeric),
                 description || ': without the trigger it expires');
END $$;
SELECT nothing_by_half('reservations', 'BEFORE UPDATE', 'keep_status', 'a guard that keeps the status');
SELECT nothing_by_half('wallet', 'BEFORE UPDATE', 'alter_balance', 'a wallet trigger that alters the balance');
SELECT nothing_by_half('wallet', 'BEFORE UPDATE', 'keep_balance', 'a wallet trigger that keeps the balance');
SELECT nothing_by_half('wallet_ledger', 'BEFORE INSERT', 'halve_delta', 'a ledger trigger that alters delta');
SELECT nothing_by_half('reservations', 'BEFORE UPDATE', 'refund_by_itself', 'a trigger that refunds by itself');
SELECT nothing_by_half('reservations', 'AFTER UPDATE', 'refund_by_itself', 'one that refunds afterwards');
SELECT nothing_by_half('wallet_ledger', 'AFTER INSERT', 'apply_to_wallet', 'a wallet kept by a ledger trigger');
SELECT nothing_by_half('reservations', 'AFTER UPDATE', 'reserve_again', 'a trigger that reserves again');

CREATE FUNCTION other_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = public.u(2) AND NEW.reason = 'reservation_expired' THEN
    NEW.user_id := public.u(1);
  END IF;
  RETURN NEW;
END $$;
SELECT nothing_by_half('wallet_ledger', 'BEFORE INSERT', 'other_user', 'a ledger row for another user');

-- A reservation without an id can be neither refunded nor walked past by its key.
SELECT due_users(3);
ALTER TABLE reservations DROP CONSTRAINT reservations_pkey, ALTER id DROP NOT NULL,
  ADD CONSTRAINT reservations_id_key UNIQUE (id);
UPDATE reservations SET id = NULL WHERE user_id = u(2);
SELECT is((SELECT e.expired FROM bacmr_expire_reservations() e), 2::bigint,
  'a reservation without an id stops nobody');
SELECT is((SELECT status FROM reservations WHERE id IS NULL), 'reserved', 'and stays as it is');
DELETE FROM reservations WHERE id IS NULL;

-- ---------------------------------------------------------------------------------------------
-- An error that hits everybody
-- ---------------------------------------------------------------------------------------------

CREATE SEQUENCE attempts;  -- survives rollbacks
CREATE FUNCTION always_raise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM nextval('public.attempts');
  RAISE EXCEPTION 'closed for today';
END $$;
SELECT due_users(3000);
CREATE TRIGGER t BEFORE INSERT ON wallet_ledger FOR EACH ROW EXECUTE FUNCTION always_raise();
SELECT is((SELECT e.expired FROM bacmr_expire_reservations() e), 0::bigint,
  'an error that hits everybody: nothing expires');
SELECT cmp_ok((SELECT last_value FROM attempts), '<=', 100::bigint,
  'and 3,000 users are not tried one by one');
SELECT is(((last_run()).status, (last_run()).detail->'failed'), ('failed'::text, '3000'::jsonb),
  'the run says that all of them failed');
DROP TRIGGER t ON wallet_ledger;

SELECT due_users(3);
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON wallet_ledger DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION always_raise();
SELECT raises('SELECT bacmr_expire_reservations(); SET CONSTRAINTS ALL IMMEDIATE', 'P0001',
  'closed for today', '', 'a deferred constraint trigger that fails takes the whole call back');
SELECT is((SELECT array_agg(DISTINCT token_balance) FROM wallet), '{90}'::bigint[], 'with every refund');
DROP TRIGGER t ON wallet_ledger;
SELECT is((SELECT e.expired FROM bacmr_expire_reservations() e), 3::bigint, 'without it they expire');

SELECT * FROM finish();
