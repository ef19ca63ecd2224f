-- Attaching tables: what is taken, what is refused and why, and what happens when an attached table
-- changes afterwards.
\ir include/helpers.psql
BEGIN;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
CREATE EXTENSION bacmr_ops;

CREATE FUNCTION status_of(source text) RETURNS text LANGUAGE sql AS
  'SELECT s.status FROM bacmr_sources s WHERE s.source = status_of.source';

-- Detaches everything and drops the schema that a section used.
CREATE FUNCTION forget(schema_name name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE attached text;
BEGIN
  FOR attached IN SELECT s.source FROM bacmr_sources s LOOP
    PERFORM bacmr_detach(attached);
  END LOOP;
  EXECUTE format('DROP SCHEMA %I CASCADE', schema_name);
END $$;

-- The three wallet tables with these types.
CREATE FUNCTION make_tables(schema_name name, key text, amount text, status text DEFAULT 'text',
                            reason text DEFAULT 'text')
  RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I', schema_name);
  EXECUTE format('CREATE TABLE %I.wallet (user_id %s PRIMARY KEY, token_balance %s,'
                 ' updated_at timestamptz)', schema_name, key, amount);
  EXECUTE format('CREATE TABLE %I.wallet_ledger (id bigserial PRIMARY KEY, user_id %s, delta %s,'
                 ' reason %s, reservation_id %s, request_id text, created_at timestamptz)',
                 schema_name, key, amount, reason, key);
  EXECUTE format('CREATE TABLE %I.reservations (id %s PRIMARY KEY, user_id %s, amount %s,'
                 ' status %s, expires_at timestamptz, updated_at timestamptz, request_id text)',
                 schema_name, key, key, amount, status);
END $$;

-- One source that is refused: the statements change good tables into bad ones.
CREATE FUNCTION refused(source text, change text, problem text, description text)
  RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
  PERFORM make_tables('bad', 'bigint', 'bigint');
  PERFORM bacmr_attach('bad');
  PERFORM bacmr_detach(source);
  EXECUTE replace(change, '@', 'bad.' || source);
  RETURN NEXT raises(format('SELECT bacmr_attach(%L, %L)', source, 'bad.' || source), '42P16',
                     problem, 'Mend|nothing was changed', description || ': the single form raises');
  RETURN NEXT is((SELECT a.status LIKE 'invalid: %' AND a.status ~ problem
                  FROM bacmr_attach('bad') a WHERE a.source = refused.source), true,
                 description || ': the schema form says invalid, and why');
  RETURN NEXT is(status_of(source), NULL, description || ': nothing is attached');
  PERFORM forget('bad');
END $$;

-- One source that becomes invalid for expiry alone: it is attached, and says so.
CREATE FUNCTION not_for_expiry(source text, change text, problem text, description text)
  RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM make_tables('odd', 'bigint', 'bigint');
  PERFORM bacmr_attach('odd');
  EXECUTE replace(change, '@', 'odd.' || source);
  RETURN NEXT alike(status_of(source), 'invalid: %' || problem || '%', description || ': the status');
  RETURN NEXT raises('SELECT bacmr_expire_reservations()', '55000', problem, '.',
                     description || ': expiry refuses');
  RETURN NEXT lives_ok('SELECT bacmr_reconcile()', description || ': reconciliation works');
  PERFORM forget('odd');
END $$;

-- ---------------------------------------------------------------------------------------------
-- By schema
-- ---------------------------------------------------------------------------------------------

CREATE SCHEMA empty_one;
SELECT set_eq($$ SELECT source, relation::text, status FROM bacmr_attach('empty_one') $$,
  $$ VALUES ('wallet', NULL, 'missing'), ('wallet_ledger', NULL, 'missing'),
            ('reservations', NULL, 'missing'), ('chunks', NULL, 'missing') $$,
  'a schema without any of the tables: four times missing, no error');
SELECT is_empty('SELECT * FROM bacmr_sources', 'and nothing is attached');

CREATE SCHEMA half;
CREATE TABLE half.chunks (id text PRIMARY KEY, namespace text, content text);
SELECT set_eq($$ SELECT source, relation::text, status FROM bacmr_attach('half') $$,
  $$ VALUES ('wallet', NULL, 'missing'), ('wallet_ledger', NULL, 'missing'),
            ('reservations', NULL, 'missing'), ('chunks', 'half.chunks', 'attached') $$,
  'an application may use one half alone');
SELECT set_eq('SELECT source, relation, columns, options, status FROM bacmr_sources',
  $$ VALUES ('chunks', 'half.chunks', '{}'::jsonb, '{}'::jsonb, 'attached') $$,
  'bacmr_sources shows what is attached');

SELECT make_tables('public', 'uuid', 'bigint');
SELECT set_eq('SELECT source, status FROM bacmr_attach()',
  $$ VALUES ('wallet', 'attached'), ('wallet_ledger', 'attached'), ('reservations', 'attached'),
            ('chunks', 'missing') $$, 'without an argument: the schema public');
SELECT is(status_of('chunks'), 'attached',
  'a source that the schema lacks keeps its attachment elsewhere');
SELECT bacmr_detach('wallet'), bacmr_detach('wallet_ledger'), bacmr_detach('reservations');
DROP TABLE wallet, wallet_ledger, reservations;
SELECT forget('half');

SELECT raises($$SELECT * FROM bacmr_attach('no_such_schema')$$, '3F000', 'no_such_schema', '.',
  'an unknown schema');
SELECT raises('SELECT * FROM bacmr_attach(NULL)', '22004', 'schema', '.', 'NULL for the schema');

-- ---------------------------------------------------------------------------------------------
-- Types
-- ---------------------------------------------------------------------------------------------

CREATE DOMAIN user_key AS uuid;
CREATE DOMAIN number_key AS bigint CHECK (VALUE > 0);
CREATE DOMAIN nested_key AS number_key;
CREATE DOMAIN name_key AS varchar(40);
CREATE DOMAIN tokens AS bigint;
CREATE DOMAIN cents AS numeric(20, 2);
CREATE TYPE state AS ENUM ('reserved', 'finalized', 'released', 'expired');
CREATE TYPE reason AS ENUM ('purchase', 'reservation_expired');
CREATE DOMAIN state_text AS text CHECK (VALUE IN ('reserved', 'finalized', 'released', 'expired'));

CREATE FUNCTION accepted(key text, amount text, state text DEFAULT 'text',
                         reason text DEFAULT 'text') RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text[];
BEGIN
  PERFORM make_tables('typed', key, amount, state, reason);
  found := ARRAY(SELECT a.source || ' ' || a.status FROM bacmr_attach('typed') a ORDER BY 1);
  PERFORM forget('typed');
  RETURN is(found, '{chunks missing,reservations attached,wallet attached,wallet_ledger attached}',
            format('keys %s, amounts %s, status %s, reason %s', key, amount, state, reason));
END $$;

SELECT accepted(key, 'bigint') FROM unnest(ARRAY['uuid', 'bigint', 'integer', 'text',
  'varchar', 'varchar(40)', 'user_key', 'number_key', 'nested_key', 'name_key']) key;
SELECT accepted('uuid', amount) FROM unnest(ARRAY['integer', 'numeric', 'numeric(20,2)', 'tokens',
  'cents']) amount;
SELECT accepted('uuid', 'bigint', status)
  FROM unnest(ARRAY['varchar(20)', 'state', 'state_text']) status;
SELECT accepted('uuid', 'bigint', 'text', reason) FROM unnest(ARRAY['varchar', 'reason']) reason;

-- text and varchar hold the same values.
SELECT make_tables('mixed', 'text', 'bigint');
ALTER TABLE mixed.wallet ALTER user_id TYPE varchar(80);
SELECT set_eq($$ SELECT status FROM bacmr_attach('mixed') WHERE source <> 'chunks' $$,
  ARRAY['attached'], 'text and varchar keys go together');
SELECT forget('mixed');

-- ---------------------------------------------------------------------------------------------
-- Names
-- ---------------------------------------------------------------------------------------------

CREATE SCHEMA "Büro; DROP";
CREATE TABLE "Büro; DROP"."محفظة" ("المستخدم" uuid PRIMARY KEY, "الرصيد" bigint);
CREATE TABLE "Büro; DROP"."Led""ger" ("User" uuid, "select" bigint, "Why'" text);
SELECT lives_ok($$ SELECT bacmr_attach('wallet', '"Büro; DROP"."محفظة"',
  '{"user_id": "المستخدم", "token_balance": "الرصيد"}') $$, 'Arabic names');
SELECT lives_ok($$ SELECT bacmr_attach('wallet_ledger', '"Büro; DROP"."Led""ger"',
  '{"user_id": "User", "delta": "select", "reason": "Why''"}') $$,
  'names with upper case, quotes, and words of SQL');
SELECT set_eq('SELECT source, relation, columns, status FROM bacmr_sources', $$ VALUES
  ('wallet', '"Büro; DROP"."محفظة"',
   '{"user_id": "المستخدم", "token_balance": "الرصيد"}'::jsonb, 'attached'),
  ('wallet_ledger', '"Büro; DROP"."Led""ger"',
   '{"user_id": "User", "delta": "select", "reason": "Why''"}'::jsonb, 'attached') $$,
  'bacmr_sources shows them as they are to be written');
INSERT INTO "Büro; DROP"."محفظة" VALUES (gen_random_uuid(), 3);
SELECT is((SELECT (discrepancies, drift) FROM bacmr_reconcile()), (1::bigint, 3::numeric),
  'and reconciliation works on them');
SELECT forget('Büro; DROP');

-- ---------------------------------------------------------------------------------------------
-- One by one, with columns and options
-- ---------------------------------------------------------------------------------------------

CREATE SCHEMA billing;
CREATE TABLE billing.account (user_id bigint PRIMARY KEY, credits integer);
CREATE TABLE billing.hold (no bigint PRIMARY KEY, account bigint, tokens integer, state text,
                           until timestamptz);
SELECT lives_ok($$ SELECT bacmr_attach('wallet', 'billing.account', '{"token_balance":"credits"}') $$,
  'a table of another name, with a column of another name');
SELECT lives_ok($$ SELECT bacmr_attach(source => 'reservations', relation => 'billing.hold',
    columns => '{"id":"no", "user_id":"account", "amount":"tokens", "status":"state",
                 "expires_at":"until"}', options => '{"refund": false}') $$,
  'every argument by its name');
SELECT is((SELECT options FROM bacmr_sources WHERE source = 'reservations'), '{"refund": false}',
  'the options are kept');
SELECT lives_ok($$ SELECT bacmr_attach('wallet', 'billing.account',
  '{"token_balance":"credits"}', NULL) $$, 'NULL options mean none');
SELECT raises($$SELECT bacmr_attach('wallet', 'billing.account', NULL)$$, '42P16',
  'token_balance', 'Mend', 'NULL columns mean none, so the default names count');

SELECT raises($$SELECT bacmr_attach('purse', 'billing.account')$$, '22023', 'unknown source "purse"',
  'wallet, wallet_ledger, reservations, chunks', 'an unknown source');
SELECT raises($$SELECT bacmr_attach(NULL, 'billing.account')$$, '22004', 'source', '.',
  'NULL for the source');
SELECT raises($$SELECT bacmr_attach('wallet', NULL)$$, '22004', 'relation', '.',
  'NULL for the relation');
SELECT raises($$SELECT bacmr_attach('wallet', 'billing.nothing')$$, '42P01', 'nothing', '',
  'a table that does not exist');
SELECT raises($$SELECT bacmr_attach('wallet', 4294967295::oid::regclass)$$, '42P01',
  'does not exist', '.', 'an OID that belongs to nothing');
SELECT raises($$SELECT bacmr_attach('wallet', 'billing.account', '{"balance":"credits"}')$$,
  '22023', 'no column "balance"', 'token_balance', 'a column that the contract does not know');
SELECT raises($$SELECT bacmr_attach('wallet', 'billing.account', '{"delta":"credits"}')$$,
  '22023', 'no column "delta"', 'token_balance', 'a column that belongs to another source');
SELECT raises($$SELECT bacmr_attach('wallet', 'billing.account', '{"token_balance":"nothing"}')$$,
  '42P16', 'nothing', '.', 'a required column mapped to one that is not there');
SELECT raises($$SELECT bacmr_attach('wallet', 'billing.account',
  '{"token_balance":"credits", "updated_at":"nothing"}')$$,
  '42P16', 'nothing', '.', 'an optional column mapped to one that is not there');
SELECT raises($$SELECT bacmr_attach('wallet', 'billing.account', '{"token_balance":7}')$$,
  '22023', 'token_balance', '.', 'a column name that is no string');
SELECT raises($$SELECT bacmr_attach('wallet', 'billing.account', '["credits"]')$$,
  '22023', 'columns', '.', 'columns that are no object');
SELECT raises($$SELECT bacmr_attach('wallet', 'billing.account', '{}', '{"refund":false}')$$,
  '22023', 'no option "refund"', 'reservations', 'an option of another source');
SELECT raises(format('SELECT bacmr_attach(''reservations'', ''billing.hold'', ''{"id":"no",
    "user_id":"account", "amount":"tokens", "status":"state", "expires_at":"until"}'', %L)', o),
  code, message, hint, 'reservations with the options ' || o)
FROM (VALUES ('{"refunds":true}', '22023', 'no option "refunds"', 'refund and since'),
             ('{"refund":"no"}', '22023', 'refund', ''),
             ('{"refund":null}', '22023', 'refund', ''),
             ('{"since":20240101}', '22023', 'since', ''),
             ('{"since":"the other day"}', '22007', 'the other day', ''),
             ('[]', '22023', 'options', '.')) bad(o, code, message, hint);
SELECT is((SELECT options FROM bacmr_sources WHERE source = 'reservations'), '{"refund": false}',
  'what was refused has changed nothing');

SET LOCAL TimeZone = 'Africa/Casablanca';
SELECT bacmr_attach('reservations', 'billing.hold', '{"id":"no", "user_id":"account",
  "amount":"tokens", "status":"state", "expires_at":"until"}', '{"since":"2024-07-01 12:00"}');
SET LOCAL TimeZone = 'Asia/Tokyo';
SELECT is((SELECT (options->>'since')::timestamptz FROM bacmr_sources
           WHERE source = 'reservations'), '2024-07-01 11:00+00',
  'since is the moment that it was where it was written');
SET LOCAL TimeZone = 'UTC';

-- Re-attaching
SELECT lives_ok($$ SELECT bacmr_attach('wallet', 'billing.account', '{"token_balance":"credits"}') $$,
  'attaching what is attached is no error');
CREATE TABLE billing.wallet (user_id bigint PRIMARY KEY, token_balance bigint);
SELECT is((SELECT a.status FROM bacmr_attach('billing') a WHERE source = 'wallet'), 'attached',
  'another table replaces the attached one');
SELECT is((SELECT (relation, columns) FROM bacmr_sources WHERE source = 'wallet'),
  ('billing.wallet'::text, '{}'::jsonb), 'with its own columns');
SELECT is((SELECT relation FROM bacmr_sources WHERE source = 'reservations'), 'billing.hold',
  'and leaves the other sources alone');
CREATE TABLE billing.reservations (LIKE billing.hold INCLUDING ALL);
ALTER TABLE billing.reservations RENAME no TO id;
ALTER TABLE billing.reservations RENAME account TO user_id;
ALTER TABLE billing.reservations RENAME tokens TO amount;
ALTER TABLE billing.reservations RENAME state TO status;
ALTER TABLE billing.reservations RENAME until TO expires_at;
SELECT bacmr_attach('reservations', 'billing.reservations', '{}',
  '{"refund":false, "since":"2024-07-01 11:00+00"}');
SELECT is((SELECT a.status FROM bacmr_attach('billing') a WHERE source = 'reservations'),
  'attached', 'the schema form finds a table that is attached already');
SELECT is((SELECT options->>'refund' FROM bacmr_sources WHERE source = 'reservations'), 'false',
  'and keeps its options');

-- ---------------------------------------------------------------------------------------------
-- Detaching
-- ---------------------------------------------------------------------------------------------

SELECT lives_ok($$SELECT bacmr_detach('wallet')$$, 'detach');
SELECT is(status_of('wallet'), NULL, 'a detached source is gone from bacmr_sources');
SELECT has_table('billing'::name, 'wallet'::name, 'and its table stays');
SELECT raises($$SELECT bacmr_detach('wallet')$$, '42704', 'wallet', 'bacmr_sources',
  'detaching what is not attached');
SELECT raises($$SELECT bacmr_detach('purse')$$, '22023', 'purse', 'wallet_ledger',
  'detaching an unknown source');
SELECT raises('SELECT bacmr_detach(NULL)', '22004', 'source', '.', 'NULL to detach');
SELECT raises('SELECT bacmr_reconcile()', '55000', 'wallet', 'bacmr_attach',
  'a job without its source: the hint names bacmr_attach');
SELECT forget('billing');
SELECT raises('SELECT bacmr_expire_reservations()', '55000', 'reservations', 'bacmr_attach',
  'expiry without its source: likewise');

-- ---------------------------------------------------------------------------------------------
-- Every reason for invalid
-- ---------------------------------------------------------------------------------------------

CREATE TYPE poor_state AS ENUM ('reserved', 'done');
CREATE TYPE poor_reason AS ENUM ('purchase');
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;

SELECT refused('wallet', 'ALTER TABLE @ DROP CONSTRAINT wallet_pkey', 'no unique index on user_id',
  'a wallet without a unique key');
SELECT refused('wallet', 'ALTER TABLE @ DROP CONSTRAINT wallet_pkey; CREATE UNIQUE INDEX ON @'
  ' (user_id) WHERE user_id > 7', 'no unique index on user_id', 'a partial unique index');
SELECT refused('wallet', 'ALTER TABLE @ DROP CONSTRAINT wallet_pkey; CREATE UNIQUE INDEX ON @'
  ' (user_id, updated_at)', 'no unique index on user_id', 'a unique index on more columns');
SELECT refused('wallet', 'ALTER TABLE @ DROP CONSTRAINT wallet_pkey; CREATE UNIQUE INDEX ON @'
  ' ((user_id + 0))', 'no unique index on user_id', 'a unique index on an expression');
SELECT refused('wallet', 'ALTER TABLE @ DROP CONSTRAINT wallet_pkey; CREATE INDEX ON @ (user_id)',
  'no unique index on user_id', 'an index that is not unique');
SELECT refused('reservations', 'ALTER TABLE @ DROP CONSTRAINT reservations_pkey',
  'no unique index on id', 'reservations without a unique id');
SELECT refused('wallet_ledger', 'ALTER TABLE @ ALTER user_id TYPE uuid USING gen_random_uuid()',
  'user_id is of type uuid', 'ledger keys of another type than the wallet''s');
SELECT refused('reservations', 'ALTER TABLE @ ALTER user_id TYPE integer',
  'user_id is of type integer', 'reservations'' users of another type than the wallet''s');
SELECT refused('wallet_ledger', 'ALTER TABLE @ ALTER reservation_id TYPE text',
  'reservation_id is of type text', 'the ledger''s reservation ids of another type than the ids');
SELECT refused('reservations', 'ALTER TABLE @ ALTER expires_at TYPE timestamp',
  'timestamp without time zone', 'expires_at without time zone');
SELECT refused('reservations', 'ALTER TABLE @ ALTER status TYPE poor_state USING NULL',
  '''expired''', 'a status enum without a needed value');
SELECT refused('wallet_ledger', 'ALTER TABLE @ ALTER reason TYPE poor_reason USING NULL',
  '''reservation_expired''', 'a reason enum without the needed value');
SELECT refused('wallet_ledger', 'ALTER TABLE @ ADD note text NOT NULL, ADD "Source" int NOT NULL',
  'note, "Source"', 'ledger columns that need a value nobody has');
SELECT refused('wallet', 'ALTER TABLE @ ALTER token_balance TYPE float8', 'double precision',
  'an amount of an inexact type');
SELECT refused('wallet_ledger', 'ALTER TABLE @ ALTER delta TYPE money USING delta::money', 'money',
  'an amount in money');
SELECT refused('reservations', 'ALTER TABLE @ ALTER amount TYPE text', 'amount is of type text',
  'an amount in text');
SELECT refused('reservations', 'ALTER TABLE @ ALTER id TYPE numeric', 'id is of type numeric',
  'a key of a type that is none');
SELECT refused('reservations', 'ALTER TABLE @ ALTER status TYPE integer USING 1',
  'status is of type integer', 'a status that is a number');
SELECT refused('wallet', 'ALTER TABLE @ DROP COLUMN token_balance', 'token_balance',
  'a table without a required column');
SELECT refused('wallet_ledger', 'ALTER TABLE @ DROP COLUMN reason', 'reason',
  'a ledger without a reason');

-- Ledger columns that fill themselves do no harm.
SELECT make_tables('filled', 'bigint', 'bigint');
ALTER TABLE filled.wallet_ledger ADD note text NOT NULL DEFAULT '',
  ADD no bigint NOT NULL GENERATED BY DEFAULT AS IDENTITY,
  ADD twice bigint NOT NULL GENERATED ALWAYS AS (delta * 2) STORED, ADD free text;
SELECT is((SELECT a.status FROM bacmr_attach('filled') a WHERE source = 'wallet_ledger'), 'attached',
  'NOT NULL columns with a default, an identity or an expression are no obstacle');
SELECT forget('filled');

-- A covering unique index is as good as any.
SELECT make_tables('cover', 'bigint', 'bigint');
ALTER TABLE cover.wallet DROP CONSTRAINT wallet_pkey;
CREATE UNIQUE INDEX ON cover.wallet (user_id) INCLUDE (token_balance);
SELECT is((SELECT a.status FROM bacmr_attach('cover') a WHERE source = 'wallet'), 'attached',
  'a unique index with included columns will do');
SELECT forget('cover');

-- Two tables are changed one after the other: meanwhile one of them does not fit.
SELECT make_tables('pair', 'bigint', 'bigint');
SELECT count(*) FROM bacmr_attach('pair') \gset ignored_
CREATE TABLE pair.other (user_id uuid PRIMARY KEY, token_balance bigint);
SELECT lives_ok($$SELECT bacmr_attach('wallet', 'pair.other')$$,
  'a wallet with another type of key replaces the first');
SELECT alike(status_of('wallet_ledger'), 'invalid: %uuid%', 'the ledger no longer fits');
SELECT raises('SELECT bacmr_reconcile()', '55000', 'wallet_ledger.*uuid', 'bacmr_attach',
  'and reconciliation says so');
SELECT forget('pair');

CREATE TEMP TABLE wallet (user_id bigint PRIMARY KEY, token_balance bigint);
SELECT raises($$SELECT bacmr_attach('wallet', 'pg_temp.wallet')$$, '42P16', 'temporary', '.',
  'a temporary table');
SELECT raises($$SELECT bacmr_attach('wallet', 'pg_temp.wallet_pkey')$$, '42P16', 'not a table', '.',
  'an index');
DROP TABLE pg_temp.wallet;

SELECT not_for_expiry('wallet', 'ALTER TABLE @ RENAME TO rows; CREATE VIEW @ AS TABLE odd.rows', 'a view', 'a view as wallet');
SELECT not_for_expiry('wallet_ledger', 'ALTER TABLE @ RENAME TO rows;'
  ' CREATE MATERIALIZED VIEW @ AS TABLE odd.rows', 'a view',
  'a materialized view as ledger');
SELECT not_for_expiry('reservations', 'CREATE SUBSCRIPTION feed CONNECTION ''host=nowhere'''
  ' PUBLICATION p WITH (connect = false, slot_name = NONE);'
  ' INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)'
  ' SELECT oid, ''@''::regclass, ''r'' FROM pg_subscription WHERE subname = ''feed''',
  'subscription', 'a table that a subscription feeds');
DELETE FROM pg_subscription_rel;
DROP SUBSCRIPTION feed;
SELECT not_for_expiry('wallet', 'ALTER TABLE @ ALTER token_balance TYPE numeric(20,1);'
  ' ALTER TABLE odd.reservations ALTER amount TYPE numeric(20,2)', 'decimals',
  'a wallet that would round the refund');
-- Foreign: nothing answers behind this wrapper, so only status and expiry are asked.
SELECT make_tables('far', 'bigint', 'bigint');
DROP TABLE far.wallet;
CREATE FOREIGN TABLE far.wallet (user_id bigint, token_balance bigint) SERVER nowhere;
SELECT bacmr_attach('wallet', 'far.wallet');
SELECT bacmr_attach('wallet_ledger', 'far.wallet_ledger');
SELECT bacmr_attach('reservations', 'far.reservations');
SELECT alike(status_of('wallet'), 'invalid: %foreign table%', 'a foreign table: the status');
INSERT INTO far.reservations VALUES (1, 1, 1, 'reserved', now() - interval '1 hour');
SELECT raises('SELECT bacmr_expire_reservations()', '55000', 'foreign table', '.',
  'a foreign table: expiry refuses');
SELECT forget('far');
SELECT make_tables('far', 'bigint', 'bigint');
DROP TABLE far.reservations;
CREATE TABLE far.reservations (id bigint, user_id bigint, amount bigint, status text,
                               expires_at timestamptz) PARTITION BY RANGE (id);
CREATE TABLE far.near_part PARTITION OF far.reservations FOR VALUES FROM (0) TO (9);
CREATE UNIQUE INDEX ON far.reservations (id);
SELECT is((SELECT a.status FROM bacmr_attach('far') a WHERE source = 'reservations'), 'attached',
  'a partitioned table with partitions of its own');
DROP INDEX far.reservations_id_idx;
CREATE FOREIGN TABLE far.far_part PARTITION OF far.reservations FOR VALUES FROM (9) TO (99)
  SERVER nowhere;
SELECT alike(status_of('reservations'), 'invalid: %', 'a foreign partition: the status');
SELECT raises('SELECT bacmr_expire_reservations()', '55000', '.', '.',
  'a foreign partition: expiry refuses');
SELECT forget('far');

-- ---------------------------------------------------------------------------------------------
-- Whose table
-- ---------------------------------------------------------------------------------------------

CREATE ROLE attach_alice;
CREATE ROLE attach_bob;
CREATE ROLE attach_team;
GRANT attach_team TO attach_bob;
SELECT bacmr_grant('operator', r) FROM unnest('{attach_alice,attach_bob}'::name[]) r;
SELECT make_tables('alice', 'bigint', 'bigint'), make_tables('bob', 'bigint', 'bigint');
ALTER SCHEMA alice OWNER TO attach_alice;
ALTER TABLE alice.wallet OWNER TO attach_alice;
GRANT USAGE ON SCHEMA alice, bob TO attach_bob, attach_alice;
GRANT ALL ON ALL TABLES IN SCHEMA alice, bob TO attach_bob, attach_alice;
ALTER TABLE bob.wallet OWNER TO attach_team;

SELECT raises($$SELECT bacmr_attach('wallet', 'alice.wallet')$$, '42501', 'owner', 'attach_alice',
  'who is not the owner may not attach, whatever else is granted', 'attach_bob');
SELECT raises($$SELECT * FROM bacmr_attach('alice')$$, '42501', 'owner', 'attach_alice',
  'nor by the schema', 'attach_bob');
SELECT is_empty('SELECT * FROM bacmr_sources', 'and nothing is attached');
SELECT works_for('attach_alice', $$SELECT bacmr_attach('wallet', 'alice.wallet')$$,
  'the owner may attach');
SELECT raises($$SELECT bacmr_attach('wallet', 'bob.wallet')$$, '42501', 'alice',
  'attach_alice', 'replacing needs ownership of the table attached now', 'attach_bob');
SELECT raises($$SELECT bacmr_attach('wallet', 'bob.wallet')$$, '42501', 'bob', 'attach_team',
  'and of the new one', 'attach_alice');
SELECT raises($$SELECT bacmr_detach('wallet')$$, '42501', 'owner', 'attach_alice',
  'detaching needs ownership too', 'attach_bob');
SELECT is((SELECT relation FROM bacmr_sources), 'alice.wallet', 'nothing of that changed anything');
SELECT works_for('attach_alice', $$SELECT bacmr_detach('wallet')$$, 'the owner may detach');
SELECT works_for('attach_bob', $$SELECT bacmr_attach('wallet', 'bob.wallet')$$,
  'a member of the role that owns the table may attach it');
SELECT lives_ok($$SELECT bacmr_attach('wallet', 'alice.wallet')$$, 'a superuser may replace it');
SELECT forget('alice'), forget('bob');

-- ---------------------------------------------------------------------------------------------
-- Tables that change after they were attached
-- ---------------------------------------------------------------------------------------------

SELECT make_tables('shift', 'bigint', 'bigint');
SELECT bacmr_attach('wallet', 'shift.wallet', '{"token_balance":"token_balance"}');
SELECT count(*) FROM bacmr_attach('shift') \gset ignored_
INSERT INTO shift.wallet VALUES (1, 0);
INSERT INTO shift.reservations VALUES (1, 1, 5, 'reserved', now() - interval '1 hour');

-- Both jobs fail with 55000 and words about it, the status says what it is, and nothing is lost.
CREATE FUNCTION broken(source text, change text, undo text, expected_status text, message text,
                       description text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE before jsonb;
BEGIN
  SELECT to_jsonb(s) INTO before FROM bacmr_sources s WHERE s.source = broken.source;
  EXECUTE change;
  RETURN NEXT alike(status_of(source), expected_status, description || ': the status');
  RETURN NEXT raises('SELECT bacmr_reconcile()', '55000', message, 'bacmr_attach',
                     description || ': reconcile');
  RETURN NEXT raises('SELECT bacmr_expire_reservations()', '55000', message, 'bacmr_attach',
                     description || ': expire');
  EXECUTE undo;
  RETURN NEXT is((SELECT to_jsonb(s) FROM bacmr_sources s WHERE s.source = broken.source), before,
                 description || ': back in place, nothing is lost');
END $$;

SELECT broken(s, format('ALTER TABLE shift.%s RENAME TO gone', s),
  format('ALTER TABLE shift.gone RENAME TO %s', s), 'missing', s, s || ' renamed')
  FROM unnest('{wallet,wallet_ledger,reservations}'::text[]) s;
SELECT broken('wallet', 'ALTER SCHEMA shift RENAME TO shifted',
  'ALTER SCHEMA shifted RENAME TO shift', 'missing', 'shift', 'the schema renamed');
SELECT broken('wallet', 'ALTER TABLE shift.wallet RENAME token_balance TO credits',
  'ALTER TABLE shift.wallet RENAME credits TO token_balance', 'invalid: %token_balance%',
  'token_balance', 'a column of the wallet renamed');
SELECT broken('wallet_ledger', 'ALTER TABLE shift.wallet_ledger RENAME delta TO change',
  'ALTER TABLE shift.wallet_ledger RENAME change TO delta', 'invalid: %delta%', 'delta',
  'a column of the ledger renamed');
SELECT broken('reservations', 'ALTER TABLE shift.reservations RENAME expires_at TO until',
  'ALTER TABLE shift.reservations RENAME until TO expires_at', 'invalid: %expires_at%',
  'expires_at', 'a column of the reservations renamed');
SELECT broken('wallet_ledger', 'ALTER TABLE shift.wallet_ledger RENAME reservation_id TO hold',
  'ALTER TABLE shift.wallet_ledger RENAME hold TO reservation_id', 'invalid: %reservation_id%',
  'reservation_id', 'an optional column renamed, which refunds would silently miss');
SELECT broken('wallet', 'ALTER TABLE shift.wallet DROP CONSTRAINT wallet_pkey',
  'ALTER TABLE shift.wallet ADD PRIMARY KEY (user_id)', 'invalid: %unique index%', 'unique index',
  'the unique index dropped');
SELECT broken('wallet', 'DROP TABLE shift.wallet', $$CREATE TABLE shift.wallet (user_id bigint
  PRIMARY KEY, token_balance bigint, updated_at timestamptz); INSERT INTO shift.wallet VALUES (1, 0)$$, 'missing',
  'wallet', 'the wallet dropped and made anew');
SELECT is((SELECT expired FROM bacmr_expire_reservations()), 1::bigint,
  'and then the jobs work again');
ALTER TABLE shift.wallet DROP COLUMN updated_at;
SELECT is((SELECT a.status FROM bacmr_attach('shift') a WHERE source = 'wallet'), 'attached',
  'attaching by schema again resolves the columns anew');
DROP TABLE shift.wallet;
SELECT lives_ok($$SELECT bacmr_detach('wallet')$$, 'what is missing can be detached');
SELECT forget('shift');

-- ---------------------------------------------------------------------------------------------
-- Partitioned tables
-- ---------------------------------------------------------------------------------------------

CREATE SCHEMA parts;
CREATE TABLE parts.wallet (user_id uuid PRIMARY KEY, token_balance bigint)
  PARTITION BY HASH (user_id);
CREATE TABLE parts.w0 PARTITION OF parts.wallet FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE parts.wallet_ledger (user_id uuid, delta bigint, reason text, created_at timestamptz)
  PARTITION BY RANGE (created_at);
CREATE TABLE parts.l0 PARTITION OF parts.wallet_ledger DEFAULT;
CREATE TABLE parts.reservations (id uuid PRIMARY KEY, user_id uuid, amount bigint, status text,
                                 expires_at timestamptz) PARTITION BY HASH (id);
SELECT set_eq($$ SELECT status FROM bacmr_attach('parts') WHERE source <> 'chunks' $$,
  ARRAY['attached'], 'partitioned tables');
SELECT forget('parts');

-- ---------------------------------------------------------------------------------------------
-- The extension in another schema, and an empty search_path
-- ---------------------------------------------------------------------------------------------

DROP EXTENSION bacmr_ops;
CREATE SCHEMA ops;
CREATE EXTENSION bacmr_ops SCHEMA ops;
SELECT is_empty($$ SELECT p.oid::regprocedure FROM pg_proc p WHERE proname LIKE 'bacmr%'
                   AND pronamespace <> 'ops'::regnamespace $$, 'every function is in that schema');
CREATE FUNCTION everything_qualified() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('search_path', '', true);
  PERFORM ops.bacmr_create_tables('public');
  INSERT INTO public.wallet VALUES (gen_random_uuid(), 5);
  PERFORM * FROM ops.bacmr_attach('public');
  PERFORM ops.bacmr_attach('wallet', 'public.wallet');
  PERFORM ops.bacmr_reconcile();
  PERFORM ops.bacmr_reconcile_report();
  PERFORM ops.bacmr_expire_reservations();
  PERFORM ops.bacmr_pause('expire');
  PERFORM * FROM ops.bacmr_status;
  PERFORM * FROM ops.bacmr_sources;
  PERFORM * FROM ops.bacmr_doctor();
  PERFORM ops.bacmr_unpause('expire');
  PERFORM ops.bacmr_log('info', 'qualified');
  PERFORM ops.bacmr_grant('monitor', 'pg_monitor');
  PERFORM ops.bacmr_detach('chunks');
  PERFORM set_config('search_path', 'public', true);
  RETURN (SELECT count(*) FROM ops.bacmr_discrepancy);
END $$;
SELECT is(everything_qualified(), '1', 'with an empty search_path every call works, qualified');
DROP TABLE wallet, wallet_ledger, reservations, chunks;
DROP EXTENSION bacmr_ops;
CREATE EXTENSION bacmr_ops;

-- ---------------------------------------------------------------------------------------------
-- search_path attacks. What is planted raises an error as soon as anything calls it.
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_create_tables();
CREATE SCHEMA trap;
CREATE FUNCTION trap.sprung() RETURNS boolean LANGUAGE plpgsql AS
  $$BEGIN RAISE EXCEPTION 'a planted object was used'; END$$;
DO $$
DECLARE t text; op text;
BEGIN
  FOREACH t IN ARRAY '{text,name,uuid,bigint,integer,oid,boolean,jsonb,numeric,timestamptz,smallint,"char"}'::text[] LOOP
    EXECUTE format('CREATE FUNCTION trap.compare(a %s, b %1$s) RETURNS boolean LANGUAGE sql AS'
                   ' ''SELECT trap.sprung()''', t);
    FOREACH op IN ARRAY '{=,<>,<,<=,>,>=,||}'::text[] LOOP
      EXECUTE format('CREATE OPERATOR trap.%s (LEFTARG = %s, RIGHTARG = %2$s,'
                     ' FUNCTION = trap.compare)', op, t);
    END LOOP;
  END LOOP;
END $$;
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
  'SELECT CASE WHEN trap.sprung() THEN NULL::timestamptz END';
CREATE FUNCTION trap.gen_random_uuid() RETURNS uuid LANGUAGE sql AS
  'SELECT CASE WHEN trap.sprung() THEN NULL::uuid END';
CREATE FUNCTION trap.jsonb_typeof(jsonb) RETURNS text LANGUAGE sql AS
  'SELECT CASE WHEN trap.sprung() THEN '''' END';
CREATE FUNCTION trap.quote_ident(text) RETURNS text LANGUAGE sql AS
  'SELECT CASE WHEN trap.sprung() THEN '''' END';
CREATE FUNCTION trap.current_database() RETURNS name LANGUAGE sql AS
  'SELECT CASE WHEN trap.sprung() THEN NULL::name END';
CREATE FUNCTION trap.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT trap.sprung()';
CREATE FUNCTION trap.jsonb_build_object(VARIADIC "any") RETURNS jsonb LANGUAGE internal
  AS 'jsonb_build_object_noargs';
CREATE AGGREGATE trap.sum(bigint) (SFUNC = int8pl, STYPE = bigint, INITCOND = '666');
CREATE AGGREGATE trap.count(*) (SFUNC = int8inc, STYPE = bigint, INITCOND = '666');
CREATE TABLE trap.bacmr_source (LIKE bacmr_source);
CREATE TABLE trap.bacmr_job_run (LIKE bacmr_job_run);
CREATE TABLE trap.bacmr_discrepancy (LIKE bacmr_discrepancy);
CREATE TABLE trap.pg_class (oid oid, relname name);
CREATE TABLE trap.pg_extension (extname name);
CREATE TABLE trap.wallet (user_id uuid PRIMARY KEY, token_balance bigint);
CREATE TABLE trap.wallet_ledger (user_id uuid, delta bigint, reason text);

CREATE TEMP TABLE pg_class (oid oid, relname name);
CREATE TEMP TABLE pg_namespace (oid oid, nspname name);
CREATE TEMP TABLE pg_attribute (attname name);
CREATE TEMP TABLE bacmr_source (source text);
CREATE TEMP TABLE bacmr_job_run (run_id bigint);
CREATE TEMP TABLE bacmr_discrepancy (run_id bigint);

INSERT INTO public.wallet VALUES ('00000000-0000-0000-0000-000000000001', 5);
INSERT INTO public.reservations (user_id, amount, expires_at)
  VALUES ('00000000-0000-0000-0000-000000000001', 3, now() - interval '1 hour');

-- Runs everything under a path, as a role, and returns what went wrong, or NULL.
CREATE FUNCTION under_path(path text, role_name name) RETURNS text LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp AS $$
DECLARE statement text;
BEGIN
  FOREACH statement IN ARRAY ARRAY[
      'SELECT public.bacmr_attach(''wallet'', ''public.wallet'', ''{"user_id":"user_id"}'', ''{}'')',
      'SELECT * FROM public.bacmr_attach(''public'')',
      'SELECT public.bacmr_reconcile()',
      'SELECT public.bacmr_reconcile(''1 millisecond'')',
      'SELECT public.bacmr_reconcile_report()',
      'SELECT public.bacmr_expire_reservations()',
      'SELECT public.bacmr_pause(''expire'')',
      'SELECT public.bacmr_unpause(''expire'')',
      'SELECT count(*) FROM public.bacmr_sources',
      'SELECT count(*) FROM public.bacmr_status',
      'SELECT count(*) FROM public.bacmr_doctor()',
      'SELECT public.bacmr_log(''info'', ''x'')',
      'SELECT public.bacmr_detach(''chunks'')',
      'SELECT public.bacmr_create_tables(''public'')'] LOOP
    BEGIN
      PERFORM pg_catalog.set_config('role', role_name, true);
      PERFORM pg_catalog.set_config('search_path', path, true);
      -- count(*) of the statements' own text must not be what is trapped
      EXECUTE pg_catalog.replace(statement, 'count(*)', 'pg_catalog.count(*)');
      RESET ROLE;
      PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    EXCEPTION WHEN OTHERS THEN
      RETURN statement OPERATOR(pg_catalog.||) ': ' OPERATOR(pg_catalog.||) SQLERRM;
    END;
  END LOOP;
  RETURN NULL;
END $$;
CREATE ROLE attach_owner;
GRANT attach_owner TO CURRENT_USER;
GRANT ALL ON SCHEMA public TO attach_owner;
GRANT USAGE ON SCHEMA trap TO attach_owner;
GRANT ALL ON ALL TABLES IN SCHEMA trap TO attach_owner;
GRANT SELECT ON ALL TABLES IN SCHEMA pg_temp TO attach_owner;
SELECT bacmr_grant('operator', 'attach_owner');
ALTER TABLE public.wallet OWNER TO attach_owner;
ALTER TABLE public.wallet_ledger OWNER TO attach_owner;
ALTER TABLE public.reservations OWNER TO attach_owner;
ALTER TABLE public.chunks OWNER TO attach_owner;
SELECT is(under_path('trap, pg_catalog, public', 'postgres'), NULL,
  'operators, functions and tables in front of pg_catalog: a superuser calls');
SELECT is(under_path('pg_temp, trap, pg_catalog, public', 'postgres'), NULL,
  'tables in pg_temp in front of pg_catalog: a superuser calls');
SELECT is(under_path('trap, pg_catalog, public', 'attach_owner'), NULL,
  'operators, functions and tables in front of pg_catalog: the tables'' owner calls');
SELECT is((SELECT array_agg(DISTINCT discrepancy) FROM public.bacmr_discrepancy
           WHERE kind = 'balance_mismatch'), '{5}'::numeric[],
  'each run read the real tables and summed with the real functions');
SELECT is((SELECT token_balance FROM public.wallet), 8::bigint, 'and the refund was made once');
SELECT is((SELECT count(*) FROM trap.bacmr_job_run), 0::bigint, 'no run went into the wrong table');
DROP TABLE pg_temp.pg_class, pg_temp.pg_namespace, pg_temp.pg_attribute, pg_temp.bacmr_source,
  pg_temp.bacmr_job_run, pg_temp.bacmr_discrepancy;

SELECT * FROM finish();
ROLLBACK;
