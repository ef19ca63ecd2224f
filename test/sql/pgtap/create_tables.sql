-- The reference tables: exactly those of the contract, kept where they exist, the user's own.
\ir include/helpers.psql
BEGIN;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
CREATE EXTENSION bacmr_ops;

-- Each column as name, type, NOT NULL, default.
CREATE FUNCTION columns_of(relation regclass) RETURNS TABLE (line text) LANGUAGE sql AS $$
  SELECT concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod),
                   CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                   CASE a.attidentity WHEN 'd' THEN 'BY DEFAULT AS IDENTITY' WHEN 'a' THEN 'ALWAYS' END,
                   'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid))
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
$$;
-- Each index without its name.
CREATE FUNCTION indexes_of(relation regclass) RETURNS TABLE (line text) LANGUAGE sql AS $$
  SELECT CASE WHEN i.indisprimary THEN 'PRIMARY KEY ' WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END
         || regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING btree ', '')
  FROM pg_index i WHERE i.indrelid = relation
$$;

SELECT lives_ok('SELECT bacmr_create_tables()', 'without an argument: in public');
SELECT set_eq('SELECT source, relation, columns, options, status FROM bacmr_sources', $$ VALUES
  ('wallet', 'public.wallet', '{}'::jsonb, '{}'::jsonb, 'attached'),
  ('wallet_ledger', 'public.wallet_ledger', '{}', '{}', 'attached'),
  ('reservations', 'public.reservations', '{}', '{}', 'attached'),
  ('chunks', 'public.chunks', '{}', '{}', 'attached') $$, 'the tables are attached');

SELECT results_eq($$SELECT * FROM columns_of('wallet')$$, ARRAY[
  'user_id uuid NOT NULL', 'token_balance bigint NOT NULL DEFAULT 0',
  'updated_at timestamp with time zone NOT NULL DEFAULT now()'], 'the columns of wallet');
SELECT set_eq($$SELECT * FROM indexes_of('wallet')$$, ARRAY['PRIMARY KEY (user_id)'],
  'the indexes of wallet');
SELECT results_eq($$SELECT * FROM columns_of('wallet_ledger')$$, ARRAY[
  'id bigint NOT NULL BY DEFAULT AS IDENTITY', 'user_id uuid NOT NULL', 'delta bigint NOT NULL',
  'reason text NOT NULL', 'reservation_id uuid', 'request_id text',
  'created_at timestamp with time zone NOT NULL DEFAULT now()'], 'the columns of wallet_ledger');
SELECT set_eq($$SELECT * FROM indexes_of('wallet_ledger')$$, ARRAY['PRIMARY KEY (id)', '(user_id)',
  'UNIQUE (reservation_id) WHERE (reason = ''reservation_expired''::text)'],
  'the indexes of wallet_ledger');
SELECT results_eq($$SELECT * FROM columns_of('reservations')$$, ARRAY[
  'id uuid NOT NULL DEFAULT gen_random_uuid()', 'user_id uuid NOT NULL', 'amount bigint NOT NULL',
  'status text NOT NULL DEFAULT ''reserved''::text',
  'expires_at timestamp with time zone NOT NULL', 'request_id text',
  'created_at timestamp with time zone NOT NULL DEFAULT now()',
  'updated_at timestamp with time zone NOT NULL DEFAULT now()'], 'the columns of reservations');
SELECT set_eq($$SELECT * FROM indexes_of('reservations')$$, ARRAY['PRIMARY KEY (id)',
  '(expires_at, id) WHERE (status = ''reserved''::text)'], 'the indexes of reservations');
SELECT results_eq($$SELECT * FROM columns_of('chunks')$$, ARRAY[
  'id uuid NOT NULL DEFAULT gen_random_uuid()', 'namespace text NOT NULL', 'document_id uuid',
  'chunk_index integer', 'content text NOT NULL', 'metadata jsonb NOT NULL DEFAULT ''{}''::jsonb',
  'token_count integer', 'created_at timestamp with time zone NOT NULL DEFAULT now()',
  'updated_at timestamp with time zone NOT NULL DEFAULT now()'], 'the columns of chunks');
SELECT set_eq($$SELECT * FROM indexes_of('chunks')$$, ARRAY['PRIMARY KEY (id)', '(namespace, id)'],
  'the indexes of chunks');

SELECT is_empty($$ SELECT conrelid::regclass, conname FROM pg_constraint WHERE contype = 'f'
  AND conrelid::regclass IN ('wallet', 'wallet_ledger', 'reservations', 'chunks') $$,
  'no foreign keys');
SELECT lives_ok($$INSERT INTO wallet VALUES (gen_random_uuid(), -5)$$,
  'no CHECK on the balance: a fault must be findable');
SELECT lives_ok($$INSERT INTO reservations (user_id, amount, status, expires_at)
  SELECT gen_random_uuid(), 1, s, now() FROM unnest('{reserved,finalized,released,expired}'::text[]) s$$,
  'the four states of a reservation');
SELECT throws_ok($$INSERT INTO reservations (user_id, amount, status, expires_at)
  VALUES (gen_random_uuid(), 1, 'gone', now())$$, '23514', NULL, 'and no other');
SELECT throws_ok($$INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
  SELECT '00000000-0000-0000-0000-000000000001', 1, 'reservation_expired',
         '00000000-0000-0000-0000-000000000002' FROM generate_series(1, 2)$$, '23505', NULL,
  'one refund a reservation');

-- What exists is kept.
SELECT lives_ok('SELECT bacmr_create_tables()', 'a second call is no error');
SELECT is((SELECT count(*) FROM reservations), 4::bigint, 'and leaves the rows where they are');
CREATE SCHEMA partly;
CREATE TABLE partly.wallet (user_id text PRIMARY KEY, token_balance numeric, note text);
CREATE TABLE partly.wallet_ledger (user_id text, delta numeric, reason text);
SELECT lives_ok($$SELECT bacmr_create_tables('partly')$$, 'some of the tables exist already');
SELECT results_eq($$SELECT * FROM columns_of('partly.wallet')$$, ARRAY['user_id text NOT NULL',
  'token_balance numeric', 'note text'], 'they stay as they are');
SELECT has_table('partly'::name, t, t || ' was missing and is made')
  FROM unnest('{reservations,chunks}'::name[]) t;
SELECT is((SELECT s.status FROM bacmr_sources s WHERE source = 'reservations'
              AND relation = 'partly.reservations'), NULL,
  'a made table that does not fit those kept (uuid against text) is not attached');
CREATE SCHEMA odd;
CREATE VIEW odd.chunks AS SELECT 1 AS id;
SELECT lives_ok($$SELECT bacmr_create_tables('odd')$$, 'a view of the name is kept too');

CREATE SCHEMA "Ünïcode ""quoted""";
SELECT lives_ok($$SELECT bacmr_create_tables('Ünïcode "quoted"')$$, 'a schema that needs quoting');
SELECT tables_are('Ünïcode "quoted"', '{wallet,wallet_ledger,reservations,chunks}'::name[],
  'got the four tables');

-- Errors
SELECT raises($$SELECT bacmr_create_tables('nowhere')$$, '3F000', 'nowhere', '', 'an unknown schema');
SELECT raises($$SELECT bacmr_create_tables(NULL)$$, '22004', 'schema', '.', 'NULL for the schema');

-- Whose they are
CREATE ROLE create_tables_app;
CREATE SCHEMA app;
SELECT bacmr_grant('operator', 'create_tables_app');
GRANT USAGE ON SCHEMA app TO create_tables_app;
SELECT raises($$SELECT bacmr_create_tables('app')$$, '42501', 'app', '',
  'a caller who may not create tables there', 'create_tables_app');
SELECT is_empty($$SELECT 1 FROM pg_tables WHERE schemaname = 'app'$$, 'and nothing is half done');
GRANT CREATE ON SCHEMA app TO create_tables_app;
SELECT bacmr_detach(source) FROM bacmr_sources;
SELECT works_for('create_tables_app', $$SELECT bacmr_create_tables('app')$$,
  'a caller who may needs no more than the profile operator');
SELECT is((SELECT array_agg(DISTINCT tableowner) FROM pg_tables WHERE schemaname = 'app'),
  '{create_tables_app}', 'the tables belong to the caller');

-- They outlive the extension.
SELECT is_empty($$ SELECT objid::regclass FROM pg_depend WHERE deptype = 'e'
  AND classid = 'pg_class'::regclass AND objid::regclass::text ~ '(wallet|reservations|chunks)' $$,
  'none is a member of the extension: pg_dump dumps them');
SELECT lives_ok('DROP EXTENSION bacmr_ops', 'they do not hinder DROP EXTENSION');
SELECT tables_are('app', '{wallet,wallet_ledger,reservations,chunks}'::name[],
  'and are still there after it');
SELECT is((SELECT count(*) FROM reservations), 4::bigint, 'with their rows');
SELECT lives_ok('CREATE EXTENSION bacmr_ops; SELECT * FROM bacmr_attach(''app'')',
  'a new extension takes them up again');
SELECT is((SELECT array_agg(DISTINCT status) FROM bacmr_sources), '{attached}', 'as they were');

SELECT * FROM finish();
ROLLBACK;
