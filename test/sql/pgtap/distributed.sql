-- A distributed table of Citus looks like an ordinary, empty one: its rows are in shards that only
-- the planner knows. Whatever reads a table's blocks by itself would find nothing, and all well. Citus
-- is not here (test/tap/t/citus.pl wants it); its catalogue is, as far as it is asked.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');
SELECT bacmr_create_tables();
INSERT INTO wallet (user_id, token_balance) SELECT gen_random_uuid(), 90 FROM generate_series(1, 3);
INSERT INTO wallet_ledger (user_id, delta, reason) SELECT user_id, 90, 'x' FROM wallet;
INSERT INTO reservations (user_id, amount, expires_at)
  SELECT user_id, 10, now() - interval '1 minute' FROM wallet;
INSERT INTO chunks (namespace, content) SELECT 'ns', 'text' FROM generate_series(1, 3);
CREATE FUNCTION how(job text) RETURNS text LANGUAGE sql AS $$
  SELECT coalesce(detail->>'method', detail->'steps'->'export'->>'method') FROM bacmr_job_run r
  WHERE r.job = how.job ORDER BY run_id DESC LIMIT 1
$$;
SELECT bacmr_reconcile();
CALL bacmr_run_job('export');
SELECT is((how('reconcile'), how('export')), ('scan'::text, 'scan'::text),
  'ordinary tables are read block by block');

-- Citus crashes on a list of parameters that is empty.
CREATE FUNCTION bacmr_test_watch_parameters() RETURNS void LANGUAGE c AS :'bacmr_test_lib';
SELECT bacmr_test_watch_parameters();

SET allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass);
RESET allow_system_table_mods;
SELECT bacmr_reconcile();
SELECT is(how('reconcile'), 'scan', 'and so they are beside distributed ones');
INSERT INTO pg_dist_partition VALUES ('wallet'), ('wallet_ledger'), ('reservations'), ('chunks');
SELECT is((SELECT (wallets_checked, ledger_rows, discrepancies) FROM bacmr_reconcile()),
  (3::bigint, 3::bigint, 0::bigint), 'distributed tables are reconciled');
SELECT alike(how('reconcile'), 'sql:%', 'by SQL, which Citus plans');
CALL bacmr_run_job('export');
SELECT is(how('export'), 'cursor', 'and exported by SQL');
SELECT path AS export FROM bacmr_export_chunks() \gset
SELECT raises(format('SELECT bacmr_import_chunks(%L, %L)', :'export', c), '0A000',
  'cannot be imported into public.chunks, a distributed table of Citus', 'ordinary table',
  'an import would fill a table that nobody reads: ' || c) FROM unnest('{error,skip,update}'::text[]) c;
SELECT lives_ok(format('CREATE TABLE staging (LIKE chunks); SELECT bacmr_import(''staging'', %L)',
  :'export'), 'it goes into an ordinary one');
DELETE FROM pg_dist_partition WHERE logicalrelid = 'wallet'::regclass;
SELECT bacmr_reconcile();
SELECT alike(how('reconcile'), 'sql:%', 'also where only one of the two is distributed');
SELECT raises('SELECT bacmr_expire_reservations()', '55000', 'distributed table of Citus',
  'bacmr_expire_in\(reservations, wallet, wallet_ledger\) on each node', 'expiry refuses');
SELECT raises($$SELECT bacmr_expire_in('reservations', 'wallet', 'wallet_ledger')$$, '55000',
  'distributed table of Citus', '.', 'under whatever name');
SELECT is((SELECT count(*) FROM reservations WHERE status = 'reserved'), 3::bigint, 'nothing was done');
SELECT alike((SELECT status FROM bacmr_sources WHERE source = 'reservations'),
  'invalid: for expiry, %Citus%', 'bacmr_sources says so');
CREATE FUNCTION doctor_says() RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(severity || ': ' || finding || ': ' || fix, '; ') FROM bacmr_doctor()
  WHERE check_name = 'sources' AND finding LIKE '%source reservations%'
$$;
SELECT is(doctor_says(), NULL, 'where expiry is paused, the doctor does not mind');
SELECT bacmr_unpause('expire');
SELECT alike(doctor_says(), 'error: %Citus%: %bacmr_expire_in() on each node%bacmr_pause(''expire'')%',
  'where it is not, it says what to do');
SELECT bacmr_pause('expire', 'test');
-- There, an id is unique together with the user.
ALTER TABLE reservations DROP CONSTRAINT reservations_pkey, ADD PRIMARY KEY (id, user_id);
SELECT lives_ok($$SELECT bacmr_attach('reservations', 'reservations')$$,
  'reservations that are distributed by user can be attached');


-- So an id belongs to its user, and so do the refunds; a join by id alone is none that Citus can do.
UPDATE reservations SET status = 'expired', updated_at = now() + interval '1 minute';
INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
  SELECT user_id, amount, 'reservation_expired', id FROM reservations;
UPDATE wallet SET token_balance = 100;
SELECT is((SELECT discrepancies FROM bacmr_reconcile()), 0::bigint, 'all are refunded');
DROP INDEX wallet_ledger_reservation_expired_key;
UPDATE reservations SET id = (SELECT min(id::text)::uuid FROM reservations);
UPDATE wallet_ledger SET reservation_id = (SELECT id FROM reservations LIMIT 1)
  WHERE reservation_id IS NOT NULL;
SELECT is((SELECT discrepancies FROM bacmr_reconcile()), 0::bigint,
  'the same id of three users: three reservations, one refund each');
INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
  SELECT user_id, 10, 'reservation_expired', reservation_id FROM wallet_ledger
  WHERE reservation_id IS NOT NULL ORDER BY user_id LIMIT 1;
UPDATE wallet_ledger SET reservation_id = gen_random_uuid()
  WHERE reservation_id IS NOT NULL AND user_id = (SELECT max(user_id::text)::uuid FROM wallet);
SELECT bacmr_reconcile();
SELECT results_eq($$SELECT kind, count(*), bool_and(d.user_id = w.user_id) FROM bacmr_discrepancy d,
    LATERAL (SELECT max(user_id::text) AS user_id FROM wallet) w
  WHERE run_id = (SELECT max(run_id) FROM bacmr_job_run) AND kind LIKE '%refund%' GROUP BY 1 ORDER BY 1$$,
  $$VALUES ('duplicate_refund', 1::bigint, false), ('unrefunded_expiry', 1, true)$$,
  'a second refund of one of them, and none of another, are found');

-- Citus hides its shards in pg_class from sessions that are not its own, unless they ask.
DROP TABLE pg_catalog.pg_dist_partition;
CREATE TABLE asked (setting text);
CREATE FUNCTION ask() RETURNS regclass LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO public.asked VALUES (current_setting('citus.override_table_visibility', true));
  RETURN 0;
END $$;
SET allow_system_table_mods = on;
CREATE VIEW pg_catalog.pg_dist_partition AS SELECT public.ask() AS logicalrelid;
RESET allow_system_table_mods;
SELECT lives_ok($$SELECT bacmr_expire_in('reservations', 'wallet', 'wallet_ledger')$$,
  'shards are no distributed tables');
SELECT is((SELECT array_agg(DISTINCT setting) FROM asked), '{off}', 'bacmr_expire_in asks for them');
SELECT is(coalesce(current_setting('citus.override_table_visibility', true), ''), '',
  'and leaves the setting as it was');

SELECT * FROM finish();
