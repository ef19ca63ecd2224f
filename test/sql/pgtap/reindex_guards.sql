-- Reindex: what is refused and why, what may be done in which status, whose rights count, pauses,
-- budgets, and copies of the database.
\set tests 255
\ir include/reindex.psql
CREATE ROLE reindex_operator;
CREATE ROLE reindex_other;
CREATE ROLE reindex_watcher;
CREATE ROLE reindex_app;
CREATE ROLE reindex_nobody;

CREATE FUNCTION refuses(arguments text, code text, message text, hint text, role_name name DEFAULT NULL)
  RETURNS text LANGUAGE sql AS
  $$SELECT raises(format('SELECT bacmr_reindex(%s)', arguments), code, message, hint, 'bacmr_reindex(' || left(arguments, 60) || ')', role_name)$$;

-- ---------------------------------------------------------------------------------------------
-- Arguments
-- ---------------------------------------------------------------------------------------------

SELECT fill('math', 1, 20), fill('physics', 21, 24), fill('math-v5', 25, 26);
SELECT refuses(arguments, code, message, hint) FROM (VALUES
  ('NULL', '22004', 'argument "namespace" must not be NULL', ''),
  ($$''$$, '55000', 'namespace "" has no chunks', 'DISTINCT'),
  ($$'nobody'$$, '55000', 'namespace "nobody" has no chunks', 'DISTINCT'),
  ($$'math', batch_size => 0$$, '22023', 'batch_size must be from 1 to 2048', '100'),
  ($$'math', batch_size => -1$$, '22023', 'batch_size', '100'),
  ($$'math', batch_size => 2049$$, '22023', 'batch_size', '100'),
  ($$'math', concurrency => 0$$, '22023', 'concurrency must be from 1 to 64', '4'),
  ($$'math', concurrency => 65$$, '22023', 'concurrency', '4'),
  ($$'math', max_cost => -0.01$$, '22023', 'max_cost must not be negative', 'price_per_million_tokens'),
  ($$'math', max_cost => 'NaN'$$, '22023', 'max_cost must not be negative', 'price_per_million_tokens'),
  ($$'math', 'gpt'$$, '22023', 'no model "gpt"', 'local-256'),
  ($$'math', 'local-7'$$, '22023', 'dimensions', ''),
  ($$'math', 'local-99999'$$, '22023', 'dimensions', ''),
  ($$'math', embedder => 'nowhere'$$, '42704', 'server "nowhere" does not exist', 'CREATE SERVER'),
  ($$'math', vector_store => 'nowhere'$$, '42704', 'server "nowhere" does not exist', 'CREATE SERVER'),
  ($$'math', embedder => 'bacmr_postgres'$$, '42809', '"bacmr_postgres" is no embedder', 'bacmr_embedder'),
  ($$'math', vector_store => 'bacmr_local'$$, '42809', '"bacmr_local" is no vector store', 'bacmr_vector_store'),
  ($$'math', vector_store => 'bacmr_artifacts'$$, '42809', 'is no vector store', 'bacmr_vector_store'),
  ($$'math', target_namespace => ''$$, '22023', 'target namespace must not be empty', 'Leave it out'),
  ($$'math', target_namespace => 'math'$$, '55000', 'target namespace "math" is in use', 'another'),
  ($$'math', target_namespace => 'physics'$$, '55000', 'target namespace "physics" is in use', 'another'))
  v(arguments, code, message, hint);
SELECT is_empty('SELECT * FROM bacmr_reindex_job', 'what is refused is not queued');
SELECT is(capture_triggers(), 0::bigint, 'and watches nothing');
SELECT raises(statement, code, message, '.', statement) FROM (VALUES
  ('SELECT bacmr_reindex_plan(NULL)', '22004', 'must not be NULL'),
  ($$SELECT bacmr_reindex_plan('math', embedder => 'nowhere')$$, '42704', 'nowhere'),
  ($$SELECT bacmr_vectors_verify(NULL)$$, '22004', 'must not be NULL'),
  ($$SELECT bacmr_vectors_verify('math', 'bacmr_local')$$, '42809', 'no vector store'),
  ($$SELECT bacmr_vectors_repair(NULL)$$, '22004', 'must not be NULL'),
  ($$SELECT bacmr_reindex_rollback('math')$$, '55000', 'no previous namespace'),
  ($$SELECT bacmr_reindex_rollback('nobody')$$, '55000', 'no previous namespace')) v(statement, code, message);
-- Every function of a job: NULL, and a job that is not there
SELECT raises(format('SELECT bacmr_reindex_%s(%s)', f, id), code, message, 'bacmr_reindex_status', format('%s(%s)', f, id))
FROM unnest('{pause,resume,cancel,retry_failed,discard,cleanup,verify,compare,swap,summary}'::text[]) f,
     (VALUES ('NULL', '22004', 'argument "job_id" must not be NULL'), ('4711', '42704', 'there is no reindex job 4711')) v(id, code, message);
CALL bacmr_reindex_run(4711);
SELECT is(:'SQLSTATE'::text, '42704', 'CALL: a job that is not there');
CALL bacmr_reindex_run(max_batches => 0);
SELECT is(:'SQLSTATE'::text, '22023', 'CALL: no batches');
CALL bacmr_reindex_run();
SELECT is(:'ERROR'::text, 'false', 'CALL: no job is no error');
BEGIN;
CALL bacmr_reindex_run();
ROLLBACK;
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '2D000', 'CALL: not in a transaction block');
SELECT raises('CALL bacmr_reindex_run()', '2D000', 'transaction', '.', 'CALL: nor in a function');
SELECT throws_ok('SELECT bacmr_capture_change()', '0A000', NULL, 'the trigger''s function is no function to call');

-- What is not empty, and what another job has
INSERT INTO bacmr_vector VALUES ('full', 'x', '{1,2,3}');
SELECT refuses($$'math', target_namespace => 'full'$$, '55000', '"full" of the vector store "bacmr_postgres" is not empty', 'another');
-- In an array vectors of any dimension find room: the three beside the 64.
SELECT bacmr_reindex('math', 'local-64', target_namespace => 'mine', batch_size => 5) AS job \gset
SELECT refuses($$'math'$$, '55000', 'has a reindex job already: ' || :job, format('bacmr_reindex_cancel\(%s\)', :job));
SELECT refuses($$'physics', target_namespace => 'mine'$$, '55000', '"mine" is in use', 'another');
SELECT raises($$SELECT bacmr_vectors_repair('math')$$, '55000', 'has a reindex job already', 'cancel', 'nor a repair');
SELECT raises($$SELECT bacmr_reindex_all()$$, '55000', 'has a reindex job already', 'cancel', 'nor one for each namespace');
SELECT is((SELECT count(*) FROM bacmr_reindex_job), 1::bigint, 'none of them is queued');
ALTER TABLE bacmr_vector DROP CONSTRAINT bacmr_vector_pkey;
SELECT refuses($$'physics'$$, '42P16', 'cannot hold vectors', 'primary key');
ALTER TABLE bacmr_vector ADD PRIMARY KEY (namespace, id);
SELECT bacmr_detach('chunks');
SELECT refuses($$'math'$$, '55000', 'chunks', 'bacmr_attach');
SELECT bacmr_attach();

-- ---------------------------------------------------------------------------------------------
-- What may be done in which status
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION refused_in(job bigint, status text, functions text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT raises(format('SELECT bacmr_reindex_%s(%s)', f, job), '55000', format('reindex job %s (is %s|has been)', job, status), '.', status || ': no ' || f)
  FROM unnest(string_to_array(functions, ' ')) f
$$;
SELECT refused_in(:job, 'queued', 'resume discard cleanup verify swap');
SELECT lives_ok(format('SELECT bacmr_reindex_pause(%s)', :job), 'queued: pause');
SELECT refused_in(:job, 'paused', 'pause discard cleanup verify swap');
CALL bacmr_reindex_run(:job);
CALL bacmr_reindex_run();
SELECT is((SELECT (status, processed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(paused,0)', 'paused: nobody works on it');
SELECT alike(bacmr_reindex_summary(:job), '%(paused)%bacmr_reindex_resume%', 'paused: its summary');
SELECT lives_ok(format('SELECT bacmr_reindex_resume(%s)', :job), 'paused: resume');
SELECT is(status_of(:job), 'queued', 'paused: is queued again');
CALL bacmr_reindex_run(:job, 1);
SELECT lives_ok(format('SELECT bacmr_reindex_cancel(%s)', :job), 'queued: cancel');
SELECT is((SELECT (status, finished_at IS NOT NULL)::text FROM bacmr_reindex_status WHERE job_id = :job), '(cancelled,t)', 'cancelled');
SELECT is(capture_triggers(), 0::bigint, 'cancelled: nothing is watched any more');
SELECT refused_in(:job, 'cancelled', 'pause resume cancel retry_failed cleanup verify swap');
CALL bacmr_reindex_run(:job);
SELECT is((SELECT processed_chunks FROM bacmr_reindex_status WHERE job_id = :job), 5::bigint, 'cancelled: nobody works on it');
SELECT is((SELECT count(*) FROM ids_in('mine')), 5::bigint, 'cancelled: its target stays');
SELECT alike(bacmr_reindex_summary(:job), '%(cancelled)%bacmr_reindex_discard%', 'cancelled: its summary');
SELECT lives_ok(format('SELECT bacmr_reindex_discard(%s)', :job), 'cancelled: discard');
SELECT results_eq('SELECT DISTINCT namespace FROM bacmr_vector', $$VALUES ('full')$$, 'discarded: its target is gone, nothing else');

SELECT bacmr_reindex('math', 'local-64', target_namespace => 'mine') AS job \gset
SELECT isnt(:'job'::text, '', 'discarded: its name is free again');
SELECT bacmr_reindex_pause(:job);
SELECT lives_ok(format('SELECT bacmr_reindex_cancel(%s)', :job), 'paused: cancel');
SELECT bacmr_reindex_discard(:job);
SELECT bacmr_reindex('math', 'local-64', target_namespace => 'mine') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT refused_in(:job, 'completed', 'pause resume discard cleanup');
DELETE FROM bacmr_vector WHERE namespace = 'mine' AND id = u(3)::text;
SELECT ok FROM bacmr_reindex_verify(:job);
SELECT refused_in(:job, 'failed', 'pause cleanup swap');
SELECT alike(bacmr_reindex_summary(:job), '%(failed)%not verified%1 vectors missing%bacmr_reindex_resume%', 'failed: its summary');
SELECT lives_ok(format('SELECT bacmr_reindex_resume(%s)', :job), 'failed: resume');
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'which puts right what was wrong');
SELECT bacmr_reindex_swap(:job);
SELECT refused_in(:job, 'completed', 'pause resume cancel retry_failed discard swap');
SELECT refuses($$'physics', target_namespace => 'mine'$$, '55000', '"mine" is in use', 'another');
CALL bacmr_reindex_run();
SELECT bacmr_reindex('math', 'local-64') AS job \gset
SELECT is((job(:job)).target_namespace, 'mine-v2', 'counted on from the active name');
CALL bacmr_reindex_run(:job);
SELECT bacmr_reindex_swap(:job);
SELECT refuses($$'physics', target_namespace => 'mine'$$, '55000', '"mine" is in use', 'another');    -- previous
CALL bacmr_reindex_run();
SELECT refused_in(:job, 'completed', 'swap');
SELECT bacmr_reindex('physics', 'local-64') AS job \gset
SELECT bacmr_reindex_pause(:job);
DELETE FROM chunks WHERE namespace = 'physics';
SELECT bacmr_reindex_resume(:job);
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, progress_pct)::text FROM bacmr_reindex_status WHERE job_id = :job) ~ 'completed', true, 'no chunks left when it runs: completed');
SELECT is((SELECT (expected, actual)::text FROM job(:job)), '(0,0)', 'with none expected and none found');
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();

-- The local embedder over a real model
UPDATE bacmr_namespace SET model = 'text-embedding-3-small', embedder = 'openai' WHERE namespace = 'math';
SELECT bacmr_reindex('math', 'local-64') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :job), '55000', '"local-64" would replace the model "text-embedding-3-small"',
  'force => true', 'the local embedder does not silently replace a model');
SELECT raises(format('SELECT bacmr_reindex_swap(%s, NULL)', :job), '55000', 'would replace', 'force', 'NULL is no force');
SELECT is(bacmr_reindex_swap(:job, force => true), (job(:job)).target_namespace, 'forced it does');
CALL bacmr_reindex_run();

-- ---------------------------------------------------------------------------------------------
-- Costs
-- ---------------------------------------------------------------------------------------------

CREATE SERVER priced FOREIGN DATA WRAPPER bacmr_embedder
  OPTIONS (type 'openai', base_url 'http://127.0.0.1:9/v1', model 'm', dimensions '64', price_per_million_tokens '1000', max_retries '0');
SELECT refuses($$'math'$$, '55000', 'which embedder', '.');
SELECT ok((SELECT estimated_cost = estimated_tokens * 1000 / 1e6 AND estimated_cost > 0 FROM bacmr_reindex_plan('math', embedder => 'priced')),
  'plan: tokens by price');
SET bacmr.reindex_cost_limit = 0.1;
SELECT refuses($$'math', embedder => 'priced', vector_store => 'bacmr_postgres'$$, '55000', 'more than bacmr.reindex_cost_limit \(0\.1', 'max_cost');
SELECT raises('SET bacmr.reindex_cost_limit = 1000', '42501', 'bacmr.reindex_cost_limit', '', 'the limit is the superuser''s to set', 'reindex_other');
SELECT bacmr_reindex('math', embedder => 'priced', vector_store => 'bacmr_postgres', max_cost => 0) AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, processed_chunks, tokens_used)::text FROM bacmr_reindex_status WHERE job_id = :job), '(paused,0,0)',
  'a job stops before it exceeds max_cost');
SELECT alike((SELECT error FROM bacmr_reindex_status WHERE job_id = :job), '%max_cost%', 'and says why');
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);
SET bacmr.reindex_cost_limit = 1000;
SELECT bacmr_reindex('math', embedder => 'priced', vector_store => 'bacmr_postgres') AS job \gset
SELECT is(status_of(:job), 'queued', 'below the limit no max_cost is needed');
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);
RESET bacmr.reindex_cost_limit;
DROP SERVER priced;

-- ---------------------------------------------------------------------------------------------
-- Pauses of all reindexing
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_reindex('math', 'local-64') AS job \gset
SELECT bacmr_pause('reindex', 'month''s end');
CALL bacmr_reindex_run();
SELECT is(:'ERROR'::text, 'false', 'paused: CALL is no error');
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, processed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(queued,0)', 'but does nothing');
SELECT is((SELECT (state, next_step)::text FROM bacmr_status WHERE job = 'reindex'), '(paused,"month''s end")', 'the status says so');
SELECT bacmr_unpause('reindex');

-- ---------------------------------------------------------------------------------------------
-- A copy of the database
-- ---------------------------------------------------------------------------------------------

UPDATE bacmr_reindex_job SET system_identifier = '1' WHERE job_id = :job;
CALL bacmr_reindex_run();
SELECT is((SELECT (status, processed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(paused,0)', 'a job of the original is paused');
SELECT alike((SELECT error FROM bacmr_reindex_status WHERE job_id = :job), '%copy of%cancel it%', 'with the reason');
SELECT is(capture_triggers(), 0::bigint, 'and nothing is watched for it');
SELECT raises(format('SELECT bacmr_reindex_resume(%s)', :job), '55000', 'cannot be resumed here', 'cancel it', 'nor is it resumed');
SELECT lives_ok(format('SELECT bacmr_reindex_cancel(%s)', :job), 'it can be cancelled');
SELECT bacmr_reindex('math', 'local-64') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'a new one is the copy''s own');
UPDATE bacmr_reindex_job SET database_oid = 1 WHERE job_id = :job;
UPDATE chunks SET content = text_of(1, 2) WHERE id = u(1);
CREATE TABLE vectors_before AS TABLE bacmr_vector;
CALL bacmr_reindex_run(:job);
SELECT bag_eq('TABLE bacmr_vector', 'TABLE vectors_before', 'nor does a completed one write its changes into the original''s target');
UPDATE bacmr_reindex_job SET database_oid = (SELECT oid FROM pg_database WHERE datname = current_database()) WHERE job_id = :job;
DELETE FROM bacmr_chunk_change;
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);
-- The database as a whole
UPDATE bacmr_source SET system_identifier = '1';
SELECT bacmr_reindex('math', 'local-64') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, processed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(queued,0)', 'in a copy reindexing is paused');
SELECT alike((SELECT reason FROM bacmr_job_pause WHERE job = 'reindex'), '%restored or cloned%bacmr_unpause%', 'with the reason');
DELETE FROM bacmr_job_pause;
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION calls(role_name name, job text) RETURNS text LANGUAGE sql AS
  $$SELECT format('SET ROLE %I; CALL bacmr_reindex_run(%s); RESET ROLE', role_name, job)$$;
SELECT bacmr_grant('operator', 'reindex_operator'), bacmr_grant('operator', 'reindex_other'),
       bacmr_grant('monitor', 'reindex_watcher'), bacmr_grant('app', 'reindex_app');
SELECT refuses($$'math', 'local-64'$$, '42501', 'permission denied for table chunks', '', 'reindex_operator');
SELECT raises($$SELECT bacmr_reindex_plan('math')$$, '42501', 'permission denied for table chunks', '', 'a plan needs SELECT too', 'reindex_operator');
SELECT raises($$SELECT bacmr_vectors_verify('math')$$, '42501', 'permission denied for table', '', 'and so does a verification', 'reindex_operator');
GRANT SELECT ON chunks TO reindex_operator, reindex_other;
GRANT SELECT, INSERT, UPDATE, DELETE ON bacmr_vector TO reindex_operator;
SELECT works_for('reindex_operator', $$SELECT bacmr_reindex_plan('math')$$, 'operator: plan');
SET ROLE reindex_operator;
SELECT bacmr_reindex('math', 'local-64', batch_size => 5) AS job \gset
RESET ROLE;
SELECT is((job(:job)).role_name, 'reindex_operator', 'a job works as the role that queued it');
SELECT raises(format('SELECT bacmr_reindex_%s(%s)', f, :job), '42501', format('permission denied for reindex job %s', :job), 'superuser', 'not by another: ' || f, 'reindex_other')
  FROM unnest('{pause,resume,cancel,retry_failed,discard,cleanup,verify,compare,swap,summary}'::text[]) f;
SET ROLE reindex_other;
CALL bacmr_reindex_run(:job);
SELECT :'SQLSTATE' AS code \gset
RESET ROLE;
SELECT is(:'code'::text, '42501', 'nor worked on');
INSERT INTO chunks (id, namespace, content) VALUES (u(51), 'own', text_of(51));
GRANT SELECT, INSERT, UPDATE, DELETE ON bacmr_vector TO reindex_other;
SET ROLE reindex_other;
SELECT bacmr_reindex('own', 'local-64') AS own \gset
CALL bacmr_reindex_run();
SELECT :'ERROR' AS failed \gset
RESET ROLE;
SELECT is((:'failed'::text, status_of(:own), status_of(:job)), ('false'::text, 'completed'::text, 'queued'::text),
  'CALL without a job: those that one may work on');
SET ROLE reindex_operator;
CALL bacmr_reindex_run(:job, 1);
SELECT bacmr_reindex_pause(:job), bacmr_reindex_resume(:job);
CALL bacmr_reindex_run(:job);
RESET ROLE;
SELECT is(status_of(:job), 'completed', 'operator: its own job, to its end');
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'math', (job(:job)).target_namespace), 'operator: with every chunk');
SELECT works_for('reindex_operator', format(statement, :job), 'operator: ' || statement) FROM unnest(ARRAY[
  'SELECT bacmr_reindex_verify(%s)', 'SELECT bacmr_reindex_summary(%s)', 'SELECT bacmr_reindex_compare(%s)',
  'SELECT bacmr_reindex_swap(%s)', 'SELECT bacmr_active_namespace(''math'')', 'SELECT * FROM bacmr_reindex_status',
  'SELECT * FROM bacmr_namespace', 'SELECT * FROM bacmr_reindex_job', 'SELECT * FROM bacmr_reindex_batch', 'SELECT * FROM bacmr_reindex_failure',
  'SELECT bacmr_reindex_rollback(''math'')', 'SELECT bacmr_reindex_rollback(''math'')', 'SELECT bacmr_vectors_verify(''math'')',
  'SELECT bacmr_reindex_cleanup(%s)']) statement;
SET ROLE reindex_operator;
CALL bacmr_reindex_run();
SELECT bacmr_vectors_repair('math') AS repair \gset
CALL bacmr_reindex_run(:repair);
RESET ROLE;
SELECT is(status_of(:repair), 'completed', 'operator: a repair');
-- The application may write chunks without a right on anything of ours.
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON chunks TO reindex_app;
SET ROLE reindex_operator;
SELECT bacmr_reindex('math', 'local-64', batch_size => 5) AS job \gset
CALL bacmr_reindex_run(:job, 1);
RESET ROLE;
SELECT works_for('reindex_app', statement, 'app: ' || left(statement, 40)) FROM unnest(ARRAY[
  'UPDATE chunks SET content = content || '' '' WHERE id = u(2)', 'DELETE FROM chunks WHERE id = u(4)',
  'INSERT INTO chunks (id, namespace, content) VALUES (u(60), ''math'', text_of(60))', 'SELECT bacmr_active_namespace(''math'')']) statement;
UPDATE chunks SET content = text_of(2) WHERE id = u(2);
-- Without the right to read the chunks any more
REVOKE SELECT ON chunks FROM reindex_operator;
SET ROLE reindex_operator;
CALL bacmr_reindex_run(:job);
SELECT :'SQLSTATE' AS code \gset
RESET ROLE;
SELECT is((:'code'::text, status_of(:job)), ('42501'::text, 'failed'::text), 'a right that is lost in the midst: failed');
SELECT alike((job(:job)).error, '%permission denied for table chunks%', 'with the reason');
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'failed', 'failed: nobody works on it');
GRANT SELECT ON chunks TO reindex_operator;
SELECT bacmr_reindex_resume(:job);
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'a superuser may run it, too: with the rights of the role that queued it');
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'math', (job(:job)).target_namespace), 'with every change');
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);

SELECT works_for('reindex_watcher', 'SELECT * FROM bacmr_reindex_status', 'monitor: sees the jobs');
SELECT raises(statement, '42501', 'permission denied', '', role_name || ': no ' || statement, role_name)
FROM unnest('{reindex_watcher,reindex_app,reindex_nobody}'::name[]) role_name, unnest(ARRAY[
  'SELECT bacmr_reindex(''math'')', 'SELECT bacmr_reindex_plan(''math'')', 'SELECT bacmr_reindex_all()', 'SELECT bacmr_reindex_pause(1)',
  'SELECT bacmr_reindex_resume(1)', 'SELECT bacmr_reindex_cancel(1)', 'SELECT bacmr_reindex_retry_failed(1)', 'SELECT bacmr_reindex_discard(1)',
  'SELECT bacmr_reindex_cleanup(1)', 'SELECT bacmr_reindex_verify(1)', 'SELECT bacmr_vectors_verify(''math'')',
  'SELECT bacmr_vectors_repair(''math'')', 'SELECT bacmr_reindex_compare(1)', 'SELECT bacmr_reindex_swap(1)',
  'SELECT bacmr_reindex_rollback(''math'')', 'SELECT bacmr_reindex_summary(1)', 'SELECT * FROM bacmr_reindex_job',
  'SELECT * FROM bacmr_chunk_change', 'SELECT * FROM bacmr_embedding_cache', 'SELECT * FROM bacmr_namespace']) statement;
SELECT raises('SELECT bacmr_active_namespace(''math'')', '42501', 'permission denied', '', 'nobody: no active namespace', 'reindex_nobody');
SELECT raises('SELECT * FROM bacmr_reindex_status', '42501', 'permission denied', '', 'app: no jobs', 'reindex_app');

-- The role that queued a job is gone.
SELECT bacmr_reindex_swap(:own), bacmr_active_namespace('own');
CALL bacmr_reindex_run();
SET ROLE reindex_other;
SELECT bacmr_reindex('own', 'local-64') AS own \gset
RESET ROLE;
DROP OWNED BY reindex_other CASCADE;
DROP ROLE reindex_other;
CALL bacmr_reindex_run();
SELECT is(:'SQLSTATE'::text, '42704', 'a role that is gone: nobody works with its rights');
SELECT alike(:'LAST_ERROR_MESSAGE'::text, '%"reindex_other"%does not exist any more%', 'as the message says');
SELECT is((status_of(:own), (job(:own)).error LIKE '%reindex_other%'), ('failed'::text, true), 'and the job');
SELECT lives_ok(format('SELECT bacmr_reindex_cancel(%s)', :own), 'a superuser can still cancel it');
SELECT lives_ok(format('SELECT bacmr_reindex_discard(%s)', :own), 'and discard it');
SELECT is(capture_triggers(), 0::bigint, 'after which nothing is watched any more');

DROP OWNED BY reindex_operator, reindex_watcher, reindex_app, reindex_nobody CASCADE;
DROP ROLE reindex_operator, reindex_watcher, reindex_app, reindex_nobody;
\ir include/reindex_end.psql
