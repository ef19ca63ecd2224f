-- docs/reference.md against the catalogue: every function with its arguments and results, every view
-- and table with its columns, every setting with its default.
\set ECHO none
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
\getenv docs BACMR_DOCS

CREATE EXTENSION bacmr_ops;
SELECT plan(7);

-- Lines of a paragraph are one; a code span may be broken by its end.
CREATE TEMPORARY TABLE reference AS
  SELECT regexp_replace(pg_read_file(:'docs' || '/reference.md'), E'\\s+', ' ', 'g') AS text;

-- One spelling for what can be said in several ways: types, casts of defaults.
CREATE FUNCTION plain(signature text) RETURNS text LANGUAGE sql AS $$
  SELECT regexp_replace(replace(replace(replace(replace(replace(signature,
           'double precision', 'float8'), 'timestamp with time zone', 'timestamptz'),
           'character varying', 'varchar'), 'integer', 'int'), '"schema"', 'schema'),
         '::[a-z_.0-9]+(\[\])?', '', 'g')
$$;

-- What stands after "name(" in code spans, up to the closing parenthesis. (None stands inside but those
-- of "OUT …" lists, which have none.)
CREATE FUNCTION documented(name text, opening text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT plain(m[1]) FROM reference, regexp_matches(text,
    '`(?:CALL )?' || name || regexp_replace(opening, '([(])', '\\\1') || '([^)]*)\)', 'g') m
$$;

CREATE VIEW extension_functions AS
  SELECT p.oid, p.proname::text AS name, 
         replace(regexp_replace(plain(pg_get_function_arguments(p.oid)), '\mIN ', '', 'g'),
                 '''00:00:00''', '''0''') AS arguments,
         plain(pg_get_function_result(p.oid)) AS result
  FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
    AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'bacmr_ops';

CREATE VIEW extension_relations AS
  SELECT c.oid, c.relname::text AS name, c.relkind,
         (SELECT string_agg(a.attname || ' ' || plain(format_type(a.atttypid, a.atttypmod)), ', '
                            ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
           AS columns
  FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
    AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'bacmr_ops'
  WHERE c.relkind IN ('r', 'v', 'm', 'p');

SELECT cmp_ok((SELECT count(*) FROM extension_functions), '>', 60::bigint, 'the functions are found');
SELECT is_empty($$
  SELECT f.name || '(' || f.arguments || ')' FROM extension_functions f
  WHERE NOT EXISTS (SELECT FROM documented(f.name, '(') d WHERE d = f.arguments) ORDER BY 1 $$,
  'every function stands in docs/reference.md with its arguments');
SELECT is_empty($$
  SELECT f.name || ' ' || f.result FROM extension_functions f
  WHERE f.result LIKE 'TABLE(%'
    AND NOT EXISTS (SELECT FROM reference, regexp_matches(text,
          '`' || f.name || '\([^)]*\) RETURNS TABLE \(([^)]*)\)`', 'g') m
        WHERE 'TABLE(' || plain(m[1]) || ')' = f.result) ORDER BY 1 $$,
  'every function that returns a table, with its columns');
SELECT is_empty($$
  SELECT DISTINCT m[1] FROM reference, regexp_matches(text, '`(?:CALL )?(bacmr_\w+)\(', 'g') m
  WHERE NOT EXISTS (SELECT FROM extension_functions f WHERE f.name = m[1]) ORDER BY 1 $$,
  'no function stands there that does not exist');
SELECT is_empty($$
  SELECT r.name || ' (' || r.columns || ')' FROM extension_relations r
  WHERE NOT EXISTS (SELECT FROM documented(r.name, ' (') d WHERE d = r.columns) ORDER BY 1 $$,
  'every view and table stands there with its columns');

-- | `name`, `name` | `default` … | …
CREATE VIEW documented_settings AS
  SELECT name[1] AS name, trim(both '''' FROM m[2]) AS value
  FROM regexp_matches(pg_read_file(:'docs' || '/reference.md'), E'^\\| ((?:`bacmr\\.\\w+`,? ?)+) \\| `([^`]*)`', 'gn') m,
       regexp_matches(m[1], '`(bacmr\.\w+)`', 'g') name;
SELECT set_eq('SELECT name FROM documented_settings',
              $$ SELECT name FROM pg_settings WHERE name LIKE 'bacmr.%' $$,
              'the settings of the library and those of docs/reference.md are the same');
SELECT is_empty($$
  SELECT s.name, d.value AS documented, s.boot_val, s.unit
  FROM pg_settings s JOIN documented_settings d USING (name)
  WHERE CASE s.unit
        WHEN 'kB' THEN pg_size_bytes(d.value) <> s.boot_val::bigint * 1024
        WHEN 'ms' THEN extract(epoch FROM d.value::interval) * 1000 <> s.boot_val::numeric
        WHEN 's' THEN extract(epoch FROM d.value::interval) <> s.boot_val::numeric
        ELSE d.value <> s.boot_val END ORDER BY 1 $$,
  'with their defaults');
SELECT * FROM finish();
