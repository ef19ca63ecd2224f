-- Expiry in one session: a due reservation is refunded once, entirely or not at all, and whatever
-- cannot be refunded stands in nobody else's way.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
SET check_function_bodies = off;  -- the tables come and go
CREATE EXTENSION bacmr_ops;
-- The worker keeps out: only this file expires anything.
SELECT bacmr_pause('expire', 'test');
-- The deferred parts of a transaction would hide in one that is rolled back, and 25001 needs
-- transactions of its own: so no transaction around all of it.

CREATE FUNCTION u(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid$$;
CREATE FUNCTION r(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$SELECT ('11111111-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid$$;

-- Fresh reference tables.
CREATE FUNCTION fresh() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DROP TABLE IF EXISTS wallet, wallet_ledger, reservations, chunks CASCADE;
  PERFORM bacmr_create_tables();
  -- Stored by name: a table made anew has the options of the one before.
  PERFORM bacmr_attach('reservations', 'reservations');
END $$;
-- A user whose wallet holds this much, bought.
CREATE FUNCTION user_with(n int, tokens bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO wallet (user_id, token_balance) VALUES (u(n), tokens);
  INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(n), tokens, 'purchase');
$$;
-- Reservation `no` of user n as an application makes it: debited, entered, and due since `age`.
CREATE FUNCTION reserve(no int, n int, tokens bigint, age interval DEFAULT '1 minute')
  RETURNS void LANGUAGE sql AS $$
  UPDATE wallet SET token_balance = token_balance - tokens WHERE user_id = u(n);
  INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
    VALUES (u(n), -tokens, 'reserve', r(no));
  INSERT INTO reservations (id, user_id, amount, expires_at)
    VALUES (r(no), u(n), tokens, clock_timestamp() - age);
$$;
CREATE FUNCTION expired(description text, reservations bigint, tokens numeric,
                        max_reservations bigint DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE got record;
BEGIN
  SELECT * INTO got FROM bacmr_expire_reservations(max_reservations);
  RETURN is((got.expired, got.tokens_refunded), (reservations, tokens), description);
END $$;
-- In PL/pgSQL, which notices that a table is another one now.
CREATE FUNCTION invariant(description text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN is((SELECT coalesce(jsonb_agg(jsonb_build_array(w.user_id, w.token_balance, l.total)), '[]')
             FROM wallet w LEFT JOIN (SELECT user_id, sum(delta) AS total FROM wallet_ledger
                                      GROUP BY 1) l USING (user_id)
             WHERE w.token_balance <> coalesce(l.total, 0)), '[]',
            description || ': every balance is the sum of its ledger');
END $$;
CREATE FUNCTION status_of(no int) RETURNS text LANGUAGE plpgsql AS
  'BEGIN RETURN (SELECT status FROM reservations WHERE id = r(no)); END';
CREATE FUNCTION refunds_of(no int) RETURNS bigint[] LANGUAGE plpgsql AS
  $$BEGIN RETURN (SELECT array_agg(delta) FROM wallet_ledger
                  WHERE reservation_id = r(no) AND reason = 'reservation_expired'); END$$;
CREATE FUNCTION last_run() RETURNS bacmr_job_run LANGUAGE sql AS
  $$SELECT * FROM bacmr_job_run WHERE job = 'expire' ORDER BY run_id DESC LIMIT 1$$;
CREATE FUNCTION runs() RETURNS bigint LANGUAGE sql AS
  $$SELECT count(*) FROM bacmr_job_run WHERE job = 'expire'$$;

-- ---------------------------------------------------------------------------------------------
-- The happy path
-- ---------------------------------------------------------------------------------------------

SELECT fresh();
SELECT expired('nothing there: nothing done', 0, 0);
SELECT is(runs(), 0::bigint, 'and no run is written: a tick that did nothing leaves no trace');
SELECT user_with(1, 100), user_with(2, 50);
SELECT reserve(1, 1, 30), reserve(2, 2, 20, '-1 hour'), reserve(3, 2, 5);
UPDATE reservations SET status = 'finalized' WHERE id = r(3);
UPDATE reservations SET request_id = 'their request' WHERE id = r(1);
UPDATE reservations SET updated_at = '2020-01-01';
UPDATE wallet SET updated_at = '2020-01-01';
SET bacmr.request_id = 'our request';
SELECT expired('one is due, one is not yet, one is closed', 1, 30);
SELECT results_eq('SELECT status FROM reservations ORDER BY id',
  ARRAY['expired', 'reserved', 'finalized'], 'the due one is expired, the others are as they were');
SELECT results_eq('SELECT token_balance FROM wallet ORDER BY user_id', ARRAY[100, 25]::bigint[],
  'its amount is back in the wallet');
SELECT results_eq($$SELECT user_id, delta, reservation_id, request_id FROM wallet_ledger
  WHERE reason = 'reservation_expired'$$,
  $$VALUES (u(1), 30::bigint, r(1), 'their request')$$,
  'ONE ledger row, with the reservation''s own request id');
SELECT ok((SELECT updated_at FROM reservations WHERE id = r(1)) > now() - interval '1 minute'
  AND (SELECT updated_at FROM wallet WHERE user_id = u(1)) > now() - interval '1 minute',
  'updated_at of reservation and wallet is now');
SELECT ok((SELECT max(updated_at) FROM reservations WHERE id <> r(1)) = '2020-01-01'
  AND (SELECT updated_at FROM wallet WHERE user_id = u(2)) = '2020-01-01',
  'and of the others as it was');
SELECT invariant('after one');
SELECT is((l.status, l.request_id, l.detail->'expired', l.detail->'tokens_refunded'),
  ('succeeded'::text, 'our request'::text, '1'::jsonb, '30'::jsonb), 'the run is written')
  FROM last_run() l;
SELECT expired('once more: nothing', 0, 0);
SELECT is(refunds_of(1), '{30}', 'exactly once');
SELECT reserve(4, 2, 7);
SELECT expired('a reservation without a request id', 1, 7);
SELECT is((SELECT request_id FROM wallet_ledger WHERE reservation_id = r(4) AND delta > 0),
  'our request', 'gets the run''s');
RESET bacmr.request_id;
SELECT reserve(5, 2, 7);
SELECT expired('a run without a request id', 1, 7);
SELECT is((SELECT request_id FROM wallet_ledger WHERE reservation_id = r(5) AND delta > 0),
  (last_run()).request_id, 'makes one, the same in ledger and run');
SELECT is((SELECT discrepancies FROM bacmr_reconcile()), 0::bigint, 'reconciliation agrees');

-- Many at once, more than a batch
SELECT fresh();
SELECT user_with(n, 1000) FROM generate_series(1, 50) n;
SELECT count(reserve(no, no % 50 + 1, no % 7 + 1)::text) FROM generate_series(1, 2500) no \gset ignored_
SELECT expired('2,500 reservations of 50 wallets in one call', 2500,
  (SELECT sum(amount) FROM reservations));
SELECT is((SELECT array_agg(DISTINCT token_balance) FROM wallet), '{1000}'::bigint[],
  'each wallet has got everything back');
SELECT is((SELECT count(*) FROM wallet_ledger WHERE reason = 'reservation_expired'), 2500::bigint,
  'with a ledger row a reservation');
SELECT invariant('after many');

-- The limit
SELECT fresh();
SELECT user_with(1, 100), user_with(2, 100);
SELECT reserve(1, 1, 1, '3 minutes'), reserve(2, 2, 2, '1 minute'), reserve(3, 1, 4, '2 minutes');
SELECT expired('max_reservations 2: the two that are due longest', 2, 5, 2);
SELECT is(status_of(2), 'reserved', 'the youngest waits');
SELECT expired('max_reservations beyond what is there', 1, 2, 10);
SELECT invariant('in parts');
SELECT raises(format('SELECT bacmr_expire_reservations(%s)', n), '22023', 'max_reservations', 'NULL',
  'max_reservations ' || n) FROM unnest('{0,-1}'::int[]) n;
-- What cannot expire does not use the limit up.
SELECT reserve(4, 9, 1, '9 minutes'), reserve(5, 9, 1, '8 minutes'), reserve(6, 1, 1, '1 minute');
SELECT expired('the limit counts what expired, not what was passed over', 1, 1, 1);
SELECT is(status_of(6), 'expired', 'so nobody''s reservation blocks the head of the line');

-- Several reservations of one wallet
SELECT fresh();
SELECT user_with(1, 10000);
SELECT count(reserve(no, 1, no)::text) FROM generate_series(1, 100) no \gset ignored_
SELECT expired('100 reservations of one wallet', 100, 5050);
SELECT is((SELECT token_balance FROM wallet), 10000::bigint, 'all of them are back');
SELECT is((SELECT count(DISTINCT reservation_id) FROM wallet_ledger
           WHERE reason = 'reservation_expired'), 100::bigint, 'a ledger row for each');
SELECT invariant('one wallet');

-- ---------------------------------------------------------------------------------------------
-- refund false: hold without debit
-- ---------------------------------------------------------------------------------------------

SELECT fresh();
SELECT bacmr_attach('reservations', 'reservations', '{}', '{"refund": false}');
SELECT user_with(1, 100);
INSERT INTO reservations (id, user_id, amount, expires_at) VALUES
  (r(1), u(1), 30, now() - interval '1 minute'), (r(2), u(9), 5, now() - interval '1 minute');
SELECT expired('refund false: the status only', 2, 0);
SELECT is(array_agg(status), '{expired,expired}', 'also of a user without a wallet') FROM reservations;
SELECT is((SELECT (token_balance, updated_at < now()) FROM wallet), (100::bigint, true),
  'the wallet is as it was');
SELECT is((SELECT count(*) FROM wallet_ledger), 1::bigint, 'no ledger row');
SELECT bacmr_detach('wallet'), bacmr_detach('wallet_ledger');
INSERT INTO reservations (id, user_id, amount, expires_at) VALUES
  (r(3), u(1), 30, now() - interval '1 minute');
SELECT expired('refund false needs neither wallet nor ledger', 1, 0);

-- ---------------------------------------------------------------------------------------------
-- Bad data is left alone, counted, and reported by the reconciliation; it never stops the others
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION left_alone(prepare text, counter text, kind text, description text)
  RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  wallet_rows jsonb;
  run bigint;
BEGIN
  PERFORM fresh();
  ALTER TABLE wallet ALTER token_balance DROP NOT NULL;
  ALTER TABLE reservations ALTER amount DROP NOT NULL, ALTER expires_at DROP NOT NULL,
    ALTER user_id DROP NOT NULL;
  PERFORM user_with(1, 100), user_with(2, 50);
  PERFORM reserve(1, 1, 10, '5 minutes');
  EXECUTE prepare;
  PERFORM reserve(3, 1, 20);
  RETURN NEXT expired(description || ': the others expire', 2, 30);
  RETURN NEXT is(status_of(2), 'reserved', description || ': it is left alone');
  RETURN NEXT is(refunds_of(2), NULL, description || ': without a refund');
  IF counter IS NOT NULL THEN
    RETURN NEXT is((last_run()).detail->counter, '1', description || ': it is counted');
  END IF;
  SELECT run_id INTO run FROM bacmr_reconcile();
  RETURN NEXT ok(EXISTS (SELECT FROM bacmr_discrepancy d WHERE d.run_id = run AND d.kind = left_alone.kind
      AND coalesce(d.detail->>'reservation_id', r(2)::text) = r(2)::text),
    description || ': reconciliation reports ' || kind);
  RETURN NEXT is((SELECT expired FROM bacmr_expire_reservations()), 0::bigint,
                 description || ': the next tick does not take it either');
END $$;
CREATE FUNCTION bad_reservation(user_id text, amount text, expires_at text) RETURNS text
  LANGUAGE sql AS $$
  SELECT format('INSERT INTO reservations (id, user_id, amount, expires_at) VALUES (r(2), %s, %s, %s)',
                user_id, amount, expires_at)
$$;
SELECT left_alone(bad_reservation('u(9)', '5', 'now() - interval ''2 minutes'''),
  'skipped_no_wallet', 'orphan_reservation', 'a user without a wallet');
SELECT left_alone(bad_reservation('NULL', '5', 'now() - interval ''2 minutes'''),
  'skipped_no_wallet', 'orphan_reservation', 'a reservation of nobody');
SELECT left_alone(bad_reservation('u(2)', 'NULL', 'now() - interval ''2 minutes'''),
  'skipped_invalid', 'invalid_reservation', 'amount NULL');
SELECT left_alone(bad_reservation('u(2)', '0', 'now() - interval ''2 minutes'''),
  'skipped_invalid', 'invalid_reservation', 'amount 0');
SELECT left_alone(bad_reservation('u(2)', '-5', 'now() - interval ''2 minutes'''),
  'skipped_invalid', 'invalid_reservation', 'amount negative');
SELECT left_alone(bad_reservation('u(2)', '5', 'NULL'), NULL, 'invalid_reservation',
  'expires_at NULL');
SELECT left_alone('ALTER TABLE reservations ALTER amount TYPE numeric;'
  ' ALTER TABLE wallet ALTER token_balance TYPE numeric;'
  ' ALTER TABLE wallet_ledger ALTER delta TYPE numeric;'
  || bad_reservation('u(2)', quote_literal(amount), 'now() - interval ''2 minutes'''),
  'skipped_invalid', 'invalid_reservation', 'amount ' || amount)
  FROM unnest('{NaN,Infinity}'::text[]) amount;
SELECT left_alone('UPDATE wallet SET token_balance = NULL WHERE user_id = u(2);'
  || bad_reservation('u(2)', '5', 'now() - interval ''2 minutes'''),
  'skipped_no_wallet', 'null_amount', 'a wallet whose balance is NULL');
-- infinity is a time like any other
SELECT fresh();
SELECT user_with(1, 100);
SELECT reserve(1, 1, 10), reserve(2, 1, 20);
UPDATE reservations SET expires_at = '-infinity' WHERE id = r(1);
UPDATE reservations SET expires_at = 'infinity' WHERE id = r(2);
SELECT expired('-infinity is due, infinity never', 1, 10);

-- Already refunded: the unique index holds, and nobody else is held up.
SELECT fresh();
SELECT user_with(1, 100), user_with(2, 100);
SELECT reserve(1, 1, 10), reserve(2, 2, 20);
INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
  VALUES (u(1), 10, 'reservation_expired', r(1));
UPDATE wallet SET token_balance = token_balance + 10 WHERE user_id = u(1);
SELECT expired('a reservation that was refunded by hand is not refunded again', 1, 20);
SELECT is((status_of(1), refunds_of(1)), ('reserved'::text, '{10}'::bigint[]), 'it stays as it is');
SELECT is(((last_run()).status, (last_run()).detail->'failed'), ('failed'::text, '1'::jsonb),
  'the run says so');
SELECT alike((last_run()).error, '%' || u(1) || '%', 'and names the user');
SELECT invariant('already refunded');

-- An integer wallet that is full
SELECT fresh();
ALTER TABLE wallet ALTER token_balance TYPE integer;
SELECT user_with(1, 2147483640), user_with(2, 50), user_with(3, 50);
SELECT reserve(1, 1, 100), reserve(2, 2, 20), reserve(3, 3, 5);
UPDATE wallet SET token_balance = 2147483640 WHERE user_id = u(1);
SELECT expired('a refund that the wallet''s type cannot hold stops nobody else', 2, 25);
SELECT is(status_of(1), 'reserved', 'it is not made by half');
SELECT is((SELECT token_balance FROM wallet WHERE user_id = u(1)), 2147483640, 'nor the wallet');
SELECT is(refunds_of(1), NULL, 'nor the ledger');

-- ---------------------------------------------------------------------------------------------
-- Triggers of the application
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = '00000000-0000-0000-0000-000000000002' THEN
    RAISE EXCEPTION 'not this user';
  END IF;
  RETURN NEW;
END $$;
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = '00000000-0000-0000-0000-000000000002' THEN
    RETURN NULL;
  END IF;
  RETURN NEW;
END $$;
CREATE FUNCTION under_trigger(table_name text, event text, function_name text, description text)
  RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM fresh();
  PERFORM user_with(1, 100), user_with(2, 100), user_with(3, 100);
  PERFORM reserve(1, 1, 10, '1 minute'), reserve(2, 2, 20, '3 minutes'),
          reserve(3, 3, 30, '2 minutes'), reserve(4, 2, 5, '1 minute');
  EXECUTE format('CREATE TRIGGER t %s ON %I FOR EACH ROW EXECUTE FUNCTION %I()', event, table_name,
                 function_name);
  RETURN NEXT expired(description || ': the other users'' reservations expire', 2, 40);
  RETURN NEXT is((status_of(2), refunds_of(2), status_of(4)),
                 ('reserved'::text, NULL::bigint[], 'reserved'::text),
                 description || ': this user''s are untouched');
  RETURN NEXT is((SELECT token_balance FROM wallet WHERE user_id = u(2)), 75::bigint,
                 description || ': nor is the wallet credited');
  RETURN NEXT is(((last_run()).status, (last_run()).detail->'failed'),
                 ('failed'::text, '2'::jsonb), description || ': the run says so');
  RETURN NEXT invariant(description);
  EXECUTE format('DROP TRIGGER t ON %I', table_name);
  RETURN NEXT expired(description || ': without the trigger they expire', 2, 25);
  RETURN NEXT invariant(description || ', then without it');
END $$;
SELECT under_trigger('reservations', 'BEFORE UPDATE', 'refuse', 'raising on reservations');
SELECT under_trigger('wallet', 'BEFORE UPDATE', 'refuse', 'raising on wallet');
SELECT under_trigger('wallet_ledger', 'BEFORE INSERT', 'refuse', 'raising on wallet_ledger');
SELECT under_trigger('wallet', 'AFTER UPDATE', 'refuse', 'raising after the update of wallet');
SELECT under_trigger('reservations', 'BEFORE UPDATE', 'swallow', 'swallowing on reservations');
SELECT under_trigger('wallet', 'BEFORE UPDATE', 'swallow', 'swallowing on wallet');
SELECT under_trigger('wallet_ledger', 'BEFORE INSERT', 'swallow', 'swallowing on wallet_ledger');

-- A trigger that changes what is written: the reservation must not say something else.
SELECT fresh();
SELECT user_with(1, 100);
SELECT reserve(1, 1, 10);
CREATE FUNCTION halve() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN NEW.delta := NEW.delta / 2; RETURN NEW; END$$;
CREATE TRIGGER t BEFORE INSERT ON wallet_ledger FOR EACH ROW EXECUTE FUNCTION halve();
SELECT bacmr_expire_reservations();
SELECT run_id AS run FROM bacmr_reconcile() \gset
SELECT ok(status_of(1) = 'reserved' OR EXISTS (SELECT FROM bacmr_discrepancy WHERE run_id = :run),
  'a trigger that changes the refund is at least found by the reconciliation');

-- A deferred constraint trigger fires at the caller's COMMIT: all or none.
SELECT fresh();
SELECT user_with(1, 100), user_with(2, 100);
SELECT reserve(1, 1, 10);
CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON wallet DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION refuse();
SELECT expired('a deferred trigger that agrees', 1, 10);
SELECT invariant('deferred trigger');

-- ---------------------------------------------------------------------------------------------
-- Foreign keys, partitions
-- ---------------------------------------------------------------------------------------------

SELECT fresh();
ALTER TABLE wallet_ledger ADD FOREIGN KEY (user_id) REFERENCES wallet,
  ADD FOREIGN KEY (reservation_id) REFERENCES reservations DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE reservations ADD FOREIGN KEY (user_id) REFERENCES wallet;
SELECT user_with(1, 100), user_with(2, 100);
SELECT reserve(1, 1, 10), reserve(2, 2, 20);
SELECT expired('foreign keys between the tables', 2, 30);
SELECT invariant('foreign keys');

DROP TABLE wallet, wallet_ledger, reservations, chunks CASCADE;
CREATE TABLE wallet (user_id uuid PRIMARY KEY, token_balance bigint) PARTITION BY HASH (user_id);
CREATE TABLE wallet_0 PARTITION OF wallet FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE wallet_1 PARTITION OF wallet FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE wallet_ledger (user_id uuid, delta bigint, reason text, reservation_id uuid,
  created_at timestamptz DEFAULT now()) PARTITION BY RANGE (created_at);
CREATE TABLE ledger_old PARTITION OF wallet_ledger FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE ledger_new PARTITION OF wallet_ledger FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
CREATE TABLE reservations (id uuid PRIMARY KEY, user_id uuid, amount bigint,
  status text DEFAULT 'reserved', expires_at timestamptz) PARTITION BY HASH (id);
CREATE TABLE reservations_0 PARTITION OF reservations FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE reservations_1 PARTITION OF reservations FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT bacmr_detach(source) FROM bacmr_sources;
SELECT count(*) FROM bacmr_attach() \gset ignored_
SELECT user_with(n, 100) FROM generate_series(1, 10) n;
SELECT reserve(n, n, n) FROM generate_series(1, 10) n;
SELECT expired('partitioned tables', 10, 55);
SELECT invariant('partitioned tables');

DROP TABLE reservations;
CREATE TABLE reservations (id uuid, user_id uuid, amount bigint, status text DEFAULT 'reserved',
  expires_at timestamptz);
CREATE UNIQUE INDEX ON reservations (id);
SELECT bacmr_attach('reservations', 'reservations');
SELECT reserve(n, n, n) FROM generate_series(21, 30) n;
SELECT user_with(n, 100) FROM generate_series(21, 30) n;
UPDATE wallet SET token_balance = token_balance - (substring(user_id::text from '..$'))::int
  WHERE user_id >= u(21);
SELECT expired('a unique index instead of a primary key, no optional columns', 10, 255);
SELECT invariant('no optional columns');

-- ---------------------------------------------------------------------------------------------
-- Every type
-- ---------------------------------------------------------------------------------------------

CREATE TYPE state AS ENUM ('reserved', 'finalized', 'released', 'expired');
CREATE TYPE reason AS ENUM ('purchase', 'reserve', 'reservation_expired');
CREATE DOMAIN user_key AS uuid;
CREATE DOMAIN cents AS numeric(20, 2) CHECK (VALUE IS NULL OR VALUE < 1000000);

-- `key` is an expression over n; amounts come in quarters where the type can hold them.
CREATE FUNCTION typed(key_type text, key text, amount_type text, status_type text DEFAULT 'text',
                      reason_type text DEFAULT 'text', request_type text DEFAULT 'text')
  RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  what text := concat_ws(', ', key_type, amount_type, status_type, reason_type, request_type);
  unit numeric := CASE WHEN amount_type ~ 'numeric|cents' THEN 0.25 ELSE 1 END;
  got record;
BEGIN
  DROP SCHEMA IF EXISTS typed CASCADE;
  CREATE SCHEMA typed;
  EXECUTE format('CREATE TABLE typed.wallet (user_id %s PRIMARY KEY, token_balance %s,'
                 ' updated_at timestamp)', key_type, amount_type);
  EXECUTE format('CREATE TABLE typed.wallet_ledger (user_id %s, delta %s, reason %s,'
                 ' reservation_id %s, request_id %s)', key_type, amount_type, reason_type, key_type,
                 request_type);
  EXECUTE format('CREATE TABLE typed.reservations (id %s PRIMARY KEY, user_id %s, amount %s,'
                 ' status %s, expires_at timestamptz, request_id %s)', key_type, key_type,
                 amount_type, status_type, request_type);
  PERFORM bacmr_detach(source) FROM bacmr_sources;
  PERFORM bacmr_attach('typed');
  EXECUTE format('INSERT INTO typed.wallet SELECT %s, 10 - n * $1 FROM generate_series(1, 9) n', key)
    USING unit;
  EXECUTE format('INSERT INTO typed.wallet_ledger (user_id, delta, reason)'
                 ' SELECT %s, 10, ''purchase'' FROM generate_series(1, 9) n', key);
  EXECUTE format('INSERT INTO typed.wallet_ledger (user_id, delta, reason, reservation_id)'
                 ' SELECT %s, -n * $1, ''reserve'', %1$s FROM generate_series(1, 9) n', key)
    USING unit;
  EXECUTE format('INSERT INTO typed.reservations SELECT %s, %1$s, n * $1, ''reserved'','
                 ' now() - interval ''1 minute'' FROM generate_series(1, 9) n', key) USING unit;
  SELECT * INTO got FROM bacmr_expire_reservations();
  RETURN NEXT is((got.expired, got.tokens_refunded), (9::bigint, 45 * unit), what || ': expiry');
  RETURN NEXT is((SELECT array_agg(DISTINCT token_balance::numeric) FROM typed.wallet),
                 '{10}'::numeric[], what || ': the wallets');
  RETURN NEXT is((SELECT (count(*), sum(delta)::numeric, count(DISTINCT reservation_id),
                          count(request_id))
                  FROM typed.wallet_ledger WHERE reason::text = 'reservation_expired'),
                 (9::bigint, 45 * unit, 9::bigint, 9::bigint), what || ': the ledger');
  RETURN NEXT is((SELECT r.discrepancies FROM bacmr_reconcile() r), 0::bigint,
                 what || ': reconciliation');
END $$;
SELECT typed(k, e, 'bigint') FROM (VALUES ('uuid', 'u(n)'), ('bigint', 'n * 5000000000'),
  ('integer', '-n'), ('text', '''user '' || n'), ('varchar(20)', '''"{,''''\ ''|| n'),
  ('user_key', 'u(n)')) v(k, e);
SELECT typed('uuid', 'u(n)', a) FROM unnest('{integer,numeric,"numeric(20,2)",cents}'::text[]) a;
SELECT typed('text', '''é ''||n', 'numeric', 'state', 'reason');
SELECT typed('uuid', 'u(n)', 'bigint', 'varchar(10)', 'varchar(30)', 'uuid');
SET bacmr.request_id = 'no uuid at all';
SELECT typed('uuid', 'u(n)', 'bigint', 'text', 'text', 'uuid');
RESET bacmr.request_id;

-- ---------------------------------------------------------------------------------------------
-- Transactions
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_detach(source) FROM bacmr_sources;
SELECT fresh();
SELECT user_with(1, 100);
SELECT reserve(1, 1, 10);
SELECT runs() AS runs \gset
CREATE FUNCTION expire_and_regret() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE got bigint;
BEGIN
  BEGIN
    SELECT expired INTO got FROM bacmr_expire_reservations();
    RAISE EXCEPTION 'regret' USING ERRCODE = 'P0099';
  EXCEPTION WHEN SQLSTATE 'P0099' THEN
    RETURN got;
  END;
END $$;
SELECT is(expire_and_regret(), 1::bigint, 'expired, and rolled back by the caller');
SELECT is((status_of(1), refunds_of(1), (SELECT token_balance FROM wallet), runs()),
  ('reserved'::text, NULL::bigint[], 90::bigint, :runs::bigint), 'everything is as before');
SELECT expired('and it can expire later', 1, 10);

SELECT reserve(2, 1, 10);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT raises('SELECT bacmr_expire_reservations()', '25001', 'READ COMMITTED', 'READ COMMITTED',
  'in a REPEATABLE READ transaction');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT raises('SELECT bacmr_expire_reservations()', '25001', 'READ COMMITTED', 'READ COMMITTED',
  'in a SERIALIZABLE transaction');
COMMIT;
BEGIN READ ONLY;
SELECT raises('SELECT bacmr_expire_reservations()', '25006', '', '', 'in a read-only transaction');
COMMIT;
SELECT is(status_of(2), 'reserved', 'each of them left the reservation alone');

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

DROP ROLE IF EXISTS expire_caller;
CREATE ROLE expire_caller;
SELECT raises('SELECT bacmr_expire_reservations()', '42501', 'bacmr_expire_reservations', '',
  'without EXECUTE', 'expire_caller');
GRANT EXECUTE ON FUNCTION bacmr_expire_reservations(bigint) TO expire_caller;
SELECT raises('SELECT bacmr_expire_reservations()', '42501', 'reservations', '',
  'without rights on the reservations', 'expire_caller');
GRANT SELECT, UPDATE ON reservations TO expire_caller;
SELECT raises('SELECT bacmr_expire_reservations()', '42501', 'wallet', '',
  'without rights on the wallet', 'expire_caller');
GRANT SELECT, UPDATE ON wallet TO expire_caller;
SELECT raises('SELECT bacmr_expire_reservations()', '42501', 'wallet_ledger', '',
  'without rights on the ledger', 'expire_caller');
SELECT is((status_of(2), refunds_of(2)), ('reserved'::text, NULL::bigint[]),
  'nothing was done by half');
GRANT INSERT ON wallet_ledger TO expire_caller;
SELECT raises('SELECT bacmr_expire_reservations()', '42501', 'wallet_ledger', '',
  'without the right to look at what was written', 'expire_caller');
GRANT SELECT ON wallet_ledger TO expire_caller;
SELECT works_for('expire_caller', 'SELECT bacmr_expire_reservations()',
  'SELECT and UPDATE on wallet and reservations, SELECT and INSERT on the ledger: that is enough');
SELECT is(refunds_of(2), '{10}', 'and the refund is made');
SELECT invariant('in the end');

SELECT * FROM finish();
DROP OWNED BY expire_caller;
DROP ROLE expire_caller;
