-- Imports: what was exported comes back as it was, into tables of any shape; all rows or none; and a
-- file that is bad in any way is refused with the line and the reason.
\ir include/helpers.psql
BEGIN;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
CREATE EXTENSION bacmr_ops;
\ir include/artifacts.psql
\ir include/every_type.psql
SELECT bacmr_create_tables();
CREATE ROLE import_operator;
CREATE ROLE import_reader;
CREATE ROLE import_stranger;
SELECT bacmr_grant('operator', r) FROM unnest('{import_operator,import_reader}'::name[]) r;
GRANT pg_read_server_files TO import_reader;

-- Exports, and says under which name.
CREATE FUNCTION exported(relation regclass, compression text DEFAULT 'none') RETURNS text LANGUAGE sql AS
  $$SELECT name_of(path) FROM bacmr_export(relation, compression => exported.compression)$$;
-- read/inserted/updated/skipped
CREATE FUNCTION imported(relation regclass, source text, on_conflict text DEFAULT 'error',
  unknown_columns text DEFAULT 'error')
  RETURNS text LANGUAGE sql AS $$
  SELECT concat_ws('/', read, inserted, updated, skipped)
    FROM bacmr_import(relation, source, on_conflict, unknown_columns)
$$;
CREATE FUNCTION last_run(of_job text) RETURNS bacmr_job_run LANGUAGE sql AS
  $$SELECT r FROM bacmr_job_run r WHERE job = of_job ORDER BY run_id DESC LIMIT 1$$;
-- ---------------------------------------------------------------------------------------------
-- Chunks
-- ---------------------------------------------------------------------------------------------

INSERT INTO chunks (namespace, document_id, chunk_index, content, metadata, token_count, created_at)
SELECT n.space, gen_random_uuid(), i, t, CASE i % 3 WHEN 0 THEN 'null' ELSE jsonb_build_object(t, ARRAY[t]) END,
  NULLIF(i % 5, 0), clock_timestamp()
FROM unnest('{fr,ar,en}'::text[]) n(space), every_type.texts() WITH ORDINALITY x(t, i), generate_series(1, 8);
CREATE TABLE chunks_before AS TABLE chunks;
-- How many rows two tables, which have an id, do not share to the last byte.
CREATE FUNCTION differing(a regclass, b regclass, condition text DEFAULT 'true') RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  n bigint;
BEGIN
  EXECUTE format('SELECT count(*) FROM (SELECT * FROM %1$s WHERE %3$s) "the one" FULL JOIN (SELECT * FROM %2$s WHERE %3$s) "the other" USING (id)'
                 ' WHERE record_image_ne("the one", "the other") IS DISTINCT FROM false', a, b, condition) INTO n;
  RETURN n;
END
$$;
CREATE FUNCTION round_trip(compression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  file text := name_of((bacmr_export_chunks(compression => round_trip.compression)).path);
BEGIN
  DELETE FROM chunks;
  RETURN (SELECT format('%s %s %s %s, %s differ', read, inserted, updated, skipped,
    differing('chunks', 'chunks_before')) FROM bacmr_import_chunks(file));
END
$$;
SELECT is(round_trip(c), format('%1$s %1$s 0 0, 0 differ', count(*)), 'chunks come back as they were: ' || c)
FROM chunks_before, unnest('{none,gzip,zstd}'::text[]) c GROUP BY c ORDER BY c;
SELECT is((status, error, detail - 'source'), ('succeeded'::text, NULL::text,
  jsonb_build_object('relation', 'public.chunks', 'read', n, 'inserted', n, 'updated', 0, 'skipped', 0)), 'the run')
FROM last_run('import'), (SELECT count(*) FROM chunks_before) c(n);
SELECT detail->>'source' AS chunks_file FROM last_run('import') \gset
SELECT run_id, read, skipped FROM bacmr_import_chunks(:'chunks_file', 'skip') \gset
SELECT is((last_run('import')).run_id, :run_id::bigint, 'whose number is returned');

-- ---------------------------------------------------------------------------------------------
-- Every type
-- ---------------------------------------------------------------------------------------------

CREATE SCHEMA restored;
CREATE FUNCTION restored(type text, relation regclass) RETURNS regclass LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE TABLE restored.%I (LIKE %s)', type, relation);
  RETURN format('restored.%I', type);
END
$$;
CREATE TEMP TABLE round_trips AS
  SELECT type, relation, restored(type, relation) AS copy,
    (SELECT reltuples FROM pg_class c WHERE c.oid = relation) AS n
  FROM every_type."tables of types";
-- Whoever imports may have set what he likes.
SET LOCAL TimeZone = 'Asia/Kathmandu';
SET LOCAL DateStyle = 'SQL, DMY';
SET LOCAL IntervalStyle = 'sql_standard';
SET LOCAL xmloption = 'document';
SET LOCAL search_path = public, restored;
CREATE FUNCTION imported_or_error(relation regclass, source text,
  on_conflict text DEFAULT 'error') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN imported(relation, source, on_conflict);
EXCEPTION WHEN OTHERS THEN
  RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT matches(imported_or_error(copy, exported(relation)), '^(\d+)/\1/0/0$', 'type ' || type || ': all rows')
  FROM round_trips ORDER BY type;
SET LOCAL search_path = public;
SELECT is(differing(relation, copy, 'id >= 0'), 0::bigint, 'type ' || type || ': as they were')
  FROM round_trips ORDER BY type;

-- A domain over an array within an array is no further dimension of that.
CREATE DOMAIN user_type.path AS int[];
CREATE TABLE lists_of_lists (id int, l user_type.path[], t "every_type"."text_da"[]);
INSERT INTO lists_of_lists VALUES (1, ARRAY['{1,2}', '{3}', NULL, '{}']::user_type.path[],
  ARRAY['{a,NULL}']::every_type.text_da[]),
  (2, '{}', NULL);
CREATE TABLE restored.lists_of_lists (LIKE lists_of_lists);
SELECT matches(imported_or_error('restored.lists_of_lists', exported('lists_of_lists')), '^2/2/0/0$',
  'arrays of domains over arrays');
SELECT is(differing('lists_of_lists', 'restored.lists_of_lists'), 0::bigint, 'as they were');

CREATE TABLE with_nulls (id int, list text[]);
INSERT INTO with_nulls VALUES (1, ARRAY['NULL', NULL, 'null']);
CREATE TABLE restored.with_nulls (LIKE with_nulls);
SET LOCAL array_nulls = off;
SELECT imported('restored.with_nulls', exported('with_nulls'));
SELECT is(differing('with_nulls', 'restored.with_nulls'), 0::bigint, 'a NULL in an array, whatever array_nulls says');
SET LOCAL array_nulls = on;

-- With lengths, precisions and fields; domains with conditions; composites that have changed
CREATE DOMAIN user_type.positive AS int CHECK (value > 0);
CREATE TYPE user_type.changed AS (a int, gone text, "Z z" text);
ALTER TYPE user_type.changed DROP ATTRIBUTE gone, ADD ATTRIBUTE new jsonb;
CREATE TABLE with_modifier (id int, c char(7), v varchar(20), n numeric(12, 4), b bit(5), vb bit varying(9),
  t time(2), tz timetz(0),
  ts timestamp(3), i interval(2), p user_type.positive, f user_type.changed, bx box[], j jsonb[]);
INSERT INTO with_modifier VALUES (1, 'ab', '  x ', 1.5, '10110', '1', '01:02:03.456', '01:02:03.9+02',
  '2026-01-01 01:02:03.4567',
  '1.239 s', 7, ROW(1, E'a"\\\n', '{"a":[1]}'), '{(1,1),(0,0);(2,2),(1,1)}', ARRAY['[1,2]', '"x"', '{}']::jsonb[]);
INSERT INTO with_modifier (id) VALUES (2);
CREATE TABLE restored.with_modifier (LIKE with_modifier);
SELECT is(imported('restored.with_modifier', exported('with_modifier')), '2/2/0/0',
  'types with modifiers, domains, changed composites');
SELECT is(differing('with_modifier', 'restored.with_modifier'), 0::bigint, 'as they were');
CREATE TABLE long_value AS SELECT n AS id, repeat(x, 30000) AS t, decode(repeat('00ff', 30000), 'hex') AS b,
  array_fill(repeat(x, 3000), '{3}') AS a,
  jsonb_build_object('a', repeat(x, 30000)) AS j FROM unnest(ARRAY['"', E'\n', '\', 'نص 😀',
    'x']) WITH ORDINALITY v(x, n);
CREATE TABLE restored.long_value (LIKE long_value);
SELECT is(imported('restored.long_value', exported('long_value', 'zstd')), '5/5/0/0', 'long values');
SELECT is(differing('long_value', 'restored.long_value'), 0::bigint, 'as they were');

-- JSON's null and SQL's: each in its rows, also beyond the first batch
CREATE TABLE two_nulls AS SELECT n AS id, CASE n % 3 WHEN 0 THEN 'null' WHEN 1 THEN '[null]' END::jsonb AS jb,
  CASE WHEN n BETWEEN 1000 AND 1100 THEN 'null' WHEN n % 2 = 0 THEN '"null"' END::json AS j,
    CASE n % 4 WHEN 0 THEN 'null' END AS t
FROM generate_series(1, 3000) n;
CREATE TABLE restored.two_nulls (t text, j json, jb jsonb, id int);
SELECT is(imported('restored.two_nulls', exported('two_nulls')), '3000/3000/0/0',
  'two kinds of null, columns in another order');
SELECT set_eq('SELECT id, jb::text, j::text, t FROM restored.two_nulls',
  'SELECT id, jb::text, j::text, t FROM two_nulls', 'each as it was');

-- ---------------------------------------------------------------------------------------------
-- Rows that are there already
-- ---------------------------------------------------------------------------------------------

CREATE TABLE stock (a int, b text, n int, note text DEFAULT 'none', untouched int DEFAULT 1, PRIMARY KEY (a, b));
CREATE TABLE stock_export (LIKE stock INCLUDING ALL);
ALTER TABLE stock_export DROP untouched;
INSERT INTO stock_export SELECT n, 'k', n, 'exported' FROM generate_series(1, 10) n;
SELECT exported('stock_export') AS stock_file \gset
INSERT INTO stock SELECT n, 'k', -n, 'old', 7 FROM generate_series(8, 12) n;
SELECT raises(format('SELECT imported(''stock'', %L)', :'stock_file'), '23505',
  '^line 8 of "dr_export_stock_export_.*" could not be imported: .*stock_pkey', '',
  'error: the line whose key is there already');
SELECT is((SELECT count(*) FROM stock), 5::bigint, 'and no row');
SELECT is(imported('stock', :'stock_file', 'skip'), '10/7/0/3', 'skip: the new ones');
SELECT set_eq('SELECT a, n, note, untouched FROM stock',
  $$SELECT n, n AS m, 'exported' AS note, 1 AS u FROM generate_series(1, 7) n UNION ALL SELECT n, -n, 'old', 7
    FROM generate_series(8, 12) n$$, 'old rows stay as they are');
DELETE FROM stock WHERE a < 3;
SELECT is(imported('stock', :'stock_file', 'update'), '10/2/8/0', 'update: by the key of two columns');
SELECT set_eq('SELECT a, n, note, untouched FROM stock', $$SELECT n, n AS m, 'exported' AS note,
  CASE WHEN n < 8 THEN 1 ELSE 7 END AS u FROM generate_series(1, 10) n
  UNION ALL SELECT n, -n, 'old', 7 FROM generate_series(11, 12) n$$, 'other columns and other rows are not touched');
SELECT is(imported('stock', :'stock_file', 'update'), '10/0/10/0', 'again');
SELECT is(detail - '{source,relation}'::text[], '{"read":10,"inserted":0,"updated":10,"skipped":0}',
  'the run counts') FROM last_run('import');
SELECT is(imported('stock', :'stock_file', 'skip'), '10/0/0/10', 'nothing new');
CREATE TABLE no_key (a int, b text, n int, note text);
SELECT raises(format('SELECT imported(''no_key'', %L, ''update'')', :'stock_file'), '55000', 'needs a unique key',
  'primary key', 'update without a key');
SELECT is(imported('no_key', :'stock_file', 'skip'), '10/10/0/0', 'skip without a key');
SELECT is(imported('no_key', :'stock_file', 'error'), '10/10/0/0', 'error without a key');
CREATE UNIQUE INDEX stock_export_partly ON stock_export (n) WHERE n > 3;
CREATE UNIQUE INDEX stock_export_expression ON stock_export ((n + 1));
ALTER TABLE stock_export DROP CONSTRAINT stock_export_pkey, ADD UNIQUE (n, a) DEFERRABLE;
SELECT raises(format('SELECT imported(''stock_export'', %L, ''update'')', :'stock_file'), '55000',
  'needs a unique key', 'primary key',
  'one with a condition, on an expression, or deferrable, is none');
CREATE UNIQUE INDEX stock_export_n ON stock_export (n);
SELECT is(imported('stock_export', :'stock_file', 'update'), '10/0/10/0', 'a unique index is enough');
CREATE TABLE only_key (a int PRIMARY KEY); INSERT INTO only_key VALUES (1), (2);
SELECT exported('only_key') AS only_key_file \gset
DELETE FROM only_key WHERE a = 2;
SELECT is(imported('only_key', :'only_key_file', 'update'), '2/1/0/1', 'nothing but the key: nothing to update');
CREATE TABLE other_key (k int PRIMARY KEY, a int);
SELECT raises(format('SELECT imported(''other_key'', %L, ''update'')', :'only_key_file'), '42703',
  'lacks the column "k" of the key', 'error',
  'an export without the key');
CREATE TABLE two_uniques (a int PRIMARY KEY, n int UNIQUE); INSERT INTO two_uniques VALUES (100, 3);
SELECT is(imported('two_uniques', :'stock_file', 'skip', 'ignore'), '10/9/0/1',
  'skip: whatever unique constraint is met');
DELETE FROM two_uniques WHERE a < 5;
SELECT raises(format('SELECT imported(''two_uniques'', %L, ''update'', ''ignore'')', :'stock_file'), '23505',
  'two_uniques_n_key', '', 'update: another one is an error');
CREATE TABLE nulls_key (a int, b text, UNIQUE (a, b)); INSERT INTO nulls_key VALUES (1, NULL), (2, 'x');
SELECT is(imported('nulls_key', exported('nulls_key'), 'update'), '2/1/0/1', 'NULL in a key meets none');
-- Keys whose operators are not the server's own
CREATE EXTENSION ltree; CREATE EXTENSION citext;
CREATE TABLE paths (path ltree PRIMARY KEY, n int); INSERT INTO paths VALUES ('a', 1), ('a.b', 2);
SELECT exported('paths') AS paths_file \gset
DELETE FROM paths WHERE n = 1; UPDATE paths SET n = 7;
SELECT is(imported_or_error('paths', :'paths_file', 'update'), '2/1/1/0',
  'update by a key of a type with operators of its own');
SELECT set_eq('TABLE paths', $$VALUES ('a'::ltree, 1), ('a.b', 2)$$, 'all as exported');
CREATE TABLE words (word citext PRIMARY KEY, n int); INSERT INTO words VALUES ('Foo', 1);
SELECT exported('words') AS words_file \gset
UPDATE words SET word = 'FOO', n = 7;
SELECT is(imported('words', :'words_file', 'update'), '1/0/1/0',
  'or whose equality is another than that of its bytes');
SELECT results_eq('TABLE words', $$VALUES ('FOO'::citext, 1)$$, 'which is what ON CONFLICT goes by');

SELECT raises(format('SELECT imported(''stock'', %L, %L)', :'stock_file', m), '22023', 'unknown on_conflict', 'skip',
  'on_conflict ' || m)
FROM unnest('{ERROR,"",replace}'::text[]) m;
SELECT raises(format('SELECT imported(''stock'', %L, ''error'', %L)', :'stock_file', m), '22023',
  'unknown unknown_columns', 'ignore', 'unknown_columns ' || m)
FROM unnest('{IGNORE,""}'::text[]) m;
SELECT is(imported('stock', :'stock_file', 'skip', NULL), '10/0/0/10', 'NULL: the default');
SELECT raises(format('SELECT imported(''stock'', %L, NULL)', :'stock_file'), '23505', '', '', 'for both');
-- One key twice in the file itself
SELECT write_export('twice', E'{"a":1}\n{"a":2}\n{"a":1}\n', '{a}');
DELETE FROM only_key;
SELECT raises($$SELECT imported('only_key', 'twice')$$, '23505', '^line 3 of "twice"', '',
  'error: a key twice in the file, by its line');
SELECT is(imported('only_key', 'twice', 'skip'), '3/2/0/1', 'skip: the second is skipped');

-- ---------------------------------------------------------------------------------------------
-- Columns
-- ---------------------------------------------------------------------------------------------

CREATE TABLE export_of (id int, t text, extra int, "More ""x""" text);
INSERT INTO export_of VALUES (1, 'x', 2, 'y');
SELECT exported('export_of') AS columns_file \gset
CREATE TABLE wider (added int DEFAULT 5, t text, at timestamptz DEFAULT '2026-01-01', "More ""x""" text, extra int,
  id int, computed int GENERATED ALWAYS AS (id * 10) STORED);
SELECT is(imported('wider', :'columns_file'), '1/1/0/0', 'more columns, in another order');
SELECT is(to_jsonb(w) - 'at', '{"added":5,"t":"x","More \"x\"":"y","extra":2,"id":1,"computed":10}',
  'take their defaults; generated ones are computed') FROM wider w;
CREATE TABLE narrower (t text, id int);
SELECT raises(format('SELECT imported(''narrower'', %L)', :'columns_file'), '42703', 'lacks: "extra", "More "x""',
  'unknown_columns', 'fewer columns: the error names those of the export');
SELECT is(imported('narrower', :'columns_file', unknown_columns => 'ignore'), '1/1/0/0',
  'unless they are to be ignored');
SELECT is(imported('narrower', :'columns_file', 'skip', 'ignore'), '1/1/0/0', 'in any mode');
SELECT results_eq('SELECT t, id FROM narrower', $$VALUES ('x', 1), ('x', 1)$$, 'those that are there are filled');
CREATE TABLE foreign_columns (other int);
SELECT raises(format('SELECT imported(''foreign_columns'', %L, ''error'', ''ignore'')', :'columns_file'), '42703',
  'no column in common', 'right table', 'no column in common');
CREATE TABLE computed (id int PRIMARY KEY, t text, twice int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO computed VALUES (1, 'a'), (2, 'b');
SELECT exported('computed') AS computed_file \gset
UPDATE computed SET t = 'changed'; DELETE FROM computed WHERE id = 1;
SELECT is(imported('computed', :'computed_file', 'update'), '2/1/1/0', 'generated columns in the export');
SELECT results_eq('SELECT * FROM computed ORDER BY 1', $$VALUES (1, 'a', 2), (2, 'b', 4)$$, 'are computed again');
\if :has_virtual_columns
CREATE TABLE not_stored (twice int GENERATED ALWAYS AS (id * 2) VIRTUAL, id int PRIMARY KEY, t text,
  len int GENERATED ALWAYS AS (length(t)) VIRTUAL);
INSERT INTO not_stored (id, t) VALUES (1, 'a'), (2, 'bb');
SELECT exported('not_stored') AS not_stored_file \gset
SELECT is(imported('not_stored', :'not_stored_file', 'skip'), '2/0/0/2', 'virtual generated columns: nothing is new');
UPDATE not_stored SET t = 'changed'; DELETE FROM not_stored WHERE id = 1;
SELECT is(imported('not_stored', :'not_stored_file', 'update'), '2/1/1/0', 'those that differ are updated');
SELECT results_eq('SELECT * FROM not_stored ORDER BY id', $$VALUES (2, 1, 'a', 1), (4, 2, 'bb', 2)$$,
  'and computed when they are read');
CREATE TABLE stored_copy (id int, twice int, t text, len int);
SELECT is(imported('stored_copy', :'not_stored_file'), '2/2/0/0', 'into a table that stores them');
SELECT results_eq('SELECT * FROM stored_copy ORDER BY id', $$VALUES (1, 2, 'a', 1), (2, 4, 'bb', 2)$$,
  'what the export holds is there');
TRUNCATE not_stored;
SELECT exported('stored_copy') AS stored_file \gset
SELECT is(imported('not_stored', :'stored_file'), '2/2/0/0', 'and back');
SELECT set_eq('SELECT id, twice, t, len FROM not_stored', 'TABLE stored_copy', 'nothing is lost');
\endif

-- Identity and serial columns: the next value is beyond.
CREATE TABLE ids (k int PRIMARY KEY, al bigint GENERATED ALWAYS AS IDENTITY,
  bd int GENERATED BY DEFAULT AS IDENTITY (INCREMENT 10),
  s serial, small smallserial, down int GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1 START -1));
INSERT INTO ids (k) SELECT generate_series(1, 50);
SELECT exported('ids') AS ids_file \gset
CREATE TABLE ids_copy (k int PRIMARY KEY, al bigint GENERATED ALWAYS AS IDENTITY,
  bd int GENERATED BY DEFAULT AS IDENTITY (INCREMENT 10),
  s serial, small smallserial, down int GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1 START -1));
SELECT is(imported('ids_copy', :'ids_file'), '50/50/0/0', 'identity and serial columns');
SELECT set_eq('TABLE ids_copy', 'TABLE ids', 'ALWAYS and BY DEFAULT take the exported values');
INSERT INTO ids_copy (k) VALUES (100);
SELECT results_eq('SELECT al, bd, s, small, down FROM ids_copy WHERE k = 100',
  $$VALUES (51::bigint, 501, 51, 51::smallint, -51)$$, 'the next values are beyond, also downwards');
SELECT imported('ids_copy', :'ids_file', 'update');
INSERT INTO ids_copy (k) VALUES (101);
SELECT results_eq('SELECT al, bd, s, small, down FROM ids_copy WHERE k = 101',
  $$VALUES (52::bigint, 511, 52, 52::smallint, -52)$$, 'and never set back');
SELECT write_export('no_ids', E'{"k":1}\n{"k":2}\n', '{k}');
CREATE TABLE ids_fresh (k int PRIMARY KEY, al bigint GENERATED ALWAYS AS IDENTITY, s serial,
  down int GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1 START -1));
SELECT is(imported('ids_fresh', 'no_ids'), '2/2/0/0', 'an export without them');
SELECT results_eq('SELECT al, s, down FROM ids_fresh ORDER BY k', $$VALUES (1::bigint, 1, -1), (2, 2, -2)$$,
  'takes new ones');
-- A sequence that belongs to a column of text
CREATE SEQUENCE invoice_number;
CREATE TABLE invoice (id text PRIMARY KEY DEFAULT 'INV-' || nextval('invoice_number'));
ALTER SEQUENCE invoice_number OWNED BY invoice.id;
INSERT INTO invoice DEFAULT VALUES;
SELECT exported('invoice') AS invoice_file \gset
DELETE FROM invoice;
SELECT lives_ok(format('SELECT imported(''invoice'', %L)', :'invoice_file'), 'a text column that owns a sequence');
-- Beyond what the sequence can count to
SELECT write_export('beyond', E'{"id":500}\n', '{id}');
CREATE TABLE limited (id int GENERATED BY DEFAULT AS IDENTITY (MAXVALUE 100), t text);
SELECT lives_ok($$SELECT imported('limited', 'beyond')$$, 'a value that the sequence cannot reach');

-- ---------------------------------------------------------------------------------------------
-- Triggers, constraints, partitions
-- ---------------------------------------------------------------------------------------------

CREATE TABLE audit (line text);
CREATE TABLE watched (id int PRIMARY KEY, t text);
CREATE FUNCTION before_watched() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.id % 5 = 0 THEN RETURN NULL; END IF;
  NEW.t := upper(NEW.t);
  RETURN NEW;
END
$$;
CREATE FUNCTION after_watched() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS
  $$BEGIN INSERT INTO audit VALUES (concat_ws(' ', TG_OP, TG_LEVEL,
    CASE TG_LEVEL WHEN 'ROW' THEN NEW.id END)); RETURN NULL; END$$;
CREATE TRIGGER before_row BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION before_watched();
CREATE TRIGGER after_row AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION after_watched();
CREATE TRIGGER after_statement AFTER INSERT ON watched FOR EACH STATEMENT EXECUTE FUNCTION after_watched();
CREATE TABLE to_watch AS SELECT n AS id, 'x' || n AS t FROM generate_series(1, 11) n;
SELECT exported('to_watch') AS watched_file \gset
SELECT is(imported('watched', :'watched_file'), '11/9/0/2', 'rows that a trigger turns away are counted as skipped');
SELECT set_eq('TABLE watched', $$SELECT n, 'X' || n FROM generate_series(1, 11) n WHERE n % 5 <> 0$$,
  'what a trigger changes is what is stored');
SELECT set_eq('TABLE audit', $$SELECT 'INSERT ROW ' || n FROM generate_series(1, 11) n WHERE n % 5 <> 0
  UNION ALL SELECT 'INSERT STATEMENT'$$, 'triggers after rows and statement fire');
SELECT is(imported('watched', :'watched_file', 'skip'), '11/0/0/11', 'skip, with triggers');
DELETE FROM watched WHERE id < 4;
SELECT is(imported('watched', :'watched_file', 'update'), '11/3/6/2',
  'update, with triggers: inserted, updated, turned away');
ALTER TABLE watched DISABLE TRIGGER before_row;
INSERT INTO watched VALUES (5, 'five');
ALTER TABLE watched ENABLE TRIGGER before_row;
DELETE FROM watched WHERE id IN (1, 2);
SELECT is(imported('watched', :'watched_file', 'update'), '11/2/7/2',
  'a row that is there, and whose update a trigger turns away, was not updated');
DELETE FROM audit; DELETE FROM watched;
SET LOCAL session_replication_role = replica;
SELECT is(imported('watched', :'watched_file'), '11/11/0/0', 'as for INSERT: not in a replica''s session');
SET LOCAL session_replication_role = origin;
SELECT is_empty('TABLE audit', 'none fired');

CREATE TABLE checked (id int PRIMARY KEY CHECK (id <> 7), t text NOT NULL);
SELECT raises(format('SELECT imported(''checked'', %L)', :'watched_file'), '23514',
  '^line 7 of "dr_export_to_watch_.*" could not be imported: .*checked_id_check', '', 'a CHECK: the line');
SELECT write_export('null_t', E'{"id":1,"t":"x"}\n{"id":2,"t":null}\n', '{id,t}');
SELECT raises($$SELECT imported('checked', 'null_t')$$, '23502', '^line 2 of "null_t" could not be imported: .*"t"',
  '', 'NOT NULL: the line');
CREATE TABLE referring (id int REFERENCES checked, t text);
SELECT raises(format('SELECT imported(''referring'', %L)', :'watched_file'), '23503', 'referring_id_fkey', '',
  'a foreign key');
CREATE TABLE referring_late (id int REFERENCES checked DEFERRABLE INITIALLY DEFERRED, t text);
SAVEPOINT s;
SELECT is(imported('referring_late', :'watched_file'), '11/11/0/0', 'a deferred one');
SELECT raises('SET CONSTRAINTS ALL IMMEDIATE', '23503', 'referring_late_id_fkey', '', 'is checked when it is due');
ROLLBACK TO s;
CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id = 3 THEN RAISE 'no threes' USING ERRCODE = 'P0042', HINT = 'two'; END IF; RETURN NEW; END$$;
CREATE TABLE failing (id int, t text);
CREATE TRIGGER fails BEFORE INSERT ON failing FOR EACH ROW EXECUTE FUNCTION fails();
SELECT raises(format('SELECT imported(''failing'', %L)', :'watched_file'), 'P0042',
  '^line 3 of "dr_export_to_watch_.*" could not be imported: no threes$', '^two$',
  'an error of a trigger: the line, its own code and hint');
SELECT is_empty('SELECT id FROM checked UNION ALL SELECT id FROM referring UNION ALL SELECT id FROM referring_late UNION ALL SELECT id FROM failing', 'and not a row');

-- A trigger that imports by itself
CREATE TABLE outer_table (id int, t text); CREATE TABLE inner_table (id int, t text);
CREATE FUNCTION imports() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.id % 5 = 0 THEN PERFORM public.bacmr_import('public.inner_table', (SELECT line FROM public.audit)); END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER imports BEFORE INSERT ON outer_table FOR EACH ROW EXECUTE FUNCTION imports();
INSERT INTO audit VALUES (:'watched_file');
SELECT is(imported('outer_table', :'watched_file'), '11/11/0/0', 'a trigger that imports by itself');
SELECT is((SELECT count(*) FROM inner_table), 22::bigint, 'twice');

CREATE TABLE parted (t text, id int) PARTITION BY LIST (id);
CREATE TABLE parted_few (gone int, id int, t text); ALTER TABLE parted_few DROP gone;
ALTER TABLE parted ATTACH PARTITION parted_few FOR VALUES IN (1, 2, 3);
SELECT raises(format('SELECT imported(''parted'', %L)', :'watched_file'), '23514',
  '^line 4 of .*no partition of relation "parted"', '', 'a row for which there is no partition');
CREATE TABLE parted_rest PARTITION OF parted DEFAULT PARTITION BY LIST (t);
CREATE TABLE parted_rest_any PARTITION OF parted_rest DEFAULT;
SELECT is(imported('parted', :'watched_file'), '11/11/0/0', 'a partitioned table');
SELECT results_eq('SELECT tableoid::regclass::text, count(*) FROM parted GROUP BY 1 ORDER BY 1',
  $$VALUES ('parted_few', 3::bigint), ('parted_rest_any', 8)$$, 'each row in its partition');
SELECT is(imported('parted', :'watched_file', 'skip'), '11/11/0/0', 'by way of a temporary table too');
CREATE VIEW a_view AS SELECT id, t FROM to_watch;
SELECT raises(format('SELECT imported(''a_view'', %L)', :'watched_file'), '42809', 'a_view', '', 'a view');
CREATE MATERIALIZED VIEW a_matview AS SELECT id, t FROM to_watch;
SELECT raises(format('SELECT imported(''a_matview'', %L)', :'watched_file'), '42809', 'a_matview', '',
  'a materialized view');
SELECT raises(format('SELECT bacmr_import(%s, %L)', 'only_key_pkey'::regclass::oid, :'only_key_file'), '42809',
  'only_key_pkey', '', 'an index');

CREATE SCHEMA "مخطط ""1""";
CREATE TABLE "مخطط ""1"""."جدول/عربي" ("العمود الأول" text PRIMARY KEY, "say ""hi""" serial, "back\slash" json, "new
line" text);
INSERT INTO "مخطط ""1"""."جدول/عربي" VALUES ('مرحبا', 41, 'null', E'\x01'), (E'"\n', 42, '[]', NULL);
SELECT exported('"مخطط ""1"""."جدول/عربي"', 'gzip') AS arabic_file \gset
CREATE TEMP TABLE arabic_before AS TABLE "مخطط ""1"""."جدول/عربي";
DELETE FROM "مخطط ""1"""."جدول/عربي" WHERE "say ""hi""" = 41;
SELECT is(imported('"مخطط ""1"""."جدول/عربي"', :'arabic_file', 'update'), '2/1/1/0', 'Arabic and quoted names');
SELECT set_eq('SELECT r::text FROM "مخطط ""1"""."جدول/عربي" r', 'SELECT r::text FROM arabic_before r',
  'all as it was');
INSERT INTO "مخطط ""1"""."جدول/عربي" VALUES ('next');
SELECT is("say ""hi""", 43, 'and its sequence beyond') FROM "مخطط ""1"""."جدول/عربي" WHERE "العمود الأول" = 'next';

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

CREATE TABLE guarded (id int PRIMARY KEY, t text, n serial);
GRANT SELECT ON guarded TO import_operator;
SELECT raises(format('SELECT bacmr_import(''guarded'', %L)', :'watched_file'), '42501',
  'permission denied for table (public\.)?guarded', 'GRANT INSERT', 'without INSERT', 'import_operator');
GRANT INSERT (id) ON guarded TO import_operator;
SELECT raises(format('SELECT bacmr_import(''guarded'', %L)', :'watched_file'), '42501',
  'permission denied for table (public\.)?guarded', 'GRANT INSERT', 'on one column', 'import_operator');
GRANT INSERT ON guarded TO import_operator;
SELECT exported('guarded') AS guarded_file \gset
SELECT write_export('with_serial', E'{"id":1,"t":"x","n":7}\n', '{id,t,n}');
SELECT works_for('import_operator', $$SELECT bacmr_import('guarded', 'with_serial')$$,
  'with INSERT; the sequence need not be granted');
SELECT is(nextval('guarded_n_seq'), 8::bigint, 'and is advanced');
SELECT raises($$SELECT bacmr_import('guarded', 'with_serial', 'update')$$, '42501', 'permission denied', '',
  'update without UPDATE', 'import_operator');
GRANT UPDATE ON guarded TO import_operator;
SELECT works_for('import_operator', $$SELECT bacmr_import('guarded', 'with_serial', 'update')$$, 'with UPDATE');
CREATE TABLE only_insert (id int PRIMARY KEY, t text, n serial);
GRANT INSERT ON only_insert TO import_operator;
SELECT works_for('import_operator', $$SELECT bacmr_import('only_insert', 'with_serial')$$,
  'INSERT alone is enough, as for COPY');
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
SELECT raises(format('SELECT bacmr_import(''guarded'', ''with_serial'', %L)', m), '42501', 'row-level security', '',
  'row-level security: ' || m, 'import_operator')
FROM unnest('{error,skip,update}'::text[]) m;
SELECT raises(format('SELECT bacmr_import(''watched'', %L)', :'watched_file'), '42501',
  'permission denied for function', '', 'a stranger', 'import_stranger');
SELECT raises(format('SELECT bacmr_import(''only_insert'', %L)', p), '42501', 'outside the artifact directory',
  'file name', 'a path, to an ordinary operator', 'import_operator')
FROM unnest(ARRAY['/etc/passwd', artifact_folder() || '/' || :'watched_file']) p;
GRANT INSERT ON narrower TO import_reader;
SELECT works_for('import_reader', format('SELECT bacmr_import(''narrower'', %L)',
  artifact_folder() || '/' || :'watched_file'), 'a path, to pg_read_server_files');

-- Where from
SELECT raises('SELECT bacmr_import_chunks(NULL)', '22004', 'source', '', 'NULL for the source');
SELECT raises('SELECT bacmr_import(NULL, ''x'')', '22004', 'relation', '', 'NULL for the table');
SELECT raises('SELECT bacmr_import(''watched'', NULL)', '22004', 'source', '', 'NULL for its source');
SELECT raises('SELECT bacmr_import_chunks(''none.ndjson'')', '58P01', 'no file "none.ndjson"', 'ls ',
  'a file that is not there');
SELECT raises('SELECT bacmr_import_chunks(''/none/x.ndjson'')', '58P01', '/none', '', 'a folder that is not there');
SELECT raises(format('SELECT bacmr_import_chunks(%L)', n), '22023', 'not the name of an export', 'file name',
  'no name: ' || to_json(n)) FROM unnest(ARRAY['..', '.x', '', E'a\nb']) n;
SELECT raises('SELECT bacmr_import_chunks(''../x'')', '42704', '\.\.', '', 'a way up');
SELECT raises(format('SELECT bacmr_import_chunks(%L)', :'watched_file'), '42703', '"t"', 'unknown_columns',
  'the export of another table');
SELECT write_file('lonely', E'{"id":1}\n');
SELECT raises('SELECT bacmr_import(''narrower'', ''lonely'')', '58P01', 'no manifest', 'manifest.json',
  'no manifest');

-- ---------------------------------------------------------------------------------------------
-- Bad files: nothing is imported
-- ---------------------------------------------------------------------------------------------

CREATE TABLE target (a int, b text, u uuid, j json, jb jsonb, list int[]);
-- What an error says must be text: a client would choke on anything else.
CREATE FUNCTION text_or_none(t text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN convert_from(convert_to(t, 'SQL_ASCII'), 'UTF8');
EXCEPTION WHEN character_not_in_repertoire THEN
  RETURN 'not UTF-8';
END
$$;
-- As raises(), for an export of three lines, the second of which is given.
CREATE FUNCTION refuses(line bytea, code text, message text, description text,
  column_names text[] DEFAULT '{a,b}') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  good bytea := convert_to(format(E'{%s}\n', (SELECT string_agg(format('%s:null', to_json(c)), ',')
    FROM unnest(column_names) c)), 'UTF8');
  got_code text;
  got_message text;
  mode text;
BEGIN
  PERFORM write_export('bad', good || line || E'\n'::bytea || good, column_names);
  FOREACH mode IN ARRAY '{error,skip}'::text[] LOOP
    got_code := 'none';
    got_message := '';
    BEGIN
      PERFORM bacmr_import('public.target', 'bad', mode);
    EXCEPTION WHEN OTHERS THEN
      got_code := SQLSTATE;
      got_message := text_or_none(SQLERRM);
    END;
    IF got_code = code AND got_message ~ message
      AND got_message ~ '^(line 2 of "bad"|the export "bad" is damaged: line 2 )' THEN
      RETURN NEXT ok(true, description || ', ' || mode);
    ELSE
      RETURN NEXT ok(false, description || ', ' || mode) || E'\n' || diag(format('got: %s %s', got_code,
        got_message));
    END IF;
  END LOOP;
END
$$;
CREATE FUNCTION refuses(line text, code text, message text, description text,
  column_names text[] DEFAULT '{a,b}') RETURNS SETOF text LANGUAGE sql AS
  $$SELECT refuses(convert_to(line, 'UTF8'), code, message, description, column_names)$$;
SELECT refuses(line::text, '22P04', message, 'not an object: ' || to_json(line)) FROM (VALUES
  ('{"a":2,"b":"y"', '''}'' was expected at byte 15'), ('{"a":2,"b":"y"}}',
    'something follows the object at byte 16'), ('', 'object was expected at byte 1'),
  ('[1]', 'object'), ('null', 'object'), ('"x"', 'object'), ('x', 'object'),
    ('{"a":2,"b":"y",}', 'key was expected'), ('{"a":02,"b":"y"}', ''),
  ('{"a":NaN,"b":"y"}', 'value was expected'), ('{"a":2,"b":''y''}', 'value was expected'),
    ('{a:2,"b":"y"}', 'key was expected'), ('{"a":2,"b":"\x"}', 'unknown escape'),
  ('{"a":2,"b":"\u12g4"}', 'hexadecimal'), ('{"a":2,"b":"y}', 'string without its end'),
    ('{"a":1.,"b":"y"}', 'digit'), ('{"a":+1,"b":"y"}', 'value was expected'),
  ('{"a":2 "b":"y"}', 'was expected'), (E'{"a":2,"b":"\t"}', 'control character'),
    (E'\ufeff{"a":2,"b":"y"}', 'object'), ('{"a":2,"b":tru}', 'value was expected'),
  ('{"a":2,"b":"y"} {"a":2,"b":"y"}', 'something follows'), ('{"a":2,"b":[1,2,]}', 'value was expected'),
    ('{"a":2,"b":[1}', 'bracket')) v(line, message);
SELECT refuses('{"a":2,"b":' || repeat('[', 7000) || repeat(']', 7000) || '}', '22P04', 'nested too deeply',
  'nested too deeply');
SELECT refuses('{"a":2}'::text, '22P04', 'lacks "b"', 'a key that is missing');
SELECT refuses('{}'::text, '22P04', 'lacks "a"', 'all keys');
SELECT refuses('{"a":2,"b":"y","a":3}'::text, '22P04', 'names "a" twice', 'a key twice');
SELECT refuses('{"a":2,"b":"y","\u0061":3}'::text, '22P04', 'names "a" twice', 'twice in two ways');
SELECT refuses('{"a":2,"b":"y","ç":3}'::text, '22P04', 'key "ç", which its manifest does not list',
  'a key that the manifest does not list');
SELECT refuses('{"A":2,"b":"y"}'::text, '22P04', 'key "A", which its manifest does not list',
  'capitals are another key');
SELECT refuses('{"a":2,"b":"y","\u0000":3}'::text, '22P04', 'key that no name can be', 'no name at all');
SELECT refuses('{"u":"x"}'::text, '22P02', 'could not be imported: invalid input syntax for type uuid: "x"',
  'a uuid that is none', '{u}');
SELECT refuses(format('{"a":%s,"b":"y"}', v), code, message, 'no int: ' || v)
  FROM (VALUES ('"x"', '22P02', 'type integer: "x"'), ('1.5', '22P02', 'type integer: "1.5"'),
  ('99999999999', '22003', 'out of range'), ('true', '22P02', 'type integer: "true"'),
    ('{"x":1}', '22P02', 'type integer'), ('""', '22P02', 'type integer: ""')) x(v, code, message);
SELECT refuses('{"list":[1,"x"]}'::text, '22P02', 'type integer: "x"', 'a bad element of an array', '{list}');
SELECT refuses('{"list":"{1"}'::text, '22P02', 'malformed array', 'a bad text of one', '{list}');
SELECT refuses(format('{"a":2,"b":"y%s"}', x), '22P04', 'holds in "b" a character that no text', 'in a text: ' || x)
FROM unnest('{\\u0000,\\ud800,\\udc00,\\ud83dx,\\ud83d\\n,\\ud83d\\u0041,\\ud83d\\ud83d,\\udc00\\ud83d}'::text[]) x;
SELECT refuses('{"jb":"\u0000"}'::text, '22P05', 'unsupported Unicode escape', 'and in jsonb', '{jb}');
SELECT refuses('{"jb":"\ud800"}'::text, '22P02', 'invalid input syntax for type json', 'half a pair in jsonb',
  '{jb}');
SELECT refuses('{"a":2,"b":"y'::bytea || bytes || '"}'::bytea, '22021', 'invalid byte sequence for encoding "UTF8"',
  'no UTF-8 in a text: ' || bytes::text)
FROM unnest('{"\\xff","\\xc3","\\xc0af","\\xeda080","\\xf5808080","\\xe28228"}'::bytea[]) bytes;
SELECT refuses('{"j":"'::bytea || '\xff'::bytea || '"}'::bytea, '22021', 'invalid byte sequence', 'no UTF-8 in json',
  '{j}');
SELECT refuses('{"a":2,"b":"y","'::bytea || '\xff'::bytea || '":1}'::bytea, '22P04', '.', 'no UTF-8 in a key');
SELECT refuses('{"a":2,"b":"y'::bytea || '\x00'::bytea || '"}'::bytea, '22P04', 'control character', 'a byte 0');
SELECT is_empty('TABLE target', 'not a row of all those');

-- What is good although it is written in another way
SELECT write_export('odd',
  E' { "b" : "\\u0645\\/\\ud83d\\ude00" , "a":1 ,"j" :[ 1 ] } \r\n{"\\u0061":null,"b":"\\\\.","j":{"x":"\\u0000"}}\n{"a":3,"b":"\\\\N","j":null}', '{b,a,j}',
  '{"json_nulls":{"j":[[3,1]]}}');
SELECT is(imported('target', 'odd'), '3/3/0/0',
  'blanks, escapes, another order of keys, CRLF, no newline at the end');
SELECT results_eq('SELECT a, b, j::text FROM target', $$VALUES (1, 'م/😀', '[ 1 ]'), (NULL, '\.', '{"x":"\u0000"}'),
  (3, '\N', 'null')$$, 'mean what they mean');
SELECT write_export('empty', ''::text, '{a,b}');
SELECT is(imported('target', 'empty', m), '0/0/0/0', 'an export without rows: ' || m)
  FROM unnest('{error,skip}'::text[]) m;
SELECT write_export('no_columns', E'{}\n{}\n'::text, '{}');
SELECT raises($$SELECT imported('target', 'no_columns')$$, '42703', 'no column in common', '',
  'an export without columns');

-- Altered, cut off, longer, without a line
DELETE FROM target; DELETE FROM chunks;
CREATE TABLE sound AS SELECT pg_read_binary_file(artifact_folder() || '/' || :'chunks_file') AS content,
  pg_read_binary_file(artifact_folder() || '/' || :'chunks_file' || '.manifest.json') AS manifest;
SELECT is((manifest_of(:'chunks_file')->>'compression'), 'zstd', 'a compressed one');
CREATE FUNCTION refuses_damaged(content bytea, description text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT write_file('damaged', content);
  SELECT write_file('damaged.manifest.json', manifest) FROM sound;
  SELECT raises(format('SELECT bacmr_import_chunks(''damaged'', %L)', m), '22P04',
    'the export "damaged" is damaged: .', 'another copy', description || ', ' || m)
  FROM unnest('{error,skip,update}'::text[]) m
$$;
SELECT refuses_damaged(set_byte(content, at, get_byte(content, at) # 1), format('byte %s altered', at)) FROM sound,
  unnest(ARRAY[0, 1000, length(content) - 20, length(content) - 1]) at;
SELECT refuses_damaged(substr(content, 1, length(content) - less), format('%s bytes less', less)) FROM sound,
  unnest('{1,2,1000}'::int[]) less;
SELECT refuses_damaged(content || 'x'::bytea, 'a byte more') FROM sound;
SELECT refuses_damaged('', 'emptied');
INSERT INTO chunks TABLE chunks_before;
SELECT name_of(path) AS plain_file FROM bacmr_export_chunks() \gset
DELETE FROM chunks;
UPDATE sound SET content = pg_read_binary_file(artifact_folder() || '/' || :'plain_file'),
  manifest = pg_read_binary_file(artifact_folder() || '/' || :'plain_file' || '.manifest.json');
SELECT refuses_damaged(set_byte(content, at, get_byte(content, at) # 1), format('plain: byte %s altered', at))
  FROM sound, unnest(ARRAY[0, 5000, length(content) - 20, length(content) - 1]) at;
SELECT refuses_damaged(substr(content, 1, length(content) - less), format('plain: %s bytes less', less)) FROM sound,
  unnest('{1,2,1000}'::int[]) less;
SELECT refuses_damaged(content || E'{"id":1}\n'::bytea, 'plain: a line more') FROM sound;
SELECT refuses_damaged(substr(content, position(E'\n'::bytea IN content) + 1), 'plain: without its first line')
  FROM sound;
SELECT is_empty('TABLE chunks', 'not a row of a damaged file');
SELECT write_export('fewer', E'{"a":1}\n{"a":2}\n'::text, '{a}', '{"rows":3}');
SELECT raises($$SELECT imported('target', 'fewer')$$, '22P04', 'it has 2 lines, its manifest states 3',
  'another copy', 'fewer lines than the manifest states');
SELECT is_empty('TABLE target', 'not a row');

-- A line of 260 MB, in a small file
SELECT count(*) AS lines
  FROM shell(format('cd %s && { printf ''{"a":1}\n{"b":"''; head -c 272629760 /dev/zero | tr ''\0'' x; printf ''"}\n''; } | zstd -q > long_line',
  shell_quoted(artifact_folder()))) \gset
SELECT write_manifest('long_line', pg_read_binary_file(artifact_folder() || '/long_line'), '{a}',
  '{"compression":"zstd","rows":2,"ndjson_bytes":272629777}');
SELECT raises($$SELECT imported('target', 'long_line')$$, '22P04', 'line 2 of .* is longer than 256 MB', '',
  'a line of 260 MB: refused with the limit');

-- ---------------------------------------------------------------------------------------------
-- Transactions
-- ---------------------------------------------------------------------------------------------

SELECT count(*) AS runs FROM bacmr_job_run \gset
SAVEPOINT s;
SELECT is(imported('target', 'odd'), '3/3/0/0', 'in a transaction');
ROLLBACK TO s;
SELECT is_empty('TABLE target', 'that is rolled back: no row');
SELECT is((SELECT count(*) FROM bacmr_job_run), :runs::bigint, 'and no run');
SAVEPOINT s;
SET TRANSACTION READ ONLY;
SELECT raises($$SELECT imported('target', 'odd')$$, '25006', 'read-only', '', 'a read-only transaction');
ROLLBACK TO s;
SELECT is((SELECT count(*) FROM pg_class WHERE relname LIKE 'bacmr_import%'), 0::bigint, 'no scratch table stays');

-- What was made by hand outlives the transaction.
SELECT count(*) AS lines FROM shell('rm -rf ' || shell_quoted(artifact_folder())) \gset
SELECT * FROM finish();
ROLLBACK;
