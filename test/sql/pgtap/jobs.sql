-- Jobs: CALL bacmr_run_job, pauses, status, doctor, log, history, profiles and privileges.
-- The procedure commits: no transaction around this file.
\ir include/helpers.psql
SELECT plan(181);  -- some statements fail on purpose: a test lost to an error must show
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');

CREATE FUNCTION u(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid$$;
CREATE FUNCTION last_run(job text) RETURNS bacmr_job_run LANGUAGE plpgsql AS $$
BEGIN
  RETURN r FROM bacmr_job_run r WHERE r.job = last_run.job ORDER BY r.run_id DESC LIMIT 1;
END $$;
CREATE FUNCTION state_of(job text) RETURNS text LANGUAGE plpgsql AS
  'BEGIN RETURN (SELECT s.state FROM bacmr_status s WHERE s.job = state_of.job); END';
-- The doctor's findings of one check.
CREATE FUNCTION findings(check_name text) RETURNS SETOF text LANGUAGE sql AS
  'SELECT d.finding FROM bacmr_doctor() d WHERE d.check_name = findings.check_name';

-- ---------------------------------------------------------------------------------------------
-- Before anything is there
-- ---------------------------------------------------------------------------------------------

SELECT is(state_of('reconcile'), 'never run', 'status: never run');
SELECT isnt((SELECT next_step FROM bacmr_status WHERE job = 'reconcile'), NULL,
  'status says what to do next');
SELECT is((SELECT count(*) FROM findings('sources')), 1::bigint, 'doctor: nothing is attached');

-- From here on statements fail on purpose; what they failed with is in psql's variables.
\set VERBOSITY sqlstate
\set ON_ERROR_STOP off
CALL bacmr_run_job('reconcile');
SELECT is(:'SQLSTATE'::text, '55000', 'a job without its tables fails with 55000');
SELECT alike(:'LAST_ERROR_MESSAGE'::text, '%wallet%not attached%', 'and says which is missing');
SELECT is((last_run('reconcile')).status, 'failed', 'and leaves a failed run');
SELECT alike((last_run('reconcile')).error, '%wallet%', 'with the reason');
SELECT is(state_of('reconcile'), 'failed', 'status: failed');
CALL bacmr_run_job('recon');
SELECT is(:'SQLSTATE'::text, '22023', 'an unknown job');
SELECT alike(:'LAST_ERROR_MESSAGE'::text, '%unknown job "recon"%', 'is named');
CALL bacmr_run_job(NULL);
SELECT is(:'SQLSTATE'::text, '22004', 'NULL for the job');
CALL bacmr_run_job('reconcile', '{"recheck": "1 second"}');
SELECT is(:'SQLSTATE'::text, '22023', 'an unknown argument');
SELECT alike(:'LAST_ERROR_MESSAGE'::text, '%no argument "recheck"%', 'is named');
CALL bacmr_run_job('reconcile', '{"max_reservations": 1}');
SELECT is(:'SQLSTATE'::text, '22023', 'an argument of another job');
CALL bacmr_run_job('reconcile', '{"recheck_after": "-1 second"}');
SELECT is(:'SQLSTATE'::text, '22023', 'recheck_after negative');
CALL bacmr_run_job('reconcile', '{"recheck_after": "soon"}');
SELECT is(:'SQLSTATE'::text, '22007', 'recheck_after that is no interval');
CALL bacmr_run_job('expire', '{"max_reservations": 0}');
SELECT is(:'SQLSTATE'::text, '22023', 'max_reservations 0');
CALL bacmr_run_job('expire', '{"max_reservations": "many"}');
SELECT is(:'SQLSTATE'::text, '22P02', 'max_reservations that is no number');
CALL bacmr_run_job('reconcile', '["recheck_after"]');
SELECT is(:'SQLSTATE'::text, '22023', 'arguments that are no object');
SELECT is((SELECT count(*) FROM bacmr_job_run), 1::bigint,
  'what was refused for its arguments has no run');

-- ---------------------------------------------------------------------------------------------
-- Where it may not commit
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_create_tables();
BEGIN;
CALL bacmr_run_job('reconcile');
ROLLBACK;
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '2D000', 'in a transaction block');
SELECT alike(:'LAST_ERROR_MESSAGE'::text, '%transaction%', 'the message says so');
SELECT raises($$CALL bacmr_run_job('reconcile')$$, '2D000', 'transaction', '.',
  'in a function; with a hint');
SELECT raises($$DO 'BEGIN CALL bacmr_run_job(''reconcile''); END'$$, '2D000', 'transaction', '.',
  'in a DO block in a function');
SELECT is((SELECT count(*) FROM bacmr_job_run), 1::bigint, 'no run of these either');

-- ---------------------------------------------------------------------------------------------
-- Reconcile
-- ---------------------------------------------------------------------------------------------

SET bacmr.request_id = 'nightly';
CALL bacmr_run_job('reconcile');
SELECT is(:'ERROR'::text, 'false', 'clean tables: the call succeeds');
SELECT is(((last_run('reconcile')).status, (last_run('reconcile')).request_id),
  ('succeeded'::text, 'nightly'::text), 'and so has the run');
SELECT is(state_of('reconcile'), 'idle', 'status: idle');
SELECT is((SELECT (s.last_status, s.last_run_id, s.last_success_at = r.finished_at, s.age >= '0')
           FROM bacmr_status s, last_run('reconcile') r WHERE s.job = 'reconcile'),
  ('succeeded'::text, (last_run('reconcile')).run_id, true, true), 'with the last run and its age');

INSERT INTO wallet VALUES (u(1), 5);
CALL bacmr_run_job('reconcile', '{"recheck_after": "10 milliseconds"}');
SELECT is(:'SQLSTATE'::text, 'P0001', 'a discrepancy: the call fails, so that pg_cron marks it failed');
SELECT alike(:'LAST_ERROR_MESSAGE'::text, '%1 discrepancy, drift 5 tokens%', 'and says how many');
SELECT is((last_run('reconcile')).status, 'discrepancies', 'but the run is committed');
SELECT is((SELECT count(*) FROM bacmr_discrepancy WHERE run_id = (last_run('reconcile')).run_id),
  1::bigint, 'and so is what it found');
SELECT is(bacmr_reconcile_report()->>'run_id', (last_run('reconcile')).run_id::text,
  'and the report');
SELECT isnt(pg_stat_file((last_run('reconcile')).detail->>'report', true), NULL,
  'and the file that the run names');
SELECT is(state_of('reconcile'), 'discrepancies', 'status: discrepancies');
SELECT alike((SELECT next_step FROM bacmr_status WHERE job = 'reconcile'),
  '%bacmr_discrepancy%' || (last_run('reconcile')).run_id || '%', 'status says where to look');
SELECT is((SELECT count(*) FROM findings('runs')), 1::bigint, 'doctor: the last run');
INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(1), 5, 'purchase');

-- A failure in the midst: the run is kept, what it had found is not.
DROP TABLE reservations;
CALL bacmr_run_job('reconcile');
SELECT is(:'SQLSTATE'::text, '55000', 'a source that is missing: the call fails');
SELECT is((last_run('reconcile')).status, 'failed', 'and the failed run is committed');
SELECT bacmr_create_tables();
CALL bacmr_run_job('reconcile');
SELECT is((last_run('reconcile')).status, 'succeeded', 'mended, it succeeds');
SELECT is_empty($$SELECT * FROM findings('runs')$$, 'doctor: the last run is well again');

-- What a crashed session leaves
INSERT INTO bacmr_job_run (job, status, started_at, request_id)
  VALUES ('reconcile', 'running', now() - interval '1 day', 'dead') RETURNING run_id AS dead \gset
SELECT is(state_of('reconcile'), 'interrupted',
  'status tells a run whose process is gone from a running one');
CALL bacmr_run_job('reconcile');
SELECT is((SELECT status FROM bacmr_job_run WHERE run_id = :dead), 'failed',
  'the next run marks it failed');
RESET bacmr.request_id;

-- ---------------------------------------------------------------------------------------------
-- Expire, pauses
-- ---------------------------------------------------------------------------------------------

INSERT INTO reservations (user_id, amount, expires_at)
  SELECT u(1), 1, now() - interval '1 minute' FROM generate_series(1, 3);
UPDATE wallet SET token_balance = token_balance - 3;
INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(1), -3, 'reserve');
SELECT is(state_of('expire'), 'paused', 'status: paused');
SELECT is((SELECT next_step FROM bacmr_status WHERE job = 'expire'), 'test', 'with the reason');
SELECT is((SELECT count(*) FROM findings('paused')), 1::bigint, 'doctor: paused');
CALL bacmr_run_job('expire');
SELECT is(:'ERROR'::text, 'false', 'a paused job''s run is no error');
SELECT is((last_run('expire')).status, 'skipped', 'but skipped');
SELECT alike((last_run('expire')).detail->>'reason', '%test%', 'with the reason');
SELECT is((SELECT count(*) FROM reservations WHERE status = 'reserved'), 3::bigint,
  'and nothing was expired');
SELECT lives_ok($$SELECT bacmr_pause('expire', 'another reason')$$, 'a pause may be given a new reason');
SELECT is((SELECT next_step FROM bacmr_status WHERE job = 'expire'), 'another reason', 'which counts');
SELECT is((SELECT expired FROM bacmr_expire_reservations(1)), 1::bigint,
  'a plain call is nobody''s schedule: it works while the job is paused');
SELECT lives_ok($$SELECT bacmr_unpause('expire')$$, 'unpause');
CALL bacmr_run_job('expire', '{"max_reservations": 100}');
SELECT is(:'ERROR'::text, 'false', 'unpaused, the job runs');
-- The worker may be at it at the same time.
SELECT ok(comes_true($$count(*) = 3 FROM reservations WHERE status = 'expired'$$),
  'and everything that was due is expired, by it or by the worker');
SELECT is((SELECT (token_balance, (SELECT sum(delta) FROM wallet_ledger)) FROM wallet),
  (5::bigint, 5::numeric), 'once');
SELECT isnt(state_of('expire'), 'paused', 'status: no longer paused');
SELECT bacmr_pause('expire');
SELECT isnt((SELECT next_step FROM bacmr_status WHERE job = 'expire'), NULL,
  'a pause without a reason says at least who');

-- One user fails: the others expire, the call fails, the run is kept.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS
  $$BEGIN
    IF NEW.user_id = u(2) THEN RAISE EXCEPTION 'not this user'; END IF;
    RETURN NEW;
  END$$;
CREATE TRIGGER t BEFORE UPDATE ON wallet FOR EACH ROW EXECUTE FUNCTION refuse();
INSERT INTO wallet VALUES (u(2), 0);
INSERT INTO reservations (user_id, amount, expires_at)
  SELECT u(n), 1, now() - interval '1 minute' FROM generate_series(1, 2) n;
DELETE FROM bacmr_job_pause;
CALL bacmr_run_job('expire');
SELECT bacmr_pause('expire', 'test');
SELECT ok(comes_true($$NOT EXISTS (SELECT FROM reservations WHERE user_id = u(1)
  AND status = 'reserved')$$), 'one user fails, the other does not');
SELECT is((SELECT status FROM reservations WHERE user_id = u(2)), 'reserved', 'the one is left alone');
SELECT ok(comes_true($$EXISTS (SELECT FROM bacmr_job_run WHERE job = 'expire' AND status = 'failed'
                               AND error LIKE '%not this user%')$$),
  'the failed run is kept, with the reason');
DROP TRIGGER t ON wallet;
SELECT is((SELECT expired FROM bacmr_expire_reservations()), 1::bigint,
  'without the trigger it expires');
UPDATE reservations SET user_id = u(1) WHERE user_id = u(2);
UPDATE wallet_ledger SET user_id = u(1) WHERE user_id = u(2);
DELETE FROM wallet WHERE user_id = u(2);
UPDATE wallet SET token_balance = (SELECT sum(delta) FROM wallet_ledger);

SELECT raises($$SELECT bacmr_pause('nothing')$$, '22023', 'nothing', 'reconcile', 'pause: an unknown job');
SELECT raises('SELECT bacmr_pause(NULL)', '22004', 'job', '.', 'pause: NULL');
SELECT raises($$SELECT bacmr_unpause('reconcile')$$, '55000', 'not paused', 'bacmr_status',
  'unpause: what is not paused');
SELECT raises($$SELECT bacmr_unpause('nothing')$$, '22023', 'nothing', 'reconcile',
  'unpause: an unknown job');
SELECT bacmr_pause('reconcile', 'maintenance');
CALL bacmr_run_job('reconcile');
SELECT is((last_run('reconcile')).status, 'skipped', 'reconcile can be paused too');
SELECT bacmr_unpause('reconcile');
-- Each job of the contract can be paused, for a later version to find.
SELECT lives_ok(format('SELECT bacmr_pause(%L), bacmr_unpause(%1$L)', job), 'pause and unpause ' || job)
  FROM unnest('{export,import,verify,drill,reindex}'::text[]) job;

-- A database that is a copy of another starts with its dangerous jobs paused.
DELETE FROM bacmr_job_pause;
UPDATE bacmr_source SET system_identifier = '1', database_name = 'the original';
CALL bacmr_run_job('expire');
SELECT is((last_run('expire')).status, 'skipped', 'a restored or cloned database: expiry is skipped');
SELECT ok(count(*) = 3 AND bool_and(reason LIKE '%the original%'),
  'expiry, export and reindex are paused, and say why')
  FROM bacmr_job_pause WHERE job IN ('expire', 'export', 'reindex');
CALL bacmr_run_job('reconcile');
SELECT isnt((last_run('reconcile')).status, 'skipped', 'reconciliation is not: it changes nothing');
SELECT bacmr_unpause(job) FROM bacmr_job_pause;
SELECT bacmr_pause('expire', 'test');
SELECT is((SELECT count(*) FROM bacmr_job_pause), 1::bigint, 'once unpaused, they stay unpaused');

-- ---------------------------------------------------------------------------------------------
-- History
-- ---------------------------------------------------------------------------------------------

\set ON_ERROR_STOP on
\set VERBOSITY default
INSERT INTO bacmr_job_run (run_id, job, status, started_at, finished_at, request_id)
  VALUES (-3, 'reconcile', 'discrepancies', now() - interval '91 days', now() - interval '91 days', 'old'),
         (-2, 'reconcile', 'discrepancies', now() - interval '89 days', now() - interval '89 days', 'x'),
         (-4, 'expire', 'succeeded', now() - interval '91 days', now() - interval '91 days', 'old'),
         (-5, 'export', 'succeeded', now() - interval '91 days', now() - interval '91 days', 'last');
INSERT INTO bacmr_discrepancy (run_id, kind) VALUES (-3, 'negative_balance'), (-2, 'negative_balance');
SELECT is(current_setting('bacmr.history_retention'), '90d', 'history is kept for 90 days');
SELECT bacmr_reconcile();
SELECT set_eq('SELECT run_id FROM bacmr_job_run WHERE run_id < 0', '{-2,-5}'::bigint[],
  'older runs go; the last of each job and status stays, however old');
SELECT set_eq('SELECT run_id FROM bacmr_discrepancy WHERE run_id < 0', '{-2}'::bigint[],
  'their findings go with them');

-- ---------------------------------------------------------------------------------------------
-- bacmr_log, settings
-- ---------------------------------------------------------------------------------------------

SELECT lives_ok(format('SELECT bacmr_log(%L, %L, %L)', level, 'hello', '{"user": 7}'), 'log: ' || level)
  FROM unnest('{debug,info,warning,error,INFO}'::text[]) level;
SELECT lives_ok($$SELECT bacmr_log('info', 'hello')$$, 'log without fields');
SELECT raises($$SELECT bacmr_log('loud', 'hello')$$, '22023', 'unknown level "loud"',
  'debug, info, warning, error', 'log: an unknown level');
SELECT raises($$SELECT bacmr_log(NULL, 'hello')$$, '22004', 'level', '.', 'log: NULL level');
SELECT raises($$SELECT bacmr_log('info', NULL)$$, '22004', 'message', '.', 'log: NULL message');
SELECT raises($$SELECT bacmr_log('info', 'hello', '[1]')$$, '22023', 'fields', '.',
  'log: fields that are no object');
SELECT raises(format('SET bacmr.request_id = %L', repeat('x', 300)), '22023', 'bacmr.request_id', '',
  'a request id that is too long');
SELECT raises($$SET bacmr.request_id = E'a\nb'$$, '22023', 'bacmr.request_id', '',
  'a request id with a line break');
SELECT results_eq($$SELECT name::text, context::text FROM pg_settings WHERE name LIKE 'bacmr.%' ORDER BY 1$$,
  $$VALUES ('bacmr.artifact_directory', 'sighup'), ('bacmr.blob_store', 'user'),
    ('bacmr.breaker_cooldown', 'sighup'), ('bacmr.breaker_threshold', 'sighup'),
    ('bacmr.databases', 'sighup'), ('bacmr.embedder', 'user'), ('bacmr.expire_batch_size', 'sighup'),
    ('bacmr.expire_interval', 'sighup'), ('bacmr.export_keep', 'sighup'),
    ('bacmr.export_keep_age', 'sighup'), ('bacmr.history_retention', 'sighup'),
    ('bacmr.http_max_retries', 'sighup'), ('bacmr.http_timeout', 'sighup'),
    ('bacmr.log_format', 'superuser'),
    ('bacmr.metrics_listen', 'sighup'), ('bacmr.metrics_max_series', 'postmaster'),
    ('bacmr.metrics_token_file', 'sighup'), ('bacmr.reconcile_memory', 'user'),
    ('bacmr.reindex_cost_limit', 'superuser'), ('bacmr.request_id', 'user'),
    ('bacmr.vector_store', 'user'), ('bacmr.worker_enabled', 'sighup')$$, 'every setting, and who may change it when');

-- ---------------------------------------------------------------------------------------------
-- The doctor: each finding appears, and vanishes once its own fix is applied
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_unpause('expire');
SELECT is_empty($$SELECT check_name, finding FROM bacmr_doctor()
  WHERE check_name NOT IN ('free space', 'worker', 'schedule')$$, 'no findings where all is well');

-- Breaks something; demands one finding with these words; applies its fix; demands none.
CREATE FUNCTION doctor_finds(breakage text, check_wanted text, words text, description text,
                             mend text DEFAULT NULL) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE found record;
BEGIN
  EXECUTE breakage;
  RETURN NEXT is((SELECT count(*) FROM bacmr_doctor() d WHERE d.check_name = check_wanted
                  AND d.finding ~ words), 1::bigint, description || ': found');
  SELECT * INTO found FROM bacmr_doctor() d WHERE d.check_name = check_wanted LIMIT 1;
  RETURN NEXT ok(found.severity IN ('error', 'warning') AND found.fix <> '',
                 description || ': with severity and fix');
  EXECUTE coalesce(mend, replace(found.fix, ' CONCURRENTLY', ''));
  RETURN NEXT is_empty(format('SELECT * FROM findings(%L)', check_wanted),
                       description || ': gone once it is mended');
END $$;
SELECT doctor_finds('DROP INDEX reservations_due_idx', 'indexes', 'reservations.*expires_at',
  'no index for due reservations');
SELECT doctor_finds('DROP INDEX wallet_ledger_user_id_idx', 'indexes', 'wallet_ledger.*user_id',
  'no index on the ledger''s users');
SELECT doctor_finds('DROP INDEX wallet_ledger_reservation_expired_key', 'indexes', 'second refund',
  'nothing forbids a second refund');
SELECT doctor_finds('ALTER TABLE chunks RENAME TO pieces', 'sources', 'chunks.*missing',
  'a missing table', 'ALTER TABLE pieces RENAME TO chunks');
SELECT doctor_finds('ALTER TABLE reservations ALTER expires_at TYPE timestamp', 'sources',
  'time zone', 'an invalid table', 'ALTER TABLE reservations ALTER expires_at TYPE timestamptz');
SELECT doctor_finds('GRANT CREATE ON SCHEMA public TO PUBLIC', 'schema', 'everybody may create', 'a schema that is open to everybody');
SELECT doctor_finds('SELECT bacmr_pause(''export'', ''the disk is full'')', 'paused',
  'export.*the disk is full', 'a paused job');
SELECT doctor_finds('UPDATE pg_extension SET extversion = ''0.0.9'' WHERE extname = ''bacmr_ops''',
  'versions', '0\.0\.9', 'SQL objects of another version',
  'UPDATE pg_extension SET extversion = bacmr_library_version() WHERE extname = ''bacmr_ops''');
SELECT doctor_finds('CREATE TRIGGER t BEFORE UPDATE ON wallet FOR EACH ROW EXECUTE FUNCTION refuse();'
  ' ALTER FUNCTION refuse() RESET search_path', 'triggers', 'refuse', 'a trigger without a search_path');
DROP TRIGGER t ON wallet;
SELECT doctor_finds('UPDATE bacmr_job_run SET finished_at = finished_at - interval ''3 days''',
  'runs', '3 days', 'no reconciliation for days', 'SELECT bacmr_reconcile()');
SELECT bacmr_pause('expire', 'test');
SELECT doctor_finds('INSERT INTO reservations (user_id, amount, expires_at)'
  ' VALUES (u(1), 1, now() - interval ''1 hour'')', 'backlog', '^1 reservation', 'a backlog',
  'SELECT bacmr_expire_reservations()');
SELECT bacmr_unpause('expire');
DROP ROLE IF EXISTS jobs_owner;
CREATE ROLE jobs_owner;
ALTER TABLE reservations OWNER TO jobs_owner;
CREATE FUNCTION fix_privileges() RETURNS void LANGUAGE plpgsql AS $$
DECLARE statement text;
BEGIN
  FOR statement IN SELECT fix FROM bacmr_doctor() WHERE check_name = 'privileges' LOOP
    EXECUTE statement;
  END LOOP;
END $$;
SELECT cmp_ok((SELECT count(*) FROM findings('privileges')), '>=', 3::bigint,
  'the reservations'' owner may not write wallet and ledger: found');
SELECT fix_privileges();
SELECT is_empty($$SELECT * FROM findings('privileges')$$, 'and gone once the fixes are applied');
ALTER TABLE reservations OWNER TO CURRENT_USER;
DROP OWNED BY jobs_owner;
DROP ROLE jobs_owner;

-- ---------------------------------------------------------------------------------------------
-- Privileges
-- ---------------------------------------------------------------------------------------------

SELECT is_empty($$
  SELECT p.oid::regprocedure FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
  WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'bacmr_ops')
    AND (p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0))
$$, 'no function is PUBLIC''s');
SELECT is_empty($$
  SELECT c.oid::regclass FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
  WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'bacmr_ops')
    AND EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0)
$$, 'no table, view or sequence is PUBLIC''s');
SELECT is_empty($$
  SELECT p.oid::regprocedure FROM pg_proc p WHERE p.proname LIKE 'bacmr%' AND p.prosecdef
$$, 'nothing runs as its owner by SECURITY DEFINER');
SELECT is_empty($$
  SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d
  LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
  WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'bacmr_ops')
    AND (d.classid = 'pg_proc'::regclass OR c.relkind IN ('r', 'v'))
    AND obj_description(d.objid, CASE d.classid WHEN 'pg_proc'::regclass THEN 'pg_proc'
                                                ELSE 'pg_class' END) IS NULL
$$, 'every function, table and view has a COMMENT');
SELECT is_empty($$
  SELECT c.oid::regclass FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
  WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND c.relkind IN ('r', 'S')
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'bacmr_ops')
    AND NOT c.oid = ANY ((SELECT extconfig FROM pg_extension WHERE extname = 'bacmr_ops')::oid[])
$$, 'every table and its sequence are dumped with the database');

-- The profiles: what each may call and read, and nothing else.
CREATE FUNCTION rights_of(role_name name) RETURNS text[] LANGUAGE sql AS $$
  SELECT array_agg(r ORDER BY r) FROM (
    SELECT p.proname || '(' || coalesce(oidvectortypes(p.proargtypes), '') || ')' AS r
    FROM pg_proc p WHERE p.proname LIKE 'bacmr\_%' AND has_function_privilege(role_name, p.oid, 'EXECUTE')
    UNION SELECT c.relname || ' ' || privilege
    FROM pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) privilege
    WHERE c.relname LIKE 'bacmr\_%' AND c.relkind IN ('r', 'v')
      AND has_table_privilege(role_name, c.oid, privilege)) s
$$;
DROP ROLE IF EXISTS jobs_app, jobs_monitor, jobs_operator, jobs_backup, jobs_nobody, jobs_pg_monitor;
CREATE ROLE jobs_app;
CREATE ROLE jobs_monitor;
CREATE ROLE jobs_operator;
CREATE ROLE jobs_backup;
CREATE ROLE jobs_nobody;
CREATE ROLE jobs_pg_monitor IN ROLE pg_monitor;
SELECT bacmr_grant('app', 'jobs_app'), bacmr_grant('monitor', 'jobs_monitor'),
       bacmr_grant('operator', 'jobs_operator'), bacmr_grant('backup', 'jobs_backup');
SELECT lives_ok($$SELECT bacmr_grant('app', 'jobs_app')$$, 'granting twice is no error');
SELECT is(rights_of('jobs_nobody'), NULL, 'who was granted nothing may do nothing');
SELECT is((SELECT array_agg(DISTINCT regexp_replace(r, '\(.*| .*', '')) FROM unnest(rights_of('jobs_app')) r
           WHERE r !~ '^bacmr_(record|set)_'),
  '{bacmr_active_namespace,bacmr_log,bacmr_metric_define,bacmr_metric_inc,bacmr_metric_observe,bacmr_metric_set}',
  'app: its lines in the log, its metrics, and where to search');
SELECT is((SELECT count(*) FROM unnest(rights_of('jobs_app')) r WHERE r ~ '^bacmr_(record|set)_'), 8::bigint,
  'app: the eight helpers');
SELECT is(rights_of('jobs_monitor'), ARRAY['bacmr_library_version()', 'bacmr_metric_samples()',
  'bacmr_metric_series(text)', 'bacmr_metrics SELECT', 'bacmr_metrics_json()', 'bacmr_metrics_prometheus()',
  'bacmr_reindex_status SELECT', 'bacmr_source_status()', 'bacmr_sources SELECT', 'bacmr_status SELECT', 'bacmr_worker_status()'],
  'monitor: the views and the functions beneath them');
SELECT is(rights_of('jobs_pg_monitor'), rights_of('jobs_monitor'), 'pg_monitor has it by default');
SELECT is(rights_of('jobs_backup'), ARRAY['bacmr_chunk_change SELECT', 'bacmr_discrepancy SELECT',
  'bacmr_embedding_cache SELECT', 'bacmr_job_pause SELECT', 'bacmr_job_run SELECT',
  'bacmr_metric_definition SELECT', 'bacmr_namespace SELECT', 'bacmr_reindex_batch SELECT',
  'bacmr_reindex_failure SELECT', 'bacmr_reindex_job SELECT', 'bacmr_source SELECT'],
  'backup: to read what a dump reads');
SELECT ok(has_sequence_privilege('jobs_backup', 'bacmr_job_run_run_id_seq', 'SELECT'),
  'backup: the sequence too');
SELECT ok(NOT rights_of('jobs_operator') && ARRAY['bacmr_grant(text, name)', 'bacmr_job_run INSERT',
    'bacmr_job_run UPDATE', 'bacmr_job_run DELETE', 'bacmr_discrepancy DELETE', 'bacmr_source SELECT',
    'bacmr_source UPDATE'], 'operator: cannot rewrite the books nor pass its rights on');

-- Each can do its work …
SELECT works_for('jobs_app', $$SELECT bacmr_log('info', 'from the application')$$, 'app logs');
SELECT works_for(role_name, statement, role_name || ': ' || statement)
  FROM unnest('{jobs_monitor,jobs_pg_monitor}'::name[]) role_name,
       unnest(ARRAY['SELECT * FROM bacmr_status', 'SELECT * FROM bacmr_sources']) statement;
SELECT works_for('jobs_backup', 'SELECT * FROM ' || relation, 'backup: ' || relation)
  FROM unnest('{bacmr_source,bacmr_job_pause,bacmr_job_run,bacmr_discrepancy,
    bacmr_job_run_run_id_seq}'::text[]) relation;
GRANT SELECT ON wallet, wallet_ledger, reservations TO jobs_operator;
GRANT UPDATE ON wallet, reservations TO jobs_operator;
GRANT INSERT ON wallet_ledger TO jobs_operator;
SELECT works_for('jobs_operator', statement, 'operator: ' || statement)
  FROM unnest(ARRAY['SELECT bacmr_reconcile()', 'SELECT bacmr_reconcile_report()',
    'SELECT * FROM bacmr_discrepancy', 'SELECT * FROM bacmr_job_run',
    'SELECT bacmr_expire_reservations()', 'SELECT bacmr_pause(''export'')',
    'SELECT bacmr_unpause(''export'')', 'SELECT * FROM bacmr_status', 'SELECT * FROM bacmr_sources',
    'SELECT * FROM bacmr_doctor()', 'SELECT bacmr_log(''info'', ''x'')']) statement;
\set ON_ERROR_STOP off
\set VERBOSITY sqlstate
SET ROLE jobs_operator;
CALL bacmr_run_job('reconcile');
RESET ROLE;
SELECT is((last_run('reconcile')).status, 'succeeded', 'operator: CALL bacmr_run_job');

-- … and nobody else's.
SET ROLE jobs_nobody;
CALL bacmr_run_job('reconcile');
RESET ROLE;
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42501', 'CALL bacmr_run_job without EXECUTE');
\set ON_ERROR_STOP on
\set VERBOSITY default
SELECT raises(statement, '42501', '', '', role_name || ': ' || statement, role_name)
  FROM (VALUES ('jobs_app'::name, 'SELECT bacmr_reconcile()'),
               ('jobs_app', 'SELECT * FROM bacmr_status'),
               ('jobs_monitor', 'SELECT bacmr_reconcile()'),
               ('jobs_monitor', 'SELECT * FROM bacmr_discrepancy'),
               ('jobs_monitor', 'SELECT bacmr_pause(''expire'')'),
               ('jobs_backup', 'SELECT bacmr_expire_reservations()'),
               ('jobs_backup', 'DELETE FROM bacmr_job_run'),
               ('jobs_operator', 'SELECT bacmr_grant(''operator'', ''jobs_nobody'')'),
               ('jobs_operator', 'UPDATE bacmr_job_run SET status = ''succeeded'''),
               ('jobs_operator', 'SELECT bacmr_attach(''wallet'', ''wallet'')')) v(role_name, statement);

SELECT raises($$SELECT bacmr_grant('root', 'jobs_app')$$, '22023', 'unknown profile "root"',
  'app, monitor, operator, backup', 'grant: an unknown profile');
SELECT raises($$SELECT bacmr_grant('app', 'jobs_no_such_role')$$, '42704', 'jobs_no_such_role', '',
  'grant: an unknown role');
SELECT raises('SELECT bacmr_grant(NULL, ''jobs_app'')', '22004', 'profile', '.', 'grant: NULL profile');
SELECT raises('SELECT bacmr_grant(''app'', NULL)', '22004', 'role', '.', 'grant: NULL role');

SELECT * FROM finish();
DROP OWNED BY jobs_app, jobs_monitor, jobs_operator, jobs_backup, jobs_nobody, jobs_pg_monitor;
DROP ROLE jobs_app, jobs_monitor, jobs_operator, jobs_backup, jobs_nobody, jobs_pg_monitor;
