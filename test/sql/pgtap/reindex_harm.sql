-- Reindex: what would cost somebody their vectors, or their rights: namespaces deleted by an old picture of
-- what is active, a second time, or from a copy of the database; models mixed or replaced unnoticed;
-- triggers that vanished; code of a table's owner that a superuser's job would run.
\set tests 46
\ir include/reindex.psql
CREATE ROLE reindex_app;

CREATE FUNCTION count_in(target text) RETURNS bigint LANGUAGE plpgsql AS
  'BEGIN RETURN (SELECT count(*) FROM bacmr_vector v WHERE v.namespace = target); END';

-- --- what is deleted once is not deleted again -------------------------------------------------

SELECT fill('math', 1, 10);
SELECT bacmr_reindex('math', 'local-64') AS first \gset
CALL bacmr_reindex_run(:first, 1);
SELECT bacmr_reindex_cancel(:first);
SELECT lives_ok(format('SELECT bacmr_reindex_discard(%s)', :first), 'the target of a cancelled job can be discarded');
SELECT is(count_in('math-v2'), 0::bigint, 'and is gone');
SELECT bacmr_reindex('math', 'local-64') AS second \gset
SELECT is((job(:second)).target_namespace, 'math-v2', 'its name is free for the next job');
CALL bacmr_reindex_run(:second);
SELECT is(count_in('math-v2'), 10::bigint, 'which fills it');
SELECT raises(format('SELECT bacmr_reindex_discard(%s)', :first), '55000', 'cannot be discarded', 'deleted already',
              'a second discard of the first job is refused');
SELECT is(count_in('math-v2'), 10::bigint, 'so nothing of the second is lost');
SELECT ok(bacmr_reindex_summary(:first) LIKE '%Nothing: what it has written is deleted%', 'the summary proposes it no more');

-- --- what is active is read as it is now ----------------------------------------------------------

SELECT bacmr_reindex_swap(:second);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT raises(format(call, :second), '25001', 'READ COMMITTED transaction', 'READ COMMITTED', call) FROM (VALUES
  ('SELECT bacmr_reindex_swap(%s)'), ('SELECT bacmr_reindex_cleanup(%s)'), ('SELECT bacmr_reindex_discard(%s)'),
  ('SELECT bacmr_reindex_cancel(%s)'), ($$SELECT bacmr_reindex_rollback('math') -- %s$$)) v(call);
COMMIT;

-- --- a copy of the database does not delete what the original may be using -------------------------

SELECT bacmr_reindex('math', 'local-32') AS third \gset
CALL bacmr_reindex_run(:third, 1);
SELECT bacmr_reindex_cancel(:third);
UPDATE bacmr_reindex_job SET system_identifier = '1';
SELECT raises(format('SELECT bacmr_reindex_discard(%s)', :third), '55000', 'cannot be discarded', 'a copy of',
              'a copy does not discard');
SELECT raises(format('SELECT bacmr_reindex_cleanup(%s)', :second), '55000', 'cannot be cleaned up', 'a copy of',
              'nor clean up');
SELECT ok(bacmr_reindex_summary(:third) NOT LIKE '%discard%', 'its summary does not propose that');
UPDATE bacmr_reindex_job SET system_identifier = (SELECT system_identifier FROM pg_control_system())::text;
SELECT lives_ok(format('SELECT bacmr_reindex_discard(%s)', :third), 'the original does');
SELECT is(count_in('math-v2'), 10::bigint, 'what is active stays');

-- --- without its triggers a job trusts nothing ------------------------------------------------------

SELECT bacmr_reindex('math', 'local-32') AS blind \gset
CALL bacmr_reindex_run(:blind);
SELECT is(status_of(:blind), 'completed', 'a job is completed');
DROP TRIGGER bacmr_capture_change ON chunks;
UPDATE chunks SET content = text_of(3, 2) WHERE id = u(3);
SELECT is((SELECT count(*) FROM bacmr_chunk_change), 0::bigint, 'a change that nobody noted');
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :blind), '55000', 'changes of public.chunks have not been noted', 'bacmr_reindex_run',
              'such a job is not swapped');
CALL bacmr_reindex_run(:blind);
SELECT is_empty(format($$SELECT * FROM differences('math', '%s', 32)$$, (job(:blind)).target_namespace),
                'it looks at every chunk again');
SELECT is(status_of(:blind), 'completed', 'and is completed again');
SELECT lives_ok(format('SELECT bacmr_reindex_swap(%s)', :blind), 'then it can be swapped');
CALL bacmr_reindex_run();

-- --- triggers that nobody needs are not forgotten -----------------------------------------------------

SELECT is((SELECT count(*) FROM bacmr_doctor() WHERE finding LIKE '%notes changes of the chunks%'), 0::bigint,
          'without a job there is no trigger');
CREATE TRIGGER bacmr_capture_change AFTER DELETE ON chunks FOR EACH ROW EXECUTE FUNCTION bacmr_capture_change('id', 'namespace');
SELECT is((SELECT fix FROM bacmr_doctor() WHERE finding LIKE '%bacmr_capture_change on public.chunks notes changes%'),
          'DROP TRIGGER bacmr_capture_change ON public.chunks', 'one that was left behind is found by the doctor');
DROP TRIGGER bacmr_capture_change ON chunks;

-- --- a verification does not demote what is in use ------------------------------------------------

DELETE FROM bacmr_vector WHERE namespace = bacmr_active_namespace('math') AND id = u(5)::text;
SELECT results_eq(format('SELECT missing, ok FROM bacmr_reindex_verify(%s)', :blind), 'VALUES (1::bigint, false)',
                  'a vector is missing in the active namespace');
SELECT is(status_of(:blind), 'completed', 'its job stays completed');
SELECT ok((job(:blind)).error LIKE '%1 vectors missing%', 'and says what is wrong');
SELECT bacmr_vectors_repair('math') AS repair \gset
CALL bacmr_reindex_run(:repair);
SELECT is_empty($$SELECT * FROM differences('math', bacmr_active_namespace('math'), 32)$$, 'a repair brings it back');

-- --- models are neither mixed nor replaced unnoticed ------------------------------------------------

SELECT fill('art', 31, 34);
INSERT INTO bacmr_vector (namespace, id, embedding) SELECT 'art', u(n)::text, array_fill(1::real, ARRAY[64]) FROM generate_series(31, 33) n;
SELECT raises($$SELECT bacmr_vectors_repair('art')$$, '55000', 'nothing is known of the model', 'bacmr_reindex\(''art''\)',
              'vectors of an unknown model are not mixed with others');
SELECT bacmr_reindex('art', 'local-64') AS art \gset
CALL bacmr_reindex_run(:art);
SELECT raises(format('SELECT bacmr_reindex_swap(%s)', :art), '55000', 'would replace a model that nothing is known of', 'force',
              'the local embedder does not take their place unnoticed');
SELECT is(bacmr_active_namespace('art'), 'art', 'so they stay active');
SELECT lives_ok(format('SELECT bacmr_reindex_swap(%s, force => true)', :art), 'unless somebody says so');
SELECT fill('music', 41, 42);
SELECT bacmr_vectors_repair('music') AS music \gset
CALL bacmr_reindex_run(:music);
SELECT is(count_in('music'), 2::bigint, 'an empty namespace is filled by a repair');

-- --- a repair has a budget of its own ---------------------------------------------------------------

CREATE SERVER dear FOREIGN DATA WRAPPER bacmr_embedder
  OPTIONS (type 'openai', base_url 'http://127.0.0.1:1/v1', model 'text-embedding-3-small', dimensions '32', price_per_million_tokens '1000000');
CREATE USER MAPPING FOR CURRENT_USER SERVER dear OPTIONS (api_key 'sk-test');
SET bacmr.embedder = 'dear';
SELECT fill('dear', 51, 60);
SELECT raises($$SELECT bacmr_reindex('dear')$$, '55000', 'would cost about', 'max_cost', 'a job that is too dear is refused');
SELECT bacmr_vectors_repair('dear') AS dear \gset
SELECT is((job(:dear)).max_cost, 10::numeric, 'a repair, which may have little to pay, stops at the limit');
SELECT bacmr_reindex_cancel(:dear);
SELECT bacmr_vectors_repair('dear', max_cost => 25) AS dear \gset
SELECT is((job(:dear)).max_cost, 25::numeric, 'or at what is given');
SELECT bacmr_reindex_cancel(:dear);
SELECT raises($$SELECT bacmr_vectors_repair('dear', max_cost => -1)$$, '22023', 'max_cost must not be negative', '', 'which is not negative');
RESET bacmr.embedder;
DROP SERVER dear CASCADE;

-- --- all or none of several namespaces ------------------------------------------------------------

SELECT fill('full', 61, 62);
INSERT INTO bacmr_vector (namespace, id, embedding) VALUES ('full-v2', 'x', array_fill(1::real, ARRAY[64]));
SELECT count(*) AS jobs FROM bacmr_reindex_job \gset
SELECT raises($$SELECT bacmr_reindex_all('local-64')$$, '55000', '"full-v2".*is not empty', '', 'one target that is not empty refuses them all');
SELECT is((SELECT count(*) FROM bacmr_reindex_job), :jobs::bigint, 'and none is queued');
DELETE FROM bacmr_vector WHERE namespace = 'full-v2';

-- --- a superuser's job runs the code of the table's owner as that owner ----------------------------------

CREATE FUNCTION public.climb() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN EXECUTE 'ALTER ROLE reindex_app SUPERUSER'; RETURN NEW; END$$;
ALTER FUNCTION public.climb() OWNER TO reindex_app;
GRANT CREATE ON SCHEMA public TO reindex_app;
ALTER TABLE chunks OWNER TO reindex_app;
SELECT bacmr_attach('chunks', 'public.chunks');
ALTER TABLE bacmr_vector OWNER TO reindex_app;
CREATE TRIGGER climb BEFORE INSERT ON bacmr_vector FOR EACH ROW EXECUTE FUNCTION climb();
SELECT bacmr_reindex('full', 'local-64') AS climbs \gset
CALL bacmr_reindex_run(:climbs);
SELECT is((SELECT rolsuper FROM pg_roles WHERE rolname = 'reindex_app'), false, 'its trigger has not made it a superuser');
SELECT ok((job(:climbs)).error ~ 'permission denied|must be superuser', 'the job says that it was denied');
DROP TRIGGER climb ON bacmr_vector;
CREATE FUNCTION public.who() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN NEW.metadata = jsonb_build_object('by', current_user); RETURN NEW; END$$;
CREATE TRIGGER who BEFORE INSERT OR UPDATE ON bacmr_vector FOR EACH ROW EXECUTE FUNCTION who();
SELECT bacmr_reindex_resume(:climbs);
CALL bacmr_reindex_run(:climbs);
SELECT is((SELECT array_agg(DISTINCT metadata->>'by') FROM bacmr_vector WHERE namespace = (job(:climbs)).target_namespace),
          '{reindex_app}', 'the owner''s code runs as the owner');
DROP TRIGGER who ON bacmr_vector;
ALTER TABLE chunks OWNER TO CURRENT_USER;
ALTER TABLE bacmr_vector OWNER TO CURRENT_USER;

DROP OWNED BY reindex_app;
DROP ROLE reindex_app;
\ir include/reindex_end.psql
