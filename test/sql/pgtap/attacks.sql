-- Code of others that runs while bacmr_ops works (views, triggers, index expressions, functions
-- with a better match) must neither become a superuser nor bend the session that it runs in.
-- The procedure commits: no transaction around this file.
\ir include/helpers.psql
SELECT plan(41);  -- some statements fail on purpose: a test lost to an error must show
SET client_min_messages = error;
-- Functions of the attackers are called with names of their own schemas throughout.
SET check_function_bodies = off;

DROP ROLE IF EXISTS attacks_op, attacks_mallory, attacks_monitor;
CREATE ROLE attacks_op;
CREATE ROLE attacks_mallory;
CREATE ROLE attacks_monitor IN ROLE pg_monitor;
CREATE FUNCTION has_become_superuser(role_name name) RETURNS boolean LANGUAGE sql AS
  'SELECT rolsuper FROM pg_roles WHERE rolname = role_name';

-- ---------------------------------------------------------------------------------------------
-- An extension in a schema that belongs to somebody else
-- ---------------------------------------------------------------------------------------------

CREATE SCHEMA app AUTHORIZATION attacks_mallory;
SET ROLE attacks_mallory;
CREATE TABLE app.called (who name);
GRANT INSERT ON app.called TO PUBLIC;
-- Each matches an expression of the report better than the function of pg_catalog's does.
CREATE FUNCTION app.jsonb_build_object(text, bigint, text, numeric) RETURNS jsonb
  LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.called VALUES (current_user); RETURN ''{}''; END';
CREATE FUNCTION app.count(bigint) RETURNS bigint
  LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.called VALUES (current_user); RETURN 0; END';
CREATE FUNCTION app.abs(numeric) RETURNS numeric
  LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.called VALUES (current_user); RETURN 0; END';
CREATE FUNCTION app.current_database() RETURNS name
  LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.called VALUES (current_user); RETURN ''x''; END';
CREATE FUNCTION app.format(text, bigint) RETURNS text
  LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.called VALUES (current_user); RETURN ''x''; END';
CREATE FUNCTION app.format(text, text) RETURNS text
  LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.called VALUES (current_user); RETURN ''x''; END';
CREATE FUNCTION app.clock_timestamp() RETURNS timestamptz
  LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.called VALUES (current_user); RETURN now(); END';
RESET ROLE;
CREATE EXTENSION bacmr_ops SCHEMA app;
SELECT app.bacmr_pause('expire', 'test');
SELECT app.bacmr_create_tables('app');
INSERT INTO app.wallet VALUES (gen_random_uuid(), 3), (gen_random_uuid(), -4);
SELECT is((SELECT r.discrepancies FROM app.bacmr_reconcile() r), 3::bigint,
  'in a schema with better-matching functions, reconciliation finds what is wrong');
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(app.bacmr_reconcile_report()->'kinds') k),
  '{balance_mismatch,negative_balance}'::text[], 'the report is the real one');
SELECT isnt_empty('SELECT * FROM app.bacmr_status', 'the view bacmr_status can be read');
SELECT lives_ok('SELECT * FROM app.bacmr_doctor()', 'the doctor looks around');
SELECT lives_ok('SELECT * FROM app.bacmr_sources', 'the view bacmr_sources can be read');
SELECT is_empty('SELECT * FROM app.called', 'and none of the planted functions has run');

GRANT USAGE ON SCHEMA app TO pg_monitor;
SELECT works_for('attacks_monitor', 'SELECT * FROM app.' || relation,
    'pg_monitor reads ' || relation || ' in an extension''s schema of its own')
  FROM unnest('{bacmr_status,bacmr_sources}'::text[]) relation;
DROP EXTENSION bacmr_ops;
DROP SCHEMA app CASCADE;

-- ---------------------------------------------------------------------------------------------
-- A view that changes the search_path while a job runs
-- ---------------------------------------------------------------------------------------------

CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');
SELECT bacmr_grant('operator', 'attacks_op');
CREATE SCHEMA op AUTHORIZATION attacks_op;
SET ROLE attacks_op;
-- Called as a superuser, each of these makes its owner one.
CREATE FUNCTION op.strike() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user) THEN
    EXECUTE 'ALTER ROLE attacks_op SUPERUSER';
  END IF;
END $$;
CREATE FUNCTION op.text_eq(text, text) RETURNS boolean LANGUAGE plpgsql AS
  'BEGIN PERFORM op.strike(); RETURN $1 OPERATOR(pg_catalog.=) $2; END';
CREATE FUNCTION op.jsonb_get(jsonb, text) RETURNS text LANGUAGE plpgsql AS
  'BEGIN PERFORM op.strike(); RETURN $1 OPERATOR(pg_catalog.->>) $2; END';
CREATE OPERATOR op.= (LEFTARG = text, RIGHTARG = text, FUNCTION = op.text_eq);
CREATE OPERATOR op.->> (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = op.jsonb_get);
CREATE FUNCTION op.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
  'BEGIN PERFORM op.strike(); RETURN pg_catalog.clock_timestamp(); END';
CREATE SEQUENCE op.sprung;  -- survives rollbacks
CREATE FUNCTION op.trap() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_catalog.nextval('op.sprung');
  PERFORM pg_catalog.set_config('search_path', 'op, pg_catalog', false);
  RETURN 0;
END $$;
CREATE TABLE op.wallet_data (user_id bigint PRIMARY KEY, token_balance bigint);
INSERT INTO op.wallet_data VALUES (1, 5), (2, -7);
CREATE VIEW op.wallet AS SELECT user_id, token_balance + op.trap() AS token_balance FROM op.wallet_data;
CREATE TABLE op.wallet_ledger (user_id bigint, delta bigint, reason text);
SELECT bacmr_attach('wallet', 'op.wallet');
SELECT bacmr_attach('wallet_ledger', 'op.wallet_ledger');
RESET ROLE;

-- What holds after any job during which the trap was set off.
CREATE FUNCTION unharmed(path_before text, path_after text, description text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
  RETURN NEXT ok((SELECT is_called FROM op.sprung), description || ': the trap was set off');
  PERFORM setval('op.sprung', 1, false);
  RETURN NEXT is(has_become_superuser('attacks_op'), false, description || ': nobody has become a superuser');
  RETURN NEXT is(path_after, path_before, description || ': the session''s search_path is as it was');
  RETURN NEXT ok(status <> 'running' AND finished_at IS NOT NULL, description || ': the run has ended')
    FROM bacmr_job_run WHERE job = 'reconcile' ORDER BY run_id DESC LIMIT 1;
END $$;
SELECT current_setting('search_path') AS path \gset

SET ROLE attacks_op;
SELECT bacmr_reconcile();
RESET ROLE;
SELECT current_setting('search_path') AS now \gset
SET search_path = :path;
SELECT unharmed(:'path', :'now', 'bacmr_reconcile()');
SELECT is((SELECT count(*) FROM bacmr_discrepancy), 3::bigint, 'and it reports what is wrong');

SET ROLE attacks_op;
SELECT bacmr_reconcile('10 milliseconds');
RESET ROLE;
SELECT current_setting('search_path') AS now \gset
SET search_path = :path;
SELECT unharmed(:'path', :'now', 'bacmr_reconcile(recheck_after)');

\set ON_ERROR_STOP off
\set VERBOSITY sqlstate
SET ROLE attacks_op;
CALL bacmr_run_job('reconcile');
RESET ROLE;
SELECT current_setting('search_path') AS now \gset
SET search_path = :path;
SELECT unharmed(:'path', :'now', 'bacmr_run_job');
SET ROLE attacks_op;
CALL bacmr_run_job('reconcile', '{"recheck_after": "10 milliseconds"}');
RESET ROLE;
SELECT current_setting('search_path') AS now \gset
SET search_path = :path;
SELECT unharmed(:'path', :'now', 'bacmr_run_job with recheck_after');
\set ON_ERROR_STOP on
\set VERBOSITY default

-- ---------------------------------------------------------------------------------------------
-- Triggers that change the search_path while reservations expire
-- ---------------------------------------------------------------------------------------------

SET ROLE attacks_op;
CREATE FUNCTION op.trap_trigger() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM op.trap(); RETURN NEW; END';
DROP VIEW op.wallet;
ALTER TABLE op.wallet_data RENAME TO wallet;
CREATE TABLE op.reservations (id bigint PRIMARY KEY, user_id bigint, amount bigint,
  status text DEFAULT 'reserved', expires_at timestamptz DEFAULT '2020-01-01');
CREATE TRIGGER t BEFORE UPDATE ON op.wallet FOR EACH ROW EXECUTE FUNCTION op.trap_trigger();
CREATE TRIGGER t AFTER INSERT ON op.wallet_ledger FOR EACH ROW EXECUTE FUNCTION op.trap_trigger();
CREATE TRIGGER t BEFORE UPDATE ON op.reservations FOR EACH ROW EXECUTE FUNCTION op.trap_trigger();
SELECT bacmr_attach('wallet', 'op.wallet');
SELECT bacmr_attach('reservations', 'op.reservations');
INSERT INTO op.reservations VALUES (1, 1, 10);
SELECT bacmr_expire_reservations();
RESET ROLE;
SELECT current_setting('search_path') AS now \gset
SET search_path = :path;
SELECT unharmed(:'path', :'now', 'bacmr_expire_reservations');
SELECT is((SELECT token_balance FROM op.wallet WHERE user_id = 1), 15::bigint, 'and the refund is made');
-- The worker may be faster; it commits as the tables' owner, and is no superuser then either.
INSERT INTO op.reservations VALUES (2, 1, 10);
SELECT bacmr_unpause('expire');
SET ROLE attacks_op;
CALL bacmr_run_job('expire');
RESET ROLE;
SELECT current_setting('search_path') AS now \gset
SET search_path = :path;
SELECT bacmr_pause('expire', 'test');
SELECT ok(comes_true('(SELECT bool_and(status = ''expired'') FROM op.reservations)'),
  'CALL bacmr_run_job(''expire''), or the worker, makes the refund');
SELECT is(has_become_superuser('attacks_op'), false, 'with triggers: nobody has become a superuser');
SELECT is(:'now'::text, :'path'::text, 'with triggers: search_path is as it was after the CALL');

-- ---------------------------------------------------------------------------------------------
-- A view that drops the session's advisory locks while a job runs
-- ---------------------------------------------------------------------------------------------

SET ROLE attacks_op;
DROP TRIGGER t ON op.wallet;
DROP TRIGGER t ON op.wallet_ledger;
ALTER TABLE op.wallet RENAME TO wallet_data;
CREATE TABLE op.locks_seen (job_locks bigint);
CREATE FUNCTION op.unlock() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_catalog.pg_advisory_unlock_all();
  INSERT INTO op.locks_seen SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks
    WHERE pid = pg_catalog.pg_backend_pid() AND mode = 'ExclusiveLock' AND granted
      AND locktype IN ('object', 'advisory') AND objsubid IN (16970, 16978);
  RETURN 0;
END $$;
CREATE VIEW op.wallet AS SELECT user_id, token_balance + op.unlock() AS token_balance FROM op.wallet_data;
TRUNCATE op.wallet_data, op.wallet_ledger, op.reservations;
INSERT INTO op.wallet_data VALUES (1, 5);
INSERT INTO op.wallet_ledger VALUES (1, 5, 'bought');
SELECT bacmr_attach('wallet', 'op.wallet');
CALL bacmr_run_job('reconcile');
RESET ROLE;
SELECT is((SELECT status FROM bacmr_job_run WHERE job = 'reconcile' ORDER BY run_id DESC LIMIT 1),
  'succeeded', 'pg_advisory_unlock_all() in a view: the run ends well');
SELECT is((SELECT array_agg(DISTINCT job_locks) FROM op.locks_seen), '{2}'::bigint[],
  'the locks of job and run were held all the same');
SELECT is((SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND objsubid IN (16970, 16978)),
  0::bigint, 'and are gone with the run');

-- ---------------------------------------------------------------------------------------------
-- The doctor, called by a superuser
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_detach(source) FROM bacmr_sources;
GRANT EXECUTE ON FUNCTION bacmr_attach(text, regclass, jsonb, jsonb) TO attacks_mallory;
CREATE SCHEMA mal AUTHORIZATION attacks_mallory;
SET ROLE attacks_mallory;
CREATE TABLE mal.spark (x int);
CREATE FUNCTION mal.boom() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
    EXECUTE 'ALTER ROLE attacks_mallory SUPERUSER';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON mal.spark DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION mal.boom();
CREATE FUNCTION mal.light() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO mal.spark VALUES (1);
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
    EXECUTE 'ALTER ROLE attacks_mallory SUPERUSER';
  END IF;
  RETURN 'reserved';
END $$;
CREATE TABLE mal.data (id bigint PRIMARY KEY, user_id bigint, amount bigint, status text,
  expires_at timestamptz);
INSERT INTO mal.data VALUES (1, 1, 1, 'reserved', now() - interval '1 day');
CREATE VIEW mal.reservations AS SELECT id, user_id, amount, mal.light() AS status, expires_at FROM mal.data;
SELECT bacmr_attach('reservations', 'mal.reservations');
RESET ROLE;
SELECT lives_ok('SELECT * FROM bacmr_doctor()', 'the doctor copes with a hostile view');
SELECT is(has_become_superuser('attacks_mallory'), false, 'whose deferred trigger does not become a superuser');
SELECT is_empty('SELECT * FROM mal.spark', 'and whose code does not run');

-- A condition of an index is folded by the planner, so its function runs before any row is read.
SET ROLE attacks_mallory;
DROP VIEW mal.reservations;
ALTER TABLE mal.data RENAME TO reservations;
CREATE FUNCTION mal.yes(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
CREATE INDEX ON mal.reservations (expires_at) WHERE mal.yes(1);
CREATE OR REPLACE FUNCTION mal.yes(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  BEGIN
    PERFORM mal.light();
  EXCEPTION WHEN insufficient_privilege OR object_not_in_prerequisite_state THEN
    NULL;
  END;
  RETURN true;
END $$;
SELECT bacmr_attach('reservations', 'mal.reservations');
RESET ROLE;
SELECT lives_ok('SELECT * FROM bacmr_doctor()', 'the doctor copes with a hostile index');
SELECT is(has_become_superuser('attacks_mallory'), false, 'whose condition does not become a superuser');

SELECT * FROM finish();
SELECT bacmr_detach(source) FROM bacmr_sources;
DROP OWNED BY attacks_op, attacks_mallory, attacks_monitor CASCADE;
DROP ROLE attacks_op, attacks_mallory, attacks_monitor;
