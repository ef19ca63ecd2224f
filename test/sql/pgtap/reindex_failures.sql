-- Reindex jobs that something goes wrong with: changes that wait when a repair begins, jobs that
-- cannot go on beside those that can, jobs that are superseded or stopped at the wrong moment, chunks
-- with metadata that the store cannot hold, vectors that are wrong.
\set tests 42
\ir include/reindex.psql
SELECT connect('worker'), connect('other');
-- Every session's job stops here while this one holds the gate.
CREATE TABLE refused (target text, code text);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE code text := (SELECT r.code FROM public.refused r WHERE r.target = NEW.namespace);
BEGIN
  IF code IS NOT NULL THEN
    RAISE EXCEPTION 'no room for %', NEW.namespace USING ERRCODE = code;
  END IF;
  PERFORM pg_catalog.pg_advisory_xact_lock_shared(815);
  RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON bacmr_vector FOR EACH ROW EXECUTE FUNCTION refuse();
-- Whether a session waits there; and whether one has ended what it was asked.
CREATE FUNCTION at_gate() RETURNS boolean LANGUAGE sql AS
  $$SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)$$;

-- ---------------------------------------------------------------------------------------------
-- A repair, and changes that wait when it begins
-- ---------------------------------------------------------------------------------------------

SELECT fill('mend', 1, 12), fill('quiet', 13, 14);
SELECT bacmr_reindex('mend', 'local-64') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT bacmr_reindex_swap(:job);
CALL bacmr_reindex_run();
DELETE FROM bacmr_vector WHERE namespace = 'mend-v2' AND id IN (u(2)::text, u(3)::text);
INSERT INTO bacmr_vector VALUES ('mend-v2', 'nobody', '{1}', '{}');
SELECT bacmr_vectors_repair('mend') AS job \gset
UPDATE chunks SET content = text_of(5, 2) WHERE id = u(5);
CALL bacmr_reindex_run(:job);
SELECT is(:'ERROR'::text, 'false', 'a repair deals with what is missing, though a chunk has changed before it began');
SELECT is((status_of(:job), (job(:job)).error), ('completed'::text, NULL::text), 'and is completed');
SELECT is_empty($$SELECT * FROM differences('mend', 'mend-v2')$$, 'with everything mended');
SELECT is((SELECT (total_chunks, processed_chunks, progress_pct)::text FROM bacmr_reindex_status WHERE job_id = :job), '(4,4,100.0)',
  'its progress counts what it has mended');
SELECT alike(bacmr_reindex_summary(:job), '%Vectors upserted: 3%Verified count: 12%', 'its summary what it has stored');
SELECT bacmr_vectors_repair('mend') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is((SELECT (status, total_chunks, processed_chunks, progress_pct)::text FROM bacmr_reindex_status WHERE job_id = :job), '(completed,0,0,100.0)',
  'a repair that finds nothing has nothing to do');

-- ---------------------------------------------------------------------------------------------
-- Jobs that cannot go on, and those behind them
-- ---------------------------------------------------------------------------------------------

SELECT fill('stuck', 21, 24), fill('full', 31, 34), fill('free', 41, 44);
SELECT bacmr_reindex('stuck', 'local-64') AS stuck \gset
CALL bacmr_reindex_run(:stuck);
INSERT INTO refused VALUES ('stuck-v2', '23514');
UPDATE chunks SET content = text_of(21, 2) WHERE id = u(21);
SELECT bacmr_reindex('free', 'local-64') AS free \gset
CALL bacmr_reindex_run();
SELECT is((:'SQLSTATE'::text, :'LAST_ERROR_MESSAGE'::text), ('23514'::text, 'no room for stuck-v2'::text),
  'a completed job that cannot store a change: its error is raised');
SELECT is(status_of(:free), 'completed', 'after those behind it had their turn');
SELECT is((status_of(:stuck), (job(:stuck)).error), ('completed'::text, 'no room for stuck-v2'::text), 'it stays completed, and says of what it suffers');
SELECT is((SELECT count(*) FROM bacmr_chunk_change WHERE namespace = 'stuck'), 1::bigint, 'its change waits');
SELECT bacmr_reindex_cancel(:free), bacmr_reindex_discard(:free);
INSERT INTO refused VALUES ('full-v2', '53100');
SELECT bacmr_reindex('full', 'local-64') AS full \gset
SELECT bacmr_reindex('free', 'local-64') AS free \gset
CALL bacmr_reindex_run();
SELECT is(:'SQLSTATE'::text, '23514', 'of two that fail the first one''s error is raised');
SELECT is(:'LAST_ERROR_MESSAGE'::text, format('2 reindex jobs failed; the first of them, %s: no room for stuck-v2', :stuck), 'saying how many failed');
SELECT is((status_of(:full), status_of(:free)), ('failed'::text, 'completed'::text), 'the other has failed, the third is completed');
CALL bacmr_reindex_run(:stuck);
SELECT is(:'SQLSTATE'::text, '23514', 'named, it fails as ever');
TRUNCATE refused;
CALL bacmr_reindex_run();
SELECT is((:'ERROR'::text, (SELECT count(*) FROM bacmr_chunk_change WHERE namespace = 'stuck')), ('false'::text, 0::bigint), 'with room again it is dealt with');
SELECT is_empty($$SELECT * FROM differences('stuck', 'stuck-v2')$$, 'as it should');
SELECT bacmr_reindex_cancel(id), bacmr_reindex_discard(id) FROM unnest(ARRAY[:stuck, :full, :free]) id;

-- ---------------------------------------------------------------------------------------------
-- A job that is superseded, or cancelled, while it deals with a change
-- ---------------------------------------------------------------------------------------------

SELECT fill('old', 51, 54);
SELECT bacmr_reindex('old', 'local-64') AS first \gset
CALL bacmr_reindex_run(:first);
SELECT pg_advisory_lock(815);
UPDATE chunks SET content = text_of(51, 2) WHERE id = u(51);
SELECT dblink_send_query('worker', format('CALL bacmr_reindex_run(%s)', :first));
SELECT ok(comes_true('at_gate()'), 'a completed job deals with a change');
SELECT bacmr_reindex('old', 'local-64') AS second \gset
SELECT isnt(:'second'::text, '', 'meanwhile another job of the namespace takes over');
UPDATE chunks SET content = text_of(52, 2) WHERE id = u(52);
SELECT pg_advisory_unlock(815);
SELECT ok(comes_true('dblink_is_busy(''worker'') = 0'), 'the first stops');
SELECT * FROM dblink_get_result('worker', false) t(x text);
SELECT * FROM dblink_get_result('worker', false) t(x text);
SELECT is((SELECT array_agg(chunk_id ORDER BY chunk_id) FROM bacmr_chunk_change WHERE namespace = 'old'), ARRAY[u(51)::text, u(52)::text],
  'and has left its successor the notes of what changed');
SELECT is((job(:first)).status || ' ' || (job(:second)).status, 'completed queued', 'both are what they were');
CALL bacmr_reindex_run(:first);
SELECT is((SELECT count(*) FROM bacmr_chunk_change WHERE namespace = 'old'), 2::bigint, 'nor does it take any when it is called for');
CALL bacmr_reindex_run(:second);
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'old', (job(:second)).target_namespace), 'the successor deals with them');
-- Cancelled, with a successor at once.
SELECT pg_advisory_lock(815);
UPDATE chunks SET content = text_of(53, 2) WHERE id = u(53);
SELECT dblink_send_query('worker', format('CALL bacmr_reindex_run(%s)', :second));
SELECT ok(comes_true('at_gate()'), 'a completed job deals with a change');
SELECT bacmr_reindex_cancel(:second);
SELECT bacmr_reindex('old', 'local-64') AS third \gset
UPDATE chunks SET content = text_of(54, 2) WHERE id = u(54);
SELECT pg_advisory_unlock(815);
SELECT ok(comes_true('dblink_is_busy(''worker'') = 0'), 'cancelled, it stops');
SELECT * FROM dblink_get_result('worker', false) t(x text);
SELECT * FROM dblink_get_result('worker', false) t(x text);
SELECT ok(EXISTS (SELECT FROM bacmr_chunk_change WHERE namespace = 'old' AND chunk_id = u(54)::text), 'what has changed since is its successor''s');
SELECT is(status_of(:second), 'cancelled', 'it is cancelled');
CALL bacmr_reindex_run(:third);
SELECT is_empty(format('SELECT * FROM differences(%L, %L)', 'old', (job(:third)).target_namespace), 'the successor deals with it');
SELECT bacmr_reindex_cancel(:third), bacmr_reindex_discard(:third);

-- ---------------------------------------------------------------------------------------------
-- A job that is stopped while it is being opened
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION waits_for_chunks() RETURNS boolean LANGUAGE sql AS
  $$SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'chunks'::regclass AND NOT granted)$$;
SELECT fill('late', 61, 64);
SELECT bacmr_reindex('late', 'local-64') AS job \gset
DROP TRIGGER bacmr_capture_change ON chunks;
-- Whoever opens the job wants the trigger back, and waits for this one. At most 5 s.
SELECT dblink_exec('other', 'BEGIN'), dblink_exec('other', 'DELETE FROM chunks WHERE id = u(64)');
SELECT dblink_send_query('worker', format('CALL bacmr_reindex_run(%s)', :job));
SELECT ok(comes_true('waits_for_chunks()'), 'a job is being opened');
SELECT bacmr_reindex_pause(:job);
SELECT dblink_exec('other', 'COMMIT');
SELECT ok(comes_true('dblink_is_busy(''worker'') = 0'), 'paused meanwhile, it stops');
SELECT * FROM dblink_get_result('worker', false) t(x text);
SELECT * FROM dblink_get_result('worker', false) t(x text);
SELECT is((SELECT (status, processed_chunks)::text FROM bacmr_reindex_status WHERE job_id = :job), '(paused,0)', 'and stays paused');
SELECT bacmr_reindex_resume(:job);
CALL bacmr_reindex_run(:job);
SELECT is(status_of(:job), 'completed', 'resumed, it is done');

-- ---------------------------------------------------------------------------------------------
-- Vectors that are wrong, wherever they are
-- ---------------------------------------------------------------------------------------------

-- The same sample each time, of the same chunks, would never see these.
SELECT fill('many', 101, 200);
SELECT bacmr_reindex('many', 'local-64') AS job \gset
CALL bacmr_reindex_run(:job);
UPDATE bacmr_vector v SET embedding = (SELECT array_agg(-e ORDER BY n) FROM unnest(v.embedding::real[]) WITH ORDINALITY u (e, n))
WHERE namespace = 'many-v2' AND id NOT IN (SELECT id::text FROM chunks WHERE namespace = 'many' ORDER BY hashtext(id::text) LIMIT 20);
SELECT is((SELECT ok FROM bacmr_reindex_verify(:job)), false, 'vectors of another text are found among 20 that are sampled');
SELECT alike((job(:job)).error, '%of 20 sampled ones wrong%', 'as it says');
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);

-- ---------------------------------------------------------------------------------------------
-- Metadata of type json, which may be more than jsonb can hold
-- ---------------------------------------------------------------------------------------------

ALTER TABLE chunks ALTER metadata DROP DEFAULT;
ALTER TABLE chunks ALTER metadata TYPE json;
SELECT fill('json', 71, 76);
UPDATE chunks SET metadata = v.metadata::json FROM (VALUES (72, '{"a": "\u0000"}'), (73, '{"n": 1e999999}'), (74, '{"s": "\ud800"}'),
  (75, '{"b": "\u0001"}'), (76, '[1]')) v(n, metadata) WHERE id = u(n);
SELECT bacmr_reindex('json', 'local-64') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT is((:'ERROR'::text, status_of(:job)), ('false'::text, 'completed'::text), 'chunks with metadata that jsonb cannot hold do not end a job');
SELECT is((SELECT array_agg(chunk_id ORDER BY chunk_id) FROM bacmr_reindex_failure WHERE job_id = :job), ARRAY[u(72)::text, u(73)::text, u(74)::text],
  'they alone fail');
SELECT ok((SELECT bool_and(reason LIKE 'its metadata do not fit into jsonb: %') FROM bacmr_reindex_failure WHERE job_id = :job), 'saying why');
SELECT is((SELECT array_agg((id, metadata)::text ORDER BY id) FROM bacmr_vector WHERE namespace = 'json-v2' AND id >= u(75)::text),
  ARRAY[(u(75)::text, '{"b": "\u0001"}'::jsonb)::text, (u(76)::text, '{}'::jsonb)::text], 'the others are stored as they are');
UPDATE chunks SET metadata = '{}' WHERE id = u(73);
SELECT bacmr_reindex_retry_failed(:job);
CALL bacmr_reindex_run(:job);
SELECT is((SELECT array_agg(chunk_id ORDER BY chunk_id) FROM bacmr_reindex_failure WHERE job_id = :job), ARRAY[u(72)::text, u(74)::text],
  'one that is mended is stored');
SELECT bacmr_reindex_cancel(:job), bacmr_reindex_discard(:job);

\ir include/reindex_end.psql
