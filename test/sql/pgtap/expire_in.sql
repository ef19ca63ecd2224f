-- bacmr_expire_in: expiry in tables that the caller names, such as one shard of each, under the
-- checks, rights and records of bacmr_expire_reservations.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
SET check_function_bodies = off;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');

-- Three tables with these columns in a schema of this name, each with its keys.
CREATE FUNCTION make_shard(shard text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('DROP SCHEMA IF EXISTS %I CASCADE', shard);
  EXECUTE format('CREATE SCHEMA %I', shard);
  EXECUTE format('CREATE TABLE %I.wallet (user_id int PRIMARY KEY, token_balance bigint,'
                 ' updated_at timestamptz)', shard);
  EXECUTE format('CREATE TABLE %I.wallet_ledger (user_id int, delta bigint, reason text,'
                 ' reservation_id int, request_id text)', shard);
  EXECUTE format('CREATE TABLE %I.reservations (id int PRIMARY KEY, user_id int, amount bigint,'
                 ' status text DEFAULT ''reserved'', expires_at timestamptz)', shard);
END $$;
-- Users first … last have 100 tokens each, of which each has reserved its number; all are due.
CREATE FUNCTION due(shard text, first int, last int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('INSERT INTO %I.wallet SELECT n, 100 - n FROM generate_series($1, $2) n', shard)
    USING first, last;
  EXECUTE format('INSERT INTO %I.wallet_ledger SELECT n, d, ''x'' FROM generate_series($1, $2) n,'
                 ' LATERAL (VALUES (100), (-n)) v(d)', shard) USING first, last;
  EXECUTE format('INSERT INTO %I.reservations SELECT n, n, n, ''reserved'','
                 ' now() - make_interval(mins => n) FROM generate_series($1, $2) n', shard)
    USING first, last;
END $$;
CREATE FUNCTION expired_in(shard text, description text, reservations bigint, tokens numeric,
                           max_reservations bigint DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE got record;
BEGIN
  SELECT * INTO got FROM bacmr_expire_in(format('%I.reservations', shard)::regclass,
    format('%I.wallet', shard)::regclass, format('%I.wallet_ledger', shard)::regclass,
    max_reservations);
  RETURN is((got.expired, got.tokens_refunded), (reservations, tokens), description);
END $$;
-- Users whose balance is not the sum of their ledger, and what has become of the reservations.
CREATE FUNCTION books(shard text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
  EXECUTE format('SELECT (SELECT count(*) FROM %1$I.wallet w WHERE token_balance IS DISTINCT FROM'
    ' (SELECT sum(delta) FROM %1$I.wallet_ledger l WHERE l.user_id = w.user_id)) || '' off, '' ||'
    ' (SELECT string_agg(status || '' '' || n, '', '' ORDER BY status) FROM (SELECT status,'
    '  count(*) AS n FROM %1$I.reservations GROUP BY 1) s)', shard) INTO result;
  RETURN result;
END $$;
CREATE FUNCTION last_run() RETURNS bacmr_job_run LANGUAGE sql AS
  $$SELECT * FROM bacmr_job_run WHERE job = 'expire' ORDER BY run_id DESC LIMIT 1$$;
CREATE FUNCTION runs() RETURNS bigint LANGUAGE sql AS
  $$SELECT count(*) FROM bacmr_job_run WHERE job = 'expire'$$;
CREATE FUNCTION counted() RETURNS float8 LANGUAGE sql AS $$
  SELECT coalesce((SELECT value FROM bacmr_metrics WHERE name = 'wallet_reservation_total'
                   AND labels = '{"status": "expired"}'), 0)
$$;

-- ---------------------------------------------------------------------------------------------
-- One shard, with nothing attached
-- ---------------------------------------------------------------------------------------------

SELECT make_shard('a'), make_shard('b');
SELECT expired_in('a', 'an empty shard: nothing', 0, 0);
SELECT is(runs(), 0::bigint, 'and no run is written');
SELECT due('a', 1, 10), due('b', 11, 20);
SET bacmr.request_id = 'ours';
SELECT expired_in('a', 'what is due in the shard, with nothing attached', 10, 55);
RESET bacmr.request_id;
SELECT is(books('a'), '0 off, expired 10', 'status, balance and ledger together');
SELECT is(books('b'), '0 off, reserved 10', 'the other shard is as it was');
SELECT results_eq($$SELECT user_id, delta, reservation_id, request_id FROM a.wallet_ledger
  WHERE reason = 'reservation_expired' ORDER BY 1$$,
  $$SELECT n, n::bigint, n, 'ours' FROM generate_series(1, 10) n$$, 'ONE ledger row a reservation');
SELECT is((l.status, l.request_id, l.detail->'expired', l.detail->'tokens_refunded',
           l.detail->>'relation'),
  ('succeeded'::text, 'ours'::text, '10'::jsonb, '55'::jsonb, 'a.reservations'::text),
  'the run is written, and says where') FROM last_run() l;
SELECT expired_in('a', 'once more: nothing', 0, 0);
SELECT is((runs(), counted()), (1::bigint, 10::float8), 'one run, ten in the metric');
BEGIN;
SELECT expired_in('b', 'in a transaction', 10, 155);
SELECT is(counted(), 10::float8, 'not counted before the commit');
ROLLBACK;
SELECT is((runs(), counted(), books('b')), (1::bigint, 10::float8, '0 off, reserved 10'::text),
  'nor after a rollback, which takes all of it back');
SELECT expired_in('b', 'max_reservations', 3, 57, 3);
SELECT is((SELECT array_agg(id ORDER BY id) FROM b.reservations WHERE status = 'expired'),
  '{18,19,20}'::int[], 'those that are due longest');
SELECT expired_in('b', 'the rest', 7, 98);
SELECT is(books('b'), '0 off, expired 10', 'in parts');

-- ---------------------------------------------------------------------------------------------
-- Arguments and wrong relations
-- ---------------------------------------------------------------------------------------------

SELECT raises($$SELECT bacmr_expire_in('a.reservations', 'a.wallet', 'a.wallet_ledger', 0)$$,
  '22023', 'max_reservations', 'NULL', 'max_reservations 0');
SELECT raises($$SELECT bacmr_expire_in(NULL, 'a.wallet', 'a.wallet_ledger')$$,
  '22004', 'reservations', '', 'no reservations');
SELECT raises($$SELECT bacmr_expire_in('a.reservations', NULL, 'a.wallet_ledger')$$,
  '22004', 'wallet', '.', 'no wallet');
SELECT raises($$SELECT bacmr_expire_in('a.reservations', 'a.wallet', NULL)$$,
  '22004', 'wallet_ledger', '.', 'no ledger');
SELECT raises($$SELECT bacmr_expire_in('a.nothing', 'a.wallet', 'a.wallet_ledger')$$,
  '42P01', 'nothing', '', 'no such table');
SELECT raises($$SELECT bacmr_expire_in(999999999, 'a.wallet', 'a.wallet_ledger')$$,
  '42P01', 'reservations', '.', 'an OID that is nothing''s');
SELECT raises($$SELECT bacmr_expire_in('a.reservations', 999999999, 'a.wallet_ledger')$$,
  '42P01', 'wallet', '.', 'nor the wallet''s');
SELECT raises($$SELECT bacmr_expire_in('a.wallet', 'a.wallet', 'a.wallet_ledger')$$,
  '55000', 'a.wallet cannot be used as "reservations": it has no column', '.', 'another table');
SELECT raises($$SELECT bacmr_expire_in('a.reservations', 'a.wallet_ledger', 'a.wallet')$$,
  '55000', 'a.wallet_ledger cannot be used as "wallet"', '.', 'in the wrong order');
SELECT raises($$SELECT bacmr_expire_in('a.reservations_pkey', 'a.wallet', 'a.wallet_ledger')$$,
  '55000', 'not a table', '.', 'an index');

-- One fault after the other, in a shard of its own; each with rows that are due.
CREATE FUNCTION refused(change text, message text, description text) RETURNS SETOF text
  LANGUAGE plpgsql AS $$
BEGIN
  PERFORM make_shard('bad');
  PERFORM due('bad', 1, 2);
  SET LOCAL search_path = bad, public, pg_temp;
  EXECUTE change;
  RESET search_path;
  RETURN NEXT raises($call$SELECT bacmr_expire_in('bad.reservations', 'bad.wallet',
    'bad.wallet_ledger')$call$, '55000', message, '.', description);
  RETURN NEXT is((SELECT count(*) FROM bad.wallet_ledger WHERE reason = 'reservation_expired'), 0::bigint,
    description || ': nothing is refunded');
END $$;
SELECT refused('ALTER TABLE wallet DROP CONSTRAINT wallet_pkey', 'unique index on user_id',
  'a wallet without a unique key');
SELECT refused('ALTER TABLE reservations DROP CONSTRAINT reservations_pkey', 'unique index on id',
  'reservations without a unique key');
SELECT refused('ALTER TABLE wallet ALTER user_id TYPE bigint', 'column user_id is of type',
  'keys of different types');
SELECT refused('ALTER TABLE reservations ALTER id TYPE bigint', 'reservation_id is of type',
  'reservation ids of different types');
SELECT refused('ALTER TABLE reservations ALTER expires_at TYPE timestamp', 'time zone',
  'a time without zone');
SELECT refused('ALTER TABLE wallet_ledger ALTER delta TYPE text', 'an amount is', 'an amount that is text');
SELECT refused('ALTER TABLE reservations ALTER amount TYPE numeric', 'rounded',
  'a wallet with fewer decimals');
SELECT refused($$CREATE TYPE mood AS ENUM ('reserved', 'done');
  ALTER TABLE reservations ALTER status DROP DEFAULT, ALTER status TYPE mood USING status::mood$$,
  'lacks the value ''expired''', 'an enum without the value');
SELECT refused('ALTER TABLE wallet_ledger ADD shop int NOT NULL DEFAULT 1; ALTER TABLE wallet_ledger ALTER shop DROP DEFAULT',
  'shop', 'a ledger column that needs a value');
SELECT refused('ALTER TABLE wallet RENAME TO w; CREATE VIEW wallet AS TABLE w', 'view', 'a view');
SELECT refused('ALTER TABLE reservations RENAME TO r; CREATE FOREIGN DATA WRAPPER f;'
  ' CREATE SERVER s FOREIGN DATA WRAPPER f; CREATE FOREIGN TABLE reservations (id int,'
  ' user_id int, amount bigint, status text, expires_at timestamptz) SERVER s',
  'foreign table', 'a foreign table');
DROP SCHEMA bad CASCADE;
DROP FOREIGN DATA WRAPPER f CASCADE;
SELECT refused('CREATE FOREIGN DATA WRAPPER f; CREATE SERVER s FOREIGN DATA WRAPPER f;'
  ' ALTER TABLE reservations RENAME TO r; CREATE TABLE reservations (LIKE r) PARTITION BY HASH'
  ' (user_id); CREATE FOREIGN TABLE far PARTITION OF reservations FOR VALUES WITH (MODULUS 1,'
  ' REMAINDER 0) SERVER s', 'bad.far is a foreign table', 'a foreign partition');
DROP SCHEMA bad CASCADE;
DROP FOREIGN DATA WRAPPER f CASCADE;

-- What a subscription feeds: the table itself, and the partition whose parent it names.
CREATE FUNCTION refused_fed(change text, description text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM make_shard('bad');
  PERFORM due('bad', 1, 2);
  EXECUTE change;
  SET LOCAL allow_system_table_mods = on;
  INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)
    SELECT s.oid, coalesce((SELECT inhparent FROM pg_inherits
                            WHERE inhrelid = 'bad.reservations'::regclass),
                           'bad.reservations'::regclass), 'r' FROM pg_subscription s;
  RETURN NEXT raises($call$SELECT bacmr_expire_in('bad.reservations', 'bad.wallet',
    'bad.wallet_ledger')$call$, '55000', 'subscription', '.', description);
  DELETE FROM pg_subscription_rel;
END $$;
CREATE SUBSCRIPTION fed CONNECTION 'dbname=nowhere' PUBLICATION p
  WITH (connect = false, slot_name = NONE);
SELECT refused_fed('', 'a table that a subscription feeds');
SELECT refused_fed('CREATE TABLE bad.parent (LIKE bad.reservations) PARTITION BY HASH (user_id);
  ALTER TABLE bad.parent ATTACH PARTITION bad.reservations FOR VALUES WITH (MODULUS 1, REMAINDER 0)',
  'a partition whose parent a subscription feeds');
DROP SUBSCRIPTION fed;

BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT raises($$SELECT bacmr_expire_in('a.reservations', 'a.wallet', 'a.wallet_ledger')$$,
  '25001', 'READ COMMITTED', '.', 'above READ COMMITTED');
COMMIT;

-- ---------------------------------------------------------------------------------------------
-- Shards as databases make them
-- ---------------------------------------------------------------------------------------------

-- Across shards an id can be unique only together with the user.
SELECT make_shard('c');
ALTER TABLE c.reservations DROP CONSTRAINT reservations_pkey, ADD PRIMARY KEY (user_id, id);
SELECT due('c', 1, 5);
INSERT INTO c.reservations SELECT id, user_id + 1, 10, status, expires_at FROM c.reservations
  WHERE user_id < 5;
UPDATE c.wallet SET token_balance = token_balance - 10 WHERE user_id > 1;
INSERT INTO c.wallet_ledger SELECT user_id, -10, 'x' FROM c.wallet WHERE user_id > 1;
SELECT expired_in('c', 'a key of user and id; the same id for two users', 9, 55);
SELECT is(books('c'), '0 off, expired 9', 'each refund went to its own user');
SELECT is((SELECT array_agg(token_balance) FROM c.wallet), '{100,100,100,100,100}'::bigint[],
  'to the last token');

-- Natively partitioned by user, with local partitions: both at once, or one partition.
SELECT make_shard('d');
DROP TABLE d.wallet, d.wallet_ledger, d.reservations;
CREATE TABLE d.wallet (user_id int PRIMARY KEY, token_balance bigint) PARTITION BY HASH (user_id);
CREATE TABLE d.wallet_ledger (user_id int, delta bigint, reason text, reservation_id int,
  request_id text) PARTITION BY HASH (user_id);
CREATE TABLE d.reservations (id int, user_id int, amount bigint, status text, expires_at timestamptz,
  PRIMARY KEY (id, user_id)) PARTITION BY HASH (user_id);
SELECT format('CREATE TABLE d.%I PARTITION OF d.%I FOR VALUES WITH (MODULUS 2, REMAINDER %s)',
  t || n, t, n) FROM unnest('{wallet,wallet_ledger,reservations}'::text[]) t, generate_series(0, 1) n \gexec
SELECT due('d', 1, 20);
SELECT is(b.expired, (SELECT count(*) FROM d.reservations0), 'one partition of each')
  FROM bacmr_expire_in('d.reservations0', 'd.wallet0', 'd.wallet_ledger0') b;
SELECT is((SELECT array_agg(DISTINCT status) FROM d.reservations1), '{reserved}',
  'the other partition is as it was');
SELECT expired_in('d', 'the partitioned tables themselves', (SELECT count(*) FROM d.reservations1),
  (SELECT sum(amount) FROM d.reservations1));
SELECT is(books('d'), '0 off, expired 20', 'all of it');
-- The same id in both partitions, in one batch.
TRUNCATE d.wallet, d.wallet_ledger, d.reservations;
SELECT due('d', 1, 8);
UPDATE d.reservations SET id = 1;
SELECT expired_in('d', 'one id for all users', 8, 36);
SELECT is(books('d'), '0 off, expired 8', 'each refund went to its own user');
-- Wallets of another shard: nobody is refunded, and nothing is lost.
TRUNCATE d.wallet, d.wallet_ledger, d.reservations;
SELECT due('d', 1, 8);
SELECT is(b.expired, 0::bigint, 'the wallets of the other shard: nothing expires')
  FROM bacmr_expire_in('d.reservations0', 'd.wallet1', 'd.wallet_ledger1') b;
SELECT is(books('d'), '0 off, reserved 8', 'and nothing is lost');
-- What cannot be divided must be unique by itself.
SELECT bacmr_attach('wallet', 'd.wallet'), bacmr_attach('wallet_ledger', 'd.wallet_ledger');
SELECT lives_ok($$SELECT bacmr_attach('reservations', 'd.reservations')$$,
  'reservations that are partitioned by user can be attached');
SELECT is((SELECT expired FROM bacmr_expire_reservations()), 8::bigint, 'and expired');
SELECT is((SELECT discrepancies FROM bacmr_reconcile()), 0::bigint, 'and reconciled');
SELECT raises($$SELECT bacmr_attach('reservations', 'c.reservations')$$, '42P16',
  'unique index on id alone', '.', 'an ordinary table needs a unique id');
SELECT bacmr_detach(source) FROM bacmr_sources;

-- Names that need quotes, and Arabic ones.
SELECT make_shard('المحفظة "١"; --');
SELECT due('المحفظة "١"; --', 1, 3);
SELECT expired_in('المحفظة "١"; --', 'a schema with quotes in Arabic', 3, 6);
SELECT is(books('المحفظة "١"; --'), '0 off, expired 3', 'its books are right');
SELECT is((last_run()).detail->>'relation', '"المحفظة ""١""; --".reservations', 'the run names it');

-- ---------------------------------------------------------------------------------------------
-- The names and options of the attached sources
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION rename_columns(shard text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE %I.wallet RENAME token_balance TO "Crédits"', shard);
  EXECUTE format('ALTER TABLE %I.wallet_ledger RENAME delta TO "a ""change"""', shard);
  EXECUTE format('ALTER TABLE %I.reservations RENAME expires_at TO due', shard);
END $$;
SELECT make_shard('parent'), make_shard('e');
SELECT rename_columns('parent');
SELECT bacmr_attach('wallet', 'parent.wallet', '{"token_balance": "Crédits"}');
SELECT bacmr_attach('wallet_ledger', 'parent.wallet_ledger', '{"delta": "a \"change\""}');
SELECT bacmr_attach('reservations', 'parent.reservations', '{"expires_at": "due"}');
SELECT due('e', 1, 4);
SELECT raises($$SELECT bacmr_expire_in('e.reservations', 'e.wallet', 'e.wallet_ledger')$$, '55000',
  'no column due, which the attached table has', '.', 'a shard has its parent''s columns');
SELECT rename_columns('e');
SELECT expired_in('e', 'columns go by the names of the attached sources', 4, 10);
SELECT is((SELECT array_agg("Crédits") FROM e.wallet), '{100,100,100,100}'::bigint[],
  'their wallets are whole again');
SELECT is((SELECT count(*) FROM parent.wallet_ledger), 0::bigint, 'the attached tables are not touched');
SELECT bacmr_attach('reservations', 'parent.reservations', '{"expires_at": "due"}', '{"refund": false}');
UPDATE e.reservations SET status = 'reserved';
SELECT expired_in('e', 'the option refund goes along: the status only', 4, 0);
SELECT is((SELECT array_agg("Crédits") FROM e.wallet), '{100,100,100,100}'::bigint[],
  'no wallet is credited');
UPDATE e.reservations SET status = 'reserved';
SELECT is(b.expired, 4::bigint, 'without refunds neither wallet nor ledger is needed')
  FROM bacmr_expire_in('e.reservations', NULL, NULL) b;
-- The attached table may be gone: the names stay.
UPDATE e.reservations SET status = 'reserved';
DROP SCHEMA parent CASCADE;
SELECT expired_in('e', 'the attached table is gone', 4, 0);
SELECT bacmr_detach(source) FROM bacmr_sources;

-- ---------------------------------------------------------------------------------------------
-- Triggers and bad rows: as in bacmr_expire_reservations, which has the same code
-- ---------------------------------------------------------------------------------------------

SELECT make_shard('f');
SELECT due('f', 1, 3);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN IF NEW.user_id = 2 THEN RAISE EXCEPTION 'not this user'; END IF; RETURN NEW; END$$;
CREATE TRIGGER t BEFORE UPDATE ON f.wallet FOR EACH ROW EXECUTE FUNCTION refuse();
SELECT expired_in('f', 'a trigger that refuses one user', 2, 4);
SELECT is(((last_run()).status, (last_run()).detail->'failed', (last_run()).detail->>'relation'),
  ('failed'::text, '1'::jsonb, 'f.reservations'::text), 'the run says so');
SELECT is(books('f'), '0 off, expired 2, reserved 1', 'nothing by half');

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

SELECT make_shard('g');
SELECT due('g', 1, 3);
CREATE ROLE expire_in_stranger;
CREATE ROLE expire_in_operator;
GRANT USAGE ON SCHEMA g TO expire_in_stranger, expire_in_operator;
GRANT ALL ON ALL TABLES IN SCHEMA g TO expire_in_stranger;
SELECT bacmr_grant('operator', 'expire_in_operator');
SELECT is(has_function_privilege('public', p.oid, 'EXECUTE'), false, 'EXECUTE is not PUBLIC''s')
  FROM pg_proc p WHERE proname = 'bacmr_expire_in';
SELECT raises($$SELECT bacmr_expire_in('g.reservations', 'g.wallet', 'g.wallet_ledger')$$, '42501',
  'bacmr_expire_in', '', 'rights on the tables are not enough', 'expire_in_stranger');
SELECT raises($$SELECT bacmr_expire_in('g.reservations', 'g.wallet', 'g.wallet_ledger')$$, '42501',
  'permission denied for table g.reservations', 'GRANT UPDATE', 'an operator without rights on the tables',
  'expire_in_operator');
GRANT SELECT, UPDATE ON g.reservations TO expire_in_operator;
SELECT raises($$SELECT bacmr_expire_in('g.reservations', 'g.wallet', 'g.wallet_ledger')$$, '42501',
  'permission denied for table g.wallet', 'GRANT UPDATE', 'nor without the wallet', 'expire_in_operator');
GRANT SELECT, UPDATE ON g.wallet TO expire_in_operator;
SELECT raises($$SELECT bacmr_expire_in('g.reservations', 'g.wallet', 'g.wallet_ledger')$$, '42501',
  'permission denied for table g.wallet_ledger', 'GRANT INSERT', 'nor without the ledger',
  'expire_in_operator');
SELECT is(books('g'), '0 off, reserved 3', 'nothing was done');
GRANT SELECT, INSERT ON g.wallet_ledger TO expire_in_operator;
SELECT works_for('expire_in_operator',
  $$SELECT bacmr_expire_in('g.reservations', 'g.wallet', 'g.wallet_ledger')$$,
  'an operator with the documented rights');
SELECT is(books('g'), '0 off, expired 3', 'expired them');
-- Row-level security would hide rows: an error, and no silence.
UPDATE g.reservations SET status = 'reserved';
ALTER TABLE g.reservations ENABLE ROW LEVEL SECURITY;
SELECT raises($$SELECT bacmr_expire_in('g.reservations', 'g.wallet', 'g.wallet_ledger')$$, '42501',
  'row-level security', '', 'row-level security is an error', 'expire_in_operator');
DROP OWNED BY expire_in_stranger, expire_in_operator;
DROP ROLE expire_in_stranger, expire_in_operator;

SELECT * FROM finish();
