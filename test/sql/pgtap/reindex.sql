-- Reindex with what needs no network, from the plan to the cleanup: what a job writes, how it is
-- watched, verification, comparison, swap and way back, all namespaces at once, repair; and tables
-- of other shapes. What changes meanwhile: reindex_changes.sql; what is refused: reindex_guards.sql.
\set tests 175
\ir include/reindex.psql

-- ---------------------------------------------------------------------------------------------
-- The plan
-- ---------------------------------------------------------------------------------------------

SELECT fill('math', 1, 25);
SELECT is((SELECT (chunks, batches, target_namespace)::text FROM bacmr_reindex_plan('math')), '(25,1,math-v2)',
  'plan: chunks, batches of 100, target');
SELECT is((SELECT estimated_cost FROM bacmr_reindex_plan('math', 'local-64', 'bacmr_local')), 0::numeric,
  'plan: what is embedded here costs nothing');
-- By script: Arabic takes more tokens a character (core/token_estimate.hpp measures 1.5 and 4).
INSERT INTO chunks (namespace, content) VALUES
  ('french', 'Deux fractions de même dénominateur s''additionnent par leurs numérateurs.'),
  ('arabic', 'لجمع كسرين لهما المقام نفسه نجمع البسطين ونكتب المقام المشترك تحت المجموع.');
SELECT ok(estimated_tokens BETWEEN 15 AND 26, 'plan: tokens of a French sentence: ' || estimated_tokens)
  FROM bacmr_reindex_plan('french');
SELECT ok(estimated_tokens BETWEEN 35 AND 60, 'plan: tokens of an Arabic one as long: ' || estimated_tokens)
  FROM bacmr_reindex_plan('arabic');
INSERT INTO chunks (namespace, content) SELECT 'many', 'word ' || n FROM generate_series(1, 201) n;
SELECT is((SELECT (chunks, batches)::text FROM bacmr_reindex_plan('many')), '(201,3)', 'plan: the last batch is not full');
SELECT is((SELECT (chunks, estimated_tokens, batches)::text FROM bacmr_reindex_plan('nobody')), '(0,0,0)',
  'plan: a namespace without chunks');
SELECT is_empty('SELECT * FROM bacmr_reindex_job', 'a plan queues nothing');

-- ---------------------------------------------------------------------------------------------
-- A job from its queue to the cleanup
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_reindex('math', 'local-64', batch_size => 10) AS job \gset
SELECT is((SELECT (status, total_chunks, processed_chunks, failed_chunks, progress_pct, target_namespace, model,
                   chunks_per_second IS NULL, eta IS NULL, started_at IS NULL, finished_at IS NULL, error IS NULL)::text
           FROM bacmr_reindex_status WHERE job_id = :job),
  '(queued,25,0,0,0.0,math-v2,local-64,t,t,t,t,t)', 'queued');
SELECT is((SELECT (kind, old_namespace, embedder, vector_store, dimensions, concurrency, batch_size, role_name)::text
           FROM job(:job)), '(reindex,math,bacmr_local,bacmr_postgres,64,4,10,postgres)', 'with the defaults');
SELECT alike(bacmr_reindex_summary(:job), '%(queued)%bacmr_reindex_run(' || :job || ')%', 'summary: let it work');

CALL bacmr_reindex_run(:job, 1);
SELECT is(:'ERROR'::text, 'false', 'CALL: one batch');
SELECT is((SELECT (status, processed_chunks, progress_pct, chunks_per_second > 0, eta > '0', started_at IS NOT NULL)::text
           FROM bacmr_reindex_status WHERE job_id = :job), '(queued,10,40.0,t,t,t)', 'the view shows how far, how fast, how long yet');
SELECT results_eq(format('SELECT batch, first_id, last_id, chunks, status, tokens > 0, finished_at >= started_at'
                         ' FROM bacmr_reindex_batch WHERE job_id = %s', :job),
  $$VALUES (1::bigint, u(1)::text, u(10)::text, 10, 'done'::text, true, true)$$, 'its row of the batches');
SELECT results_eq('SELECT ids_in(''math-v2'')', 'SELECT u(n)::text FROM generate_series(1, 10) n', 'and its ten vectors alone');
CALL bacmr_reindex_run(:job, 2);
SELECT is((SELECT (status, processed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(queued,25)',
  'max_batches is met by the last batches: all is there, nothing verified');
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, processed_chunks, failed_chunks, progress_pct, eta IS NULL, finished_at >= started_at, error IS NULL)::text
           FROM bacmr_reindex_status WHERE job_id = :job), '(completed,25,0,100.0,t,t,t)', 'completed');
SELECT is((SELECT array_agg((batch, chunks, status)::text ORDER BY batch) FROM bacmr_reindex_batch WHERE job_id = :job),
  '{"(1,10,done)","(2,10,done)","(3,5,done)"}', 'three batches');
SELECT is((SELECT sum(tokens) FROM bacmr_reindex_batch WHERE job_id = :job),
  (SELECT tokens_used FROM bacmr_reindex_status WHERE job_id = :job)::numeric, 'the tokens of the batches are the job''s');
SELECT is((SELECT (expected, actual, verified_at IS NOT NULL, swapped_at IS NULL)::text FROM job(:job)), '(25,25,t,t)', 'verified');
SELECT is_empty($$SELECT * FROM differences('math', 'math-v2')$$, 'ids, vectors and metadata are exactly the chunks''');
SELECT is((SELECT max(abs(1 - bacmr_cosine(embedding, embedding))) < 1e-6 AND
                  max(abs(1 - (SELECT sum(x * x) FROM unnest(embedding) x))) < 1e-5 FROM bacmr_vector), true, 'of length 1');
SELECT is_empty('SELECT * FROM bacmr_embedding_cache', 'what costs nothing is not kept a second time');
CALL bacmr_reindex_run(:job);
SELECT is(:'ERROR'::text, 'false', 'nothing more to do is no error');
SELECT is((SELECT (expected, actual, missing, ok)::text FROM bacmr_reindex_verify(:job)), '(25,25,0,t)', 'verify by hand');

SELECT is(bacmr_active_namespace('math'), 'math', 'until the swap the namespace stands for itself');
SELECT alike(bacmr_reindex_summary(:job), E'Reindex Summary:%Old namespace: math\n%New namespace: math-v2\n%Model: local-64\n'
  '%Chunks processed: 25\n%Chunks failed: 0\n%Vectors upserted: 25\n%Verified count: 25\n%Next steps:\n%bacmr_reindex_compare('
  || :job || ')%bacmr_reindex_swap(' || :job || ')%bacmr_reindex_cleanup(' || :job || ')%', 'summary: numbers and next steps');
SELECT raises(format('SELECT * FROM bacmr_reindex_compare(%s)', :job), '55000', 'nothing is known of the model', 'Compare by hand',
  'compare: not with a namespace of unknown origin');
SELECT is(bacmr_reindex_swap(:job), 'math-v2', 'swap returns the target');
SELECT is((SELECT (active_namespace, previous_namespace, model, dimensions, vector_store, embedder, swapped_at IS NOT NULL)::text
           FROM bacmr_namespace WHERE namespace = 'math'), '(math-v2,math,local-64,64,bacmr_postgres,bacmr_local,t)', 'what is active');
SELECT is(bacmr_active_namespace('math'), 'math-v2', 'and what a query asks for');
SELECT alike(bacmr_reindex_summary(:job), '%bacmr_reindex_rollback(''math'')%bacmr_reindex_cleanup(' || :job || ')%',
  'summary: how to go back');
SELECT isnt(capture_triggers(), 0::bigint, 'capture goes on');
CALL bacmr_reindex_run();
SELECT is(((job(:job)).capturing, capture_triggers(), (SELECT count(*) FROM bacmr_chunk_change)), (false, 0::bigint, 0::bigint),
  'until nothing is left to drain: then triggers and notes are gone');

-- The next version, in another model; compared with the first.
SELECT is((SELECT target_namespace FROM bacmr_reindex_plan('math')), 'math-v3', 'plan: counted on from the active version');
SELECT bacmr_reindex('math', 'local-32', 'bacmr_local', 'bacmr_postgres', NULL, NULL, NULL, NULL) AS second \gset
SELECT is((SELECT (old_namespace, target_namespace, model, batch_size, concurrency)::text FROM job(:second)),
  '(math-v2,math-v3,local-32,100,4)', 'NULL is the default');
CALL bacmr_reindex_run(:second);
SELECT is_empty($$SELECT * FROM differences('math', 'math-v3', 32)$$, 'the same chunks, as the other model has them');
SELECT is_empty($$SELECT * FROM differences('math', 'math-v2')$$, 'and nothing happened to the first');
CREATE TABLE compared AS SELECT * FROM bacmr_reindex_compare(:second, 20, 5);
SELECT is((SELECT (array_agg(language ORDER BY language), sum(queries))::text FROM compared), '("{ar,en,fr}",20)',
  'compare: by language, as many queries as asked for');
SELECT ok(bool_and(overlap_at_k BETWEEN 0 AND 1 AND self_hit_rate BETWEEN 0 AND 1), 'compare: rates') FROM compared;
SELECT ok(bool_and(self_hit_rate >= 0.5 AND overlap_at_k > 0), 'compare: a sentence finds its chunk, and much of what it found: '
  || string_agg(compared::text, ' ')) FROM compared;
SELECT ok(avg(overlap_at_k) < 1, 'compare: 32 dimensions do not find all that 64 do') FROM compared;
SELECT is((SELECT (count(*), sum(queries))::text FROM bacmr_reindex_compare(:second)), '(3,25)', 'compare: no more queries than chunks');
SELECT results_eq(format('SELECT language, queries, overlap_at_k FROM bacmr_reindex_compare(%s, k => 25)', :second),
  $$VALUES ('ar', 9::bigint, 1::float8), ('en', 8, 1), ('fr', 8, 1)$$, 'compare: where k is all of them the two agree');
SELECT raises(format('SELECT * FROM bacmr_reindex_compare(%s, %s)', :second, arguments), '22023', 'sample must be', 'good picture',
  'compare: ' || arguments) FROM unnest('{"0","10001","10, 0","10, 1001","-1"}'::text[]) arguments;
SELECT bacmr_reindex_swap(:second);
SELECT is((SELECT sum(queries) FROM bacmr_reindex_compare(:second)), 25::numeric, 'compare: also after the swap');
SELECT is((SELECT (active_namespace, previous_namespace, model, previous_model, dimensions, previous_dimensions)::text
           FROM bacmr_namespace WHERE namespace = 'math'), '(math-v3,math-v2,local-32,local-64,32,64)', 'the second swap');

-- The way back, and forth
SELECT is(bacmr_reindex_rollback('math'), 'math-v2', 'rollback returns what is active');
SELECT is((SELECT (active_namespace, previous_namespace, model, previous_model, dimensions, previous_dimensions)::text
           FROM bacmr_namespace WHERE namespace = 'math'), '(math-v2,math-v3,local-64,local-32,64,32)', 'with its model');
SELECT raises(format('SELECT bacmr_reindex_cleanup(%s)', :second), '55000', '"math-v2" is active', 'rolled back',
  'cleanup: not of what is active');
SELECT is((SELECT count(*) FROM ids_in('math-v2')), 25::bigint, 'all of it is still there');
SELECT alike(bacmr_reindex_summary(:second), '%rolled back%bacmr_reindex_discard(' || :second || ')%', 'its summary says what can be done');
SELECT raises(format('SELECT bacmr_reindex_discard(%s)', :job), '55000', 'cannot be discarded', '.', 'discard: not the job that made what is active');
BEGIN;
SELECT lives_ok(format('SELECT bacmr_reindex_discard(%s)', :second), 'discard: the target of a job that was rolled back');
SELECT is((SELECT (active_namespace, previous_namespace, count(v.id))::text FROM bacmr_namespace n
           LEFT JOIN bacmr_vector v ON v.namespace = 'math-v3' WHERE n.namespace = 'math' GROUP BY active_namespace, previous_namespace), '(math-v2,,0)',
  'its vectors are gone, and nothing is left to go back to');
SELECT is((job(:second)).status, 'cancelled', 'and the job is cancelled');
ROLLBACK;
SELECT is(bacmr_reindex_rollback('math'), 'math-v3', 'rollback of a rollback');
CALL bacmr_reindex_run();

SELECT lives_ok(format('SELECT bacmr_reindex_cleanup(%s)', :second), 'cleanup');
SELECT is((SELECT array_agg(DISTINCT namespace) FROM bacmr_vector WHERE namespace LIKE 'math%'), '{math-v3}', 'deletes the old namespace alone');
SELECT is((SELECT (previous_namespace, previous_model, previous_embedder)::text FROM bacmr_namespace WHERE namespace = 'math'), '(,,)',
  'which is nobody''s way back any more');
SELECT raises(format('SELECT bacmr_reindex_cleanup(%s)', :second), '55000', 'cannot be cleaned up', 'done', 'cleanup: once');
SELECT raises($$SELECT bacmr_reindex_rollback('math')$$, '55000', 'no previous namespace', 'bacmr_namespace', 'no rollback to what is gone');
SELECT raises(format('SELECT * FROM bacmr_reindex_compare(%s)', :second), '55000', 'cannot be compared', 'one namespace', 'nothing to compare with');
-- By the application itself, or in the store's own console
SELECT bacmr_reindex('math', 'local-64') AS third \gset
SELECT is((job(:third)).target_namespace, 'math-v4', 'the fourth version');
CALL bacmr_reindex_run(:third);
SELECT bacmr_reindex_swap(:third);
CALL bacmr_reindex_run();
DELETE FROM bacmr_vector WHERE namespace = 'math-v3';
SELECT raises($$SELECT bacmr_reindex_rollback('math')$$, '55000', '"math-v3" holds no vectors', 'Reindex', 'no rollback to an empty namespace');

-- ---------------------------------------------------------------------------------------------
-- Verification finds what is wrong
-- ---------------------------------------------------------------------------------------------

SELECT fill('proof', 31, 42);
SELECT bacmr_reindex('proof', 'local-64') AS job \gset
CALL bacmr_reindex_run(:job);
CREATE TABLE kept AS SELECT * FROM bacmr_vector WHERE namespace = 'proof-v2';
CREATE FUNCTION put_right() RETURNS void LANGUAGE sql AS $$
  DELETE FROM bacmr_vector WHERE namespace = 'proof-v2';
  INSERT INTO bacmr_vector SELECT * FROM kept $$;
CREATE FUNCTION verdict(job bigint) RETURNS text LANGUAGE sql AS
  'SELECT v::text FROM bacmr_reindex_verify(job) v';

DELETE FROM bacmr_vector WHERE namespace = 'proof-v2' AND id = u(33)::text;
SELECT is(verdict(:job), '(12,11,1,f)', 'a vector is missing');
SELECT is((SELECT (status, error)::text FROM bacmr_reindex_status WHERE job_id = :job) ~ 'failed.*1 vectors missing, 0 too many', true,
  'the job says so');
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :job), '55000', 'not verified', 'bacmr_reindex_verify', 'and is not swapped');
SELECT raises(format('SELECT bacmr_reindex_swap(%s, true)', :job), '55000', 'not verified', 'bacmr_reindex_verify', 'by no force');
SELECT put_right();
SELECT is(verdict(:job), '(12,12,0,t)', 'put right');
SELECT is(status_of(:job), 'completed', 'and completed again');
INSERT INTO bacmr_vector SELECT namespace, 'too much', embedding, metadata FROM kept LIMIT 1;
SELECT is(verdict(:job), '(12,13,0,f)', 'a vector too many');
SELECT put_right();
UPDATE bacmr_vector SET id = u(99)::text WHERE namespace = 'proof-v2' AND id = u(42)::text;
SELECT is(verdict(:job), '(12,12,1,f)', 'as many as there should be, but others');
SELECT put_right();
UPDATE bacmr_vector SET embedding = embedding[:63] WHERE namespace = 'proof-v2' AND id = u(35)::text;
SELECT is(verdict(:job), '(12,12,0,f)', 'another dimension');
SELECT put_right();
UPDATE bacmr_vector v SET embedding = k.embedding FROM kept k
  WHERE v.namespace = 'proof-v2' AND v.id = u(36)::text AND k.id = u(37)::text;
SELECT is(verdict(:job), '(12,12,0,f)', 'another chunk''s vector');
SELECT alike((job(:job)).error, '%1 of 12 sampled ones wrong%', 'the job says how many');
-- The run looks which.
SELECT bacmr_reindex_resume(:job);
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'resume puts right what a verification by hand has found');
SELECT is_empty($$SELECT * FROM differences('proof', 'proof-v2')$$, 'exactly');
-- What its own verification finds too much is deleted, what is missing shows as a failure and is mended by a resume.
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();
SELECT bacmr_reindex('proof', 'local-64', batch_size => 4) AS job \gset
CALL bacmr_reindex_run(:job, 3);
INSERT INTO bacmr_vector SELECT 'proof-v3', u(98)::text, embedding, metadata FROM kept LIMIT 1;
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'what is too much is deleted');
SELECT is_empty($$SELECT * FROM differences('proof', 'proof-v3')$$, 'and nothing else');
SELECT bacmr_reindex_swap(:job);
SELECT bacmr_reindex('proof', 'local-64', batch_size => 4) AS job \gset
CALL bacmr_reindex_run(:job, 3);
DELETE FROM bacmr_vector WHERE namespace = 'proof-v4' AND id IN (u(31)::text, u(40)::text);
CALL bacmr_reindex_run(:job);
SELECT is(:'SQLSTATE'::text, 'P0001', 'a store that has lost vectors: the call fails');
SELECT alike(:'LAST_ERROR_MESSAGE'::text, '%2 vectors missing%', 'and says how many');
SELECT is(status_of(:job), 'failed', 'and so has the job');
SELECT bacmr_reindex_resume(:job);
CALL bacmr_reindex_run(:job);
SELECT is((status_of(:job), (job(:job)).error), ('completed'::text, NULL::text), 'resumed it is completed');
SELECT is_empty($$SELECT * FROM differences('proof', 'proof-v4')$$, 'and whole');
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();

-- ---------------------------------------------------------------------------------------------
-- The active namespace, at any time: verify and repair
-- ---------------------------------------------------------------------------------------------

SELECT is((SELECT v::text FROM bacmr_vectors_verify('proof') v), '(12,12,0,t,0)', 'chunks and vectors match');
DELETE FROM bacmr_vector WHERE namespace = 'proof-v4' AND id IN (u(32)::text, u(34)::text, u(36)::text);
INSERT INTO bacmr_vector SELECT 'proof-v4', x, embedding, metadata FROM unnest(ARRAY[u(97)::text, u(96)::text]) x, (SELECT * FROM kept LIMIT 1) k;
SELECT is((SELECT v::text FROM bacmr_vectors_verify('proof') v), '(12,11,3,f,2)', 'three are missing, two too many');
SELECT is((SELECT v::text FROM bacmr_vectors_verify('proof', 'bacmr_postgres') v), '(12,11,3,f,2)', 'in the store that is named');
SELECT bacmr_vectors_repair('proof') AS job \gset
SELECT is((SELECT (kind, target_namespace, model, status)::text FROM job(:job)), '(repair,proof-v4,local-64,queued)',
  'repair: a job, in the model of the active namespace');
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, error IS NULL)::text FROM bacmr_reindex_status WHERE job_id = :job), '(completed,t)', 'repair: completed');
SELECT is_empty($$SELECT * FROM differences('proof', 'proof-v4')$$, 'repair: all is right');
SELECT is((SELECT v::text FROM bacmr_vectors_verify('proof') v), '(12,12,0,t,0)', 'repair: and verified');
SELECT ok((SELECT tokens_used FROM bacmr_reindex_status WHERE job_id = :job) <
          0.5 * (SELECT estimated_tokens FROM bacmr_reindex_plan('proof')), 'repair: only what was missing is paid for');
SELECT is(capture_triggers(), 0::bigint, 'repair: when it is over nothing is captured any more');
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :job), '55000', 'cannot be swapped', 'active namespace itself', 'a repair is not swapped');
SELECT raises(format('SELECT * FROM bacmr_reindex_compare(%s)', :job), '55000', 'cannot be compared', '.', 'nor compared');
SELECT raises(format('SELECT bacmr_reindex_cleanup(%s)', :job), '55000', 'cannot be cleaned up', '.', 'nor cleaned up');
SELECT raises(format('SELECT bacmr_reindex_discard(%s)', :job), '55000', 'cannot be discarded', '.', 'nor discarded');
SELECT alike(bacmr_reindex_summary(:job), '%(completed)%active namespace is complete%', 'its summary');
-- Ids that no chunk can have: of another application's vectors, or of an older key.
INSERT INTO bacmr_vector SELECT 'proof-v4', x, embedding, metadata FROM unnest('{"chapter 1#0",""}'::text[]) x, (SELECT * FROM kept LIMIT 1) k;
SELECT bacmr_vectors_repair('proof') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, error)::text FROM bacmr_reindex_status WHERE job_id = :job), '(completed,)',
  'repair: deletes also vectors whose id is no key of the chunks');
SELECT is_empty($$SELECT * FROM differences('proof', 'proof-v4')$$, 'repair: those, and nothing else');
-- A namespace that no job has ever swapped, and that holds nothing yet
SELECT fill('new', 51, 54);
SELECT is((SELECT v::text FROM bacmr_vectors_verify('new') v), '(4,0,4,f,0)', 'a namespace without vectors');
SET bacmr.embedder = 'bacmr_local';
SELECT bacmr_vectors_repair('new') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is(((job(:job)).target_namespace, (SELECT count(*) FROM ids_in('new'))), ('new'::text, 4::bigint), 'is filled by a repair');
RESET bacmr.embedder;
DELETE FROM bacmr_vector WHERE namespace = 'new';
DELETE FROM chunks WHERE namespace = 'new';
SELECT is((SELECT v::text FROM bacmr_vectors_verify('new') v), '(0,0,0,t,0)', 'no chunks and no vectors match');

-- ---------------------------------------------------------------------------------------------
-- All namespaces; names of every kind
-- ---------------------------------------------------------------------------------------------

DELETE FROM chunks;
TRUNCATE bacmr_vector, bacmr_namespace, bacmr_reindex_job, bacmr_reindex_batch;
CREATE TABLE names AS SELECT name, row_number() OVER (ORDER BY name COLLATE "C")::int AS n FROM unnest(ARRAY[
  'plain', 'grade/12/maths', 'it''s "quoted"', 'الرياضيات-١٢', 'with blank', '%s $1 \', 'x-v2', '-v7', 'été', '; DROP TABLE chunks --',
  repeat('long ', 50)]) name;
SELECT fill(name, 2 * n, 2 * n + 1) FROM names;
CREATE TABLE queued AS SELECT * FROM bacmr_reindex_all('local-64');
SELECT results_eq('SELECT namespace FROM queued ORDER BY 1', 'SELECT name FROM names ORDER BY 1', 'a job for each namespace');
CALL bacmr_reindex_run();
SELECT is((SELECT array_agg(DISTINCT status) FROM bacmr_reindex_status), '{completed}', 'CALL without a job works on all of them');
SELECT is_empty('SELECT q.namespace, d.* FROM queued q JOIN bacmr_reindex_job j USING (job_id), LATERAL differences(q.namespace, j.target_namespace) d',
  'each is what it should be');
SELECT is((SELECT (job(job_id)).target_namespace FROM queued WHERE namespace = name), target, 'target of ' || left(name, 30))
  FROM (VALUES ('plain', 'plain-v2'), ('x-v2', 'x-v3'), ('-v7', '-v7-v2'), ('الرياضيات-١٢', 'الرياضيات-١٢-v2'),
               ('it''s "quoted"', 'it''s "quoted"-v2')) v(name, target);
SELECT is(bacmr_reindex_swap(job_id), (job(job_id)).target_namespace, 'swap: ' || left(namespace, 30)) FROM queued ORDER BY job_id;
SELECT is(bacmr_active_namespace(namespace), (job(job_id)).target_namespace, 'active: ' || left(namespace, 30)) FROM queued ORDER BY job_id;
SELECT is((SELECT ok FROM bacmr_vectors_verify(namespace)), true, 'verified: ' || left(namespace, 30)) FROM queued ORDER BY job_id;
CALL bacmr_reindex_run();
SELECT is(capture_triggers(), 0::bigint, 'after the last of them nothing is captured');
SELECT is(bacmr_active_namespace('nobody''s'), 'nobody''s', 'an unknown namespace stands for itself');
SELECT is(bacmr_active_namespace(NULL), NULL, 'and NULL for nothing');
SELECT is((SELECT provolatile FROM pg_proc WHERE proname = 'bacmr_active_namespace'), 's', 'STABLE');
-- A version that the chunks use themselves, or that another job writes to, is passed over.
SELECT fill('plain-v3', 90, 91);
SELECT bacmr_reindex('plain', 'local-64') AS job \gset
SELECT is((job(:job)).target_namespace, 'plain-v4', 'a name that is in the chunks is passed over');
SELECT is((SELECT target_namespace FROM bacmr_reindex_plan('plain-v3')), 'plain-v5', 'one that a job writes to as well');
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);

-- max_cost is for all together: shared out by what each costs. Nothing is paid before a batch begins.
CREATE SERVER priced FOREIGN DATA WRAPPER bacmr_embedder
  OPTIONS (type 'openai', base_url 'http://127.0.0.1:9/v1', model 'm', dimensions '64', price_per_million_tokens '1000000', max_retries '0');
SELECT bacmr_detach('chunks');
CREATE TABLE small (id int PRIMARY KEY, namespace text, content text);
INSERT INTO small VALUES (1, 'a', 'one two three four'), (2, 'b', 'one two three four'), (3, 'b', 'one two three four'), (4, 'c', 'one two three four');
SELECT bacmr_attach('chunks', 'small');
SELECT raises($$SELECT bacmr_reindex_all(embedder => 'priced', vector_store => 'bacmr_postgres')$$, '55000', 'all namespaces would cost about',
  'max_cost', 'all together are above the limit');
CREATE TABLE shares AS SELECT q.namespace, (job(q.job_id)).max_cost
  FROM bacmr_reindex_all(embedder => 'priced', vector_store => 'bacmr_postgres', max_cost => 8) q;
SELECT results_eq('SELECT * FROM shares ORDER BY 1', $$VALUES ('a', 2::numeric), ('b', 4), ('c', 2)$$, 'max_cost is shared out');
SELECT is((SELECT count(*) FROM bacmr_reindex_status WHERE status = 'queued' AND namespace IN ('a', 'b', 'c')), 3::bigint, 'three jobs are queued');
SELECT bacmr_reindex_cancel(job_id) FROM bacmr_reindex_status WHERE status = 'queued';
SELECT bacmr_detach('chunks');
DROP TABLE small;
DROP SERVER priced;

-- ---------------------------------------------------------------------------------------------
-- Tables of other shapes
-- ---------------------------------------------------------------------------------------------

CREATE SCHEMA "Other Place";
CREATE TABLE "Other Place"."Paragraphs" ("Nr." bigint PRIMARY KEY, "the space" varchar(40), body varchar, about json);
INSERT INTO "Other Place"."Paragraphs" SELECT n * 1000000000000 - 3000000000000, 'math', text_of(n), metadata_of(n)::json FROM generate_series(1, 12) n;
INSERT INTO "Other Place"."Paragraphs" VALUES (5, 'else', 'not this one', '{}'), (6, 'math', text_of(60), '["no object"]'), (7, 'math', text_of(61), NULL);
SELECT bacmr_attach('chunks', '"Other Place"."Paragraphs"',
  '{"id": "Nr.", "namespace": "the space", "content": "body", "metadata": "about"}');
SELECT bacmr_reindex('math', 'local-64', batch_size => 3, concurrency => 1) AS job \gset
CALL bacmr_reindex_run(:job, 2);
UPDATE "Other Place"."Paragraphs" SET body = text_of(1, 2) WHERE "Nr." = -2000000000000;
DELETE FROM "Other Place"."Paragraphs" WHERE "Nr." = -1000000000000;
INSERT INTO "Other Place"."Paragraphs" VALUES (-9000000000000, 'math', text_of(62), '{}');
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'other names, a bigint key, json: completed');
SELECT set_eq($$SELECT v.id, v.embedding, v.metadata FROM "Other Place".bacmr_vector v WHERE v.namespace = 'math-v2'$$,
  $$SELECT p."Nr."::text, e.embedding, CASE json_typeof(p.about) WHEN 'object' THEN p.about::jsonb ELSE '{}' END
    FROM "Other Place"."Paragraphs" p JOIN expected e ON e.content = p.body AND e.dimensions = 64 WHERE p."the space" = 'math'$$,
  'in the table of vectors of its schema; metadata that are no object count as none');
SELECT bacmr_reindex_swap(:job);
DELETE FROM "Other Place".bacmr_vector WHERE id = '7';
INSERT INTO "Other Place".bacmr_vector SELECT namespace, 'no number', embedding FROM "Other Place".bacmr_vector WHERE namespace = 'math-v2' LIMIT 1;
CALL bacmr_reindex_run();
SELECT bacmr_vectors_repair('math') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status_of(:job), ok)::text FROM bacmr_vectors_verify('math')), '(completed,t)', 'repair with a bigint key');
SELECT bacmr_detach('chunks');
TRUNCATE bacmr_namespace;

-- A text key, whose order is the collation's; and partitions.
CREATE TABLE pieces (key text, space text NOT NULL, content text NOT NULL, PRIMARY KEY (key, space)) PARTITION BY LIST (space);
CREATE TABLE pieces_math PARTITION OF pieces FOR VALUES IN ('math');
CREATE TABLE pieces_rest (content text NOT NULL, note int, space text NOT NULL, key text NOT NULL);
ALTER TABLE pieces_rest DROP COLUMN note;
ALTER TABLE pieces ATTACH PARTITION pieces_rest DEFAULT;
INSERT INTO pieces SELECT key, 'math', text_of(n::int) FROM unnest(ARRAY['a', 'B', 'é', 'z', 'ع', '', ' ', '''', '"', '\', 'a,b', '{x}', 'NULL', 'A', E'\n']) WITH ORDINALITY k(key, n);
INSERT INTO pieces VALUES ('r', 'rest', text_of(70)), ('s', 'rest', text_of(71));
SELECT bacmr_attach('chunks', 'pieces', '{"id": "key", "namespace": "space"}');
SELECT bacmr_reindex('math', 'local-64', target_namespace => 'pieces', batch_size => 2) AS job \gset
CALL bacmr_reindex_run(:job, 3);
SELECT is((SELECT array_agg(DISTINCT format('%s %s', tgrelid::regclass, tgenabled)) FROM pg_trigger WHERE tgname = 'bacmr_capture_change'),
  '{"pieces A","pieces_math A","pieces_rest A"}', 'each partition is watched, always');
UPDATE pieces SET space = 'math' WHERE key = 'r';
UPDATE pieces SET space = 'rest' WHERE key = '';
UPDATE pieces_math SET content = text_of(80) WHERE key = 'a,b';
DELETE FROM pieces WHERE key = '{x}';
INSERT INTO pieces_math (key, space, content) VALUES ('A0', 'math', text_of(81));
CREATE TABLE pieces_late PARTITION OF pieces FOR VALUES IN ('late');
SELECT is((SELECT tgenabled FROM pg_trigger WHERE tgname = 'bacmr_capture_change' AND tgrelid = 'pieces_late'::regclass), 'A',
  'a partition of later as well');
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'a text key, partitions: completed');
SELECT set_eq($$SELECT id, embedding FROM bacmr_vector WHERE namespace = 'pieces'$$,
  $$SELECT p.key, e.embedding FROM pieces p JOIN expected e ON e.content = p.content AND e.dimensions = 64 WHERE p.space = 'math'$$,
  'every key once, rows that moved between partitions included');
TRUNCATE pieces_math;
INSERT INTO pieces VALUES ('fresh', 'math', text_of(82));
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :job), '55000', 'have not reached', '.', 'TRUNCATE of one partition: noticed');
CALL bacmr_reindex_run(:job);
SELECT results_eq($$SELECT id FROM bacmr_vector WHERE namespace = 'pieces'$$, $$VALUES ('fresh')$$, 'and its vectors are gone');
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();
SELECT is(capture_triggers(), 0::bigint, 'the triggers of the partitions are gone too');

SELECT bacmr_detach('chunks');
TRUNCATE bacmr_namespace, bacmr_chunk_change;
DROP TABLE pieces;
SELECT bacmr_attach();

-- ---------------------------------------------------------------------------------------------
-- From one store to another, and back
-- ---------------------------------------------------------------------------------------------

CREATE SERVER second_store FOREIGN DATA WRAPPER bacmr_vector_store OPTIONS (type 'postgres');
DELETE FROM chunks;
TRUNCATE bacmr_vector, bacmr_reindex_job, bacmr_reindex_batch;
SELECT fill('math', 1, 5);
SELECT bacmr_reindex('math', 'local-64', vector_store => 'bacmr_postgres') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT bacmr_reindex_swap(:job);
SELECT bacmr_reindex('math', 'local-64', vector_store => 'second_store') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();
SELECT is((SELECT vector_store FROM bacmr_namespace WHERE namespace = 'math'), 'second_store', 'a swap changes the store too');
SELECT bacmr_reindex_rollback('math');
SELECT is((SELECT vector_store FROM bacmr_namespace WHERE namespace = 'math'), 'bacmr_postgres', 'and a rollback changes it back');
DROP SERVER second_store;

-- ---------------------------------------------------------------------------------------------
-- The worker
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_reindex('math', 'local-32') AS job \gset
ALTER SYSTEM RESET bacmr.databases;
SELECT pg_reload_conf();
SELECT ok(comes_true(format('status_of(%s) = %L', :job, 'completed')), 'a queued job is the worker''s, where there is one');
SELECT is_empty(format('SELECT * FROM differences(%L, %L, 32)', 'math', (job(:job)).target_namespace), 'it does the same');
SELECT bacmr_reindex_swap(:job);
SELECT ok(comes_true('capture_triggers() = 0'), 'and ends it after the swap');

\ir include/reindex_end.psql
