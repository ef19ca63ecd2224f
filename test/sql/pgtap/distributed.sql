-- A distributed table of Citus looks like an ordinary, empty one: its rows are in shards that only
-- the planner knows. Whatever reads a table's blocks by itself would find nothing, and all well. Citus
-- is not here; its catalogue is, as far as it is asked.
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
-- There, an id is unique together with the user.
ALTER TABLE reservations DROP CONSTRAINT reservations_pkey, ADD PRIMARY KEY (id, user_id);
SELECT lives_ok($$SELECT bacmr_attach('reservations', 'reservations')$$,
  'reservations that are distributed by user can be attached');

SELECT * FROM finish();
