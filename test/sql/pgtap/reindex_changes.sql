-- Reindex while the application writes: what changes reaches the target before it can be verified,
-- or swapped; failures of single chunks; and how the changes are noticed.
\set tests 84
\ir include/reindex.psql
-- Each of them touches what has been read, and what has not: chunks 1 to 10 are the first batch.
CREATE FUNCTION write_all_sorts(version int) RETURNS void LANGUAGE sql AS $$
  UPDATE chunks SET content = text_of(split_part(id::text, '-', 5)::int, version) WHERE id IN (u(1), u(2), u(15), u(25));
  UPDATE chunks SET metadata = metadata || jsonb_build_object('version', version) WHERE id IN (u(2), u(3), u(16));
  DELETE FROM chunks WHERE id IN (u(3 + version), u(16 + version));
  UPDATE chunks SET namespace = 'elsewhere' WHERE id IN (u(6 + version), u(19 + version));
  UPDATE chunks SET namespace = 'math' WHERE id IN (u(40 + version), u(50 + version));
  UPDATE chunks SET id = u(60 + version) WHERE id = u(8 + version);
  INSERT INTO chunks (id, namespace, content, metadata) VALUES (u(70 + version), 'math', text_of(70 + version), '{"new": true}');
  -- There and gone again, changed and changed back
  INSERT INTO chunks (id, namespace, content) VALUES (u(99), 'math', text_of(99));
  DELETE FROM chunks WHERE id = u(99);
  UPDATE chunks SET content = text_of(1, 3) WHERE id = u(22);
  UPDATE chunks SET content = text_of(22) WHERE id = u(22);
$$;

-- ---------------------------------------------------------------------------------------------
-- At every stage of a job
-- ---------------------------------------------------------------------------------------------

SELECT fill('math', 1, 30), fill('elsewhere', 41, 56);
SELECT bacmr_reindex('math', 'local-64', batch_size => 10, concurrency => 2) AS job \gset
SELECT is(capture_triggers(), 2::bigint, 'while a job is queued, the table is watched');
SELECT is((SELECT array_agg(DISTINCT tgenabled::text) FROM pg_trigger WHERE tgname LIKE 'bacmr_capture%'), '{A}',
  'whatever session_replication_role is');
CALL bacmr_reindex_run(:job, 1);
SELECT write_all_sorts(2);
SELECT isnt((SELECT count(*) FROM bacmr_chunk_change), 0::bigint, 'what changes is noted');
BEGIN;
INSERT INTO chunks (id, namespace, content) VALUES (u(98), 'math', text_of(98));
ROLLBACK;
SELECT is((SELECT count(*) FROM bacmr_chunk_change WHERE chunk_id = u(98)::text), 0::bigint, 'what is rolled back is not');
SET session_replication_role = replica;
UPDATE chunks SET content = text_of(23, 2) WHERE id = u(23);
UPDATE chunks SET content = text_of(10, 2) WHERE id = u(10);
RESET session_replication_role;
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'changes in the midst of the job: completed');
SELECT is_empty($$SELECT * FROM differences('math', 'math-v2')$$, 'the target is what the table is');
SELECT is((SELECT count(*) FROM bacmr_chunk_change WHERE namespace = 'math'), 0::bigint, 'nothing is left to do');

SELECT write_all_sorts(3);
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :job), '55000', 'changes of chunks in "math" have not reached the target',
  format('CALL bacmr_reindex_run\(%s\)', :job), 'after its end: no swap');
SELECT raises(format('SELECT bacmr_reindex_swap(%s, true)', :job), '55000', 'have not reached', '.', 'by no force');
CALL bacmr_reindex_run(:job);
SELECT is_empty($$SELECT * FROM differences('math', 'math-v2')$$, 'drained, the target is what the table is');
SELECT is(status_of(:job), 'completed', 'it is completed still');
UPDATE chunks SET content = text_of(45, 2) WHERE id = u(45);
SELECT lives_ok(format('SELECT bacmr_reindex_swap(%s)', :job), 'what changes in another namespace does not matter');
UPDATE chunks SET content = text_of(26, 2) WHERE id = u(26);
DELETE FROM chunks WHERE id = u(27);
CALL bacmr_reindex_run();
SELECT is_empty($$SELECT * FROM differences('math', 'math-v2')$$, 'what changed right after the swap arrives too');
SELECT is((capture_triggers(), (SELECT count(*) FROM bacmr_chunk_change)), (0::bigint, 0::bigint), 'then nothing is watched any more');

-- Of namespaces that no job works on, what was noted is forgotten again.
SELECT bacmr_reindex('math', 'local-64', target_namespace => 'alone', batch_size => 10) AS job \gset
CALL bacmr_reindex_run(:job, 1);
SELECT fill('elsewhere', 200, 220);
UPDATE chunks SET content = text_of(1, 2) WHERE namespace = 'math' AND id = u(1);
SELECT is((SELECT count(*) FROM bacmr_chunk_change WHERE namespace = 'elsewhere'), 21::bigint, 'the triggers note every namespace');
CALL bacmr_reindex_run(:job, 1);
SELECT is((SELECT count(*) FROM bacmr_chunk_change WHERE namespace = 'elsewhere'), 0::bigint, 'the job forgets what is nobody''s');
CALL bacmr_reindex_run(:job);
SELECT is_empty($$SELECT * FROM differences('math', 'alone')$$, 'and nothing that is its own');
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);
DELETE FROM chunks WHERE namespace = 'elsewhere';
SELECT is(capture_triggers(), 0::bigint, 'nothing is watched after discarding it');

-- ---------------------------------------------------------------------------------------------
-- TRUNCATE
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_reindex('math', 'local-64', batch_size => 10) AS job \gset
CALL bacmr_reindex_run(:job, 1);
TRUNCATE chunks;
SELECT fill('math', 5, 30);
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'TRUNCATE in the midst: completed');
SELECT is_empty($$SELECT * FROM differences('math', 'math-v3')$$, 'what was there before is gone');
SELECT is((SELECT progress_pct FROM bacmr_reindex_status WHERE job_id = :job), 100.0, 'progress does not go beyond 100');
SELECT is((SELECT (total_chunks, processed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(26,26)',
  'and counts what the second walk has found');
TRUNCATE chunks;
SELECT fill('math', 8, 20);
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :job), '55000', 'have not reached', '.', 'TRUNCATE after its end: no swap');
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, verified_at IS NOT NULL)::text FROM job(:job)), '(completed,t)', 'it is completed and verified again');
SELECT is_empty($$SELECT * FROM differences('math', 'math-v3')$$, 'before the swap the target is what the table is');
SELECT bacmr_reindex_swap(:job);
TRUNCATE chunks;
SELECT fill('math', 1, 3);
CALL bacmr_reindex_run();
SELECT is_empty($$SELECT * FROM differences('math', 'math-v3')$$, 'TRUNCATE right after the swap');
SELECT is(capture_triggers(), 0::bigint, 'and nothing is watched any more');

-- ---------------------------------------------------------------------------------------------
-- Two jobs of one namespace do not take each other's changes away
-- ---------------------------------------------------------------------------------------------

TRUNCATE chunks;
SELECT fill('math', 1, 30);
SELECT bacmr_reindex('math', 'local-64', batch_size => 10) AS first \gset
CALL bacmr_reindex_run(:first);
SELECT is(status_of(:first), 'completed', 'one job waits for its swap');
-- Refused, or each gets what it needs.
SELECT bacmr_reindex('math', 'local-32', batch_size => 10) AS second \gset
\if :ERROR
  SELECT is(:'SQLSTATE'::text, '55000', 'another one is not queued meanwhile');
  SELECT lives_ok(format('SELECT bacmr_reindex_cancel(%s)', :first), 'it can be given up');
  SELECT lives_ok(format('SELECT bacmr_reindex_discard(%s)', :first), 'with its target');
  SELECT is((SELECT count(*) FROM ids_in('math-v4')), 0::bigint, 'which is deleted');
  SELECT bacmr_reindex('math', 'local-32', batch_size => 10) AS second \gset
\endif
CALL bacmr_reindex_run(:second, 2);
UPDATE chunks SET content = text_of(1, 2) WHERE id = u(1);
CALL bacmr_reindex_run();
CALL bacmr_reindex_run();
SELECT is(status_of(:second), 'completed', 'two jobs: the second is completed');
SELECT is_empty(format('SELECT * FROM differences(%L, %L, 32)', 'math', (job(:second)).target_namespace), 'and has every change');
SELECT bacmr_reindex_swap(:second);
CALL bacmr_reindex_run();
SELECT is(capture_triggers(), 0::bigint, 'after the swap nothing is watched any more');

-- ---------------------------------------------------------------------------------------------
-- Chunks that fail alone
-- ---------------------------------------------------------------------------------------------

TRUNCATE chunks;
SELECT fill('math', 1, 20);
UPDATE chunks SET content = '' WHERE id = u(3);
UPDATE chunks SET content = E' \n\t\u00a0\u200b' WHERE id = u(14);
SELECT bacmr_reindex('math', 'local-64', batch_size => 5) AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, processed_chunks, failed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(completed,20,2)',
  'two texts without a visible character fail, alone');
SELECT results_eq(format('SELECT chunk_id, reason FROM bacmr_reindex_failure WHERE job_id = %s ORDER BY 1', :job),
  $$VALUES (u(3)::text, 'the text is empty'), (u(14)::text, 'the text is empty')$$, 'by id and reason');
SELECT is((SELECT count(*) FROM ids_in((job(:job)).target_namespace)), 18::bigint, 'the rest is there');
SELECT alike(bacmr_reindex_summary(:job), '%Chunks failed: 2%Vectors upserted: 18%Verified count: 18%', 'the summary says so');
SELECT bacmr_reindex_retry_failed(:job);
SELECT is(status_of(:job), 'queued', 'retry_failed: queued again');
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, failed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(completed,2)', 'not mended, they fail again');
UPDATE chunks SET content = text_of(3, 2) WHERE id = u(3);
SELECT bacmr_reindex_retry_failed(:job);
SELECT is((SELECT failed_chunks FROM bacmr_reindex_status WHERE job_id = :job), 0::bigint, 'retry_failed takes them off the list');
DELETE FROM chunks WHERE id = u(14);
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, failed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(completed,0)', 'mended, or gone: none is left');
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'math', (job(:job)).target_namespace), 'the target is what the table is');
-- A text that was good, and is blanked
UPDATE chunks SET content = ' ' WHERE id = u(5);
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, failed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(completed,1)', 'a text that is blanked fails');
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'math', (job(:job)).target_namespace), 'and its old vector goes');
UPDATE chunks SET content = text_of(5) WHERE id = u(5);
CALL bacmr_reindex_run(:job);
SELECT is((SELECT failed_chunks FROM bacmr_reindex_status WHERE job_id = :job), 0::bigint, 'a change mends it without a retry');
SELECT is((SELECT v::text FROM bacmr_reindex_verify(:job) v), '(19,19,0,t)', 'verified');
SELECT bacmr_reindex_swap(:job);
SELECT raises(format('SELECT bacmr_reindex_retry_failed(%s)', :job), '55000', 'cannot be tried again', 'bacmr_vectors_repair', 'no retry after the swap');
CALL bacmr_reindex_run();

-- ---------------------------------------------------------------------------------------------
-- Transactions that are older than the job
-- ---------------------------------------------------------------------------------------------

TRUNCATE chunks;
SELECT fill('math', 1, 30);
SELECT connect('old');
SELECT dblink_exec('old', 'BEGIN ISOLATION LEVEL REPEATABLE READ');
SELECT n FROM dblink('old', 'SELECT count(*) FROM bacmr_namespace') t(n bigint);    -- its snapshot
SELECT bacmr_reindex('math', 'local-64', batch_size => 10) AS job \gset
CALL bacmr_reindex_run(:job, 1);
SELECT dblink_exec('old', 'UPDATE chunks SET content = text_of(1, 2) WHERE id = u(1)');
SELECT dblink_exec('old', 'INSERT INTO chunks (id, namespace, content) VALUES (u(0), ''math'', text_of(31))');
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'a transaction that began before the job: the job does not wait for it');
SELECT dblink_exec('old', 'COMMIT');
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :job), '55000', 'have not reached', '.', 'but what it wrote is noted');
CALL bacmr_reindex_run(:job);
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'math', (job(:job)).target_namespace), 'and arrives');
-- The swap does not wait for a writer without end, and makes nobody wait who comes behind it.
SELECT dblink_exec('old', 'BEGIN');
SELECT dblink_exec('old', 'UPDATE chunks SET content = text_of(2, 2) WHERE id = u(2)');
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :job), '55P03', 'another session keeps the table', 'Try again', 'a swap gives up on a writer that does not end');
SELECT dblink_exec('old', 'COMMIT');
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :job), '55000', '1 changes of chunks', '.', 'whose change then waits');
CALL bacmr_reindex_run(:job);
SELECT lives_ok(format('SELECT bacmr_reindex_swap(%s)', :job), 'drained, it is swapped');
-- A writer that is under way holds the triggers up: that is why nothing is lost.
CALL bacmr_reindex_run();
SELECT dblink_exec('old', 'BEGIN');
SELECT dblink_exec('old', 'UPDATE chunks SET content = text_of(4, 2) WHERE id = u(4)');
SELECT raises($$SELECT bacmr_reindex('math', 'local-64')$$, '55P03', 'another session keeps the table', 'Try again', 'no job begins under a writer that does not end');
SELECT is((SELECT count(*) FROM bacmr_reindex_status WHERE status = 'queued'), 0::bigint, 'and none is queued');
SELECT dblink_exec('old', 'COMMIT');

-- ---------------------------------------------------------------------------------------------
-- Another session at work, and one that asks it to stop
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_reindex('math', 'local-64', batch_size => 1, concurrency => 1) AS job \gset
-- It waits at the third vector, whose row this session holds.
SELECT connect('gate');
SELECT dblink_exec('gate', 'BEGIN');
SELECT dblink_exec('gate', format('INSERT INTO bacmr_vector VALUES (%L, u(2)::text, ''{1}'', ''{}'')', (job(:job)).target_namespace));
SELECT dblink_send_query('old', format('CALL bacmr_reindex_run(%s)', :job));
SELECT ok(comes_true(format('(SELECT processed_chunks = 2 FROM bacmr_reindex_status WHERE job_id = %s)', :job)), 'a job at work in another session');
SELECT is((SELECT (status, progress_pct > 0, eta > '0')::text FROM bacmr_reindex_status WHERE job_id = :job), '(running,t,t)', 'running, with its progress');
SELECT is((SELECT array_agg(status ORDER BY batch) FROM bacmr_reindex_batch WHERE job_id = :job), '{done,done,running}', 'the third batch is on its way');
SELECT raises(format('SELECT bacmr_reindex_resume(%s)', :job), '55000', 'is running, so it cannot be resumed', '.', 'it is not resumed');
SELECT raises(format('SELECT bacmr_reindex_discard(%s)', :job), '55000', 'is running, so it cannot be discarded', 'cancel', 'nor discarded');
SELECT raises(format('SELECT * FROM bacmr_reindex_verify(%s)', :job), '55000', 'is running, so it cannot be verified', 'end', 'nor verified');
CALL bacmr_reindex_run(:job);
SELECT is(:'ERROR'::text, 'false', 'a second session does not work on it');
SELECT is((SELECT processed_chunks FROM bacmr_reindex_status WHERE job_id = :job), 2::bigint, 'indeed');
SELECT bacmr_reindex_pause(:job);
SELECT dblink_exec('gate', 'ROLLBACK');
SELECT ok(comes_true('dblink_is_busy(''old'') = 0'), 'paused, it stops by itself');
SELECT ok((SELECT status = 'paused' AND processed_chunks BETWEEN 3 AND 31 FROM bacmr_reindex_status WHERE job_id = :job), 'in good order');
SELECT is((SELECT count(*) FROM bacmr_reindex_batch WHERE job_id = :job AND status = 'running'), 0::bigint, 'with no batch on its way');
SELECT * FROM dblink_get_result('old') t(x text);
SELECT * FROM dblink_get_result('old') t(x text);
SELECT bacmr_reindex_resume(:job);
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'resumed, it goes on to its end');
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'math', (job(:job)).target_namespace), 'with every chunk');
SELECT is((SELECT (count(*), sum(chunks))::text FROM bacmr_reindex_batch WHERE job_id = :job), '(31,31)', 'each embedded once');
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();

-- Cancelled in the midst of a statement: it can go on at once.
SELECT bacmr_reindex('math', 'local-64', batch_size => 1, concurrency => 1) AS job \gset
SELECT dblink_exec('gate', 'BEGIN');
SELECT dblink_exec('gate', format('INSERT INTO bacmr_vector VALUES (%L, u(2)::text, ''{1}'', ''{}'')', (job(:job)).target_namespace));
SELECT dblink_send_query('old', format('CALL bacmr_reindex_run(%s)', :job));
SELECT ok(comes_true(format('(SELECT processed_chunks = 2 FROM bacmr_reindex_status WHERE job_id = %s)', :job)), 'at work again');
SELECT is(dblink_cancel_query('old'), 'OK', 'a cancel');
SELECT ok(comes_true('dblink_is_busy(''old'') = 0'), 'ends it');
SELECT dblink_exec('gate', 'ROLLBACK');
SELECT dblink_disconnect('old');
SELECT is(status_of(:job), 'queued', 'the job waits for the next one who works on it');
CALL bacmr_reindex_run(:job);
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'math', (job(:job)).target_namespace), 'who does the rest');
SELECT is((SELECT (count(*), sum(chunks))::text FROM bacmr_reindex_batch WHERE job_id = :job), '(31,31)', 'each batch once');
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();
SELECT dblink_disconnect('gate');

-- ---------------------------------------------------------------------------------------------
-- Columns
-- ---------------------------------------------------------------------------------------------

-- A chunk without a namespace is nobody's: it makes no job start again.
ALTER TABLE chunks ALTER namespace DROP NOT NULL;
SELECT bacmr_reindex('math', 'local-64', batch_size => 10) AS job \gset
CALL bacmr_reindex_run(:job, 1);
INSERT INTO chunks (namespace, content) VALUES (NULL, 'nobody''s');
UPDATE chunks SET namespace = NULL WHERE id IN (u(9), u(19));
CALL bacmr_reindex_run(:job);
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'math', (job(:job)).target_namespace), 'what goes to no namespace leaves the target');
SELECT ok((SELECT sum(chunks) <= 31 FROM bacmr_reindex_batch WHERE job_id = :job), 'and nothing is embedded again for it');
-- A column that is renamed under a job: too much is noted rather than too little.
ALTER TABLE chunks RENAME namespace TO space;
UPDATE chunks SET content = text_of(28, 2) WHERE id = u(28);
SELECT bacmr_attach('chunks', 'chunks', '{"namespace": "space"}');
CALL bacmr_reindex_run(:job);
ALTER TABLE chunks RENAME space TO namespace;
SELECT bacmr_attach('chunks', 'chunks');
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'math', (job(:job)).target_namespace), 'a change while a column had another name arrives');
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();

-- ---------------------------------------------------------------------------------------------
-- The extension goes while a job is queued
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_reindex('math', 'local-64') AS job \gset
SELECT isnt(capture_triggers(), 0::bigint, 'watched again');
CREATE TABLE vectors_before AS SELECT * FROM bacmr_vector;
DROP FUNCTION job(bigint);
SELECT lives_ok('DROP EXTENSION bacmr_ops', 'DROP EXTENSION while a job is queued');
SELECT is(capture_triggers(), 0::bigint, 'takes the triggers along');
SELECT lives_ok('UPDATE chunks SET content = content', 'chunks can be written');
SELECT bag_eq('TABLE bacmr_vector', 'TABLE vectors_before', 'the vectors are the user''s, and stay');

\ir include/reindex_end.psql
