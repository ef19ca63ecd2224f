-- Exports against row_to_json(): every type that a column can have and every kind of relation must
-- give the same bytes, whatever the session's settings are, and other programs must be able to read
-- them.
\ir include/helpers.psql
BEGIN;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
CREATE EXTENSION bacmr_ops;
\ir include/artifacts.psql
\ir include/every_type.psql

-- What an export of the relation has to be. Under the settings of the contract, and the search_path
-- that decides how names of objects are printed.
CREATE FUNCTION expected_lines(relation regclass) RETURNS TABLE (n bigint, line text) LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET IntervalStyle = postgres
  SET bytea_output = hex SET extra_float_digits = 1 SET lc_monetary = 'C' SET DateStyle = 'ISO, YMD' AS $$
BEGIN
  RETURN QUERY EXECUTE format($query$
    SELECT row_number() OVER (), translate(row_to_json("the row")::text, E'\n\r', '  ') FROM %s "the row"
  $query$, relation);
END
$$;

-- Each export, by what was exported.
CREATE TEMP TABLE exported (relation regclass PRIMARY KEY, path text, rows bigint, bytes bigint, sha256 text);

-- Exports the relation, and compares the file with what it has to be: byte for byte; where the order
-- of the rows is nobody's promise, line by line.
CREATE FUNCTION is_row_to_json(relation regclass, description text, in_order boolean DEFAULT true)
  RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  export record := bacmr_export(relation);
  content bytea := pg_read_binary_file(export.path);
  expected text := (SELECT coalesce(string_agg(e.line || E'\n', '' ORDER BY CASE WHEN in_order THEN e.n END,
                                               e.line COLLATE "C"), '')
                    FROM expected_lines(relation) e);
  got text := convert_from(content, 'UTF8');
  difference record;
BEGIN
  INSERT INTO exported VALUES (relation, export.path, export.chunks, export.bytes, export.sha256);
  IF NOT in_order THEN
    got := (SELECT coalesce(string_agg(line || E'\n', '' ORDER BY line COLLATE "C"), '')
            FROM string_to_table(left(got, -1), E'\n') line);
  END IF;
  IF got = expected AND export.bytes = octet_length(content) AND export.sha256 = encode(sha256(content), 'hex')
     AND export.chunks = (SELECT count(*) FROM expected_lines(relation)) THEN
    RETURN ok(true, description);
  END IF;
  SELECT n, g AS got, e AS expected INTO difference
    FROM string_to_table(got, E'\n') WITH ORDINALITY a(g, n)
    FULL JOIN string_to_table(expected, E'\n') WITH ORDINALITY b(e, n) USING (n)
    WHERE g IS DISTINCT FROM e ORDER BY n LIMIT 1;
  RETURN ok(false, description) || E'\n' || diag(format(E'line %s\n got:      %s\n expected: %s\n (%s rows, %s bytes)',
    difference.n, left(difference.got, 2000), left(difference.expected, 2000), export.chunks, export.bytes));
END
$$;

-- ---------------------------------------------------------------------------------------------
-- Every type
-- ---------------------------------------------------------------------------------------------

SELECT set_eq('SELECT type::text FROM every_type."types without input"',
  '{pg_node_tree,pg_ndistinct,pg_dependencies,pg_mcv_list,gtsvector,pg_brin_bloom_summary,'
  'pg_brin_minmax_multi_summary}'::text[], 'no other type lacks samples');
SELECT is_row_to_json(relation, 'type ' || type) FROM every_type."tables of types" ORDER BY type;
SELECT ok(pg_column_size(v) < octet_length(v) / 2, 'a value is compressed')
FROM every_type.text WHERE v LIKE 'compressed%';

-- With a length, a precision or fields
CREATE TABLE with_modifier (
  c char(7), ca char(3)[], v varchar(20), n numeric(12, 4), n3 numeric(3, -2), b bit(5), vb bit varying(9),
  t time(2), tz timetz(0), ts timestamp(3), tsz timestamptz(1), i interval(2), im interval year to month,
  f float(10));
INSERT INTO with_modifier VALUES
  ('ab', '{a,"é "}', '  x ', 1.5, 12345, '10110', '1', '01:02:03.456', '01:02:03.9+02', '2026-01-01 01:02:03.4567',
   '2026-01-01 01:02:03.45+05', '1.239 s', '14 months', 0.1);
INSERT INTO with_modifier DEFAULT VALUES;
SELECT is_row_to_json('with_modifier', 'types with modifiers');

-- A type whose owner has said what its JSON is
CREATE TYPE user_type.level AS ENUM ('low', 'high');
CREATE FUNCTION user_type.to_json(user_type.level) RETURNS json LANGUAGE sql AS
  $$SELECT format(E'{"level":\n"%s"}', $1::text)::json$$;
CREATE CAST (user_type.level AS json) WITH FUNCTION user_type.to_json(user_type.level);
CREATE DOMAIN user_type.level_domain AS user_type.level;
CREATE TABLE with_cast (l user_type.level, d user_type.level_domain, a user_type.level[]);
INSERT INTO with_cast VALUES ('low', 'high', '{high,NULL}'), (NULL, NULL, NULL);
SELECT is_row_to_json('with_cast', 'a type with a cast to json');

-- A composite that has lost a column and got another
CREATE TYPE user_type.changed AS (a int, gone text, "Z z" text);
CREATE TABLE with_changed (c user_type.changed, ca user_type.changed[]);
INSERT INTO with_changed VALUES ((1, 'gone', 'x'), ARRAY[(2, 'gone', NULL)::user_type.changed]);
ALTER TYPE user_type.changed DROP ATTRIBUTE gone, ADD ATTRIBUTE new json;
INSERT INTO with_changed VALUES ((1, 'y', E'[1,\n2]'), ARRAY[NULL, (2, NULL, 'null')::user_type.changed]);
SELECT is_row_to_json('with_changed', 'a composite whose attributes were changed');

-- Long values, stored in each of the ways
CREATE TABLE long_value (plain text, main text, external text, extended text, lz4 text, bytes bytea, doc jsonb,
  list text[]);
ALTER TABLE long_value ALTER plain SET STORAGE PLAIN, ALTER main SET STORAGE MAIN,
  ALTER external SET STORAGE EXTERNAL;
-- (Where the server was built with lz4.)
DO $$ BEGIN ALTER TABLE long_value ALTER lz4 SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN END $$;
INSERT INTO long_value
SELECT left(x, 2000), x, x, x, x, x::bytea, jsonb_build_object('long', x, 'list', array_fill(x, '{3}')),
  array_fill(x, '{3}')
FROM (VALUES (repeat('نص "é" 😀 ', 100000))) v(x)
UNION ALL SELECT '', repeat('x', n), repeat('"', n), repeat(' \ ', n), repeat(E'\n', n),
  decode(repeat('00', n), 'hex'),
       to_jsonb(repeat('"', n)), '{}' FROM unnest('{100,2000,300000}'::int[]) n;
SELECT is_row_to_json('long_value', 'values out of line, compressed by two methods and plain');
SELECT cmp_ok((SELECT max(pg_column_size(external)) FROM long_value), '>', 1000000, 'some are long indeed');

-- Types that only the server fills
CREATE TABLE correlated AS SELECT n % 7 AS a, n % 7 AS b, n % 3 AS c FROM generate_series(1, 500) n;
CREATE STATISTICS correlated_statistics ON a, b, c FROM correlated;
ANALYZE correlated;
SELECT is_row_to_json(c, c || ': a catalogue')
FROM unnest('{pg_attrdef,pg_rewrite,pg_statistic,pg_statistic_ext_data,pg_proc,pg_type}'::regclass[]) c;
CREATE TABLE only_null (a pg_node_tree, b pg_ndistinct, c pg_dependencies, d pg_mcv_list, e gtsvector,
                        f pg_brin_bloom_summary, g pg_brin_minmax_multi_summary);
INSERT INTO only_null DEFAULT VALUES;
SELECT is_row_to_json('only_null', 'types without input, NULL');

-- Bytes that are no characters of their own
CREATE TABLE high_byte AS SELECT n::"char" AS c FROM generate_series(-128, 127) n;
SELECT is_row_to_json('high_byte', 'all 256 values of a "char"');

-- ---------------------------------------------------------------------------------------------
-- Every kind of relation
-- ---------------------------------------------------------------------------------------------

CREATE TABLE plain (gone int, id int PRIMARY KEY, gone_too text, t text, j json);
INSERT INTO plain VALUES (1, 1, 'x', 'one', '{"a":1}'), (2, 2, 'x', NULL, E'{"a":\n1}');
ALTER TABLE plain DROP gone, DROP gone_too;
ALTER TABLE plain ADD late int DEFAULT 7, ADD later text, ADD latest timestamptz DEFAULT '2026-01-01 00:00+03';
INSERT INTO plain VALUES (3, 'three', 'null', 8, 'x', 'infinity');
SELECT is_row_to_json('plain', 'columns dropped, and added with and without a default');

CREATE TABLE many_rows AS
  SELECT n AS id, md5(n::text) AS t, CASE WHEN n % 3 = 0 THEN 'null'::jsonb END AS j FROM generate_series(1, 20000) n;
SELECT is_row_to_json('many_rows', 'many rows: several batches');
DELETE FROM many_rows WHERE id % 5 = 1 OR id BETWEEN 3000 AND 9000;
UPDATE many_rows SET t = t || 'x' WHERE id % 7 = 0;
CREATE VIEW many_view AS SELECT j, upper(t) AS "up", id, id / 3.0 AS third FROM many_rows;
SELECT is_row_to_json('many_view', 'a view of many rows, after updates and deletes', false);
CREATE MATERIALIZED VIEW materialized AS SELECT * FROM many_rows WHERE id < 100;
SELECT is_row_to_json('materialized', 'a materialized view');
CREATE MATERIALIZED VIEW unpopulated AS SELECT 1 AS id WITH NO DATA;
SELECT raises($$SELECT bacmr_export('unpopulated')$$, '55000', 'not been populated', 'REFRESH',
  'a materialized view without data is no empty table');

CREATE TABLE generated (a int, twice int GENERATED ALWAYS AS (a * 2) STORED, t text,
                        len int GENERATED ALWAYS AS (length(t)) STORED, id int GENERATED ALWAYS AS IDENTITY);
INSERT INTO generated (a, t) VALUES (1, 'x'), (NULL, 'عربي'), (3, NULL);
SELECT is_row_to_json('generated', 'generated columns');

\if :has_virtual_columns
-- A row holds nothing of them: whoever reads rows without the executor would print NULL.
CREATE TABLE virtual (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, gone int, t text,
  kept int GENERATED ALWAYS AS (a + 1) STORED, len int GENERATED ALWAYS AS (length(t)), doc json,
  "Art" text GENERATED ALWAYS AS (doc->>'k') VIRTUAL, at timestamp,
  day date GENERATED ALWAYS AS (at::date) VIRTUAL);
ALTER TABLE virtual DROP gone;
INSERT INTO virtual (a, t, doc, at) VALUES (1, 'x', '{"k": "\"v\""}', '2026-02-28 23:59'), (NULL, 'عربي', NULL, NULL),
  (3, NULL, E'{"k":\n1}', 'infinity');
ALTER TABLE virtual ADD late int GENERATED ALWAYS AS (a - 1) VIRTUAL;
SELECT is_row_to_json('virtual', 'virtual generated columns');
CREATE TABLE only_virtual (v int GENERATED ALWAYS AS (42) VIRTUAL);
INSERT INTO only_virtual SELECT FROM generate_series(1, 3);
SELECT is_row_to_json('only_virtual', 'nothing but a virtual column');
-- A partition may compute another value.
CREATE TABLE virtual_parts (id int, v int GENERATED ALWAYS AS (id * 2) VIRTUAL) PARTITION BY RANGE (id);
CREATE TABLE virtual_part_1 PARTITION OF virtual_parts FOR VALUES FROM (0) TO (100);
CREATE TABLE virtual_part_2 (v int GENERATED ALWAYS AS (id * 3) VIRTUAL, gone int, id int);
ALTER TABLE virtual_part_2 DROP gone;
ALTER TABLE virtual_parts ATTACH PARTITION virtual_part_2 FOR VALUES FROM (100) TO (200);
INSERT INTO virtual_parts SELECT generate_series(1, 199);
SELECT is_row_to_json('virtual_parts', 'virtual generated columns of partitions', false);
SELECT is_row_to_json('virtual_part_2', 'a partition by itself, with a virtual column');
\endif

CREATE TABLE no_columns ();
SELECT is_row_to_json('no_columns', 'no columns, no rows');
CREATE TABLE no_columns_but_rows ();
INSERT INTO no_columns_but_rows SELECT FROM generate_series(1, 3);
SELECT is_row_to_json('no_columns_but_rows', 'no columns, three rows');
CREATE TABLE columns_gone (a int, b int);
INSERT INTO columns_gone VALUES (1, 2), (3, 4);
ALTER TABLE columns_gone DROP a, DROP b;
SELECT is_row_to_json('columns_gone', 'rows whose columns are all gone');
CREATE TABLE no_rows (a int, b json);
SELECT is_row_to_json('no_rows', 'no rows');

-- Partitions: other orders of columns, dropped ones, levels below levels
CREATE TABLE parted (id int, kind text, doc json, "Ключ" numeric) PARTITION BY LIST (kind);
CREATE TABLE parted_z ("Ключ" numeric, gone int, doc json, kind text, id int);
ALTER TABLE parted_z DROP gone;
ALTER TABLE parted ATTACH PARTITION parted_z FOR VALUES IN ('z');
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a') PARTITION BY RANGE (id);
CREATE TABLE parted_a_2 (gone text, doc json, id int, gone_too int, kind text, "Ключ" numeric);
ALTER TABLE parted_a_2 DROP gone, DROP gone_too;
ALTER TABLE parted_a ATTACH PARTITION parted_a_2 FOR VALUES FROM (100) TO (200);
CREATE TABLE parted_a_1 PARTITION OF parted_a FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_default PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT n, (ARRAY['a', 'z', 'q', NULL])[n % 4 + 1], E'[1,\n2]', n / 7.0
  FROM generate_series(1, 199) n;
ALTER TABLE parted ADD late text DEFAULT 'now';
SELECT is_row_to_json('parted', 'a partitioned table', false);
SELECT is_row_to_json('parted_a_2', 'a partition by itself');
SELECT is_row_to_json('parted_a', 'a level of partitions', false);
CREATE TABLE parted_empty (id int) PARTITION BY HASH (id);
SELECT is_row_to_json('parted_empty', 'a partitioned table without partitions');

-- Inheritance: the children's rows too, without their own columns
CREATE TABLE parent (id int, t text);
CREATE TABLE child (own int) INHERITS (parent);
CREATE TABLE grandchild (gone int, more int) INHERITS (child);
ALTER TABLE grandchild DROP gone;
INSERT INTO parent VALUES (1, 'parent');
INSERT INTO child VALUES (2, 'child', 20);
INSERT INTO grandchild VALUES (3, 'grandchild', 30, 300);
SELECT is_row_to_json('parent', 'a parent of tables', false);
SELECT is_row_to_json('grandchild', 'the last child');

CREATE TEMP TABLE temporary (id int, t text);
INSERT INTO temporary VALUES (1, 'x');
SELECT is_row_to_json('temporary', 'a temporary table');
CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS id;
SELECT is_row_to_json('unlogged', 'an unlogged table');
CREATE SEQUENCE numbers;
SELECT is(pg_read_file((bacmr_export('numbers')).path), E'{"last_value":1,"log_cnt":0,"is_called":false}\n',
  'a sequence');
CREATE INDEX plain_index ON plain (t);
SELECT raises($$SELECT bacmr_export('plain_index')$$, '42809', 'plain_index', '', 'an index');
SELECT raises($$SELECT bacmr_export('user_type.changed')$$, '42809', 'changed', '', 'a composite type');

-- Odd names
CREATE SCHEMA "مخطط ""1""";
CREATE TABLE "مخطط ""1"""."جدول عربي" ("العمود الأول" text, "say ""hi""" int, "back\slash" int, E int, "new
line" int, "'" int, "{" int, "😀" int, "t" int);
INSERT INTO "مخطط ""1"""."جدول عربي" VALUES ('مرحبا', 1, 2, 3, 4, 5, 6, 7, 8);
SELECT is_row_to_json('"مخطط ""1"""."جدول عربي"', 'Arabic and quoted names');
CREATE TABLE "a/b" (id int); INSERT INTO "a/b" VALUES (1);
CREATE TABLE "..
%" (id int);
CREATE TABLE "..hidden" (id int);
CREATE TABLE "Select" ("from" int, "where" int); INSERT INTO "Select" VALUES (1, 2);
SELECT is_row_to_json(c::regclass, 'a table named ' || to_json(c))
  FROM unnest(ARRAY['"a/b"', '"Select"', E'"..\n%"', '"..hidden"']) c;
SELECT set_eq($$SELECT substring(name_of(path) from '^(.*)_\d{8}_\d{6}(_\d+)?\.ndjson$') FROM exported
                WHERE relation::text ~ '[./]' AND relation::text !~ '^(every|user)_type'$$,
  ARRAY['dr_export_a%2Fb', 'dr_export_%2E.%0A%25', 'dr_export_%2E.hidden', 'dr_export_جدول%20عربي'],
  'files whose names lead nowhere');
-- As long as a name can be, of characters that are written as three
SELECT repeat(' ', 62) || '.' AS long_name \gset
CREATE TABLE :"long_name" (id int); INSERT INTO :"long_name" VALUES (1);
SELECT is_row_to_json(format('%I', :'long_name')::regclass, 'a table with the longest name');
SELECT lives_ok(format('SELECT bacmr_verify_export(%L)', name_of(path)), 'whose file can be read again')
FROM exported WHERE relation = format('%I', :'long_name')::regclass;

-- ---------------------------------------------------------------------------------------------
-- Any settings: the same bytes
-- ---------------------------------------------------------------------------------------------

SET LOCAL TimeZone = 'Asia/Kathmandu';
SET LOCAL DateStyle = 'German';
SET LOCAL IntervalStyle = 'iso_8601';
SET LOCAL bytea_output = 'escape';
SET LOCAL extra_float_digits = 0;
SET LOCAL xmloption = 'document';
SET LOCAL standard_conforming_strings = off;
-- Whichever the machine knows
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY '{fr_FR.UTF-8,de_DE.UTF-8,en_US.UTF-8}'::text[] LOOP
    BEGIN
      PERFORM set_config('lc_monetary', name, true);
      RETURN;
    EXCEPTION WHEN invalid_parameter_value THEN
    END;
  END LOOP;
END
$$;
CREATE SCHEMA elsewhere;
SET LOCAL search_path = elsewhere, every_type, public;
SELECT is(concat('2026-01-31 12:00+00'::timestamptz, ' ', '1 day'::interval, ' ', '\\x00'::bytea, ' ',
  0.1::float4::float8),
  E'31.01.2026 17:45:00 +0545 P1D \\000 0.100000001490116', 'settings that print otherwise');
SELECT is((bacmr_export(relation)).sha256, sha256, 'under other settings: type ' || type)
FROM every_type."tables of types" JOIN exported USING (relation) ORDER BY type;
SELECT is((bacmr_export(relation)).sha256, sha256, 'under other settings: ' || relation)
FROM exported WHERE relation IN ('with_modifier'::regclass, 'long_value', 'plain', 'many_view', 'pg_proc');
SET LOCAL standard_conforming_strings = on;
SET LOCAL quote_all_identifiers = on;
SELECT is((bacmr_export(relation)).sha256, sha256, 'names of objects quoted only where they must be: type ' || type)
FROM every_type."tables of types" JOIN exported USING (relation) WHERE type ~ '^reg' ORDER BY type;
SET LOCAL quote_all_identifiers = off;
SET LOCAL search_path = public;
SET LOCAL DateStyle = 'ISO, DMY';

-- What a view sets ends with the export.
CREATE VIEW that_sets AS SELECT n, set_config('TimeZone', 'Asia/Tokyo', false) AS zone,
  '2026-01-01 00:00+00'::timestamptz AS at FROM generate_series(1, 2) n;
SELECT lives_ok($$SELECT bacmr_export('that_sets')$$, 'a view that changes a setting');
SELECT is(current_setting('TimeZone'), 'Asia/Kathmandu', 'which holds no longer than the export');

-- ---------------------------------------------------------------------------------------------
-- Other programs
-- ---------------------------------------------------------------------------------------------

-- Compressed: their own tools give the same bytes back.
CREATE TEMP TABLE compressed AS
SELECT e.*, c.path AS packed, c.bytes AS packed_bytes, c.sha256 AS packed_sha256, compression, tool, suffix
FROM exported e, (VALUES ('gzip', 'gzip', '.ndjson.gz'), ('zstd', 'zstd', '.ndjson.zst'), ('none', 'cat', '.ndjson'))
       v(compression, tool, suffix),
     LATERAL bacmr_export(e.relation, compression => v.compression) c
WHERE e.relation IN ('every_type.text'::regclass, 'many_view', 'no_rows', 'long_value', 'no_columns_but_rows');
SELECT is((SELECT split_part(shell(format('%s %s %s | sha256sum', tool, CASE tool WHEN 'cat' THEN '' ELSE '-dc' END,
                                          shell_quoted(packed))), ' ', 1)), sha256,
                                            format('%s unpacks %s', tool, relation))
FROM compressed ORDER BY 1;
SELECT is_empty($$SELECT relation, compression FROM compressed WHERE packed NOT LIKE '%' || suffix
  OR packed_bytes <> octet_length(pg_read_binary_file(packed))
  OR packed_sha256 <> encode(sha256(pg_read_binary_file(packed)), 'hex')$$,
    'name, size and sum are of the file as written');
SELECT cmp_ok(packed_bytes, '<', bytes / 20, compression || ' makes repetitive text small')
FROM compressed WHERE relation = 'long_value'::regclass AND compression <> 'none';

-- jq and Python read every line of every export made here. jq counts objects; Python is strict about
-- UTF-8, and finds in each line the columns' names, in order, once.
CREATE FUNCTION all_files(command text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT shell(format('cd %s && find . -name ''*.ndjson'' -print0 | xargs -0 cat > .all && %s; rm .all',
                      shell_quoted(artifact_folder()), command))
$$;
SELECT is((SELECT all_files('wc -l < .all'))::bigint, (SELECT all_files('jq -c ''objects'' .all | wc -l'))::bigint,
  'jq reads each line as an object');
CREATE FUNCTION python_reader() RETURNS text LANGUAGE sql AS $function$ SELECT $python$
import sys, json

def unlike_any(constant):
    raise ValueError(constant)

lines = bad = 0
for raw in sys.stdin.buffer:
    lines += 1
    try:
        line = raw.decode("utf-8")
        assert line.endswith("\n") and "\r" not in line
        objects = []
        def keep(pairs):
            objects.append([key for key, _ in pairs])
            return dict(pairs)
        row = json.loads(line, parse_int=str, parse_float=str, parse_constant=unlike_any,
                         object_pairs_hook=keep)
        # The outermost object is the last to end.
        assert isinstance(row, dict) and list(row) == objects[-1]
    except Exception as error:
        bad += 1
        print("line", lines, repr(error)[:200], raw[:200])
print(lines, bad)
$python$ $function$;
SELECT is((SELECT string_agg(l, E'\n') FROM all_files(format('python3 -c %s < .all',
  shell_quoted(python_reader()))) l),
  (SELECT all_files('wc -l < .all')) || ' 0', 'Python reads each line: strict JSON, strict UTF-8, no key twice');

-- And what they read is what is in the table.
CREATE FUNCTION as_python_reads(relation regclass) RETURNS TABLE (id int, hex text) LANGUAGE sql AS $$
  SELECT split_part(l, ' ', 1)::int, split_part(l, ' ', 2) FROM exported e, shell(format(
    'python3 -c %s < %s', shell_quoted(E'import sys, json\nfor l in sys.stdin.buffer:\n  r = json.loads(l)\n  '
      'if r["v"] is not None: print(r["id"], r["v"].encode("utf-8").hex())'), shell_quoted(e.path))) l
  WHERE e.relation = as_python_reads.relation
$$;
SELECT set_eq($$SELECT * FROM as_python_reads('every_type.text')$$,
  $$SELECT id, encode(convert_to(v, 'UTF8'), 'hex') FROM every_type.text WHERE v IS NOT NULL$$,
  'Python reads all texts as they are');
CREATE FUNCTION as_jq_reads(relation regclass) RETURNS TABLE (id int, base64 text) LANGUAGE sql AS $$
  SELECT split_part(l, ' ', 1)::int, split_part(l, ' ', 2) FROM exported e, shell(format(
    'jq -r %s %s', shell_quoted('select(.v != null) | "\(.id) \(.v | @base64)"'), shell_quoted(e.path))) l
  WHERE e.relation = as_jq_reads.relation
$$;
SELECT set_eq($$SELECT * FROM as_jq_reads('every_type.text')$$,
  $$SELECT id, replace(encode(convert_to(v, 'UTF8'), 'base64'), E'\n', '') FROM every_type.text WHERE v IS NOT NULL$$,
  'so does jq');

SELECT * FROM finish();
ROLLBACK;
