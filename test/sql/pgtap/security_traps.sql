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

-- ---------------------------------------------------------------------------------------------
-- The doctor, called by a superuser, reads reservations as their owner
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_detach(source) FROM bacmr_sources;
SET ROLE artifacts_mallory;
CREATE TABLE mal.reservations (id bigint PRIMARY KEY, user_id bigint, amount bigint, status text, expires_at timestamptz);
INSERT INTO mal.reservations VALUES (1, 1, 1, 'reserved', now() - interval '1 day');
CREATE FUNCTION mal.lit(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
CREATE INDEX r ON mal.reservations (expires_at) WHERE mal.lit('x');
SELECT bacmr_attach('reservations', 'mal.reservations');
CREATE OR REPLACE FUNCTION mal.lit(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
  'BEGIN PERFORM mal.light(); RETURN true; END';
ALTER INDEX mal.r SET (fillfactor = 90);
TRUNCATE mal.seen, mal.spark;
RESET ROLE;
SET search_path = :path;
SELECT matches((SELECT string_agg(finding, ' ') FROM bacmr_doctor() WHERE check_name = 'backlog'),
  'cannot fire deferred trigger', 'the doctor says that it could not look');
SELECT is_empty('SELECT * FROM mal.spark', 'and left nothing that fires at the caller''s commit');
SELECT is_empty('SELECT * FROM mal.seen', 'none of that has fired');
SELECT is((SELECT rolsuper FROM pg_roles WHERE rolname = 'artifacts_mallory'), false, 'so nobody has become a superuser');

-- ---------------------------------------------------------------------------------------------
-- Tables in the place of the chunks and their vectors, after these were renamed
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_detach(source) FROM bacmr_sources;
CREATE SCHEMA book;
GRANT USAGE, CREATE ON SCHEMA book TO artifacts_mallory;
SELECT bacmr_create_tables('book');
INSERT INTO book.chunks (namespace, content) VALUES ('n', 'one text');
SELECT bacmr_unpause('reindex');
SELECT bacmr_reindex('n') AS job \gset
CALL bacmr_reindex_run(:job);
SELECT ok(comes_true(format('(SELECT status = ''completed'' FROM bacmr_reindex_job WHERE job_id = %s)', :'job')),
  'a job is completed');
SELECT bacmr_reindex_swap(:job);
SELECT bacmr_pause('reindex', 'test');
ALTER TABLE book.chunks RENAME TO old_chunks;
ALTER TABLE book.bacmr_vector RENAME TO old_vector;
SET ROLE artifacts_mallory;
CREATE TABLE book.chunks (id uuid PRIMARY KEY, namespace text, content text, document_id uuid, chunk_index int, metadata jsonb,
  token_count int, created_at timestamptz, updated_at timestamptz);
CREATE TABLE book.bacmr_vector (namespace text, id text, embedding real[], metadata jsonb, PRIMARY KEY (namespace, id));
INSERT INTO book.bacmr_vector VALUES ('n', 'x', '{1}', '{}');
CREATE FUNCTION mal.row_trigger() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN PERFORM mal.strike(TG_OP); RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END; END$$;
CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON book.bacmr_vector FOR EACH ROW EXECUTE FUNCTION mal.row_trigger();
RESET ROLE;
SET search_path = :path;
SELECT raises(format('SELECT bacmr_reindex_cleanup(%s)', :'job'), '42501', 'belongs to the role artifacts_mallory', '',
  'a superuser who deletes the old vectors is not led to a planted table');
SELECT lives_ok($$SELECT bacmr_reindex_rollback('n')$$, 'a rollback does without');
SELECT raises($$SELECT bacmr_vectors_verify('n')$$, '55000', 'another table', '', 'nor is anything else');
SELECT is_empty('SELECT * FROM mal.seen', 'none of the planted code has run');
DROP TABLE book.chunks, book.bacmr_vector;
ALTER TABLE book.old_chunks RENAME TO chunks;
ALTER TABLE book.old_vector RENAME TO bacmr_vector;
SELECT lives_ok($$SELECT bacmr_vectors_verify('n')$$, 'with the real ones back, all is as it was');

-- ---------------------------------------------------------------------------------------------
-- Imports into tables that compute, check, filter and refuse
-- ---------------------------------------------------------------------------------------------

CREATE SCHEMA pool AUTHORIZATION artifacts_app;
GRANT USAGE ON SCHEMA pool TO artifacts_colleague;
SET ROLE artifacts_app;
CREATE TABLE pool.seen (what text, who name);
GRANT INSERT ON pool.seen TO PUBLIC;
CREATE FUNCTION pool.note(what text) RETURNS boolean LANGUAGE plpgsql AS
  'BEGIN INSERT INTO pool.seen VALUES (what, current_user); RETURN true; END';
CREATE FUNCTION pool.row_trigger() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN PERFORM pool.note('trigger'); RETURN NEW; END$$;
CREATE TABLE pool.item (id int PRIMARY KEY, owner text, body text, tag text DEFAULT CASE WHEN pool.note('default') THEN 'none' END,
  twice text GENERATED ALWAYS AS (body || body) STORED, CHECK (pool.note('check')));
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON pool.item FOR EACH ROW EXECUTE FUNCTION pool.row_trigger();
CREATE TABLE pool.origin (id int PRIMARY KEY, owner text, body text);
INSERT INTO pool.origin SELECT n, 'owner' || n, 'body' || n FROM generate_series(1, 4) n;
GRANT SELECT ON pool.origin TO artifacts_colleague;
CREATE VIEW pool.plain_view AS SELECT id, owner, body FROM pool.item;
CREATE VIEW pool.aggregate AS SELECT count(*)::int AS id, ''::text AS owner, ''::text AS body FROM pool.item;
GRANT ALL ON pool.plain_view, pool.aggregate TO artifacts_colleague;
RESET ROLE;
SET ROLE artifacts_colleague;
SELECT bacmr_export('pool.origin', file_name => 'items');
RESET ROLE;
SELECT raises(format($$SELECT bacmr_import('pool.item', 'items', %L)$$, how), '42501', 'permission denied', '',
  format('without rights nothing is imported: %s', how), 'artifacts_colleague')
FROM unnest('{error,skip,update}'::text[]) how;
GRANT INSERT (id, owner) ON pool.item TO artifacts_colleague;
SELECT raises($$SELECT bacmr_import('pool.item', 'items')$$, '42501', 'permission denied', '',
  'INSERT on some of the columns is not enough', 'artifacts_colleague');
GRANT INSERT ON pool.item TO artifacts_colleague;
SELECT works_for('artifacts_colleague', $$SELECT bacmr_import('pool.item', 'items')$$, 'with INSERT, the rows come in');
SELECT results_eq('SELECT DISTINCT what, who FROM pool.seen ORDER BY 1',
  $$VALUES ('check', 'artifacts_colleague'::name), ('default', 'artifacts_colleague'), ('trigger', 'artifacts_colleague')$$,
  'all of the table''s code has run as who imports');
SELECT is((SELECT twice FROM pool.item WHERE id = 2), 'body2body2', 'a generated column is computed');
-- A view: COPY refuses it, and so do we; what it would let in by INSERT stays out.
SELECT raises(format('SELECT bacmr_import(%L, ''items'')', view), '42809', 'cannot copy to view', '',
  'not into a view: ' || view, 'artifacts_colleague')
FROM unnest('{pool.plain_view,pool.aggregate}'::text[]) view;
-- Row-level security: neither around it, nor through it unnoticed.
TRUNCATE pool.item;
ALTER TABLE pool.item ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON pool.item USING (owner = 'owner1') WITH CHECK (owner = 'owner1');
SELECT raises(format($$SELECT bacmr_import('pool.item', 'items', %L)$$, how), '42501', 'row-level security', '',
  format('a policy is not passed by: %s', how), 'artifacts_colleague')
FROM unnest('{error,skip}'::text[]) how;
SELECT raises($$SELECT bacmr_export('pool.item')$$, '42501', 'row-level security|permission denied', '',
  'nor does an export leave out rows in silence', 'artifacts_colleague');
SELECT is((SELECT count(*) FROM pool.item), 0::bigint, 'and nothing came in');
ALTER TABLE pool.item DISABLE ROW LEVEL SECURITY;
-- Catalogues and the extension's own tables.
SET ROLE artifacts_app;
CREATE TABLE pool.forged (rolname name, rolsuper boolean, source text, run_id bigint);
INSERT INTO pool.forged VALUES ('artifacts_forged', true, 'wallet', 1000);
GRANT SELECT ON pool.forged TO artifacts_colleague;
SET ROLE artifacts_colleague;
SELECT bacmr_export('pool.forged', file_name => 'forged');
RESET ROLE;
SELECT raises(format('SELECT bacmr_import(%L, ''forged'', unknown_columns => ''ignore'')', relation), '42501',
  'permission denied for table', '', 'not into ' || relation, 'artifacts_colleague')
FROM unnest('{pg_catalog.pg_authid,bacmr_source,bacmr_job_run}'::text[]) relation;
-- A temporary table in the place of ours, and a sequence of somebody else's.
SET ROLE artifacts_colleague;
CREATE TEMP TABLE bacmr_import (id int);
SELECT throws_ok($$SELECT bacmr_import('pool.item', 'items', 'skip')$$, '42P07', NULL,
  'a temporary table of the staging table''s name is not used');
DROP TABLE pg_temp.bacmr_import;
RESET ROLE;

-- ---------------------------------------------------------------------------------------------
-- bacmr_expire_in: tables that the caller names
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_detach(source) FROM bacmr_sources;
SET ROLE artifacts_mallory;
DROP TABLE mal.reservations;
CREATE TABLE mal.wallet (user_id bigint PRIMARY KEY, token_balance bigint);
CREATE TABLE mal.wallet_ledger (user_id bigint, delta bigint, reason text, reservation_id bigint);
CREATE TABLE mal.reservations (id bigint PRIMARY KEY, user_id bigint, amount bigint, status text DEFAULT 'reserved',
  expires_at timestamptz DEFAULT '2020-01-01');
INSERT INTO mal.wallet VALUES (1, 0);
INSERT INTO mal.reservations VALUES (1, 1, 1000000);
CREATE TRIGGER t BEFORE UPDATE ON mal.reservations FOR EACH ROW EXECUTE FUNCTION mal.row_trigger();
TRUNCATE mal.seen;
RESET ROLE;
SET search_path = :path;
SET ROLE artifacts_app;
CREATE TABLE pool.wallet (user_id bigint PRIMARY KEY, token_balance bigint);
CREATE TABLE pool.wallet_ledger (user_id bigint, delta bigint, reason text, reservation_id bigint);
INSERT INTO pool.wallet VALUES (1, 7);
RESET ROLE;
GRANT USAGE ON SCHEMA pool TO artifacts_mallory;
-- Reservations of one's own making, paid out into the wallets of others: only with rights on those.
SELECT raises($$SELECT bacmr_expire_in('mal.reservations', 'pool.wallet', 'pool.wallet_ledger')$$, '42501',
  'permission denied for table pool.wallet', 'GRANT UPDATE', 'reservations of one''s own do not pay into others'' wallets',
  'artifacts_mallory');
GRANT SELECT, UPDATE ON pool.wallet TO artifacts_mallory;
SELECT raises($$SELECT bacmr_expire_in('mal.reservations', 'pool.wallet', 'pool.wallet_ledger')$$, '42501',
  'permission denied for table pool.wallet_ledger', 'GRANT INSERT', 'nor without a right on the ledger', 'artifacts_mallory');
SELECT is((SELECT token_balance FROM pool.wallet), 7::bigint, 'no balance has changed');
SELECT raises(format('SELECT bacmr_expire_in(%L, ''mal.wallet'', ''mal.wallet_ledger'')', relation), code, message, '',
  'reservations that are none: ' || relation, 'artifacts_mallory')
FROM (VALUES ('pg_catalog.pg_authid', '55000', 'cannot be used as "reservations"'),
  ('mal.reservations_pkey', '55000', 'not a table'), ('mal.called', '42P01', ''), ('bacmr_reindex_job', '55000', '')) v(relation, code, message);
-- The tables' code runs as the caller, for whom it is: no more than that.
SELECT works_for('artifacts_mallory', $$SELECT bacmr_expire_in('mal.reservations', 'mal.wallet', 'mal.wallet_ledger')$$,
  'one''s own tables');
SELECT unharmed('a trigger under bacmr_expire_in()');
SELECT is((SELECT token_balance FROM mal.wallet), 1000000::bigint, 'have expired');

-- ---------------------------------------------------------------------------------------------
-- Another's namespace
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_attach('chunks', 'book.chunks');
SELECT raises($$SELECT bacmr_reindex_rollback('n')$$, '42501', 'permission denied for table book.chunks', 'GRANT SELECT',
  'who may not read the chunks does not roll back', 'artifacts_mallory');
GRANT SELECT ON book.chunks TO artifacts_mallory;
GRANT USAGE ON SCHEMA book TO artifacts_mallory;
INSERT INTO book.chunks (namespace, content) VALUES ('m', 'another text');
INSERT INTO book.bacmr_vector VALUES ('m', 'y', '{1}', '{}'), ('elsewhere', 'z', '{1}', '{}');
GRANT ALL ON book.bacmr_vector TO artifacts_mallory;
-- A target that somebody uses would be deleted with the job.
SELECT raises(format($$SELECT bacmr_reindex('m', target_namespace => %L)$$, target), '55000', 'in use|not empty', '',
  'a job does not aim at ' || target, 'artifacts_mallory')
FROM unnest('{n,n-v2,m,elsewhere}'::text[]) target;
SELECT raises(format('SELECT bacmr_reindex_%s(%s)', verb, :'job'), '42501', 'permission denied for reindex job', '',
  'another''s job: ' || verb, 'artifacts_mallory')
FROM unnest('{cleanup,discard,swap,cancel,resume,pause,verify,compare,retry_failed,summary}'::text[]) verb;
SELECT is((SELECT count(*) FROM book.bacmr_vector), 3::bigint, 'all vectors are there');

SELECT * FROM finish();
SELECT bacmr_detach(source) FROM bacmr_sources;
DROP OWNED BY artifacts_mallory, artifacts_colleague, artifacts_app CASCADE;
DROP ROLE artifacts_mallory, artifacts_colleague, artifacts_app;
