-- Objects that somebody has put where ours are looked for: in the extension's schema before CREATE
-- EXTENSION, beside the application's tables, in a temporary schema; and names that are code.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
DROP ROLE IF EXISTS planted_mallory;
CREATE ROLE planted_mallory;
CREATE SCHEMA app AUTHORIZATION planted_mallory;
CREATE SCHEMA lib;
GRANT USAGE ON SCHEMA lib TO PUBLIC;

-- ---------------------------------------------------------------------------------------------
-- Operators that match better than those of pg_catalog, in the extension's schema
-- ---------------------------------------------------------------------------------------------

SET ROLE planted_mallory;
CREATE SEQUENCE app.called;  -- survives rollbacks, and what is STABLE may advance it
CREATE TABLE app.by (operator text, who name);
GRANT ALL ON ALL TABLES IN SCHEMA app TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA app TO PUBLIC;
-- One operator for every pair of types for which the views and the report would have to convert, and of
-- those that a literal could be.
DO $plant$
DECLARE
  o text;
  l text;
  r text;
  n int := 0;
BEGIN
  FOREACH o IN ARRAY '{+,-,*,/,<,>,<=,>=,=,<>,||,->,->>,<<}'::text[] LOOP
    FOREACH l IN ARRAY '{bigint,integer,numeric,float8,jsonb,interval,text,name,oid}'::text[] LOOP
      FOREACH r IN ARRAY '{bigint,integer,numeric,float8,jsonb,interval,varchar,name,oid}'::text[] LOOP
        n := n + 1;
        -- What reads a literal after it would fail at once: leave that to (jsonb, text).
        CONTINUE WHEN l = 'jsonb' AND r IN ('jsonb', 'integer') AND o IN ('->', '->>');
        EXECUTE format('CREATE FUNCTION app.f%s(l %s, r %s) RETURNS %s LANGUAGE plpgsql AS $f$
          BEGIN PERFORM nextval(''app.called''); INSERT INTO app.by VALUES (%L, current_user); RETURN NULL; END $f$',
          n, l, r, CASE WHEN o ~ '[<>=]' AND o NOT IN ('->', '->>', '<<') THEN 'boolean'
                        WHEN o = '->' THEN 'jsonb' WHEN o IN ('->>', '||') THEN 'text' ELSE l END,
          format('%s %s %s', l, o, r));
        EXECUTE format('CREATE OPERATOR app.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = app.f%s)', o, l, r, n);
      END LOOP;
    END LOOP;
  END LOOP;
END $plant$;
RESET ROLE;
SELECT cmp_ok((SELECT count(*) FROM pg_operator WHERE oprnamespace = 'app'::regnamespace), '>', 1000::bigint,
  'many operators are planted');
CREATE EXTENSION bacmr_ops SCHEMA app;
SELECT app.bacmr_pause('expire', 'test');
SELECT app.bacmr_pause('reindex', 'test');
SELECT app.bacmr_create_tables('app');
INSERT INTO app.wallet VALUES (gen_random_uuid(), 3), (gen_random_uuid(), -4);
INSERT INTO app.chunks (namespace, content) VALUES ('n', 'one'), ('n', 'two');
SELECT app.bacmr_reindex('n');
-- So that each branch of the view has something to compute.
UPDATE app.bacmr_reindex_job SET status = 'running', processed_chunks = 1, working_seconds = 2.5, total_chunks = 4;
SELECT is((SELECT r.discrepancies FROM app.bacmr_reconcile() r), 3::bigint, 'a reconciliation works');
SELECT ok(app.bacmr_reconcile_report() @> '{"discrepancies": 3, "truncated": false}', 'its report is the real one');
SELECT is((SELECT (progress_pct, chunks_per_second, eta)::text FROM app.bacmr_reindex_status),
  '(25.0,0.4,00:00:08)', 'the view bacmr_reindex_status computes with the real operators');
SELECT isnt_empty('SELECT * FROM app.bacmr_status', 'bacmr_status can be read');
SELECT lives_ok('SELECT * FROM app.bacmr_sources', 'bacmr_sources can be read');
SELECT lives_ok('SELECT * FROM app.bacmr_metrics', 'bacmr_metrics can be read');
SELECT lives_ok('SELECT * FROM app.bacmr_doctor()', 'the doctor looks around');
SELECT is((SELECT is_called FROM app.called), false, 'none of the planted operators has run');
SELECT is_empty('SELECT * FROM app.by', 'as anybody');
SELECT is_empty($$
  SELECT pg_describe_object(d.classid, d.objid, d.objsubid), pg_describe_object(d.refclassid, d.refobjid, 0)
  FROM pg_depend d JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
  WHERE o.oprnamespace = 'app'::regnamespace
$$, 'and nothing of the extension refers to one');
DROP EXTENSION bacmr_ops;
DROP SCHEMA app CASCADE;

-- ---------------------------------------------------------------------------------------------
-- Objects of our names, there before us
-- ---------------------------------------------------------------------------------------------

CREATE SCHEMA app AUTHORIZATION planted_mallory;
CREATE FUNCTION refuses_planted(object text, statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  code text := 'none';
BEGIN
  BEGIN
    PERFORM set_config('role', 'planted_mallory', true);
    EXECUTE statement;
    PERFORM set_config('role', 'none', true);
    CREATE EXTENSION bacmr_ops SCHEMA app;
  EXCEPTION WHEN duplicate_table OR duplicate_function OR duplicate_object OR unique_violation
    OR ambiguous_function THEN
    code := SQLSTATE;
  END;
  RESET ROLE;
  RETURN NEXT isnt(code, 'none', object || ': CREATE EXTENSION takes nothing over, but fails');
  RETURN NEXT is_empty('SELECT FROM pg_extension WHERE extname = ''bacmr_ops''', object || ': and nothing stays');
END $$;
SELECT refuses_planted(object, statement) FROM (VALUES
  ('a table', 'CREATE TABLE app.bacmr_job_run (run_id bigint, job text)'),
  ('a view', 'CREATE VIEW app.bacmr_status AS SELECT 1'),
  ('a view under the name of a table', 'CREATE VIEW app.bacmr_source AS SELECT 1'),
  ('an index', 'CREATE TABLE app.x (a int); CREATE INDEX bacmr_job_run_job_idx ON app.x (a)'),
  ('a function', $$CREATE FUNCTION app.bacmr_pause(text, text) RETURNS void LANGUAGE sql AS 'SELECT'$$),
  ('a function beneath a view', $$CREATE FUNCTION app.bacmr_source_status() RETURNS int LANGUAGE sql AS 'SELECT 1'$$),
  ('a function that could be meant as well',
   $$CREATE FUNCTION app.bacmr_source_status(x int DEFAULT 0) RETURNS int LANGUAGE sql AS 'SELECT 1'$$),
  ('a type', 'CREATE TYPE app.bacmr_namespace AS (a int)'),
  ('a sequence', 'CREATE SEQUENCE app.bacmr_job_run_job_id_seq; CREATE TABLE app.bacmr_chunk_change ()'))
  v(object, statement);
-- Functions of our names with other arguments are no obstacle; nothing of ours calls them.
SET ROLE planted_mallory;
CREATE SEQUENCE app.called;
GRANT ALL ON SEQUENCE app.called TO PUBLIC;
CREATE FUNCTION app.bacmr_source_status(x int, VARIADIC y int[] DEFAULT '{}')
  RETURNS TABLE (source text, relation text, columns jsonb, options jsonb, status text) LANGUAGE plpgsql AS
  'BEGIN PERFORM nextval(''app.called''); END';
CREATE FUNCTION app.bacmr_worker_status(VARIADIC y int[]) RETURNS SETOF record LANGUAGE plpgsql AS
  'BEGIN PERFORM nextval(''app.called''); END';
RESET ROLE;
SELECT lives_ok('CREATE EXTENSION bacmr_ops SCHEMA app', 'overloads of our names');
SELECT isnt_empty('SELECT * FROM app.bacmr_status', 'the views call ours');
SELECT lives_ok('SELECT * FROM app.bacmr_sources', 'both of them');
SELECT is((SELECT is_called FROM app.called), false, 'and never the others');
DROP EXTENSION bacmr_ops;
DROP SCHEMA app CASCADE;

-- ---------------------------------------------------------------------------------------------
-- A table of an application's name that belongs to somebody else
-- ---------------------------------------------------------------------------------------------

CREATE EXTENSION bacmr_ops SCHEMA lib;
SELECT lib.bacmr_pause('expire', 'test');
CREATE SCHEMA app;
GRANT USAGE, CREATE ON SCHEMA app TO planted_mallory;
SET ROLE planted_mallory;
CREATE TABLE app.wallet_ledger (user_id uuid, delta bigint, reason text, reservation_id uuid);
CREATE FUNCTION app.strike() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user) THEN
    EXECUTE 'ALTER ROLE planted_mallory SUPERUSER';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER t BEFORE INSERT ON app.wallet_ledger FOR EACH ROW EXECUTE FUNCTION app.strike();
RESET ROLE;
SELECT lives_ok($$SELECT lib.bacmr_create_tables('app')$$, 'a superuser creates tables beside a planted one');
SELECT is_empty($$SELECT * FROM lib.bacmr_sources WHERE source <> 'chunks'$$, 'none of those with money is attached');
SELECT set_eq($$SELECT source, status ~ '^invalid: .*different roles \(.*planted_mallory.*bacmr_attach'
                FROM lib.bacmr_attach('app') WHERE source <> 'chunks'$$,
  $$VALUES ('wallet', true), ('wallet_ledger', true), ('reservations', true)$$, 'bacmr_attach(schema) says why');
INSERT INTO app.wallet VALUES ('00000000-0000-0000-0000-000000000001', 0);
INSERT INTO app.reservations (user_id, amount, expires_at)
  VALUES ('00000000-0000-0000-0000-000000000001', 5, now() - interval '1 hour');
SELECT raises('SELECT lib.bacmr_expire_reservations()', '55000', 'not attached', '', 'so nothing runs its trigger');
SELECT is((SELECT rolsuper FROM pg_roles WHERE rolname = 'planted_mallory'), false, 'whose owner is no superuser');
DROP TABLE app.wallet_ledger;
SELECT lib.bacmr_create_tables('app');
SELECT is((SELECT count(*) FROM lib.bacmr_sources WHERE status = 'attached'), 4::bigint, 'without it, all are attached');
-- One that comes in its place later
SET ROLE planted_mallory;
SELECT throws_ok('CREATE TABLE app.wallet_ledger (a int)', '42P07');
RESET ROLE;
ALTER TABLE app.wallet_ledger RENAME TO old_ledger;
SET ROLE planted_mallory;
CREATE TABLE app.wallet_ledger (user_id uuid, delta bigint, reason text, reservation_id uuid);
CREATE TRIGGER t BEFORE INSERT ON app.wallet_ledger FOR EACH ROW EXECUTE FUNCTION app.strike();
RESET ROLE;
SELECT raises('SELECT lib.bacmr_expire_reservations()', '55000', 'another table', '',
  'a table that takes the name of an attached one is not used');
SELECT raises('SELECT lib.bacmr_reconcile()', '55000', 'another table', '', 'by no job');
SELECT lib.bacmr_create_tables('app');
SELECT raises('SELECT lib.bacmr_expire_reservations()', '55000', 'another table', '',
  'nor after a superuser called bacmr_create_tables() again');
SELECT is((SELECT rolsuper FROM pg_roles WHERE rolname = 'planted_mallory'), false, 'still no superuser');
DROP TABLE app.wallet_ledger;
ALTER TABLE app.old_ledger RENAME TO wallet_ledger;

-- ---------------------------------------------------------------------------------------------
-- The temporary schema
-- ---------------------------------------------------------------------------------------------

CREATE TEMP TABLE wallet (user_id uuid PRIMARY KEY, token_balance bigint);
CREATE TEMP TABLE wallet_ledger (user_id uuid, delta bigint, reason text);
CREATE TEMP TABLE bacmr_source AS SELECT 'wallet'::text AS source;
CREATE TEMP TABLE bacmr_job_run AS SELECT 1 AS run_id;
CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''2000-01-01''::timestamptz';
SET search_path = pg_temp, lib, public;
SELECT is((SELECT wallets_checked FROM lib.bacmr_reconcile()), 1::bigint, 'temporary tables of the names are not read');
SELECT is((SELECT expired FROM lib.bacmr_expire_reservations()), 1::bigint, 'nor written');
SELECT is((SELECT token_balance FROM app.wallet), 5::bigint, 'the refund is where it belongs');
SELECT cmp_ok((SELECT max(started_at) FROM lib.bacmr_job_run), '>', '2020-01-01'::timestamptz, 'with the real time');
SELECT raises($$SELECT lib.bacmr_attach('wallet', 'pg_temp.wallet')$$, '42P16', 'temporary', '',
  'a temporary table is not attached');
RESET search_path;
DROP TABLE pg_temp.wallet, pg_temp.wallet_ledger, pg_temp.bacmr_source, pg_temp.bacmr_job_run;
DROP FUNCTION pg_temp.clock_timestamp();

-- ---------------------------------------------------------------------------------------------
-- Names that are code
-- ---------------------------------------------------------------------------------------------

SELECT lib.bacmr_detach(source) FROM lib.bacmr_sources;
DROP SCHEMA app CASCADE;
CREATE TABLE public.canary (a int);
CREATE SCHEMA "a""; DROP TABLE public.canary; --";
SELECT lives_ok($$SELECT lib.bacmr_create_tables('a"; DROP TABLE public.canary; --')$$, 'a schema whose name is code');
SET search_path = "a""; DROP TABLE public.canary; --", public;
ALTER TABLE wallet RENAME COLUMN token_balance TO "b'""); DROP TABLE public.canary; --";
ALTER TABLE chunks RENAME COLUMN content TO "c'""; DROP TABLE public.canary; --";
ALTER TABLE chunks RENAME TO "t'""; DROP TABLE public.canary; --";
ALTER TABLE reservations RENAME COLUMN id TO "%s""';--";
SELECT lib.bacmr_attach('wallet', 'wallet', $${"token_balance": "b'\"); DROP TABLE public.canary; --"}$$);
SELECT lib.bacmr_attach('reservations', 'reservations', $${"id": "%s\"';--"}$$);
SELECT lib.bacmr_attach('chunks', $$"t'""; DROP TABLE public.canary; --"$$, $${"content": "c'\"; DROP TABLE public.canary; --"}$$);
INSERT INTO wallet VALUES ('00000000-0000-0000-0000-000000000001', 0);
INSERT INTO reservations (user_id, amount, expires_at)
  VALUES ('00000000-0000-0000-0000-000000000001', 5, now() - interval '1 hour');
INSERT INTO "t'""; DROP TABLE public.canary; --" (namespace, "c'""; DROP TABLE public.canary; --")
  VALUES ($$n'); DROP TABLE public.canary; --$$, 'a text');
SELECT lives_ok('SELECT * FROM ' || f, f)
FROM unnest(ARRAY['lib.bacmr_reconcile()', 'lib.bacmr_expire_reservations()', $$lib.bacmr_export_chunks(file_name => 'planted')$$,
  $$lib.bacmr_export('"t''""; DROP TABLE public.canary; --"')$$,
  $$lib.bacmr_import_chunks('planted', 'skip')$$, $$lib.bacmr_import_chunks('planted', 'update')$$,
  $$lib.bacmr_restore_drill('planted')$$, 'lib.bacmr_doctor()', 'lib.bacmr_sources', 'lib.bacmr_status',
  $$lib.bacmr_reindex($n$n'); DROP TABLE public.canary; --$n$)$$]) f;
SELECT is((SELECT expired FROM lib.bacmr_expire_reservations()), 0::bigint, 'the reservation was expired');
SELECT is((SELECT "b'""); DROP TABLE public.canary; --" FROM wallet), 5::bigint, 'and refunded');
SELECT ok(to_regclass('public.canary') IS NOT NULL, 'the canary lives');
RESET search_path;

SELECT * FROM finish();
SELECT lib.bacmr_detach(source) FROM lib.bacmr_sources;
DROP OWNED BY planted_mallory CASCADE;
DROP ROLE planted_mallory;
