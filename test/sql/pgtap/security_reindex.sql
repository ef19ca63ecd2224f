-- Reindex jobs run code of the role that queued them: triggers of the table of vectors. In a superuser's session none of it may become the superuser, at
-- once or at the commit. (test/tap/t/security.pl does the same to the worker.)
-- The procedure commits: no transaction around this file.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
ALTER SYSTEM SET bacmr.databases = 'postgres';
SELECT pg_reload_conf();
CREATE EXTENSION bacmr_ops;
SELECT ok(comes_true($$(SELECT state LIKE 'off%' FROM bacmr_status WHERE job LIKE 'worker%' LIMIT 1)$$),
  'the worker stays out');
DROP ROLE IF EXISTS security_mallory, security_colleague;
CREATE ROLE security_mallory;
CREATE ROLE security_colleague;
SELECT bacmr_grant('operator', r) FROM unnest('{security_mallory,security_colleague}'::name[]) r;
CREATE SCHEMA mal AUTHORIZATION security_mallory;

-- Called as a superuser, strike() makes its owner one; it notes who it was called by, and what was
-- refused.
SET ROLE security_mallory;
CREATE TABLE mal.seen (what text, who name, superuser boolean, outcome text);
GRANT INSERT ON mal.seen TO PUBLIC;
CREATE FUNCTION mal.strike(what text, outcome text DEFAULT 'ran') RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO mal.seen SELECT what, current_user, rolsuper, outcome FROM pg_catalog.pg_roles
    WHERE rolname OPERATOR(pg_catalog.=) current_user;
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user) THEN
    EXECUTE 'ALTER ROLE security_mallory SUPERUSER';
  END IF;
  RETURN true;
END $$;
CREATE FUNCTION mal.attempt(what text, statement text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  outcome text := 'done';
BEGIN
  BEGIN
    EXECUTE statement;
  EXCEPTION WHEN OTHERS THEN
    outcome := SQLSTATE;
  END;
  PERFORM mal.strike(what, outcome);
END $$;
CREATE FUNCTION mal.row_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM mal.attempt('cursor', 'DECLARE held CURSOR WITH HOLD FOR SELECT mal.strike(''held'')');
  PERFORM mal.attempt('temp', 'CREATE TEMP TABLE planted (x int)');
  PERFORM mal.attempt('prepare', 'PREPARE planted AS SELECT 1');
  PERFORM mal.attempt('role', 'SET ROLE postgres');
  PERFORM mal.attempt('reset', 'RESET ROLE');
  PERFORM mal.attempt('session', 'RESET SESSION AUTHORIZATION');
  PERFORM pg_catalog.set_config('search_path', 'mal, pg_catalog', false);
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE FUNCTION mal.late_trigger() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN PERFORM mal.strike('deferred ' || TG_OP); RETURN NULL; END$$;
CREATE FUNCTION mal.defer_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SET CONSTRAINTS ALL DEFERRED;
  RETURN NEW;
END $$;
CREATE TABLE mal.data (id int PRIMARY KEY, namespace text, content text);
INSERT INTO mal.data VALUES (1, 'n', 'one text'), (2, 'n', 'another');
CREATE TABLE mal.bacmr_vector (namespace text, id text, embedding real[], metadata jsonb, PRIMARY KEY (namespace, id));
CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON mal.bacmr_vector FOR EACH ROW EXECUTE FUNCTION mal.row_trigger();
SELECT bacmr_attach('chunks', 'mal.data');
SELECT bacmr_reindex('n') AS job \gset
RESET ROLE;
SELECT current_setting('search_path') AS path \gset
\set ON_ERROR_STOP off
\set VERBOSITY sqlstate

CREATE FUNCTION unharmed(description text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  RETURN NEXT isnt_empty('SELECT * FROM mal.seen', description || ': the trap was set off');
  RETURN NEXT is_empty('SELECT * FROM mal.seen WHERE superuser OR who <> ''security_mallory''',
                       description || ': all of it ran as the role itself');
  RETURN NEXT is((SELECT rolsuper FROM pg_roles WHERE rolname = 'security_mallory'), false,
                 description || ': it is no superuser');
  TRUNCATE mal.seen;
END $$;

-- ---------------------------------------------------------------------------------------------
-- A superuser runs the job of another role
-- ---------------------------------------------------------------------------------------------

CALL bacmr_reindex_run(:job);
SELECT is(:'SQLSTATE'::text, '00000', 'a superuser runs a job whose vectors have a hostile trigger');
SELECT set_eq('SELECT DISTINCT what, outcome FROM mal.seen', $$VALUES ('cursor', '42501'), ('temp', '42501'),
  ('prepare', '42501'), ('role', '42501'), ('reset', '42501'), ('session', '42501')$$,
  'nothing that outlasts the statement is allowed, nor another role');
SELECT unharmed('a row trigger');
SELECT is(current_setting('search_path'), :'path', 'the session''s search_path is as it was');
SELECT is((SELECT status FROM bacmr_reindex_status WHERE job_id = :job), 'completed', 'the job did its work');
SELECT ok from bacmr_reindex_verify(:job) \gset
SELECT is(:'ok'::boolean, true, 'and can be verified by a superuser');

-- Deferred triggers: they fire with their statement; where a trigger defers them again, they are refused.
SET ROLE security_mallory;
DROP TRIGGER a ON mal.bacmr_vector;
CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE OR DELETE ON mal.bacmr_vector DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION mal.late_trigger();
SELECT bacmr_reindex_cancel(:job);
SELECT bacmr_reindex('n', target_namespace => 'second') AS job2 \gset
RESET ROLE;
CALL bacmr_reindex_run(:job2);
SELECT is(:'SQLSTATE'::text, '00000', 'a superuser runs a job whose vectors have a deferred trigger');
SELECT unharmed('a deferred trigger');
SET ROLE security_mallory;
SELECT bacmr_reindex_cancel(:job2);
RESET ROLE;
-- In the caller's own transaction: refused, since it would fire at the caller's commit.
SELECT bacmr_reindex_discard(:job2);
SELECT is(:'SQLSTATE'::text, '42501', 'a superuser who discards the target of such a job is told');
SELECT matches(:'LAST_ERROR_MESSAGE'::text, 'deferred trigger', 'why');
SELECT is((SELECT rolsuper FROM pg_roles WHERE rolname = 'security_mallory'), false, 'discarding: no superuser');
SELECT is((SELECT count(*) FROM mal.bacmr_vector WHERE namespace = 'second'), 2::bigint, 'and nothing is deleted');
SET ROLE security_mallory;
SELECT bacmr_reindex_discard(:job2);
SELECT is(:'SQLSTATE'::text, '00000', 'the role itself discards it');
RESET ROLE;
SELECT unharmed('discarding');
SET ROLE security_mallory;
CREATE TRIGGER b BEFORE INSERT ON mal.bacmr_vector FOR EACH ROW EXECUTE FUNCTION mal.defer_again();
SELECT bacmr_reindex('n', target_namespace => 'third') AS job3 \gset
RESET ROLE;
CALL bacmr_reindex_run(:job3);
SELECT is(:'SQLSTATE'::text, '42501', 'a trigger that defers what was made immediate stops the job');
SELECT is((SELECT rolsuper FROM pg_roles WHERE rolname = 'security_mallory'), false, 'and comes to nothing');
SELECT is_empty('SELECT * FROM mal.seen WHERE superuser', 'no code of it ran as a superuser');
SET ROLE security_mallory;
DROP TRIGGER b ON mal.bacmr_vector;
DROP TRIGGER late ON mal.bacmr_vector;
SELECT bacmr_reindex_cancel(:job3);
SELECT bacmr_reindex_discard(:job3);
RESET ROLE;

-- ---------------------------------------------------------------------------------------------
-- A table of vectors that somebody has put there before
-- ---------------------------------------------------------------------------------------------

CREATE SCHEMA shop;
GRANT USAGE, CREATE ON SCHEMA shop TO security_mallory, security_colleague;
SELECT bacmr_create_tables('shop');
SELECT bacmr_detach('chunks');
SELECT bacmr_attach('chunks', 'shop.chunks');
INSERT INTO shop.chunks (namespace, content) VALUES ('n', 'one text');
GRANT SELECT ON shop.chunks TO security_colleague, security_mallory;
SET ROLE security_mallory;
CREATE TABLE shop.bacmr_vector (LIKE mal.bacmr_vector INCLUDING ALL);
GRANT ALL ON shop.bacmr_vector TO PUBLIC;
CREATE TRIGGER a BEFORE INSERT ON shop.bacmr_vector FOR EACH ROW EXECUTE FUNCTION mal.row_trigger();
CREATE FUNCTION mal.yes(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
  'BEGIN PERFORM mal.strike(''predicate''); RETURN true; END';
CREATE INDEX ON shop.bacmr_vector (id) WHERE mal.yes('x');
TRUNCATE mal.seen;
RESET ROLE;
SELECT raises(statement, '42501', 'belongs to the role security_mallory', 'ALTER TABLE shop.bacmr_vector OWNER TO',
              'a superuser: ' || statement)
FROM unnest(ARRAY[$$SELECT bacmr_reindex('n')$$, $$SELECT bacmr_vectors_verify('n')$$,
                  $$SELECT bacmr_vectors_repair('n')$$]) statement;
SELECT raises($$SELECT bacmr_reindex('n')$$, '42501', 'belongs to the role security_mallory', 'OWNER TO',
  'a colleague of the planter', 'security_colleague');
SELECT is_empty('SELECT * FROM mal.seen', 'and none of the planted code has run');
SELECT works_for('security_mallory', $$SELECT bacmr_vectors_verify('n')$$, 'its owner may use it');
DROP TABLE shop.bacmr_vector;
SELECT works_for('security_colleague', $$SELECT bacmr_reindex('n')$$, 'without it, others may');
SET ROLE security_colleague;
CALL bacmr_reindex_run();
RESET ROLE;
SELECT is((SELECT tableowner FROM pg_tables WHERE tablename = 'bacmr_vector' AND schemaname = 'shop'),
  'security_colleague', 'and make it theirs');
SELECT raises($$SELECT bacmr_vectors_verify('n')$$, '42501', 'security_colleague', 'OWNER TO (postgres|CURRENT)?',
  'a superuser is not led there either');
ALTER TABLE shop.bacmr_vector OWNER TO CURRENT_USER;
SELECT lives_ok($$SELECT bacmr_vectors_verify('n')$$, 'one that belongs to the chunks'' owner is everybody''s');

-- ---------------------------------------------------------------------------------------------
-- Text that an operator may paste into psql
-- ---------------------------------------------------------------------------------------------

GRANT ALL ON shop.bacmr_vector TO security_colleague;
INSERT INTO shop.chunks (namespace, content) VALUES (E'x''); DROP TABLE shop.wallet; --', 'one text');
-- Something to go back to.
INSERT INTO shop.bacmr_vector VALUES (E'x''); DROP TABLE shop.wallet; --', 'old', '{1}', '{}');
SELECT bacmr_reindex(E'x''); DROP TABLE shop.wallet; --') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT bacmr_reindex_swap(:job, force => true);
SELECT substring(bacmr_reindex_summary(:job) FROM 'To go back: ([^\n]*)') AS advice \gset
:advice;
SELECT is(:'SQLSTATE'::text, '00000', 'the way back that the summary shows can be pasted, whatever the namespace is called');
SELECT ok(to_regclass('shop.wallet') IS NOT NULL, 'and does what it says, no more');
SELECT is((SELECT active_namespace FROM bacmr_namespace), E'x''); DROP TABLE shop.wallet; --', 'it went back');

-- ---------------------------------------------------------------------------------------------
-- The role's rights, at the time of the work
-- ---------------------------------------------------------------------------------------------

CREATE SERVER own FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'local', dimensions '32');
GRANT USAGE ON FOREIGN SERVER own TO security_colleague;
SET ROLE security_colleague;
SELECT bacmr_reindex('n', embedder => 'own') AS job \gset
RESET ROLE;
SELECT is(:'SQLSTATE'::text, '00000', 'a job is queued');
REVOKE USAGE ON FOREIGN SERVER own FROM security_colleague;
CALL bacmr_reindex_run(:job);
SELECT is(:'SQLSTATE'::text, '42501', 'USAGE that was revoked meanwhile is missed, also when a superuser runs the job');
GRANT USAGE ON FOREIGN SERVER own TO security_colleague;
REVOKE SELECT ON shop.chunks FROM security_colleague;
SELECT bacmr_reindex_resume(:job);
CALL bacmr_reindex_run(:job);
SELECT is(:'SQLSTATE'::text, '42501', 'and so is SELECT on the chunks');
SELECT raises(format('SELECT ' || call, :'job'), '42501', 'permission denied for reindex job', 'that role',
              'another operator: ' || call, 'security_mallory')
FROM unnest(ARRAY['bacmr_reindex_cancel(%s)', 'bacmr_reindex_resume(%s)', 'bacmr_reindex_pause(%s)',
  'bacmr_reindex_discard(%s)', 'bacmr_reindex_swap(%s)', 'bacmr_reindex_verify(%s)',
  'bacmr_reindex_retry_failed(%s)', 'bacmr_reindex_cleanup(%s)', 'bacmr_reindex_compare(%s)',
  'bacmr_reindex_summary(%s)']) call;

SELECT * FROM finish();
ALTER SYSTEM RESET bacmr.databases;
SELECT pg_reload_conf();
SELECT bacmr_detach(source) FROM bacmr_sources;
DROP SERVER own CASCADE;
DROP OWNED BY security_mallory, security_colleague CASCADE;
DROP ROLE security_mallory, security_colleague;
