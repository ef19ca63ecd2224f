-- Reconciliation reads as the caller: what the caller may not read is an error, never a gap. And
-- the second look of recheck_after.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;
-- Nobody but this file may change anything.
SELECT bacmr_pause('expire', 'test');
CREATE SCHEMA money;
SELECT bacmr_create_tables('money');
DROP ROLE IF EXISTS reconcile_reader;
CREATE ROLE reconcile_reader;
GRANT EXECUTE ON FUNCTION bacmr_reconcile(interval) TO reconcile_reader;

CREATE FUNCTION u(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid$$;
INSERT INTO money.wallet VALUES (u(1), 10), (u(2), 20), (u(3), 31);
INSERT INTO money.wallet_ledger (user_id, delta, reason) SELECT u(n), n * 10, 'x'
  FROM generate_series(1, 3) n;
INSERT INTO money.reservations (user_id, amount, expires_at)
  VALUES (u(1), 5, now() + interval '1 day');

-- ---------------------------------------------------------------------------------------------
-- Privileges
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION denied(what text, description text) RETURNS text LANGUAGE sql AS $$
  SELECT raises('SELECT bacmr_reconcile()', '42501', what, '', description, 'reconcile_reader')
$$;
CREATE FUNCTION found_as_reader(description text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE run record;
BEGIN
  SET LOCAL ROLE reconcile_reader;
  SELECT * INTO run FROM bacmr_reconcile();
  RESET ROLE;
  RETURN is((run.wallets_checked, run.discrepancies, run.drift), (3::bigint, 1::bigint, 1::numeric),
            description);
END $$;
-- Takes everything back, for the next try.
CREATE FUNCTION revoke_all() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  REVOKE ALL ON ALL TABLES IN SCHEMA money FROM reconcile_reader;
  REVOKE ALL ON SCHEMA money FROM reconcile_reader;
END $$;

SELECT denied('money', 'without any right on the tables');
GRANT SELECT ON ALL TABLES IN SCHEMA money TO reconcile_reader;
SELECT denied('money', 'without USAGE on their schema');
GRANT USAGE ON SCHEMA money TO reconcile_reader;
SELECT found_as_reader('SELECT on the three tables and USAGE on their schema are enough');
REVOKE SELECT ON money.wallet FROM reconcile_reader;
SELECT denied('wallet', 'without SELECT on the wallet');
GRANT SELECT ON money.wallet TO reconcile_reader;
REVOKE SELECT ON money.wallet_ledger FROM reconcile_reader;
SELECT denied('wallet_ledger', 'without SELECT on the ledger');
GRANT SELECT ON money.wallet_ledger TO reconcile_reader;
REVOKE SELECT ON money.reservations FROM reconcile_reader;
SELECT denied('reservations', 'without SELECT on the reservations');
SELECT is((SELECT count(*) FROM bacmr_job_run), 1::bigint,
  'a run that was refused leaves nothing behind');

-- Columns: exactly those that the checks read.
SELECT revoke_all();
GRANT USAGE ON SCHEMA money TO reconcile_reader;
GRANT SELECT (user_id, token_balance) ON money.wallet TO reconcile_reader;
GRANT SELECT (user_id, delta, reason, reservation_id, created_at) ON money.wallet_ledger
  TO reconcile_reader;
GRANT SELECT (id, user_id, amount, status, expires_at, updated_at) ON money.reservations
  TO reconcile_reader;
SELECT found_as_reader('SELECT on the columns is enough');
REVOKE SELECT (token_balance) ON money.wallet FROM reconcile_reader;
SELECT denied('wallet', 'without the column token_balance');
GRANT SELECT (token_balance) ON money.wallet TO reconcile_reader;
REVOKE SELECT (delta) ON money.wallet_ledger FROM reconcile_reader;
SELECT denied('wallet_ledger', 'without the column delta');
GRANT SELECT (delta) ON money.wallet_ledger TO reconcile_reader;
REVOKE SELECT (amount) ON money.reservations FROM reconcile_reader;
SELECT denied('reservations', 'without the column amount');
\if :has_maintain
GRANT MAINTAIN ON ALL TABLES IN SCHEMA money TO reconcile_reader;
SELECT denied('reservations', 'MAINTAIN lets nobody read');
\endif

-- The same where SQL does the work.
ALTER TABLE money.wallet ALTER token_balance TYPE numeric;
GRANT SELECT ON ALL TABLES IN SCHEMA money TO reconcile_reader;
SELECT found_as_reader('by SQL, with rights');
REVOKE SELECT ON money.wallet_ledger FROM reconcile_reader;
REVOKE SELECT (user_id, delta, reason, reservation_id, created_at) ON money.wallet_ledger
  FROM reconcile_reader;
SELECT denied('wallet_ledger', 'by SQL, without SELECT on the ledger');
ALTER TABLE money.wallet ALTER token_balance TYPE bigint;

-- A partition's own rights do not matter, as in SQL.
SELECT revoke_all();
GRANT USAGE ON SCHEMA money TO reconcile_reader;
ALTER TABLE money.wallet_ledger RENAME TO ledger_part;
CREATE TABLE money.wallet_ledger (LIKE money.ledger_part INCLUDING IDENTITY) PARTITION BY LIST (reason);
-- From PostgreSQL 17 on, a partition has the identity column of its parent.
ALTER TABLE money.ledger_part ALTER id DROP IDENTITY;
ALTER TABLE money.wallet_ledger ATTACH PARTITION money.ledger_part DEFAULT;
GRANT SELECT ON money.wallet, money.wallet_ledger, money.reservations TO reconcile_reader;
SELECT found_as_reader('SELECT on a partitioned table covers its partitions');
SELECT is((SELECT detail->>'method' FROM bacmr_job_run ORDER BY run_id DESC LIMIT 1), 'scan',
  'by the scan');
DROP TABLE money.wallet_ledger;
SELECT bacmr_create_tables('money');
INSERT INTO money.wallet_ledger (user_id, delta, reason) SELECT u(n), n * 10, 'x'
  FROM generate_series(1, 3) n;

-- The function itself
REVOKE EXECUTE ON FUNCTION bacmr_reconcile(interval) FROM reconcile_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA money TO reconcile_reader;
SELECT denied('bacmr_reconcile', 'without EXECUTE');
GRANT EXECUTE ON FUNCTION bacmr_reconcile(interval) TO reconcile_reader;
SELECT raises('SELECT * FROM bacmr_discrepancy', '42501', 'bacmr_discrepancy', '',
  'EXECUTE alone does not let anybody read the findings', 'reconcile_reader');

-- ---------------------------------------------------------------------------------------------
-- Row-level security: a filtered ledger would show false discrepancies
-- ---------------------------------------------------------------------------------------------

SELECT found_as_reader('before there are policies');
CREATE FUNCTION policy_refused(table_name text, description text) RETURNS SETOF text
  LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE POLICY own ON money.%I FOR SELECT TO reconcile_reader USING (user_id = u(1))',
                 table_name);
  EXECUTE format('ALTER TABLE money.%I ENABLE ROW LEVEL SECURITY', table_name);
  RETURN NEXT denied('row-level security', description);
  -- Owner and superuser are not subject to it.
  RETURN NEXT is((SELECT (r.discrepancies, r.drift) FROM bacmr_reconcile() r),
                 (1::bigint, 1::numeric), description || '; a superuser sees everything');
  EXECUTE format('DROP POLICY own ON money.%I', table_name);
  EXECUTE format('ALTER TABLE money.%I DISABLE ROW LEVEL SECURITY', table_name);
END $$;
SELECT policy_refused('wallet', 'a policy on the wallet');
SELECT policy_refused('wallet_ledger', 'a policy on the ledger');
SELECT policy_refused('reservations', 'a policy on the reservations');
SELECT found_as_reader('after the policies have gone');
-- Without reservations, whose checks are SQL, the scan stands alone: it must ask for itself.
SELECT bacmr_detach('reservations');
SELECT found_as_reader('without reservations');
SELECT policy_refused('wallet', 'a policy on the wallet, by the scan alone');
SELECT policy_refused('wallet_ledger', 'a policy on the ledger, by the scan alone');
REVOKE SELECT ON money.wallet FROM reconcile_reader;
SELECT denied('wallet', 'without SELECT on the wallet, by the scan alone');
GRANT SELECT (user_id) ON money.wallet TO reconcile_reader;
SELECT denied('wallet', 'without the column token_balance, by the scan alone');
GRANT SELECT ON money.wallet TO reconcile_reader;
REVOKE SELECT ON money.wallet_ledger FROM reconcile_reader;
GRANT SELECT (delta) ON money.wallet_ledger TO reconcile_reader;
SELECT denied('wallet_ledger', 'without the ledger''s user_id, by the scan alone');
GRANT SELECT ON money.wallet_ledger TO reconcile_reader;
REVOKE USAGE ON SCHEMA money FROM reconcile_reader;
SELECT denied('wallet', 'without USAGE on the schema, by the scan alone');
GRANT USAGE ON SCHEMA money TO reconcile_reader;
SELECT found_as_reader('with all of it again');
SELECT is((SELECT detail->>'method' FROM bacmr_job_run ORDER BY run_id DESC LIMIT 1), 'scan',
  'it was the scan');
SELECT bacmr_attach('reservations', 'money.reservations');
ALTER TABLE money.wallet_ledger ALTER delta TYPE numeric;
SELECT policy_refused('wallet', 'a policy on the wallet, by SQL');
SELECT policy_refused('wallet_ledger', 'a policy on the ledger, by SQL');
ALTER TABLE money.wallet_ledger ALTER delta TYPE bigint;
-- Forced, it binds the owner too.
ALTER TABLE money.wallet_ledger OWNER TO reconcile_reader;
SELECT bacmr_attach('wallet_ledger', 'money.wallet_ledger');
ALTER TABLE money.wallet_ledger ENABLE ROW LEVEL SECURITY;
SELECT found_as_reader('the owner is not subject to policies');
ALTER TABLE money.wallet_ledger FORCE ROW LEVEL SECURITY;
SELECT denied('row-level security', 'unless they are forced');
ALTER TABLE money.wallet_ledger NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
ALTER TABLE money.wallet_ledger OWNER TO CURRENT_USER;
GRANT SELECT ON money.wallet_ledger TO reconcile_reader;
SET row_security = on;
SELECT found_as_reader('and the caller''s row_security stays the caller''s');
SELECT is(current_setting('row_security'), 'on', 'as it was set');

-- ---------------------------------------------------------------------------------------------
-- recheck_after
-- ---------------------------------------------------------------------------------------------

SELECT raises($$SELECT bacmr_reconcile('-1 second')$$, '22023', 'recheck_after', 'interval',
  'recheck_after negative');
SELECT raises($$SELECT bacmr_reconcile('1 month -31 days')$$, '22023', 'recheck_after', 'interval',
  'recheck_after negative in all');
SELECT raises('SELECT bacmr_reconcile(NULL)', '22004', 'recheck_after', 'interval',
  'recheck_after NULL');
SELECT raises($$SELECT bacmr_reconcile('178000000 years')$$, '22008', 'interval', '',
  'recheck_after beyond all bounds');
SELECT lives_ok($$SELECT bacmr_reconcile('0')$$, 'recheck_after 0: no second look');

INSERT INTO money.wallet VALUES (u(4), -8);
INSERT INTO money.wallet_ledger (user_id, delta, reason) VALUES (u(5), 7, 'x');
INSERT INTO money.reservations (id, user_id, amount, expires_at)
  VALUES (u(50), u(6), 0, now() - interval '1 hour');
CREATE FUNCTION found_rows(run_id bigint) RETURNS text[] LANGUAGE sql AS $$
  SELECT array_agg((d.kind, d.user_id, d.current_balance, d.ledger_sum, d.discrepancy, d.detail)::text
                   ORDER BY d.kind, d.user_id)
  FROM bacmr_discrepancy d WHERE d.run_id = found_rows.run_id
$$;
SELECT run_id AS plain FROM bacmr_reconcile() \gset
SELECT run_id AS twice, discrepancies AS twice_found, drift AS twice_drift
  FROM bacmr_reconcile('50 milliseconds') \gset
SELECT is(found_rows(:twice), found_rows(:plain),
  'a second look keeps what is really there, of every kind');
SELECT is((:twice_found::bigint, :twice_drift::numeric), (6::bigint, 16::numeric), 'and its totals');
SELECT works_for('reconcile_reader', $$SELECT bacmr_reconcile('1 millisecond')$$,
  'the second look needs no further rights');

-- In a fixed snapshot the second look would see the first one's rows.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT raises($$SELECT bacmr_reconcile('1 second')$$, '25001', 'READ COMMITTED', 'READ COMMITTED',
  'recheck_after in a REPEATABLE READ transaction');
SELECT lives_ok('SELECT bacmr_reconcile()', 'without it that is fine');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT raises($$SELECT bacmr_reconcile('1 second')$$, '25001', 'READ COMMITTED', 'READ COMMITTED',
  'recheck_after in a SERIALIZABLE transaction');
COMMIT;

-- A waiting reconciliation can be cancelled.
CREATE FUNCTION wait_for_long() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM bacmr_reconcile('10 minutes');
  RETURN 'not cancelled';
EXCEPTION WHEN query_canceled THEN
  RETURN 'cancelled';
END $$;
SET statement_timeout = '300ms';
SELECT wait_for_long() AS outcome \gset
RESET statement_timeout;
SELECT is(:'outcome'::text, 'cancelled', 'statement_timeout ends the wait');
SELECT is((SELECT count(*) FROM bacmr_job_run WHERE status = 'running'), 0::bigint,
  'and no run is left open');

SELECT * FROM finish();
DROP OWNED BY reconcile_reader;
DROP ROLE reconcile_reader;
