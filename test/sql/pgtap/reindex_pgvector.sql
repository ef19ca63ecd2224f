-- The store postgres where pgvector is installed: the column's type, an index for each namespace
-- that is made before its first vector and goes with its last, searches by it, other dimensions
-- side by side, and a table of the user's own. Skipped where pgvector is not packaged for the
-- server.
SELECT count(*) > 0 AS packaged FROM pg_available_extensions WHERE name = 'vector' \gset
\if :packaged
\else
  SELECT * FROM plan(1);
  SELECT skip('pgvector is not installed for this server', 1);
  SELECT * FROM finish();
  \q
\endif
\set tests 30
\ir include/reindex.psql

-- In a schema of its own, that is on nobody's path.
DROP TABLE bacmr_vector;
CREATE SCHEMA "Vec tor";
CREATE EXTENSION vector SCHEMA "Vec tor";
CREATE FUNCTION indexes() RETURNS TABLE (definition text) LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY
  SELECT regexp_replace(pg_get_indexdef(indexrelid), 'bacmr_vector_[0-9a-f]{16}_hnsw', 'it') FROM pg_index
  WHERE indrelid = 'bacmr_vector'::regclass AND NOT indisprimary ORDER BY 1;
END $$;
CREATE FUNCTION plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; lines text = '';
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP lines := lines || line || E'\n'; END LOOP;
  RETURN lines;
END $$;

SELECT fill('math', 1, 60);
SELECT bacmr_reindex('math', 'local-64', batch_size => 10) AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'completed and verified');
SELECT is((SELECT format_type(atttypid, atttypmod) FROM pg_attribute
           WHERE attrelid = 'bacmr_vector'::regclass AND attname = 'embedding'), '"Vec tor".vector', 'the column is pgvector''s, of any size');
SELECT results_eq('SELECT definition FROM indexes()', $$VALUES ('CREATE INDEX it ON public.bacmr_vector USING hnsw'
  ' (((embedding)::"Vec tor".vector(64)) "Vec tor".vector_cosine_ops) WHERE (namespace = ''math-v2''::text)')$$,
  'the target has an index');
SELECT set_eq($$SELECT id, embedding::real[] FROM bacmr_vector WHERE namespace = 'math-v2'$$,
  $$SELECT c.id::text, e.embedding FROM chunks c JOIN expected e ON e.content = c.content AND e.dimensions = 64$$,
  'the vectors are what the model makes');
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();

-- Another model, beside it
SELECT bacmr_reindex('math', 'local-32', batch_size => 10) AS second \gset
CALL bacmr_reindex_run(:second);
SELECT is((SELECT count(*) FROM indexes()), 2::bigint, 'another namespace, of other dimensions, has its own');
SELECT ok(bool_and(self_hit_rate > 0.9 AND overlap_at_k BETWEEN 0.1 AND 1), 'compare: searches by both indexes')
  FROM bacmr_reindex_compare(:second, 60, 5);
SET enable_seqscan = off;
SELECT alike(plan_of($$SELECT id FROM bacmr_vector WHERE namespace = 'math-v3'
    ORDER BY embedding::"Vec tor".vector(32) OPERATOR("Vec tor".<=>) array_fill(0.1::real, '{32}')::"Vec tor".vector(32) LIMIT 5$$),
  '%Index Scan using bacmr_vector_%_hnsw%', 'the query of the documentation uses it');
RESET enable_seqscan;

-- What is deleted
SELECT bacmr_reindex_cancel(:second), bacmr_reindex_discard(:second);
SELECT is((SELECT count(*) FROM indexes()), 1::bigint, 'discard takes the index along');
SELECT bacmr_reindex('math', 'local-32', batch_size => 10) AS second \gset
CALL bacmr_reindex_run(:second);
SELECT bacmr_reindex_swap(:second);
CALL bacmr_reindex_run();
SELECT bacmr_reindex_cleanup(:second);
SELECT alike((SELECT string_agg(definition, ';') FROM indexes()), '%vector(32)%math-v3%', 'cleanup that of the old namespace alone');

-- Where the table is locked for longer than is waited for, the vectors go without.
SELECT connect('locker');
SELECT bacmr_reindex('math', 'local-64', target_namespace => 'unlucky', batch_size => 100, concurrency => 1) AS job \gset
SELECT dblink_exec('locker', 'BEGIN');
SELECT dblink_exec('locker', $$INSERT INTO bacmr_vector SELECT 'mine', 'x', embedding FROM bacmr_vector LIMIT 1$$);
CALL bacmr_reindex_run(:job, 1);
SELECT is(:'ERROR'::text, 'false', 'somebody writes to the table: no error');
SELECT dblink_exec('locker', 'ROLLBACK');
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'the job is completed');
SELECT unalike((SELECT string_agg(definition, ';') FROM indexes()), '%unlucky%', 'without an index');
SELECT set_eq($$SELECT id FROM bacmr_vector WHERE namespace = 'unlucky'$$, 'SELECT id::text FROM chunks', 'and no vector is lost');
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);

-- The doctor names what is large, active, and without.
INSERT INTO bacmr_vector (namespace, id, embedding)
  SELECT (SELECT active_namespace FROM bacmr_namespace), 'more ' || n, array_fill(n::real, '{32}')::"Vec tor".vector FROM generate_series(1, 10000) n;
SELECT is_empty($$SELECT * FROM bacmr_doctor() WHERE check_name = 'vector index'$$, 'doctor: all is well with an index');
SELECT indexrelid::regclass AS it FROM pg_index WHERE indrelid = 'bacmr_vector'::regclass AND NOT indisprimary \gset
DROP INDEX :it;
SELECT fix FROM bacmr_doctor() WHERE check_name = 'vector index' \gset
SELECT alike(:'fix'::text, 'CREATE INDEX CONCURRENTLY bacmr_vector_%(32)%', 'doctor: without one it says how to make it');
:fix;
SELECT is(:'ERROR'::text, 'false', 'what it says can be run');
SELECT is_empty($$SELECT * FROM bacmr_doctor() WHERE check_name = 'vector index'$$, 'and mends it');
DELETE FROM bacmr_vector WHERE id LIKE 'more%';

-- Dimensions beyond those of vector's index, and beyond any
SELECT bacmr_reindex('math', 'local-3000', target_namespace => 'large') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', '3,000 dimensions');
SELECT alike((SELECT string_agg(definition, ';') FROM indexes()), '%halfvec(3000)%halfvec_cosine_ops%large%', 'are indexed as halfvec');
SELECT ok(min(self_hit_rate) > 0.9, 'and found by it') FROM bacmr_reindex_compare(:job, 20, 5);
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);
SELECT bacmr_reindex('math', 'local-5000', target_namespace => 'huge') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', '5,000 dimensions: stored');
SELECT unalike((SELECT string_agg(definition, ';') FROM indexes()), '%huge%', 'without an index');
SELECT ok(min(self_hit_rate) > 0.9, 'and searched exactly') FROM bacmr_reindex_compare(:job, 20, 5);
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);

-- A table of the user's own, of one size
DROP TABLE bacmr_vector;
TRUNCATE bacmr_namespace, bacmr_reindex_job, bacmr_reindex_batch;
CREATE TABLE bacmr_vector (namespace text, id text, embedding "Vec tor".halfvec(64), metadata jsonb, PRIMARY KEY (namespace, id));
CREATE INDEX ON bacmr_vector USING hnsw (embedding "Vec tor".halfvec_cosine_ops);
SELECT raises($$SELECT bacmr_reindex('math', 'local-32')$$, '55000', '64', '.', 'a table of halfvec(64): other dimensions are refused');
SELECT bacmr_reindex('math', 'local-64') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'its own are taken');
SELECT is((SELECT count(*) FROM indexes()), 1::bigint, 'its index is the user''s business');
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();
SELECT is((SELECT v::text FROM bacmr_vectors_verify('math') v), '(60,60,0,t,0)', 'verified');

\ir include/reindex_end.psql
