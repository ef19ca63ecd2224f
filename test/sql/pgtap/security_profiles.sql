-- Who may do what: every object of the extension, from the catalogue, against one list of decisions. A
-- new function, table, setting or wrapper without a decision fails here. Then each profile does its
-- work with what is documented and nothing more, and is refused all else.
-- The procedures commit: no transaction around this file.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');
SELECT bacmr_pause('reindex', 'test');

-- ---------------------------------------------------------------------------------------------
-- The decisions
-- ---------------------------------------------------------------------------------------------

-- may: a for app, m for monitor, o for operator, b for backup; '' for superusers alone. The privilege
-- is EXECUTE of functions, SELECT of tables, views and sequences, USAGE of wrappers and servers.
CREATE TABLE decision (object text PRIMARY KEY, may text NOT NULL);
INSERT INTO decision VALUES
  -- Superusers: they pass rights on, check options for the server, or are a trigger of ours.
  ('function bacmr_grant(text,name)', ''),
  ('function bacmr_embedder_validator(text[],oid)', ''),
  ('function bacmr_vector_store_validator(text[],oid)', ''),
  ('function bacmr_blob_store_validator(text[],oid)', ''),
  ('function bacmr_capture_change()', ''),
  -- The application: records, and asks where to search.
  ('function bacmr_record_ingestion_job(text,text,double precision)', 'a'),
  ('function bacmr_record_pinecone_query(text,double precision)', 'a'),
  ('function bacmr_record_pinecone_upsert(text,double precision,bigint)', 'a'),
  ('function bacmr_record_openai_request(text,text,double precision,bigint)', 'a'),
  ('function bacmr_record_wallet_reservation(text)', 'a'),
  ('function bacmr_set_circuit_breaker_state(text,integer)', 'a'),
  ('function bacmr_set_active_reservations(bigint)', 'a'),
  ('function bacmr_record_rate_limit_rejection(text,text)', 'a'),
  ('function bacmr_metric_inc(text,jsonb,double precision)', 'a'),
  ('function bacmr_metric_set(text,jsonb,double precision)', 'a'),
  ('function bacmr_metric_observe(text,jsonb,double precision)', 'a'),
  ('function bacmr_metric_define(text,text,text,text[],double precision[])', 'ao'),
  ('function bacmr_log(text,text,jsonb)', 'ao'),
  ('function bacmr_active_namespace(text)', 'ao'),
  -- Monitoring: reads the state, none of the rows behind it.
  ('function bacmr_source_status()', 'mo'),
  ('function bacmr_worker_status()', 'mo'),
  ('function bacmr_library_version()', 'mo'),
  ('function bacmr_metric_samples()', 'mo'),
  ('function bacmr_metric_series(text)', 'mo'),
  ('function bacmr_metrics_prometheus()', 'mo'),
  ('function bacmr_metrics_json()', 'mo'),
  ('view bacmr_sources', 'mo'),
  ('view bacmr_status', 'mo'),
  ('view bacmr_metrics', 'mo'),
  ('view bacmr_reindex_status', 'mo'),
  -- The operator: runs and steers jobs, reads findings.
  ('function bacmr_attach(name)', 'o'),
  ('function bacmr_attach(text,regclass,jsonb,jsonb)', 'o'),
  ('function bacmr_detach(text)', 'o'),
  ('function bacmr_create_tables(name)', 'o'),
  ('function bacmr_reconcile(interval)', 'o'),
  ('function bacmr_reconcile_report(bigint)', 'o'),
  ('function bacmr_expire_reservations(bigint)', 'o'),
  ('function bacmr_expire_in(regclass,regclass,regclass,bigint)', 'o'),
  ('function bacmr_export_chunks(text,text,text,text)', 'o'),
  ('function bacmr_export(regclass,text,text,text)', 'o'),
  ('function bacmr_import_chunks(text,text,text)', 'o'),
  ('function bacmr_import(regclass,text,text,text)', 'o'),
  ('function bacmr_verify_export(text)', 'o'),
  ('function bacmr_restore_drill(text)', 'o'),
  ('function bacmr_run_job(text,jsonb)', 'o'),
  ('function bacmr_schedule(text,text,text)', 'o'),
  ('function bacmr_unschedule()', 'o'),
  ('function bacmr_pause(text,text)', 'o'),
  ('function bacmr_unpause(text)', 'o'),
  ('function bacmr_doctor()', 'o'),
  ('function bacmr_metric_undefine(text)', 'o'),
  ('function bacmr_metrics_reset()', 'o'),
  ('function bacmr_reindex_plan(text,text,name)', 'o'),
  ('function bacmr_reindex(text,text,name,name,text,integer,integer,numeric)', 'o'),
  ('function bacmr_reindex_all(text,name,name,numeric)', 'o'),
  ('function bacmr_reindex_run(bigint,integer)', 'o'),
  ('function bacmr_reindex_pause(bigint)', 'o'),
  ('function bacmr_reindex_resume(bigint,numeric)', 'o'),
  ('function bacmr_reindex_cancel(bigint)', 'o'),
  ('function bacmr_reindex_retry_failed(bigint)', 'o'),
  ('function bacmr_reindex_discard(bigint)', 'o'),
  ('function bacmr_reindex_cleanup(bigint)', 'o'),
  ('function bacmr_reindex_verify(bigint)', 'o'),
  ('function bacmr_vectors_verify(text,name)', 'o'),
  ('function bacmr_vectors_repair(text,name,numeric)', 'o'),
  ('function bacmr_reindex_compare(bigint,integer,integer)', 'o'),
  ('function bacmr_reindex_swap(bigint,boolean)', 'o'),
  ('function bacmr_reindex_rollback(text)', 'o'),
  ('function bacmr_reindex_summary(bigint)', 'o'),
  ('function bacmr_cosine(real[],real[])', 'o'),
  ('wrapper bacmr_embedder', 'o'),
  ('wrapper bacmr_vector_store', 'o'),
  ('wrapper bacmr_blob_store', 'o'),
  ('server bacmr_local', 'o'),
  ('server bacmr_postgres', 'o'),
  ('server bacmr_artifacts', 'o'),
  -- The backup: reads what pg_dump reads. Of it the operator reads what concerns its work.
  ('table bacmr_source', 'b'),
  ('table bacmr_chunk_change', 'b'),
  ('table bacmr_embedding_cache', 'b'),
  ('table bacmr_job_run', 'ob'),
  ('table bacmr_job_pause', 'ob'),
  ('table bacmr_discrepancy', 'ob'),
  ('table bacmr_namespace', 'ob'),
  ('table bacmr_reindex_job', 'ob'),
  ('table bacmr_reindex_batch', 'ob'),
  ('table bacmr_reindex_failure', 'ob'),
  ('table bacmr_metric_definition', 'ob'),
  ('sequence bacmr_job_run_run_id_seq', 'b'),
  ('sequence bacmr_reindex_job_job_id_seq', 'b'),
  ('sequence bacmr_chunk_change_change_id_seq', 'b');

-- What there is. Sequences of identity columns belong to their tables, not to the extension itself.
CREATE TABLE object AS
WITH member AS (SELECT d.classid, d.objid FROM pg_depend d
  WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'bacmr_ops'))
SELECT 'function ' || p.oid::regprocedure::text AS object, p.oid, 'function' AS kind
FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
UNION ALL
SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence'
                      ELSE 'relation of kind ' || c.relkind::text END || ' ' || c.oid::regclass::text, c.oid,
       CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'relation' END
FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid WHERE c.relkind <> 'i'
UNION ALL
SELECT 'sequence ' || s.objid::regclass::text, s.objid, 'sequence'
FROM member m JOIN pg_depend s ON s.classid = 'pg_class'::regclass AND s.deptype = 'i'
  AND s.refclassid = 'pg_class'::regclass AND s.refobjid = m.objid
JOIN pg_class c ON c.oid = s.objid AND c.relkind = 'S'
WHERE m.classid = 'pg_class'::regclass
  AND NOT EXISTS (SELECT FROM member n WHERE n.classid = s.classid AND n.objid = s.objid)
UNION ALL
SELECT 'wrapper ' || w.fdwname, w.oid, 'wrapper'
FROM member m JOIN pg_foreign_data_wrapper w ON m.classid = 'pg_foreign_data_wrapper'::regclass AND w.oid = m.objid
UNION ALL
SELECT 'server ' || s.srvname, s.oid, 'server'
FROM member m JOIN pg_foreign_server s ON m.classid = 'pg_foreign_server'::regclass AND s.oid = m.objid;

SELECT cmp_ok((SELECT count(*) FROM object WHERE kind = 'function'), '>=', 60::bigint, 'the catalogue was found');
SELECT is_empty('SELECT object FROM object EXCEPT SELECT object FROM decision',
  'every object of the extension has a decision in this file');
SELECT is_empty('SELECT object FROM decision EXCEPT SELECT object FROM object',
  'every decision is about something that there is');
SELECT is_empty($$
  SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
  WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'bacmr_ops')
    AND d.classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass,
                          'pg_foreign_data_wrapper'::regclass, 'pg_foreign_server'::regclass)
$$, 'and there is nothing of another kind');

-- ---------------------------------------------------------------------------------------------
-- The rights
-- ---------------------------------------------------------------------------------------------

DROP ROLE IF EXISTS profiles_app, profiles_monitor, profiles_operator, profiles_backup, profiles_pg_monitor,
  profiles_nobody;
CREATE ROLE profiles_app;
CREATE ROLE profiles_monitor;
CREATE ROLE profiles_operator;
CREATE ROLE profiles_backup;
CREATE ROLE profiles_pg_monitor IN ROLE pg_monitor;
CREATE ROLE profiles_nobody;
SELECT bacmr_grant(p, ('profiles_' || p)::name) FROM unnest('{app,monitor,operator,backup}'::text[]) p;
CREATE TABLE role_of (role_name name, profile text);
INSERT INTO role_of VALUES ('profiles_app', 'a'), ('profiles_monitor', 'm'), ('profiles_operator', 'o'),
  ('profiles_backup', 'b'), ('profiles_pg_monitor', 'm'), ('profiles_nobody', 'x');

-- Every privilege that Postgres knows for an object, with the one that a profile grants first.
CREATE FUNCTION rights(role_name name, kind text, object oid) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  privilege text;
  asked text;
BEGIN
  FOREACH privilege IN ARRAY CASE kind
      WHEN 'function' THEN '{EXECUTE}'
      WHEN 'relation' THEN '{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'
      WHEN 'sequence' THEN '{SELECT,USAGE,UPDATE}' ELSE '{USAGE}' END::text[] LOOP
    FOREACH asked IN ARRAY ARRAY[privilege, privilege || ' WITH GRANT OPTION'] LOOP
      IF (CASE kind
           WHEN 'function' THEN has_function_privilege(role_name, object, asked)
           WHEN 'relation' THEN has_table_privilege(role_name, object, asked)
             OR (privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
                 AND has_any_column_privilege(role_name, object, asked))
           WHEN 'sequence' THEN has_sequence_privilege(role_name, object, asked)
           WHEN 'wrapper' THEN has_foreign_data_wrapper_privilege(role_name, object, asked)
           WHEN 'server' THEN has_server_privilege(role_name, object, asked) END) THEN
        RETURN NEXT asked;
      END IF;
    END LOOP;
  END LOOP;
END $$;
CREATE VIEW wanted AS
SELECT r.role_name, o.object,
       CASE o.kind WHEN 'function' THEN 'EXECUTE' WHEN 'relation' THEN 'SELECT' WHEN 'sequence' THEN 'SELECT'
                   ELSE 'USAGE' END AS privilege
FROM role_of r CROSS JOIN object o JOIN decision d USING (object)
-- pg_monitor has no server, no wrapper, and the same views and functions as monitor.
WHERE d.may LIKE '%' || r.profile || '%';
CREATE VIEW given AS
SELECT r.role_name, o.object, p AS privilege FROM role_of r CROSS JOIN object o
CROSS JOIN LATERAL rights(r.role_name, o.kind, o.oid) p;
SELECT is_empty(format('SELECT object, privilege FROM given WHERE role_name = %L EXCEPT '
                       'SELECT object, privilege FROM wanted WHERE role_name = %1$L', role_name),
                role_name || ': nothing too much')
FROM role_of;
SELECT is_empty(format('SELECT object, privilege FROM wanted WHERE role_name = %L EXCEPT '
                       'SELECT object, privilege FROM given WHERE role_name = %1$L', role_name),
                role_name || ': nothing missing')
FROM role_of;
SELECT is(has_schema_privilege(role_name, 'public', 'CREATE'), false, role_name || ': no CREATE in the schema')
FROM role_of;
SELECT is_empty($$
  SELECT o.object FROM object o JOIN pg_proc p ON p.oid = o.oid AND o.kind = 'function' WHERE p.prosecdef
$$, 'no function is SECURITY DEFINER');

-- Said by the catalogue, and so it is: every function that a role may not call refuses it, every table
-- that it may not read or write.
-- (A strict function of constant NULLs is never called: hence the subqueries, which CALL does not take.)
CREATE FUNCTION call_of(function oid) RETURNS text LANGUAGE sql AS $$
  SELECT CASE p.prokind WHEN 'p' THEN 'CALL ' ELSE 'SELECT ' END || p.oid::regproc::text || '('
         || coalesce((SELECT string_agg(format(CASE p.prokind WHEN 'p' THEN 'NULL::%s' ELSE '(SELECT NULL::%s)' END,
                                               format_type(t, NULL)), ', ' ORDER BY n)
                      FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a(t, n)), '') || ')'
  FROM pg_proc p WHERE p.oid = function
$$;
SELECT raises(call_of(o.oid), '42501', 'permission denied for (function|procedure)', '',
              r.role_name || ' is refused ' || o.object, r.role_name)
FROM role_of r CROSS JOIN object o JOIN decision d USING (object)
WHERE o.kind = 'function' AND d.may NOT LIKE '%' || r.profile || '%';
SELECT raises(format(statement, o.oid::regclass), '42501', 'permission denied for', '',
              r.role_name || ' is refused ' || format(statement, o.oid::regclass), r.role_name)
FROM role_of r CROSS JOIN object o JOIN decision d USING (object)
CROSS JOIN unnest('{SELECT * FROM %s,DELETE FROM %s,TRUNCATE %s,INSERT INTO %s DEFAULT VALUES}'::text[]) statement
WHERE o.object LIKE 'table %' AND (statement NOT LIKE 'SELECT%' OR d.may NOT LIKE '%' || r.profile || '%');

-- ---------------------------------------------------------------------------------------------
-- The work
-- ---------------------------------------------------------------------------------------------

-- What has worked, for the question at the end whether everything has been tried.
CREATE TABLE tried (role_name name, statement text);
CREATE FUNCTION does(role_name name, statement text) RETURNS text LANGUAGE sql AS $$
  INSERT INTO tried VALUES (role_name, statement);
  SELECT works_for(role_name, statement, role_name || ': ' || statement)
$$;

SELECT does('profiles_app', statement) FROM unnest(ARRAY[
  $$SELECT bacmr_log('info', 'x', '{"a": 1}')$$, $$SELECT bacmr_active_namespace('n')$$,
  $$SELECT bacmr_record_ingestion_job('done', 'fr', 1)$$, $$SELECT bacmr_record_pinecone_query('n', 1)$$,
  $$SELECT bacmr_record_pinecone_upsert('n', 1, 1)$$, $$SELECT bacmr_record_openai_request('m', 'e', 1, 1)$$,
  $$SELECT bacmr_record_wallet_reservation('reserved')$$, $$SELECT bacmr_set_circuit_breaker_state('openai', 1)$$,
  $$SELECT bacmr_set_active_reservations(1)$$, $$SELECT bacmr_record_rate_limit_rejection('ip', '/x')$$,
  $$SELECT bacmr_metric_define('profiles_total', 'counter')$$, $$SELECT bacmr_metric_inc('profiles_total')$$,
  $$SELECT bacmr_metric_define('profiles_now', 'gauge'), bacmr_metric_set('profiles_now', '{}', 1)$$,
  $$SELECT bacmr_metric_define('profiles_seconds', 'histogram'), bacmr_metric_observe('profiles_seconds', '{}', 1)$$])
  statement;
SELECT does(r, statement)
FROM unnest('{profiles_monitor,profiles_pg_monitor,profiles_operator}'::name[]) r, unnest(ARRAY[
  'SELECT * FROM bacmr_sources', 'SELECT * FROM bacmr_status', 'SELECT * FROM bacmr_metrics',
  'SELECT * FROM bacmr_reindex_status', 'SELECT bacmr_metrics_prometheus()', 'SELECT bacmr_metrics_json()',
  'SELECT * FROM bacmr_metric_series()', 'SELECT * FROM bacmr_metric_samples()', 'SELECT * FROM bacmr_source_status()', 'SELECT * FROM bacmr_worker_status()', 'SELECT bacmr_library_version()'])
  statement;
SELECT works_for('profiles_backup', 'SELECT * FROM ' || o.oid::regclass::text, 'backup reads ' || o.object)
FROM object o JOIN decision d USING (object) WHERE d.may LIKE '%b%';

-- The operator beside an application whose tables it does not own: with the grants of docs/operations.md,
-- one after the other.
CREATE ROLE profiles_owner NOLOGIN;
CREATE SCHEMA shop AUTHORIZATION profiles_owner;
CREATE SCHEMA closed;
SET ROLE profiles_owner;
CREATE TABLE shop.secret (token text);
RESET ROLE;
SELECT bacmr_create_tables('shop');
ALTER TABLE shop.wallet OWNER TO profiles_owner;
ALTER TABLE shop.wallet_ledger OWNER TO profiles_owner;
ALTER TABLE shop.reservations OWNER TO profiles_owner;
ALTER TABLE shop.chunks OWNER TO profiles_owner;
INSERT INTO shop.wallet VALUES ('00000000-0000-0000-0000-000000000001', 7);
INSERT INTO shop.wallet_ledger (user_id, delta, reason) VALUES ('00000000-0000-0000-0000-000000000001', 7, 'x');
INSERT INTO shop.chunks (namespace, content) VALUES ('n', 'un texte'), ('n', 'un autre');
CREATE FUNCTION denied(statement text, description text) RETURNS text LANGUAGE sql AS
  $$SELECT raises(statement, '42501', 'permission denied|must be (owner|superuser)', '', description, 'profiles_operator')$$;
CREATE FUNCTION works(statement text) RETURNS text LANGUAGE sql AS
  $$SELECT does('profiles_operator', statement)$$;

SELECT denied(s, 'operator, without a right on the tables: ' || s) FROM unnest(ARRAY[
  'SELECT bacmr_reconcile()', 'SELECT bacmr_export_chunks()', $$SELECT bacmr_export('shop.secret')$$,
  $$SELECT bacmr_reindex('n')$$, $$SELECT bacmr_reindex_plan('n')$$, $$SELECT bacmr_detach('wallet')$$,
  $$SELECT bacmr_attach('wallet', 'shop.wallet')$$, $$SELECT bacmr_create_tables('closed')$$]) s;
GRANT USAGE ON SCHEMA shop TO profiles_operator;
GRANT SELECT ON shop.wallet, shop.wallet_ledger, shop.reservations TO profiles_operator;
SELECT works(s) FROM unnest(ARRAY['SELECT bacmr_reconcile()', 'SELECT bacmr_reconcile_report()',
  'SELECT * FROM bacmr_discrepancy', 'SELECT * FROM bacmr_job_run', 'SELECT * FROM bacmr_doctor()',
  $$SELECT bacmr_pause('export', 'x')$$, $$SELECT bacmr_unpause('export')$$,
  $$SELECT bacmr_log('info', 'x')$$, $$SELECT bacmr_metric_undefine('profiles_total')$$,
  'SELECT bacmr_metrics_reset()']) s;
INSERT INTO shop.reservations (id, user_id, amount, expires_at) VALUES
  ('00000000-0000-0000-0000-0000000000aa', '00000000-0000-0000-0000-000000000001', 3, now() - interval '1 minute');
SELECT denied('SELECT bacmr_expire_reservations()', 'operator: expiry needs rights that reconciliation does not');
SELECT denied($$SELECT bacmr_expire_in('shop.reservations', 'shop.wallet', 'shop.wallet_ledger')$$,
  'operator: also where it names the tables');
SELECT denied('UPDATE shop.wallet SET token_balance = 0', 'operator: nor does it change a balance by hand');
GRANT UPDATE ON shop.wallet, shop.reservations TO profiles_operator;
GRANT INSERT ON shop.wallet_ledger TO profiles_operator;
SELECT works('SELECT bacmr_expire_reservations()');
SELECT is((SELECT status FROM shop.reservations), 'expired', 'and that did expire');
SELECT works($$SELECT bacmr_expire_in('shop.reservations', 'shop.wallet', 'shop.wallet_ledger')$$);
SELECT denied('DELETE FROM shop.wallet_ledger', 'operator: the ledger stays');

GRANT SELECT ON shop.chunks TO profiles_operator;
SELECT works($$SELECT bacmr_export_chunks(file_name => 'profiles')$$);
SELECT works($$SELECT bacmr_export_chunks('bacmr_artifacts', file_name => 'profiles2')$$);
SELECT works($$SELECT bacmr_verify_export('profiles')$$);
SELECT works($$SELECT bacmr_reindex_plan('n')$$);
SELECT denied($$SELECT bacmr_import_chunks('profiles', 'skip')$$, 'operator: an import needs INSERT');
GRANT INSERT ON shop.chunks TO profiles_operator;
GRANT TEMPORARY ON DATABASE :"DBNAME" TO profiles_operator;
SELECT works($$SELECT bacmr_import_chunks('profiles', 'skip')$$);
SELECT works($$SELECT bacmr_restore_drill('profiles')$$);
SELECT works($$SELECT bacmr_reindex('n')$$);
SELECT bacmr_unpause('reindex');
SELECT ok(comes_true($$(SELECT status NOT IN ('queued', 'running', 'verifying') FROM bacmr_reindex_status)$$),
  'the worker works on the job');
SELECT matches((SELECT error FROM bacmr_reindex_status), 'permission denied for schema shop',
  'with the operator''s rights: without CREATE it cannot make the table of vectors');
GRANT CREATE ON SCHEMA shop TO profiles_operator;
SELECT works('SELECT bacmr_reindex_resume(max(job_id)) FROM bacmr_reindex_job');
SELECT ok(comes_true($$(SELECT status = 'completed' FROM bacmr_reindex_status)$$), 'with it, it is completed');
SELECT works(s) FROM unnest(ARRAY['SELECT bacmr_reindex_verify(1)', 'SELECT bacmr_reindex_swap(1)',
  'SELECT bacmr_reindex_summary(1)', $$SELECT bacmr_vectors_verify('n')$$, $$SELECT bacmr_active_namespace('n')$$]) s;
\set ON_ERROR_STOP off
\set VERBOSITY sqlstate
SET ROLE profiles_operator;
CALL bacmr_run_job('reconcile');
SELECT :'SQLSTATE' AS reconciled \gset
CALL bacmr_run_job('export');
SELECT :'SQLSTATE' AS exported \gset
CALL bacmr_reindex_run();
SELECT :'SQLSTATE' AS reindexed \gset
RESET ROLE;
\set ON_ERROR_STOP on
\set VERBOSITY default
SELECT is((:'reconciled'::text, :'exported'::text, :'reindexed'::text), ('00000'::text, '00000'::text, '00000'::text),
  'operator: the procedures');
INSERT INTO tried VALUES ('profiles_operator', 'bacmr_run_job, bacmr_reindex_run');

-- What is left of a reindex job's life.
SELECT works('SELECT bacmr_cosine(''{1,2}'', ''{2,1}'')');
SELECT bacmr_pause('reindex', 'test');
SELECT works($$SELECT bacmr_reindex('n', target_namespace => 'other')$$);
SELECT works(format('SELECT bacmr_reindex_%s(max(job_id)) FROM bacmr_reindex_job', verb))
FROM unnest('{pause,resume,retry_failed,cancel,discard}'::text[]) verb;
SELECT works('SELECT * FROM bacmr_reindex_all()');
SELECT works('SELECT bacmr_reindex_cancel(max(job_id)) FROM bacmr_reindex_job');
SELECT works($$SELECT bacmr_vectors_repair('n')$$);
SELECT works('SELECT bacmr_reindex_cancel(max(job_id)) FROM bacmr_reindex_job');
SELECT works($$SELECT bacmr_reindex('n', target_namespace => 'kept')$$);
SELECT max(job_id) AS job FROM bacmr_reindex_job \gset
SELECT bacmr_unpause('reindex');
SELECT ok(comes_true(format($$(SELECT status = 'completed' FROM bacmr_reindex_job WHERE job_id = %s)$$, :'job')),
  'another job is completed');
SELECT works(format(s, :'job')) FROM unnest(ARRAY['SELECT bacmr_reindex_compare(%s)', 'SELECT bacmr_reindex_swap(%s)',
  $$SELECT bacmr_reindex_rollback('n')$$, 'SELECT bacmr_reindex_discard(%s)', 'SELECT bacmr_reindex_cleanup(1)']) s;

-- With tables of its own it attaches, exports and imports.
CREATE SCHEMA own AUTHORIZATION profiles_operator;
SELECT bacmr_detach(source) FROM bacmr_sources;
SELECT works(s) FROM unnest(ARRAY[$$SELECT bacmr_create_tables('own')$$, $$SELECT bacmr_detach('chunks')$$,
  $$SELECT * FROM bacmr_attach('own')$$, $$SELECT bacmr_detach('chunks')$$, $$SELECT bacmr_attach('chunks', 'own.chunks')$$,
  $$SELECT bacmr_export('own.wallet', file_name => 'own')$$, $$SELECT bacmr_import('own.wallet', 'own')$$,
  $$SELECT bacmr_metric_define('profiles_more', 'gauge')$$,
  $$CREATE SERVER profiles_local FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'local', dimensions '8')$$,
  $$CREATE SERVER profiles_vectors FOREIGN DATA WRAPPER bacmr_vector_store OPTIONS (type 'postgres')$$,
  $$CREATE SERVER profiles_files FOREIGN DATA WRAPPER bacmr_blob_store OPTIONS (type 'file')$$]) s;
SELECT denied($$CREATE SERVER x FOREIGN DATA WRAPPER bacmr_blob_store OPTIONS (type 'file', directory '/tmp')$$,
  'operator: names no directory of the server');
SELECT denied($$CREATE SERVER x FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'openai', base_url 'https://example.com')$$,
  'operator: nor a URL for it');

-- Every function that a profile has was called with success. bacmr_schedule() needs rights in pg_cron's
-- database, which no profile gives (test/tap/t/schedule.pl).
SELECT is_empty($$
  SELECT r.role_name, d.object FROM role_of r JOIN decision d ON d.may LIKE '%' || r.profile || '%'
  WHERE d.object LIKE 'function %' AND r.role_name <> 'profiles_pg_monitor'
    AND d.object !~ 'bacmr_(un)?schedule\('
    AND NOT EXISTS (SELECT FROM tried t WHERE t.role_name = r.role_name
      AND t.statement ~ ('\m' || substring(d.object FROM 'function (\w+)\(') || '\M'))
$$, 'each function of each profile has done its work');

SELECT denied($$COPY shop.secret TO '/tmp/x'$$, 'operator: no file of the server');
SELECT denied($$SELECT bacmr_grant('operator', 'profiles_nobody')$$, 'operator: passes nothing on');
SELECT works($$GRANT EXECUTE ON FUNCTION bacmr_reconcile(interval) TO profiles_nobody$$);
SELECT is(has_function_privilege('profiles_nobody', 'bacmr_reconcile(interval)', 'EXECUTE'), false,
  'operator: to GRANT what it has no grant option for is a warning, and grants nothing');

-- ---------------------------------------------------------------------------------------------
-- Settings: docs/security.md gives the reason of each
-- ---------------------------------------------------------------------------------------------

CREATE TABLE setting_decision (name text PRIMARY KEY, context text);
INSERT INTO setting_decision VALUES
  ('bacmr.request_id', 'user'), ('bacmr.reconcile_memory', 'user'), ('bacmr.embedder', 'user'),
  ('bacmr.vector_store', 'user'), ('bacmr.blob_store', 'user'),
  ('bacmr.log_format', 'superuser'), ('bacmr.reindex_cost_limit', 'superuser'),
  ('bacmr.databases', 'sighup'), ('bacmr.worker_enabled', 'sighup'), ('bacmr.expire_interval', 'sighup'),
  ('bacmr.expire_batch_size', 'sighup'), ('bacmr.artifact_directory', 'sighup'),
  ('bacmr.history_retention', 'sighup'), ('bacmr.export_keep', 'sighup'), ('bacmr.export_keep_age', 'sighup'),
  ('bacmr.http_timeout', 'sighup'), ('bacmr.http_max_retries', 'sighup'), ('bacmr.breaker_threshold', 'sighup'),
  ('bacmr.breaker_cooldown', 'sighup'), ('bacmr.metrics_listen', 'sighup'),
  ('bacmr.metrics_token_file', 'sighup'), ('bacmr.metrics_max_series', 'postmaster');
SELECT is_empty($$(SELECT name, context FROM pg_settings WHERE name LIKE 'bacmr.%'
  EXCEPT SELECT name, context FROM setting_decision) UNION ALL (SELECT name, context FROM setting_decision
  EXCEPT SELECT name, context FROM pg_settings WHERE name LIKE 'bacmr.%')$$,
  'every setting has the context that was decided');
\set security `cat "$BACMR_DOCS/security.md"`
SELECT is_empty(format($$SELECT name FROM setting_decision WHERE position('| `' || name || '` | '
  || CASE context WHEN 'user' THEN 'any session' WHEN 'sighup' THEN 'reload' WHEN 'postmaster' THEN 'start' ELSE context END
  IN %L) = 0$$, :'security'), 'and docs/security.md says why');
SELECT raises(format('SET %s = %L', s.name, s.boot_val), CASE d.context WHEN 'superuser' THEN '42501' ELSE '55P02' END,
              d.name, '', 'an ordinary session does not set ' || s.name, 'profiles_app')
FROM setting_decision d JOIN pg_settings s USING (name) WHERE d.context <> 'user';
SELECT raises(format('ALTER %s SET %s = %L', whose, s.name, s.boot_val),
              CASE d.context WHEN 'superuser' THEN '42501' ELSE '55P02' END, d.name, '',
              'nor for later: ' || s.name, 'profiles_app')
FROM setting_decision d JOIN pg_settings s USING (name), unnest('{ROLE profiles_app}'::text[]) whose
WHERE d.context <> 'user';
SELECT works_for('profiles_app', format('SET LOCAL %s = %L', s.name, s.boot_val), 'any session sets ' || s.name)
FROM setting_decision d JOIN pg_settings s USING (name) WHERE d.context = 'user';
SELECT is((SELECT count(*) FROM pg_settings WHERE name = 'bacmr.metrics_token_file'), 1::bigint,
  'a superuser sees where the token lies');
SELECT works_for('profiles_app', $$DO 'BEGIN ASSERT NOT EXISTS (SELECT FROM pg_settings
  WHERE name = ''bacmr.metrics_token_file''); END'$$, 'others do not');

SELECT * FROM finish();
SELECT bacmr_detach(source) FROM bacmr_sources;
DROP OWNED BY profiles_app, profiles_monitor, profiles_operator, profiles_backup, profiles_pg_monitor,
  profiles_nobody, profiles_owner CASCADE;
DROP ROLE profiles_app, profiles_monitor, profiles_operator, profiles_backup, profiles_pg_monitor,
  profiles_nobody, profiles_owner;
