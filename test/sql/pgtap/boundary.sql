-- The border between C++ and Postgres, crossed in both directions and under every kind of failure.
-- The functions come from test/module.
--
-- Not in one transaction: what is left after a statement that failed is part of what is tested.

\set ON_ERROR_STOP 1
\set ON_ERROR_ROLLBACK off
SET client_min_messages = warning;

CREATE EXTENSION IF NOT EXISTS bacmr_ops;

CREATE FUNCTION bacmr_test_alive() RETURNS int LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_destroyed() RETURNS int LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_heap_bytes() RETURNS bigint LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_sanitized() RETURNS bool LANGUAGE c AS :'bacmr_test_lib';
SELECT bacmr_test_sanitized() AS sanitized \gset
CREATE FUNCTION bacmr_test_throw(kind text) RETURNS void LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_throw_through_guard() RETURNS void LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_allocate_cpp(bytes bigint) RETURNS void LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_run(sql text) RETURNS text LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_catch(sql text) RETURNS text LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_catch_levels(depth bigint) RETURNS text LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_nested(depth bigint) RETURNS void LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_error_in_context() RETURNS void LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_error_while_unwinding(postgres bigint) RETURNS void
  LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_allocate(bytes bigint, huge bigint) RETURNS void
  LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_scan(relation regclass, stop_at bigint, how text) RETURNS bigint
  LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_catch_scan(relation regclass, stop_at bigint, how text) RETURNS text
  LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_statement_timeout(ms bigint) RETURNS void
  LANGUAGE c AS :'bacmr_test_lib';
CREATE FUNCTION bacmr_test_under_memory_limit(headroom bigint, sql text) RETURNS text
  LANGUAGE c AS :'bacmr_test_lib';

-- Everything a client can learn about the error that a statement ends with.
CREATE TYPE outcome AS (sqlstate text, message text, detail text, hint text, context text,
  schema_name text, table_name text, column_name text, constraint_name text, type_name text);

CREATE FUNCTION outcome_of(sql text) RETURNS outcome LANGUAGE plpgsql AS $$
DECLARE o outcome;
BEGIN
  EXECUTE sql;
  o.sqlstate := '00000';
  RETURN o;
EXCEPTION WHEN query_canceled OR others THEN
  GET STACKED DIAGNOSTICS o.sqlstate = RETURNED_SQLSTATE, o.message = MESSAGE_TEXT,
    o.detail = PG_EXCEPTION_DETAIL, o.hint = PG_EXCEPTION_HINT, o.context = PG_EXCEPTION_CONTEXT,
    o.schema_name = SCHEMA_NAME, o.table_name = TABLE_NAME, o.column_name = COLUMN_NAME,
    o.constraint_name = CONSTRAINT_NAME, o.type_name = PG_DATATYPE_NAME;
  RETURN o;
END $$;

CREATE FUNCTION sqlstate_of(sql text) RETURNS text LANGUAGE sql AS
  'SELECT (outcome_of(sql)).sqlstate';

-- Locks of this session on tables of the application and of the extension. Not on sequences: the
-- server itself keeps those to the end of the transaction.
CREATE FUNCTION held_locks() RETURNS SETOF text LANGUAGE sql AS $$
  SELECT format('%s on %s', l.mode, c.relname) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
  WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation'
    AND c.relnamespace = 'public'::regnamespace AND c.relkind <> 'S'
$$;

CREATE TABLE boundary_rows (k bigint, v bigint);
INSERT INTO boundary_rows SELECT n, n FROM generate_series(1, 20000) n;

CREATE DOMAIN boundary_positive AS int CONSTRAINT boundary_positive_check CHECK (value > 0);
CREATE TABLE boundary_item (id int CONSTRAINT boundary_item_key PRIMARY KEY, name text NOT NULL,
  price int CONSTRAINT boundary_item_price CHECK (price < 100));
INSERT INTO boundary_item VALUES (1, 'one', 1);
CREATE TABLE boundary_levels (level int);

SELECT no_plan();

-- ## C++ to Postgres: an exception that leaves an entry point

SELECT is((o.sqlstate, o.message, o.detail, o.hint)::text,
  ('22023', 'message: 100% of %s %n', 'Detail: 100% of %s %n.', 'Hint: 100% of %s %n.')::text,
  'core::Error keeps SQLSTATE, message, detail and hint to the letter')
FROM outcome_of($$SELECT bacmr_test_throw('core::Error')$$) o;

SELECT is((o.sqlstate, o.message, o.detail, o.hint)::text, ('55000', 'only a message', '', '')::text,
  'core::Error without detail and hint has none')
FROM outcome_of($$SELECT bacmr_test_throw('core::Error without detail')$$) o;

SELECT is((o.message, o.detail, o.hint)::text, ('رصيد غير كافٍ', 'التفاصيل', 'تلميح')::text,
  'texts in Arabic arrive unharmed')
FROM outcome_of($$SELECT bacmr_test_throw('core::Error in Arabic')$$) o;

SELECT is((o.sqlstate, length(o.message), length(o.detail), length(o.hint))::text,
  ('22023', 1048576, 1048576, 1048576)::text, 'texts of a megabyte arrive whole')
FROM outcome_of($$SELECT bacmr_test_throw('core::Error of a megabyte')$$) o;

SELECT is(sqlstate_of($$SELECT bacmr_test_throw('core::Error without message')$$), '22023',
  'an error without a message is an error too');

SELECT is((o.sqlstate, o.message)::text, ('XX000', 'runtime: 100% of %s')::text,
  'std::runtime_error becomes an internal error with its text')
FROM outcome_of($$SELECT bacmr_test_throw('std::runtime_error')$$) o;

SELECT is(sqlstate_of($$SELECT bacmr_test_throw('std::out_of_range')$$), 'XX000',
  'what the standard library throws becomes an internal error');

SELECT is((o.sqlstate, o.message)::text, ('53200', 'out of memory')::text,
  'std::bad_alloc becomes out_of_memory')
FROM outcome_of($$SELECT bacmr_test_throw('std::bad_alloc')$$) o;

SELECT is((o.sqlstate, o.message)::text, ('XX000', 'unknown C++ exception')::text,
  'an exception of no class becomes an internal error')
FROM outcome_of($$SELECT bacmr_test_throw('int')$$) o;

SELECT is((o.sqlstate, o.message)::text,
  ('22023', 'thrown while another was handled')::text,
  'an exception thrown while another is handled is the one that is reported')
FROM outcome_of($$SELECT bacmr_test_throw('nested')$$) o;

SELECT is((o.sqlstate, o.message)::text, ('22012', 'after the exception')::text,
  'an exception that passes through a guard leaves no jump target behind')
FROM outcome_of('SELECT bacmr_test_throw_through_guard()') o;

SELECT is(bacmr_test_alive(), 0, 'every C++ object of those calls is destroyed');
SELECT cmp_ok(bacmr_test_destroyed(), '>', 50, 'and there were such objects');

-- At the top level, without plpgsql around it: psql notes how the statement ended.
\set ON_ERROR_STOP 0
\set VERBOSITY terse
SELECT bacmr_test_throw('core::Error');
\set state :SQLSTATE
\set ON_ERROR_STOP 1
SELECT is(:'state'::text, '22023', 'a statement at the top level ends with the SQLSTATE too');
SELECT is(bacmr_test_alive(), 0, 'with every object destroyed');

-- ## Postgres to C++: an error that passes through C++ frames

SELECT is((o.sqlstate, o.message, o.detail, o.schema_name, o.table_name, o.constraint_name)::text,
  ('23505', 'duplicate key value violates unique constraint "boundary_item_key"',
   'Key (id)=(1) already exists.', 'public', 'boundary_item', 'boundary_item_key')::text,
  'a unique violation keeps detail, schema, table and constraint')
FROM outcome_of($$SELECT bacmr_test_run('INSERT INTO boundary_item VALUES (1, ''x'', 1)')$$) o;

SELECT is((o.sqlstate, o.table_name, o.column_name)::text,
  ('23502', 'boundary_item', 'name')::text, 'a NOT NULL violation keeps table and column')
FROM outcome_of($$SELECT bacmr_test_run('INSERT INTO boundary_item VALUES (2, NULL, 1)')$$) o;

SELECT is((o.sqlstate, o.schema_name, o.type_name, o.constraint_name)::text,
  ('23514', 'public', 'boundary_positive', 'boundary_positive_check')::text,
  'a domain''s violation keeps type and constraint')
FROM outcome_of($$SELECT bacmr_test_run('SELECT (-1)::boundary_positive')$$) o;

SELECT is((o.sqlstate, o.message, o.detail, o.hint)::text,
  ('P1234', 'raised: 100%', 'Its detail.', 'Its hint.')::text,
  'what a PL/pgSQL function raises keeps its own SQLSTATE, detail and hint')
FROM outcome_of($outer$SELECT bacmr_test_run($inner$DO $$BEGIN
  RAISE EXCEPTION 'raised: 100%%' USING ERRCODE = 'P1234', DETAIL = 'Its detail.',
    HINT = 'Its hint.'; END$$$inner$)$outer$) o;

SELECT matches(o.context,
  'inline_code_block line 2 at RAISE.*SQL statement "DO .*bacmr_test_run',
  'the context names every level, from the innermost to the C++ function''s caller')
FROM outcome_of($outer$SELECT bacmr_test_run($inner$DO $$BEGIN
  RAISE EXCEPTION 'x'; END$$$inner$)$outer$) o;

SELECT is(bacmr_test_alive(), 0, 'every C++ object that such an error passed is destroyed');

SELECT is((o.sqlstate, o.message, o.detail, o.hint)::text,
  ('23514', 'nested: 100% of %s', 'Detail.', 'Hint.')::text,
  'an error keeps its fields across a hundred borders in each direction')
FROM outcome_of('SELECT bacmr_test_nested(100)') o;
SELECT matches(o.context, '^innermost context', 'and its context')
FROM outcome_of('SELECT bacmr_test_nested(100)') o;
SELECT is(bacmr_test_alive(), 0, 'and destroys what lies in between');

SELECT is(sqlstate_of('SELECT bacmr_test_nested(10000000)'), '54001',
  'a stack that is too deep is an error like others, thousands of guards deep');
SELECT is(bacmr_test_alive(), 0, 'which unwinds them all');

SELECT is(o.message, 'second', 'an error jumps over a context callback…')
FROM outcome_of('SELECT bacmr_test_error_in_context()') o;
SELECT unalike(o.context, '%a frame that is gone%', '… which the next error does not call')
FROM outcome_of('SELECT bacmr_test_error_in_context()') o;

SET client_min_messages = error;
SELECT is((o.sqlstate, o.message, o.detail, o.hint)::text,
  ('22023', 'the first error', 'Its detail.', 'Its hint.')::text,
  'a clean-up that fails while an exception passes does not displace it')
FROM outcome_of('SELECT bacmr_test_error_while_unwinding(0)') o;
SELECT is((o.sqlstate, o.message, o.detail, o.hint)::text,
  ('23514', 'nested: 100% of %s', 'Detail.', 'Hint.')::text,
  'nor does it displace an error of Postgres''')
FROM outcome_of('SELECT bacmr_test_error_while_unwinding(1)') o;
SET client_min_messages = warning;
SELECT is(bacmr_test_alive(), 0, 'and all objects are destroyed');

-- ## Errors that are caught

SELECT is(bacmr_test_catch('SELECT 1/0'), '22012 division by zero', 'C++ can catch an error');
SELECT alike(bacmr_test_catch('INSERT INTO boundary_item VALUES (1, ''x'', 1)'),
  '23505 duplicate key %Key (id)=(1) already exists.%', 'and say what it was');

BEGIN;
SELECT is(bacmr_test_catch('LOCK TABLE boundary_item IN ACCESS EXCLUSIVE MODE; SELECT 1/0'),
  '22012 division by zero', 'an error after a lock is caught');
SELECT is_empty('SELECT * FROM held_locks() l WHERE l LIKE ''%boundary_item''',
  'the lock is gone while the transaction goes on');
SELECT is(bacmr_test_catch('INSERT INTO boundary_item VALUES (7, ''x'', 1); SELECT 1/0'),
  '22012 division by zero', 'an error after a change is caught');
SELECT is_empty('SELECT 1 FROM boundary_item WHERE id = 7', 'the change is undone');
SELECT is(bacmr_test_catch('SET LOCAL work_mem = ''77MB''; SELECT 1/0'),
  '22012 division by zero', 'an error after a setting is caught');
SELECT isnt(current_setting('work_mem'), '77MB', 'the setting is as it was');
SELECT is(bacmr_test_catch('INSERT INTO boundary_item VALUES (8, ''x'', 1)'), 'rows 1',
  'without an error the same function keeps what was done');
COMMIT;
SELECT isnt_empty('SELECT 1 FROM boundary_item WHERE id = 8', 'which the transaction commits');

BEGIN;
SELECT is(bacmr_test_catch_scan('boundary_rows', 3, 'throw'), 'stopped after 3072 rows',
  'an exception in the middle of a table scan is caught');
SELECT is_empty('SELECT * FROM held_locks() l WHERE l LIKE ''%boundary_rows''',
  'the table is not locked any more');
SELECT lives_ok('ALTER TABLE boundary_rows ADD COLUMN w int',
  'and not in use either: it can be altered in the same transaction');
ROLLBACK;

BEGIN;
SELECT is(bacmr_test_catch_levels(5), 'level 0, level 1, level 2, level 3, level 4, level 5',
  'subtransactions in one another: each error is caught one level further out');
SELECT is_empty('SELECT * FROM boundary_levels', 'and all their changes are undone');
COMMIT;

SELECT is(bacmr_test_catch('SELECT bacmr_test_catch(''SELECT 1/0''), bacmr_test_throw(''int'')'),
  'XX000 unknown C++ exception', 'C++ catches an error of C++ called by SQL called by C++');
SELECT is(bacmr_test_alive(), 0, 'all objects of these calls are destroyed');

-- ## SPI

SELECT is((o.sqlstate, o.message)::text, ('XX000', 'SPI failed: SPI_ERROR_TRANSACTION')::text,
  'a transaction command in SPI is refused')
FROM outcome_of($$SELECT bacmr_test_run('COMMIT')$$) o;
SELECT is(sqlstate_of($$SELECT bacmr_test_run('COPY boundary_item TO STDOUT')$$), 'XX000',
  'COPY to the client in SPI is refused');
SELECT is(sqlstate_of($$SELECT bacmr_test_run('SELEC 1')$$), '42601', 'a syntax error is one');
SELECT is(sqlstate_of($$SELECT bacmr_test_run('SELECT * FROM absent')$$), '42P01',
  'a missing table is one');
SELECT is(bacmr_test_run('SELECT * FROM boundary_item'), '2',
  'after such failures SPI works as before');
SELECT is(bacmr_test_catch('COMMIT'), 'XX000 SPI failed: SPI_ERROR_TRANSACTION',
  'a refusal of SPI''s is caught in a subtransaction like any error');

-- ## Cancels, and a timeout in the middle of a scan

SELECT is(bacmr_test_scan('boundary_rows', -1, 'cancel'), 20000::bigint, 'a scan reads every row');
SELECT is(sqlstate_of($$SELECT bacmr_test_scan('boundary_rows', 3, 'cancel')$$), '57014',
  'a cancel in the middle of a scan ends it');
SELECT is(sqlstate_of($$SELECT bacmr_test_catch_scan('boundary_rows', 3, 'cancel')$$), '57014',
  'also inside a subtransaction');

SELECT bacmr_create_tables();
SELECT bacmr_pause('expire');  -- the worker's; expiry is called here
INSERT INTO wallet (user_id, token_balance)
SELECT md5(n::text)::uuid, 30 FROM generate_series(1, 30000) n;
INSERT INTO wallet_ledger (user_id, delta, reason)
SELECT md5((n % 30000 + 1)::text)::uuid, 3, 'top-up' FROM generate_series(1, 300000) n;

-- The setting counts from the start of the whole statement; here it counts from the call.
CREATE FUNCTION sqlstate_within(ms bigint, sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM bacmr_test_statement_timeout(ms);
  EXECUTE sql;
  PERFORM bacmr_test_statement_timeout(0);
  RETURN '00000';
EXCEPTION WHEN query_canceled OR others THEN
  RETURN sqlstate;
END $$;

-- Longer and longer timeouts end the run at one place after another, until it gets through.
CREATE TEMP TABLE timed_out (ms int, sqlstate text);
SELECT format($$INSERT INTO timed_out
  SELECT %s, sqlstate_within(%1$s, 'SELECT bacmr_reconcile()')$$, ms)
FROM unnest('{1,2,3,5,7,10,14,20,28,40,55,75}'::int[]) ms \gexec
SELECT is_empty('SELECT * FROM timed_out WHERE sqlstate NOT IN (''57014'', ''00000'')',
  'a reconciliation under statement_timeout ends with 57014 or gets through, and with nothing else');
SELECT isnt_empty('SELECT * FROM timed_out WHERE sqlstate = ''57014''',
  'statement_timeout ends a reconciliation');

\set ON_ERROR_STOP 0
SET statement_timeout = '2ms';
SELECT bacmr_reconcile();
\set state :SQLSTATE
RESET statement_timeout;
\set ON_ERROR_STOP 1
SELECT is(:'state'::text, '57014', 'statement_timeout ends a reconciliation at the top level');

BEGIN;
SELECT is(sqlstate_within(5, 'SELECT bacmr_reconcile()'), '57014',
  'a timeout can be caught where the application wants to');
SELECT is_empty('SELECT * FROM held_locks()', 'and leaves no lock on a table behind');
SELECT is_empty($$SELECT * FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'$$,
  'and no lock on a job');
COMMIT;
SELECT is_empty($$SELECT * FROM bacmr_job_run WHERE status = 'running'$$,
  'and no run that seems to go on');
SELECT is((r.wallets_checked, r.ledger_rows, r.discrepancies)::text, '(30000,300000,0)',
  'the session goes on: the next reconciliation is right') FROM bacmr_reconcile() r;

-- A timeout inside the application's trigger: not "this user is locked, take the next".
CREATE FUNCTION sleepy() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_sleep(60); RETURN new; END';
CREATE TRIGGER sleepy BEFORE UPDATE ON wallet FOR EACH ROW EXECUTE FUNCTION sleepy();
INSERT INTO reservations (user_id, amount, expires_at)
SELECT md5(n::text)::uuid, 1, now() - interval '1 second' FROM generate_series(1, 3) n;
SELECT is(sqlstate_within(100, 'SELECT bacmr_expire_reservations()'), '57014',
  'expiry does not swallow a timeout that strikes in a trigger');
DROP TRIGGER sleepy ON wallet;
TRUNCATE reservations;

-- ## Out of memory

SELECT is((o.sqlstate, o.message)::text,
  ('XX000', 'invalid memory alloc request size 1073741824')::text,
  'a palloc beyond the server''s limit is its usual error')
FROM outcome_of('SELECT bacmr_test_allocate(1073741824, 0)') o;
SELECT is((o.sqlstate, o.message)::text, ('53200', 'out of memory')::text,
  'a palloc that the machine cannot satisfy is out_of_memory')
FROM outcome_of('SELECT bacmr_test_allocate((1::bigint << 62), 1)') o;
\if :sanitized
SELECT skip('an allocation in C++ that must fail ends the process under AddressSanitizer', 1);
\else
SELECT is((o.sqlstate, o.message)::text, ('53200', 'out of memory')::text,
  'a C++ allocation that the machine cannot satisfy is out_of_memory')
FROM outcome_of('SELECT bacmr_test_allocate_cpp((1::bigint << 62))') o;
\endif
SELECT is(bacmr_test_alive(), 0, 'all objects are destroyed');

\if :sanitized
SELECT skip('AddressSanitizer reserves terabytes of addresses: they cannot be limited', 5);
\else
-- With less and less memory left the run fails at one place after another.
CREATE TEMP TABLE starved (kb int, workers int, sqlstate text);
CREATE FUNCTION starve(sql text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE kb int; workers int;
BEGIN
  FOREACH workers IN ARRAY '{0,2}'::int[] LOOP
    PERFORM set_config('max_parallel_workers_per_gather', workers::text, true);
    FOREACH kb IN ARRAY '{0,16,64,128,256,512,1024,2048,3072,4096,6144,8192,16384,65536}'::int[] LOOP
      INSERT INTO starved
      VALUES (kb, workers, bacmr_test_under_memory_limit(kb::bigint * 1024, sql));
    END LOOP;
  END LOOP;
END $$;
CREATE TEMP TABLE starving_session AS SELECT pg_backend_pid() AS pid;
SET bacmr.reconcile_memory = '64MB';
SELECT starve('SELECT bacmr_reconcile()');
SELECT is_empty('SELECT * FROM starved WHERE sqlstate NOT IN (''00000'', ''53200'')',
  'with little memory a reconciliation works or ends with out_of_memory');
TRUNCATE starved;
-- Allocations that reconciliation can do without make no difference; these it cannot.
SELECT starve('SELECT string_agg(k::text, '','') FROM generate_series(1, 2000000) k');
SELECT isnt_empty('SELECT * FROM starved WHERE sqlstate = ''53200''',
  'the limit of memory that these tests set does bite');
SELECT is((SELECT pid FROM starving_session), pg_backend_pid(), 'the session lives');
SELECT is(bacmr_test_alive(), 0, 'all objects are destroyed');
SELECT is((r.wallets_checked, r.ledger_rows, r.discrepancies)::text, '(30000,300000,0)',
  'and the next reconciliation is right') FROM bacmr_reconcile() r;
RESET bacmr.reconcile_memory;
\endif

-- ## A thousand failures leave nothing behind

-- The bytes that this session holds: in memory contexts, and all in all.
CREATE FUNCTION memory_held(OUT contexts bigint, OUT heap bigint) LANGUAGE sql AS $$
  SELECT sum(total_bytes)::bigint, bacmr_test_heap_bytes() FROM pg_backend_memory_contexts
$$;

CREATE FUNCTION fail_often(sql text, times int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE failures int := 0;
BEGIN
  FOR i IN 1 .. times LOOP
    BEGIN
      EXECUTE sql;
    EXCEPTION WHEN others THEN
      failures := failures + 1;
    END;
  END LOOP;
  RETURN failures;
END $$;

-- They need not fill the server's log.
SET log_min_messages = panic;

CREATE TEMP TABLE leaking (what text, call text);
-- No unique index: unfit.
CREATE TABLE boundary_bad_wallet (user_id uuid, token_balance bigint);
INSERT INTO leaking VALUES
  ('C++ errors', $$SELECT bacmr_test_throw('core::Error')$$),
  ('C++ exceptions of no class', $$SELECT bacmr_test_throw('int')$$),
  ('C++ errors while another is handled', $$SELECT bacmr_test_throw('nested')$$),
  ('errors of Postgres', $$SELECT bacmr_test_run('SELECT 1/0')$$),
  ('errors of Postgres across ten borders', 'SELECT bacmr_test_nested(10)'),
  ('refusals of SPI', $$SELECT bacmr_test_run('COMMIT')$$),
  ('caught errors', $$SELECT 1 / (bacmr_test_catch('SELECT 1/0') <> '22012 division by zero')::int$$),
  ('errors in the middle of a scan', $$SELECT bacmr_test_scan('boundary_item', 0, 'throw')$$),
  ('attachments of an unfit table', $$SELECT bacmr_attach('wallet', 'boundary_bad_wallet')$$),
  ('attachments as an unknown source', $$SELECT bacmr_attach('absent', 'boundary_item')$$),
  ('attachments with an unknown column', $$SELECT bacmr_attach('wallet', 'wallet', '{"x": "y"}')$$),
  ('attachments in an absent schema', $$SELECT * FROM bacmr_attach('absent')$$),
  ('detachments of an unknown source', $$SELECT bacmr_detach('chunks_')$$),
  ('reconciliations with a bad argument', $$SELECT bacmr_reconcile('-1s')$$);
INSERT INTO leaking SELECT 'failures to allocate in C++', 'SELECT bacmr_test_allocate_cpp((1::bigint << 62))'
  WHERE NOT bacmr_test_sanitized();


CREATE TEMP TABLE held (call int GENERATED ALWAYS AS IDENTITY, contexts bigint, heap bigint);
CREATE FUNCTION grown(OUT contexts bigint, OUT heap bigint) LANGUAGE sql AS $$
  SELECT m.contexts - lag(m.contexts) OVER w, m.heap - lag(m.heap) OVER w FROM held m
  WINDOW w AS (ORDER BY call) ORDER BY call DESC LIMIT 1
$$;

-- The first calls, and the first measurements, warm caches up. One byte a call would be 2000: the
-- limit is less than any object weighs, and more than what the allocators' blocks make of nothing.
SELECT s.sql FROM leaking l CROSS JOIN LATERAL (VALUES
  (1, format('SELECT is(fail_often(%L, 1000), 1000, %L)', call, what || ': all of them fail')),
  (2, 'INSERT INTO held (contexts, heap) SELECT * FROM memory_held()'),
  (3, format('DO $do$BEGIN PERFORM fail_often(%L, 100); END$do$', call)),
  (4, 'INSERT INTO held (contexts, heap) SELECT * FROM memory_held()'),
  (5, format('DO $do$BEGIN PERFORM fail_often(%L, 2000); END$do$', call)),
  (6, 'INSERT INTO held (contexts, heap) SELECT * FROM memory_held()'),
  (7, format('SELECT cmp_ok(contexts, ''<'', 16384::bigint, %L) FROM grown()',
        what || ': memory contexts do not grow')),
  (8, format('SELECT cmp_ok(heap, ''<'', 16384::bigint, %L) FROM grown()',
        what || ': nor does the heap'))) s(n, sql)
ORDER BY l.what, s.n \gexec
SELECT is(bacmr_test_alive(), 0, 'all objects of these calls are destroyed');

-- Statements that fail at the top level, each in a transaction of its own. In a session of their
-- own: a thousand error messages are nobody's reading.
\setenv PGHOST :HOST
\setenv PGPORT :PORT
\setenv PGUSER :USER
\setenv PGDATABASE :DBNAME
\setenv PGOPTIONS '-c log_min_messages=panic'
CREATE TABLE boundary_growth (what text, contexts bigint, heap bigint);
CREATE TABLE boundary_leaking AS SELECT row_number() OVER (ORDER BY what) AS n, * FROM leaking;
-- For each call: psql reads, four times over, a thousand calls and a measurement. What leaks grows each
-- time; the server keeps some contexts that were deleted for the next, now more and now fewer.
\setenv MEASURE 'SELECT contexts AS contexts_%s, heap AS heap_%s FROM memory_held() \\gset\n'
\setenv RESULT 'INSERT INTO boundary_growth SELECT what, least(:contexts_3 - :contexts_2, :contexts_4 - :contexts_3), least(:heap_3 - :heap_2, :heap_4 - :heap_3) FROM boundary_leaking WHERE n = %s;\n'
\! for n in $(psql -XAtc 'SELECT n FROM boundary_leaking ORDER BY n'); do call=$(psql -XAtc "SELECT call FROM boundary_leaking WHERE n = $n"); { for i in 1 2 3 4; do yes "$call;" | head -n 1000; printf "$MEASURE" $i $i; done; printf "$RESULT" $n; } | psql -Xq >/dev/null 2>&1; done
SELECT is((SELECT count(*) FROM boundary_growth), (SELECT count(*) FROM boundary_leaking),
  'sessions with four thousand failing statements come through');
SELECT cmp_ok(contexts, '<', 16384::bigint,
  what || ', at the top level: memory contexts do not grow') FROM boundary_growth;
SELECT cmp_ok(heap, '<', 16384::bigint, what || ', at the top level: nor does the heap')
FROM boundary_growth;

SELECT * FROM finish();
