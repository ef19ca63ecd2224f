-- Files and tables that somebody else has prepared: an export that names a trap for the table that it
-- came from, files that were altered, and tables whose code runs while rows are read or written.
-- The procedures commit: no transaction around this file.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');
SELECT bacmr_pause('reindex', 'test');
DROP ROLE IF EXISTS artifacts_mallory, artifacts_colleague, artifacts_app;
CREATE ROLE artifacts_mallory;
CREATE ROLE artifacts_colleague;
CREATE ROLE artifacts_app;
SELECT bacmr_grant('operator', r) FROM unnest('{artifacts_mallory,artifacts_colleague}'::name[]) r;
CREATE SCHEMA mal AUTHORIZATION artifacts_mallory;
GRANT USAGE ON SCHEMA mal TO PUBLIC;
SELECT current_setting('search_path') AS path \gset

-- Called as a superuser, strike() makes its owner one; it notes who it was called by.
SET ROLE artifacts_mallory;
CREATE TABLE mal.seen (what text, who name, superuser boolean);
GRANT INSERT ON mal.seen TO PUBLIC;
CREATE FUNCTION mal.strike(what text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO mal.seen SELECT what, current_user, rolsuper FROM pg_catalog.pg_roles
    WHERE rolname OPERATOR(pg_catalog.=) current_user;
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user) THEN
    EXECUTE 'ALTER ROLE artifacts_mallory SUPERUSER';
  END IF;
  PERFORM pg_catalog.set_config('search_path', 'mal, pg_catalog', false);
  RETURN true;
END $$;
RESET ROLE;

-- `who`: as whom all of it may have run.
CREATE FUNCTION unharmed(description text, who name DEFAULT 'artifacts_mallory') RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
  RETURN NEXT isnt_empty('SELECT FROM mal.seen', description || ': the trap was set off');
  RETURN NEXT is_empty(format('SELECT * FROM mal.seen WHERE superuser OR who <> %L', who),
                       description || ': all of it ran as ' || who);
  RETURN NEXT is((SELECT rolsuper FROM pg_roles WHERE rolname = 'artifacts_mallory'), false,
                 description || ': nobody has become a superuser');
  TRUNCATE mal.seen;
END $$;

-- ---------------------------------------------------------------------------------------------
-- A drill compares with the table that the file names
-- ---------------------------------------------------------------------------------------------

SET ROLE artifacts_mallory;
CREATE TABLE mal.plain (id int PRIMARY KEY, value text);
INSERT INTO mal.plain SELECT n, 'v' || n FROM generate_series(1, 20) n;
SELECT bacmr_export('mal.plain', file_name => 'trap');
-- What looked harmless when it was exported is a view, of all that reading can run.
CREATE DOMAIN mal.checked AS text CHECK (mal.strike('domain'));
CREATE FUNCTION mal.yes(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
  'BEGIN PERFORM mal.strike(''index''); RETURN true; END';
ALTER TABLE mal.plain RENAME TO data;
CREATE VIEW mal.plain AS SELECT id, CASE WHEN mal.strike('view') THEN value END AS value FROM mal.data;
RESET ROLE;
SET search_path = :path;
SELECT is((SELECT (ok, chunks)::text FROM bacmr_restore_drill('trap')), '(t,20)', 'a superuser drills what became a view');
SELECT is(current_setting('search_path'), :'path', 'the session''s search_path is as it was');
SELECT unharmed('a view');
-- Without a name: the last export there is, whoever made it.
SELECT is((SELECT ok FROM bacmr_restore_drill()), true, 'the latest export is drilled, where no chunks are attached');
SELECT unharmed('the latest export');
CALL bacmr_run_job('drill');
SELECT unharmed('CALL bacmr_run_job(''drill'')');

SET ROLE artifacts_mallory;
DROP VIEW mal.plain;
ALTER TABLE mal.data RENAME TO plain;
CREATE INDEX ON mal.plain (value) WHERE mal.yes('x');
-- A session folds the condition once, until something changes about the index.
ALTER INDEX mal.plain_value_idx SET (fillfactor = 90);
TRUNCATE mal.seen;
RESET ROLE;
SET search_path = :path;
SELECT is((SELECT ok FROM bacmr_restore_drill('trap')), true, 'a superuser drills a table with a hostile index');
SELECT unharmed('the condition of an index');
SET ROLE artifacts_mallory;
DROP INDEX mal.plain_value_idx;
ALTER TABLE mal.plain ALTER value TYPE mal.checked;
TRUNCATE mal.seen;
RESET ROLE;
SET search_path = :path;
SELECT is((SELECT ok FROM bacmr_restore_drill('trap')), true, 'a superuser drills a table with a domain');
SELECT unharmed('the check of a domain');
-- The same table as a cast sees it.
SET ROLE artifacts_mallory;
CREATE TYPE mal.mood AS ENUM ('fair');
CREATE TYPE mal.pair AS (j json, m mal.mood);
CREATE FUNCTION mal.mood_json(mal.mood) RETURNS json LANGUAGE plpgsql AS
  'BEGIN PERFORM mal.strike(''cast''); RETURN ''{}''; END';
CREATE TABLE mal.paired (id int PRIMARY KEY, value mal.pair);
INSERT INTO mal.paired VALUES (1, ROW('{"a": 1}', 'fair'));
SELECT bacmr_export('mal.paired', file_name => 'paired');
CREATE CAST (mal.mood AS json) WITH FUNCTION mal.mood_json(mal.mood);
TRUNCATE mal.seen;
RESET ROLE;
SET search_path = :path;
SELECT lives_ok('SELECT bacmr_restore_drill(''paired'')', 'a superuser drills a table with a cast to json');
SELECT unharmed('a cast');
-- Deferred: it would fire at the superuser's commit.
SET ROLE artifacts_mallory;
CREATE TABLE mal.spark (x int);
CREATE FUNCTION mal.boom() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM mal.strike(''deferred''); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON mal.spark DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION mal.boom();
CREATE FUNCTION mal.light() RETURNS boolean LANGUAGE plpgsql AS
  'BEGIN INSERT INTO mal.spark VALUES (1); RETURN true; END';
ALTER DOMAIN mal.checked DROP CONSTRAINT checked_check;
ALTER DOMAIN mal.checked ADD CHECK (mal.light()) NOT VALID;
TRUNCATE mal.seen;
RESET ROLE;
SET search_path = :path;
SELECT raises('SELECT bacmr_restore_drill(''trap'')', '42501', 'deferred trigger', '',
  'what would fire at the superuser''s commit is refused');
SELECT is_empty('SELECT * FROM mal.seen', 'and has not run');
SELECT is_empty('SELECT * FROM mal.spark', 'nor left anything');
SELECT hasnt_table('pg_temp.bacmr_drill', 'nor is the scratch table left');

-- The chunks are read as the caller, whoever owns them: who attached them has been trusted with that.
CREATE SCHEMA shop;
SELECT bacmr_create_tables('shop');
INSERT INTO shop.chunks (namespace, content) SELECT 'n', 'text ' || n FROM generate_series(1, 5) n;
SELECT bacmr_export_chunks(file_name => 'chunks');
ALTER TABLE shop.chunks OWNER TO artifacts_app;
ALTER TABLE shop.chunks ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT is((SELECT (ok, chunks)::text FROM bacmr_restore_drill('chunks')), '(t,5)',
  'a superuser drills chunks under a policy that binds their owner too');
SELECT raises('SELECT bacmr_restore_drill(''chunks'')', '42501', 'permission denied', '',
  'who may not read the chunks does not drill them', 'artifacts_colleague');

SELECT * FROM finish();
SELECT bacmr_detach(source) FROM bacmr_sources;
DROP OWNED BY artifacts_mallory, artifacts_colleague, artifacts_app CASCADE;
DROP ROLE artifacts_mallory, artifacts_colleague, artifacts_app;
