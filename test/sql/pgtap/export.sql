-- Exports: files and their names, the manifest, who may do what, what a transaction's end does to
-- them; and how an export is verified, and restored for proof.
-- Transactions end in this file: none around it.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;
\ir include/artifacts.psql
-- What an earlier run has left
SELECT count(*) AS lines FROM shell('rm -rf ' || shell_quoted(artifact_folder())) \gset
DROP ROLE IF EXISTS export_operator, export_writer, export_stranger, export_owner;
CREATE ROLE export_operator;
CREATE ROLE export_writer;
CREATE ROLE export_stranger;
CREATE ROLE export_owner;
SELECT bacmr_grant('operator', r) FROM unnest('{export_operator,export_writer,export_owner}'::name[]) r;
GRANT pg_write_server_files TO export_writer;

-- Another session's statement, committed at once.
CREATE FUNCTION elsewhere(statement text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT shell(format('psql -XAtq -h %s -p %s -U postgres -d %s -c %s',
    shell_quoted(split_part(current_setting('unix_socket_directories'), ',', 1)), current_setting('port'),
    shell_quoted(current_database()), shell_quoted(statement)))
$$;
CREATE FUNCTION bytes_of(file text) RETURNS bytea LANGUAGE sql AS
  $$SELECT pg_read_binary_file(artifact_folder() || '/' || file)$$;
CREATE FUNCTION last_run(of_job text) RETURNS bacmr_job_run LANGUAGE sql AS
  $$SELECT r FROM bacmr_job_run r WHERE job = of_job ORDER BY run_id DESC LIMIT 1$$;

-- ---------------------------------------------------------------------------------------------
-- Without chunks, without arguments
-- ---------------------------------------------------------------------------------------------

SELECT raises('SELECT bacmr_export_chunks()', '55000', 'chunks', 'bacmr_(create_tables|attach)',
  'no chunks are attached');
SELECT raises('SELECT bacmr_restore_drill()', '55000', 'no export', 'bacmr_export_chunks',
  'there is no export to restore');
SELECT raises('SELECT bacmr_export(NULL)', '22004', 'relation', '', 'NULL for the relation');
SELECT raises('SELECT bacmr_export(4294967295::oid)', '42P01', '4294967295', '', 'a relation that is not there');
SELECT raises('SELECT bacmr_verify_export(NULL)', '22004', 'source', '', 'NULL for the source of a verification');
SELECT is((SELECT count(*) FROM bacmr_job_run), 0::bigint, 'what failed in the caller''s transaction leaves no run');

SELECT bacmr_create_tables();
CREATE FUNCTION id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE
RETURN ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid;
INSERT INTO chunks (id, namespace, chunk_index, content, metadata, created_at)
SELECT id(n), (ARRAY['fr', 'ar', 'a "b"', ''])[n % 4 + 1], n, (ARRAY['texte œuvre', 'نص عربي', 'x'])[n % 3 + 1] || n,
       CASE WHEN n % 10 IN (3, 4) THEN 'null' ELSE jsonb_build_object('n', n) END, '2026-01-01'
FROM generate_series(1, 2500) n;

-- ---------------------------------------------------------------------------------------------
-- The files
-- ---------------------------------------------------------------------------------------------

CREATE TABLE made AS SELECT * FROM bacmr_export_chunks();
SELECT matches(path, '^' || artifact_folder() || '/dr_export_chunks_\d{8}_\d{6}\.ndjson$',
  'the file''s path and name') FROM made;
SELECT ok(abs(extract(epoch FROM to_timestamp(substring(path FROM '\d{8}_\d{6}'), 'YYYYMMDD_HH24MISS')::timestamp
  AT TIME ZONE 'UTC' - clock_timestamp())) < 300, 'its time is in UTC') FROM made;
SELECT is((url, chunks, bytes), (NULL::text, 2500::bigint, octet_length(pg_read_binary_file(path))::bigint),
  'no url, the rows, the bytes') FROM made;
SELECT is(sha256, (SELECT split_part(shell('sha256sum < ' || shell_quoted(path)), ' ', 1)), 'sha256sum agrees')
  FROM made;
SELECT set_eq('SELECT files()', format($$VALUES (%L), (%L)$$, name_of(path), name_of(path) || '.manifest.json'),
  'two files and nothing else') FROM made;
SELECT results_eq('SELECT shell(format(''cd %s && stat -c %%a . * ..'', shell_quoted(artifact_folder())))',
  '{700,600,600,700}'::text[], 'folders 0700, files 0600');

-- Several within a second: _2, _3, … after the same time, each with its manifest.
SELECT bacmr_export_chunks(compression => c) FROM unnest('{none,gzip,none,zstd,none,none,none,NULL}'::text[]) c;
CREATE TABLE name AS
  SELECT f, m[1] AS second, coalesce(m[2]::int, 1) AS n, m[3] AS suffix
  FROM files() f, regexp_match(f, '^dr_export_chunks_(\d{8}_\d{6})(?:_(\d+))?\.ndjson(|\.gz|\.zst)$') m
    WHERE m IS NOT NULL;
SELECT is((SELECT count(*) FROM name), 9::bigint, 'nine exports by the names of the contract');
SELECT set_eq($$SELECT f || '.manifest.json' FROM name$$, $$SELECT f FROM files() f WHERE f LIKE '%.manifest.json'$$,
  'each with a manifest');
SELECT cmp_ok((SELECT max(n) FROM name), '>', 1, 'some of them in the same second');
SELECT is_empty('SELECT second FROM name GROUP BY second, suffix HAVING max(n) <> count(*) OR min(n) <> 1',
  'numbered without gaps');
SELECT is((SELECT count(DISTINCT sha256(bytes_of(f))) FROM name WHERE suffix = ''), 1::bigint,
  'the same rows: the same bytes');
SELECT results_eq($$SELECT (manifest_of(f)->>'compression') || suffix FROM name GROUP BY 1 ORDER BY 1$$,
  '{gzip.gz,none,zstd.zst}'::text[], 'the suffix tells the compression');
SELECT raises($$SELECT bacmr_export_chunks(compression => 'lz4')$$, '22023', 'unknown compression "lz4"', 'gzip',
  'an unknown compression');
SELECT raises($$SELECT bacmr_export_chunks(compression => 'GZIP')$$, '22023', 'unknown compression', 'gzip',
  'in capitals');
SELECT raises($$SELECT bacmr_export('chunks', compression => '')$$, '22023', 'unknown compression', 'gzip',
  'or empty');
SELECT raises($$SELECT bacmr_export('chunks', 'nowhere')$$, '42704', 'nowhere', '', 'an unknown destination');

-- ---------------------------------------------------------------------------------------------
-- The manifest
-- ---------------------------------------------------------------------------------------------

SELECT name_of(path) AS file, sha256, run_id FROM made \gset
SELECT is((SELECT split_part(shell(format('cd %s && head -n -2 %s.manifest.json | sha256sum',
  shell_quoted(artifact_folder()), :'file')), ' ', 1)),
  manifest_of(:'file')->>'manifest_sha256', 'its checksum is that of all lines but the last two');
SELECT is((SELECT shell(format('cd %s && jq -r ''"\(.sha256)  \(.file)"'' %s.manifest.json | sha256sum -c',
  shell_quoted(artifact_folder()), :'file'))),
  :'file' || ': OK', 'jq and sha256sum prove the file by it');
SELECT is((SELECT shell(format('cd %s && jq -r keys_unsorted[] %s.manifest.json | tr ''\n'' '' ''',
  shell_quoted(artifact_folder()), :'file'))),
  'format format_version file relation namespace_column namespace compression columns rows bytes ndjson_bytes sha256 first_id'
  ' last_id namespaces namespaces_truncated json_nulls snapshot_at lsn system_identifier database server_version'
  ' server_encoding extension_version request_id manifest_sha256 ', 'its members');
SELECT unnest(ARRAY[is(m->>'format' || (m->>'format_version'), 'bacmr_ops.export1', 'format and version'),
  is(m - '{format,format_version,manifest_sha256,snapshot_at,lsn,system_identifier,columns,json_nulls,request_id}'::text[],
    jsonb_build_object('file', :'file', 'relation', 'public.chunks', 'namespace_column', 'namespace', 'namespace',
      NULL,
      'compression', 'none', 'rows', 2500, 'bytes', length(bytes_of(:'file')), 'ndjson_bytes',
        length(bytes_of(:'file')),
      'sha256', :'sha256', 'first_id', id(1), 'last_id', id(2500),
      'namespaces', '{"fr": 625, "ar": 625, "a \"b\"": 625, "": 625}'::jsonb, 'namespaces_truncated', false,
      'database', current_database(), 'server_version', current_setting('server_version'), 'server_encoding', 'UTF8',
      'extension_version', bacmr_library_version()), 'what it says of file, rows, ids, namespaces and server'),
  is(m->'columns', (SELECT jsonb_agg(jsonb_build_object('name', attname, 'type',
    format_type(atttypid, atttypmod)) ORDER BY attnum)
                    FROM pg_attribute WHERE attrelid = 'chunks'::regclass AND attnum > 0),
                      'the columns, in order, with their types'),
  is(m->'json_nulls', jsonb_build_object('metadata', (SELECT jsonb_agg(jsonb_build_array(n, 2))
    FROM generate_series(3, 2500, 10) n)),
    'the lines with a JSON null, across batches'),
  ok(abs(extract(epoch FROM (m->>'snapshot_at')::timestamptz - clock_timestamp())) < 300
    AND m->>'snapshot_at' ~ 'Z$', 'the time of the snapshot'),
  cmp_ok(pg_current_wal_insert_lsn() - (m->>'lsn')::pg_lsn, '>=', 0::numeric, 'the WAL''s position'),
  is(m->>'system_identifier', (SELECT system_identifier::text FROM pg_control_system()), 'the cluster'),
  is(m->>'request_id', (SELECT request_id FROM bacmr_job_run WHERE run_id = :run_id), 'the request of the run')])
FROM manifest_of(:'file') m;

CREATE TABLE two_keys (a int, b text, j json, jb jsonb, PRIMARY KEY (a, b));
INSERT INTO two_keys VALUES (1, 'x', 'null', NULL), (2, 'y', NULL, 'null'), (3, 'z', E' \n null ', 'null');
SELECT ok(m @> '{"rows":3,"first_id":null,"last_id":null,"namespaces":{},"namespace_column":null,"relation":"public.two_keys"}'
  AND m->'json_nulls' = '{"j":[[1,1],[3,1]],"jb":[[2,2]]}', 'of a table with a key of two columns')
FROM manifest_of(name_of((bacmr_export('two_keys')).path)) m;
CREATE TABLE "Ключ" ("é "" id" text PRIMARY KEY, namespace text); INSERT INTO "Ключ" VALUES (E'b"\n', 'n'),
  ('a', 'n');
SELECT is((m->'first_id', m->'last_id', m->'namespaces', m->>'relation'),
  ('"b\"\n"'::jsonb, '"a"'::jsonb, '{}'::jsonb, 'public."Ключ"'::text),
  'first and last id are those of the lines, by the primary key')
FROM manifest_of(name_of((bacmr_export('"Ключ"')).path)) m;
DELETE FROM two_keys;
SELECT is((m->'rows', m->'bytes', m->>'sha256'), ('0'::jsonb, '0'::jsonb, encode(sha256(''), 'hex')),
  'of an empty table')
FROM manifest_of(name_of((bacmr_export('two_keys')).path)) m;

-- One namespace
CREATE TABLE of_namespace AS SELECT space, e.* FROM unnest(ARRAY['ar', 'a "b"', 'none', '']) space,
  bacmr_export_chunks(NULL, space) e;
SELECT results_eq('SELECT chunks FROM of_namespace', '{625,625,0,625}'::bigint[], 'the rows of a namespace');
SELECT is((m->>'namespace', m->'namespaces', m->>'namespace_column'),
  (space, CASE chunks WHEN 0 THEN '{}' ELSE jsonb_build_object(space, chunks) END, 'namespace'::text),
  'its manifest says which: ' || to_json(space)) FROM of_namespace, manifest_of(name_of(path)) m;
SELECT is((SELECT count(*) FROM string_to_table(rtrim(file_text(name_of(path)), E'\n'), E'\n') l
  WHERE l::jsonb->>'namespace' = space), chunks,
  'and its lines are of it: ' || to_json(space)) FROM of_namespace WHERE chunks > 0;

-- Columns under other names
CREATE TABLE other_chunks (key bigint PRIMARY KEY, "Space" text, text text, meta jsonb);
INSERT INTO other_chunks SELECT n, 's' || n % 2, 'x', '{}' FROM generate_series(1, 9) n;
SELECT bacmr_detach('chunks');
SELECT bacmr_attach('chunks', 'other_chunks', '{"id":"key","namespace":"Space","content":"text","metadata":"meta"}');
SELECT is((m->'first_id', m->'last_id', m->'namespaces', m->>'namespace_column', m->>'relation'),
  ('1'::jsonb, '9'::jsonb, '{"s0":4,"s1":5}'::jsonb, 'Space'::text, 'public.other_chunks'::text),
    'chunks whose columns have other names')
FROM bacmr_export_chunks() e, manifest_of(name_of(e.path)) m;
SELECT is((SELECT chunks FROM bacmr_export_chunks(namespace => 's1')), 5::bigint, 'and one namespace of those');
SELECT bacmr_detach('chunks');
SELECT bacmr_attach('chunks', 'chunks');

-- ---------------------------------------------------------------------------------------------
-- The run, and the metrics
-- ---------------------------------------------------------------------------------------------

SELECT is((status, error, detail - 'snapshot_at'), ('succeeded'::text, NULL::text,
  jsonb_build_object('relation', 'public.chunks', 'file', name_of(path),
    'path', path, 'local_source', name_of(path), 'rows', 2500, 'bytes', bytes, 'sha256', made.sha256)), 'the run says what was written')
FROM made JOIN bacmr_job_run USING (run_id);
SELECT ok(finished_at >= started_at, 'and when') FROM bacmr_job_run WHERE run_id = :run_id;
SET bacmr.request_id = 'request-7';
SELECT bacmr_export('made', file_name => 'of_request');
RESET bacmr.request_id;
SELECT is((request_id, manifest_of('of_request')->>'request_id'), ('request-7'::text, 'request-7'::text),
  'a request''s id goes into run and manifest') FROM last_run('export');

CREATE FUNCTION metric(of_name text, relation text) RETURNS float8 LANGUAGE sql AS
  $$SELECT value FROM bacmr_metrics WHERE name = of_name AND labels @> jsonb_build_object('relation', relation)$$;
CREATE TABLE measured AS SELECT n AS id FROM generate_series(1, 3) n;
BEGIN;
SELECT bytes FROM bacmr_export('measured') \gset
SELECT is(metric('bacmr_export_rows', 'public.measured'), NULL, 'no metric before the export is certain');
COMMIT;
SELECT unnest(ARRAY[is(metric('bacmr_export_rows', 'public.measured'), 3::float8, 'rows of the latest export'),
  is(metric('bacmr_export_bytes', 'public.measured'), :bytes::float8, 'its bytes'),
  is(metric('bacmr_export_last_verified_timestamp_seconds', 'public.measured'), 0::float8, 'none verified yet')]);
BEGIN;
INSERT INTO measured VALUES (4);
SELECT bacmr_export('measured');
ROLLBACK;
SELECT is(metric('bacmr_export_rows', 'public.measured'), 3::float8, 'one that was rolled back does not count');

-- ---------------------------------------------------------------------------------------------
-- Names that the caller gives
-- ---------------------------------------------------------------------------------------------

SELECT is((SELECT path FROM bacmr_export_chunks(file_name => 'مرحبا é.json', compression => 'gzip')),
  artifact_folder() || '/مرحبا é.json', 'a plain name, as it is');
SELECT raises($$SELECT bacmr_export_chunks(file_name => 'مرحبا é.json')$$, '58P02', 'exists already',
  'another file_name', 'never twice');
SELECT lives_ok(format('SELECT bacmr_export(''measured'', file_name => %L)', repeat('x', 200)), '200 bytes');
SELECT raises(format('SELECT bacmr_export(''measured'', file_name => %L)', name), '22023',
  'cannot be the name of a file', 'plain|control characters',
  'no name of a file: ' || to_json(left(name, 20))::text, role_name)
FROM unnest(ARRAY['', '.', '..', '.hidden', 'a\b', E'a\nb', E'a\tb', E'\x7f', repeat('x', 201), 'x/', '../',
  '/']) name,
     unnest('{export_operator,postgres}'::text[]) role_name;
SELECT raises(format('SELECT bacmr_export(''measured'', file_name => %L)', name), '42501',
  'outside the artifact directory', 'plain file name',
  'a path, to an ordinary operator: ' || name, 'export_operator')
FROM unnest(ARRAY['../x', '/tmp/x', 'a/b', './x', '../../../postgresql.auto.conf', '/x',
  current_setting('data_directory') || '/x']) name;
SELECT raises($$SELECT bacmr_export('measured', file_name => 'none/x')$$, '58P01', 'No such file or directory', '',
  'a folder that is not there');
SELECT raises($$SELECT bacmr_export('measured', file_name => '../..')$$, '22023', 'cannot be the name', '',
  'a path that ends in a folder');

-- Who may write the server's files may write there.
GRANT SELECT ON measured TO export_writer, export_operator;
SELECT count(*) AS lines FROM shell(format('mkdir %s', shell_quoted(artifact_folder() || '/below'))) \gset
SELECT works_for('export_writer', $$SELECT bacmr_export('measured', file_name => 'below/w.ndjson')$$,
  'pg_write_server_files: below the folder');
SELECT works_for('export_writer', format($$SELECT bacmr_export('measured', file_name => %L)$$,
  artifact_folder() || '/below/absolute.ndjson'),
  'and by its whole path');
SELECT bag_eq(format('SELECT pg_ls_dir(%L)', artifact_folder() || '/below'),
  '{w.ndjson,w.ndjson.manifest.json,absolute.ndjson,absolute.ndjson.manifest.json}'::text[], 'they are there');
SELECT is((SELECT ok FROM bacmr_verify_export(artifact_folder() || '/below/w.ndjson')), true, 'and can be verified');
SELECT bacmr_export('measured', file_name => 'below/latest.ndjson');
SELECT lives_ok('SELECT bacmr_restore_drill()', 'a drill without a source finds the latest export where it lies');
SELECT bacmr_export('measured');
SELECT is((SELECT ok FROM bacmr_restore_drill()), true, 'or in the folder');

-- Planted links lead nowhere.
CREATE FUNCTION in_folder(command text) RETURNS SETOF text LANGUAGE sql AS
  $$SELECT shell(format('cd %s && %s', shell_quoted(artifact_folder()), command))$$;
SELECT write_file('victim', 'precious');
SELECT count(*) AS lines
  FROM in_folder('ln -s victim link.ndjson; ln -s nowhere dangling.ndjson; ln -s victim m.ndjson.manifest.json; mkfifo pipe.ndjson;'
  ' ln -s victim .t.ndjson.' || pg_backend_pid() || '.tmp; mkdir folder.ndjson') \gset
SELECT raises(format('SELECT bacmr_export(''measured'', file_name => %L)', n), '58P02', 'exists already', '',
  'a planted ' || n)
FROM unnest('{link.ndjson,dangling.ndjson,pipe.ndjson,folder.ndjson}'::text[]) n;
SELECT raises($$SELECT bacmr_export('measured', file_name => 'm.ndjson')$$, '58P02', 'exists already', '',
  'a planted manifest');
SELECT is_empty($$SELECT f FROM files() f WHERE f = 'm.ndjson'$$, 'and no file without one of its own');
SELECT lives_ok($$SELECT bacmr_export('measured', file_name => 't.ndjson')$$,
  'a planted link in the place of the hidden name');
SELECT is(file_text('victim'), 'precious', 'what they lead to is as it was');
SELECT is_empty($$SELECT f FROM files() f WHERE f LIKE '.%'$$, 'nothing hidden stays');
SELECT raises(format('SELECT bacmr_verify_export(%L)', n), code, '', '', 'nor are they read: ' || n)
FROM (VALUES ('link.ndjson', '58030'), ('dangling.ndjson', '58030'), ('pipe.ndjson', '42809'),
  ('folder.ndjson', '42809')) v(n, code);

-- The database's folder itself
SELECT count(*) AS lines
  FROM in_folder('mv ../"$(basename "$PWD")" ../moved && mkdir ../other && ln -s other ../"$(basename "$PWD")"') \gset
SELECT raises($$SELECT bacmr_export('measured')$$, '42809', 'is not a directory', 'bacmr.artifact_directory',
  'a link in the place of the folder');
SELECT is((SELECT count(*) FROM shell(format('ls -A %s/../other', shell_quoted(artifact_folder())))), 0::bigint,
  'is not followed');
SELECT count(*) AS lines FROM shell(format('cd %s/.. && cd "$(dirname %1$s)" && rm -r other %1$s && mv moved %1$s',
  shell_quoted(artifact_folder()))) \gset
SELECT lives_ok($$SELECT bacmr_export('measured')$$, 'the folder is back');

-- ---------------------------------------------------------------------------------------------
-- Transactions
-- ---------------------------------------------------------------------------------------------

CREATE TABLE files_before AS SELECT files() AS f;
CREATE FUNCTION new_files() RETURNS SETOF text LANGUAGE sql AS $$SELECT files() EXCEPT SELECT f FROM files_before$$;
CREATE TABLE runs_before AS SELECT count(*) AS n FROM bacmr_job_run;
BEGIN;
SELECT bacmr_export_chunks(file_name => 'rolled_back');
SELECT set_eq('SELECT new_files()', '{rolled_back,rolled_back.manifest.json}'::text[], 'the files are there');
ROLLBACK;
SELECT is_empty('SELECT new_files()', 'a transaction that is rolled back takes both along');
BEGIN;
SAVEPOINT s;
SELECT bacmr_export_chunks(file_name => 'rolled_back');
ROLLBACK TO s;
SELECT is_empty('SELECT new_files()', 'so does a savepoint');
SELECT bacmr_export_chunks(file_name => 'kept_1');
SAVEPOINT s;
SELECT bacmr_export_chunks(file_name => 'kept_2', compression => 'zstd');
RELEASE s;
SAVEPOINT s;
SELECT bacmr_export_chunks(file_name => 'rolled_back');
ROLLBACK TO s;
COMMIT;
SELECT set_eq('SELECT new_files()', '{kept_1,kept_1.manifest.json,kept_2,kept_2.manifest.json}'::text[],
  'two exports in one transaction are kept');
SELECT is(count(*), n + 2, 'and their runs') FROM bacmr_job_run, runs_before GROUP BY n;
SELECT raises($$SELECT bacmr_export_chunks(file_name => 'failed'), 1 / (SELECT 0 FROM pg_sleep(0))$$, '22012', '',
  '', 'an error after it');
CREATE VIEW fails_late AS SELECT 1 / (3000 - n) AS x, repeat('x', 1000) FROM generate_series(1, 3000) n;
SELECT raises($$SELECT bacmr_export('fails_late', file_name => 'failed')$$, '22012', '', '',
  'an error while it is written');
SELECT set_eq('SELECT new_files()', '{kept_1,kept_1.manifest.json,kept_2,kept_2.manifest.json}'::text[],
  'leave nothing, hidden or not');

BEGIN READ ONLY;
SELECT raises($$SELECT bacmr_export_chunks(file_name => 'failed')$$, '25006', 'read-only', '',
  'a read-only transaction');
SELECT raises($$SELECT bacmr_restore_drill('kept_1')$$, '25006', 'read-only', '', 'also for a drill');
ROLLBACK;
SELECT is_empty($$SELECT f FROM new_files() f WHERE f LIKE 'failed%'$$, 'leaves nothing');

-- Which rows: those that the statement's, or the transaction's, snapshot sees.
BEGIN;
SELECT count(*) AS rows FROM measured \gset
SELECT elsewhere('INSERT INTO measured VALUES (100)');
SELECT is((SELECT chunks FROM bacmr_export('measured')), :rows + 1::bigint,
  'READ COMMITTED: what was committed before it');
INSERT INTO measured VALUES (101);
SELECT is((SELECT chunks FROM bacmr_export('measured')), :rows + 2::bigint,
  'and what the transaction itself has done');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) AS rows FROM measured \gset
SELECT elsewhere('INSERT INTO measured VALUES (102)');
SELECT is((SELECT chunks FROM bacmr_export('measured')), :rows::bigint,
  'REPEATABLE READ: the transaction''s snapshot');
SELECT is((SELECT ok FROM bacmr_restore_drill()), true, 'in which a drill proves it');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT is((SELECT chunks FROM bacmr_export('measured')), :rows + 1::bigint, 'SERIALIZABLE');
COMMIT;

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

SELECT raises(call, '42501', 'permission denied for function', '', 'to a stranger: ' || call, 'export_stranger')
FROM unnest(ARRAY['SELECT bacmr_export_chunks()', $$SELECT bacmr_export('pg_class')$$,
  $$SELECT bacmr_verify_export('kept_1')$$,
  'SELECT bacmr_restore_drill()', $$SELECT bacmr_import_chunks('kept_1')$$,
    $$SELECT bacmr_import('measured', 'kept_1')$$]) call;
SELECT raises('SELECT bacmr_export_chunks()', '42501', 'permission denied for table (public\.)?chunks',
  'GRANT SELECT', 'without SELECT', 'export_operator');
GRANT SELECT (id, namespace, content) ON chunks TO export_operator;
SELECT raises('SELECT bacmr_export_chunks()', '42501', 'permission denied for table', 'GRANT SELECT',
  'with SELECT on some columns', 'export_operator');
GRANT SELECT (document_id, chunk_index, metadata, token_count, created_at, updated_at) ON chunks TO export_operator;
SELECT works_for('export_operator', 'SELECT bacmr_export_chunks()', 'with SELECT on all columns');
SELECT works_for('export_operator', $$SELECT bacmr_export_chunks(namespace => 'ar')$$, 'and of one namespace');
GRANT SELECT ON chunks TO export_operator;
SELECT works_for('export_operator', $$SELECT bacmr_export_chunks(file_name => 'by_operator')$$, 'with SELECT');
SELECT works_for('export_operator', $$SELECT bacmr_verify_export('by_operator')$$, 'who may verify it');
SELECT works_for('export_operator', $$SELECT bacmr_restore_drill('by_operator')$$, 'and drill');
SELECT is((SELECT status FROM last_run('drill')), 'succeeded', 'with success');
CREATE SCHEMA closed; CREATE TABLE closed.t AS SELECT 1 AS id; GRANT SELECT ON closed.t TO export_operator;
SELECT raises(format('SELECT bacmr_export(%s)', 'closed.t'::regclass::oid), '42501', 'permission denied', 'USAGE',
  'a schema that is closed to the caller', 'export_operator');
SELECT raises($$SELECT bacmr_verify_export('/etc/passwd')$$, '42501', 'outside the artifact directory', 'file name',
  'an operator may not read elsewhere', 'export_operator');
SELECT raises($$SELECT bacmr_restore_drill('/etc/passwd')$$, '42501', 'outside the artifact directory', 'file name',
  'nor drill', 'export_operator');

-- Row-level security: an export of some rows would look like all of them.
CREATE TABLE secret (id int PRIMARY KEY, owner text);
INSERT INTO secret VALUES (1, 'a'), (2, 'b');
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (owner = 'a');
GRANT SELECT ON secret TO export_operator;
SELECT raises($$SELECT bacmr_export('secret')$$, '42501', 'row-level security', '', 'a policy that would hide rows',
  'export_operator');
CREATE VIEW secret_view AS SELECT * FROM secret;
ALTER TABLE secret OWNER TO export_owner;
SELECT works_for('export_owner', $$SELECT bacmr_export('secret', file_name => 'secret')$$,
  'its owner, who sees them all');
SELECT is(manifest_of('secret')->'rows', '2'::jsonb, 'has them all');
ALTER TABLE secret FORCE ROW LEVEL SECURITY;
SELECT raises($$SELECT bacmr_export('secret')$$, '42501', 'row-level security', '',
  'nor the owner where it is forced', 'export_owner');
ALTER VIEW secret_view OWNER TO export_operator;
SELECT raises($$SELECT bacmr_export('secret_view')$$, '42501', 'row-level security', '', 'nor through a view',
  'export_operator');

-- ---------------------------------------------------------------------------------------------
-- Verification
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_export_chunks(file_name => 'sound' || suffix, compression => c)
FROM (VALUES ('none', ''), ('gzip', '.gz'), ('zstd', '.zst')) v(c, suffix);
SELECT is((v.ok, v.chunks, v.bytes, v.sha256, v.problem),
  (true, 2500::bigint, length(bytes_of(f))::bigint, encode(sha256(bytes_of(f)), 'hex'), NULL::text),
  'a sound export: ' || f) FROM unnest('{sound,sound.gz,sound.zst}'::text[]) f, bacmr_verify_export(f) v;
SELECT is((status, error, detail->'ok', detail->>'source', detail->'rows', detail->>'relation'),
  ('succeeded'::text, NULL::text, 'true'::jsonb, 'sound.zst'::text, '2500'::jsonb, 'public.chunks'::text), 'its run')
    FROM last_run('verify');
SELECT ok(abs(metric('bacmr_export_last_verified_timestamp_seconds', 'public.chunks') - extract(epoch
  FROM clock_timestamp())) < 300,
  'the metric tells of which time the verified export is');

-- Copies that something happened to
CREATE FUNCTION with_byte(content bytea, at int) RETURNS bytea LANGUAGE sql AS
  $$SELECT set_byte(content, at, get_byte(content, at) # 1)$$;
CREATE FUNCTION damaged(file text, content bytea, manifest bytea DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
  SELECT write_file('damaged', content);
  SELECT write_file('damaged.manifest.json', coalesce(manifest, bytes_of(file || '.manifest.json')));
  SELECT problem FROM bacmr_verify_export('damaged') WHERE NOT ok
$$;
SELECT matches(damaged(f, with_byte(bytes_of(f), at)), 'SHA-256|damaged (gzip|zstd) data',
  format('%s: byte %s altered', f, at))
FROM unnest('{sound,sound.gz,sound.zst}'::text[]) f, unnest(ARRAY[0, 1000, length(bytes_of(f)) / 2,
  length(bytes_of(f)) - 1]) at;
SELECT is((status, detail->'ok', error), ('failed'::text, 'false'::jsonb,
  'the export "damaged" is damaged: ' || (detail->>'problem')), 'the run failed, and says why')
FROM last_run('verify');
SELECT matches(damaged(f, substr(bytes_of(f), 1, length(bytes_of(f)) - less)),
  'it has \d+ bytes, its manifest states|ends too early',
  format('%s: cut off by %s', f, less)) FROM unnest('{sound,sound.gz,sound.zst}'::text[]) f,
    unnest('{1,100,1000}'::int[]) less;
SELECT matches(damaged(f, ''), 'it has 0 bytes|ends too early', f || ': emptied')
  FROM unnest('{sound,sound.gz,sound.zst}'::text[]) f;
SELECT matches(damaged('sound', bytes_of('sound') || E'{"id":1}\n'::bytea),
  'expands to more than \d+ bytes.*manifest states', 'a line more');
SELECT matches(damaged(f, bytes_of(f) || 'x'::bytea), 'damaged|bytes', f || ': a byte more')
  FROM unnest('{sound.gz,sound.zst}'::text[]) f;
SELECT matches(damaged('sound', b, bytes_of('sound.gz.manifest.json')), 'damaged gzip data',
  'not compressed as the manifest says: plain')
FROM bytes_of('sound') b;
SELECT matches(damaged('sound', b, bytes_of('sound.gz.manifest.json')), 'damaged gzip data', 'zstd instead of gzip')
  FROM bytes_of('sound.zst') b;
SELECT matches(damaged('sound', b, bytes_of('sound.zst.manifest.json')), 'damaged zstd data', 'gzip instead of zstd')
  FROM bytes_of('sound.gz') b;

-- With a manifest that agrees with the file
CREATE FUNCTION problem_of(content bytea, changes jsonb) RETURNS text LANGUAGE sql AS $$
  SELECT write_export('by_hand', content, '{id}', changes);
  SELECT problem FROM bacmr_verify_export('by_hand') WHERE NOT ok
$$;
SELECT is(problem_of(E'{"id":1}\n{"id":2}\n', '{}'), NULL, 'an export made by hand is as good');
SELECT is(problem_of(E'{"id":1}\n{"id":2}\n', '{"rows":3}'), 'it has 2 lines, its manifest states 3',
  'fewer lines than stated');
SELECT is(problem_of(E'{"id":1}\n{"id":2}\n', '{"rows":1}'), 'it has 2 lines, its manifest states 1', 'more lines');
SELECT is(problem_of(E'{"id":1}\n', '{"ndjson_bytes":10}'), 'it has 9 bytes of NDJSON, its manifest states 10',
  'fewer bytes of NDJSON');
SELECT matches(problem_of(E'{"id":1}\n{"id":2\n{"id":3}\n', '{}'), '^line 2 is not a JSON object: .* at byte 8$',
  'a line that is no JSON');
SELECT matches(problem_of(E'{"id":1}\n[1]\n', '{}'), '^line 2 is not a JSON object', 'or no object');
SELECT matches(problem_of(E'{"id":1}\n\n{"id":1}\n', '{}'), '^line 2 is not a JSON object', 'or empty');

-- A bomb: 20 MB of nothing in 20 kB
SELECT count(*) AS lines
  FROM in_folder('head -c 20000000 /dev/zero | gzip -9 > bomb; head -c 20000000 /dev/zero | zstd -q > bomb2') \gset
SELECT write_manifest(f, bytes_of(f), '{id}', jsonb_build_object('compression', c, 'ndjson_bytes', 1000))
FROM (VALUES ('bomb', 'gzip'), ('bomb2', 'zstd')) v(f, c);
SELECT matches(problem, 'expands to more than 1000 bytes', 'a bomb: the limit is what its manifest states')
  FROM unnest('{bomb,bomb2}'::text[]) f, bacmr_verify_export(f);

-- The manifest itself
SELECT matches(damaged('sound', bytes_of('sound'), with_byte(bytes_of('sound.manifest.json'), at::int)),
  'damaged.manifest.json.*(altered|not its checksum)', format('the manifest, byte %s altered', at))
FROM unnest(ARRAY[0, 10, length(bytes_of('sound.manifest.json')) - 10,
  length(bytes_of('sound.manifest.json')) - 1]) at;
SELECT matches(damaged('sound', bytes_of('sound'), substr(bytes_of('sound.manifest.json'), 1, 500)), 'cut off',
  'cut off');
SELECT is((status, detail->'ok'), ('failed'::text, 'false'::jsonb), 'which its run says too')
FROM last_run('verify');
SELECT is((e.chunks, e.bytes, e.sha256), (NULL::bigint, NULL::bigint, NULL::text),
  'nothing is known of an export whose manifest is damaged') FROM bacmr_verify_export('damaged') e;
SELECT matches(damaged('sound', bytes_of('sound'), ''), 'cut off', 'empty');
SELECT matches(problem_of(E'{"id":1}\n', changes::jsonb), message, 'a manifest with ' || changes)
FROM (VALUES ('{"format":"x"}', 'something else'), ('{"format_version":2}',
  'format version 2, this version reads 1'), ('{"rows":-1}', '"rows"'),
  ('{"rows":"1"}', '"rows"'), ('{"sha256":"x"}', '"sha256"'), ('{"compression":"lz4"}', 'compression'),
    ('{"columns":{}}', '"columns"'),
  ('{"columns":[{"name":"id"}]}', '"type"'), ('{"json_nulls":{"id":[[2,1]]}}', '"json_nulls"'),
    ('{"json_nulls":{"id":[[1,2]]}}', '"json_nulls"'),
  ('{"json_nulls":{"id":[[0,1]]}}', '"json_nulls"'), ('{"namespaces":[]}', '"namespaces"')) v(changes, message);
SELECT write_file('lonely', 'x');
SELECT raises($$SELECT bacmr_verify_export('lonely')$$, '58P01', '"lonely" has no manifest', 'manifest.json',
  'no manifest');
SELECT raises($$SELECT bacmr_verify_export('not_there')$$, '58P01', 'no file "not_there"', 'ls ', 'no file');
SELECT raises($$SELECT bacmr_verify_export('nowhere/x')$$, '42704', 'nowhere', '', 'no server');
SELECT raises(format('SELECT bacmr_verify_export(%L)', n), '22023', 'is not the name of an export', 'file name',
  'no name: ' || to_json(n))
FROM unnest(ARRAY['', '..', '.', '.hidden', '/', '/etc/']) n;
SELECT raises($$SELECT bacmr_verify_export('../x')$$, '42704', '\.\.', '', 'a way up');

-- ---------------------------------------------------------------------------------------------
-- The drill
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION drill(source text) RETURNS text LANGUAGE sql AS
  $$SELECT format('%s %s: %s missing, %s different, %s extra', ok, chunks, missing, different, extra)
    FROM bacmr_restore_drill(source)$$;
SELECT is(drill(f), 't 2500: 0 missing, 0 different, 0 extra', 'as exported: ' || f)
  FROM unnest('{sound,sound.gz,sound.zst}'::text[]) f;
SELECT is((status, error, (detail->'drill') - 'seconds', detail->>'source'),
  ('succeeded'::text, NULL::text, '{"ok":true,"rows":2500,"missing":0,"different":0,"extra":0}'::jsonb,
    'sound.zst'::text), 'the run') FROM last_run('drill');
SELECT cmp_ok((SELECT seconds FROM bacmr_restore_drill('sound')), '>', 0::float8, 'it tells how long it took');
BEGIN;
DELETE FROM chunks WHERE chunk_index <= 3;
UPDATE chunks SET content = content || ' ' WHERE chunk_index BETWEEN 10 AND 14;
INSERT INTO chunks (namespace, content) SELECT 'fr', 'new' FROM generate_series(1, 7);
SELECT is(drill('sound'), 'f 2500: 3 missing, 5 different, 7 extra', 'deleted, changed and new rows');
SELECT is((status, error),
  ('discrepancies'::text, 'the restored export differs from the table: 3 rows missing, 5 different, 7 extra'::text),
  'the run tells')
FROM last_run('drill');
ROLLBACK;
BEGIN;
ALTER TABLE chunks ALTER metadata DROP NOT NULL;
UPDATE chunks SET metadata = NULL WHERE chunk_index = 3;
SELECT is(drill('sound'), 'f 2500: 0 missing, 1 different, 0 extra', 'JSON null is not SQL NULL');
ROLLBACK;
BEGIN;
ALTER TABLE chunks ADD note text DEFAULT 'later';
SELECT is(drill('sound'), 't 2500: 0 missing, 0 different, 0 extra', 'a column that came later');
ALTER TABLE chunks DROP CONSTRAINT chunks_pkey;
SELECT is(drill('sound'), 't 2500: 0 missing, 0 different, 0 extra', 'without the primary key');
ROLLBACK;
-- What an import would refuse proves nothing.
BEGIN;
ALTER TABLE chunks RENAME content TO body;
SELECT raises($$SELECT bacmr_import('chunks', 'sound', 'skip')$$, '42703', '"content"', '',
  'a column was renamed: an import refuses the export');
CREATE FUNCTION proves(source text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT ok FROM bacmr_restore_drill(source));
EXCEPTION WHEN undefined_column THEN
  RETURN false;
END
$$;
SELECT is(proves('sound'), false, 'so a drill does not call it good');
ROLLBACK;
BEGIN;
ALTER TABLE chunks RENAME TO chunks_gone;
SELECT raises($$SELECT bacmr_restore_drill('sound')$$, '42P01', 'no table public.chunks', 'bacmr_import',
  'a table that is gone');
ROLLBACK;

-- One namespace of it
SELECT is(drill(name_of(path)), format('t %s: 0 missing, 0 different, 0 extra', chunks),
  'the export of a namespace, beside its rows: ' || to_json(space))
FROM of_namespace;
BEGIN;
DELETE FROM chunks WHERE namespace = 'ar' AND chunk_index < 10;
INSERT INTO chunks (namespace, content) VALUES ('ar', 'new'), ('fr', 'new');
SELECT is(drill(name_of(path)), 'f 625: 3 missing, 0 different, 1 extra', 'other namespaces do not count')
  FROM of_namespace WHERE space = 'ar';
ROLLBACK;

-- Keys of two columns, and none
INSERT INTO two_keys VALUES (1, 'x', 'null', NULL), (1, 'y', NULL, 'null'), (2, 'x', E'{"a":\n1}', '1.0'),
  (3, '', '1', '1');
SELECT bacmr_export('two_keys', file_name => 'two_keys');
SELECT is(drill('two_keys'), 't 4: 0 missing, 0 different, 0 extra', 'a key of two columns');
BEGIN;
UPDATE two_keys SET a = 4 WHERE b = 'y';
UPDATE two_keys SET jb = '1.00' WHERE a = 2;
SELECT is(drill('two_keys'), 'f 4: 1 missing, 1 different, 1 extra', 'a changed key, and 1.00 for 1.0');
ROLLBACK;
CREATE TABLE no_key (a int, j json);
INSERT INTO no_key VALUES (1, 'null'), (1, 'null'), (1, NULL), (2, E'[1,\n2]'), (NULL, NULL);
SELECT bacmr_export('no_key', file_name => 'no_key');
SELECT is(drill('no_key'), 't 5: 0 missing, 0 different, 0 extra', 'no key: rows are counted by kind');
BEGIN;
DELETE FROM no_key WHERE a = 2;
INSERT INTO no_key VALUES (1, NULL), (1, NULL);
SELECT is(drill('no_key'), 'f 5: 1 missing, 0 different, 2 extra', 'also where they are alike');
ROLLBACK;
CREATE TABLE empty_table (id int PRIMARY KEY);
SELECT bacmr_export('empty_table', file_name => 'empty_table');
SELECT is(drill('empty_table'), 't 0: 0 missing, 0 different, 0 extra', 'an empty table');
CREATE TABLE parted (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1); CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT n, n % 5 FROM generate_series(1, 50) n;
SELECT bacmr_export('parted', file_name => 'parted');
SELECT is(drill('parted'), 't 50: 0 missing, 0 different, 0 extra', 'a partitioned table');
CREATE TABLE computed (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED,
  n int GENERATED ALWAYS AS IDENTITY);
INSERT INTO computed VALUES (1), (2);
SELECT bacmr_export('computed', file_name => 'computed');
SELECT is(drill('computed'), 't 2: 0 missing, 0 different, 0 extra', 'generated columns');
\if :has_virtual_columns
CREATE TABLE not_stored (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL, t text,
  len int GENERATED ALWAYS AS (length(t)) VIRTUAL);
INSERT INTO not_stored (id, t) VALUES (1, 'x'), (2, NULL), (3, 'abc');
SELECT bacmr_export('not_stored', file_name => 'not_stored');
SELECT is(drill('not_stored'), 't 3: 0 missing, 0 different, 0 extra', 'virtual generated columns');
BEGIN;
ALTER TABLE not_stored ALTER twice SET EXPRESSION AS (id * 3);
SELECT is(drill('not_stored'), 'f 3: 0 missing, 3 different, 0 extra', 'that compute something else by now');
ROLLBACK;
\endif
-- Line breaks and blanks about a json value mean nothing; JSON that comes from a file ends in one.
CREATE TABLE blanks (id int PRIMARY KEY, j json);
INSERT INTO blanks VALUES (1, E'{"a": 1}\n'), (2, ' [1] '), (3, E'\n"x"');
SELECT bacmr_export('blanks', file_name => 'blanks');
SELECT is(drill('blanks'), 't 3: 0 missing, 0 different, 0 extra', 'blanks about a json value');
CREATE TABLE json_within (id int PRIMARY KEY, list json[], pair two_keys);
INSERT INTO json_within VALUES (1, ARRAY[E'{"a":\n1}']::json[], NULL), (2, NULL, (1, 'x', E'{"a":\r\n1}', '1'));
SELECT bacmr_export('json_within', file_name => 'json_within');
SELECT is(drill('json_within'), 't 2: 0 missing, 0 different, 0 extra',
  'line breaks in json within an array or a row');

-- A key whose operators are not the server's own
CREATE EXTENSION ltree;
CREATE TABLE paths (path ltree PRIMARY KEY, n int);
INSERT INTO paths VALUES ('a', 1), ('a.b', 2), ('a.c', 3);
SELECT bacmr_export('paths', file_name => 'paths');
DELETE FROM paths WHERE n = 1; UPDATE paths SET n = 4 WHERE n = 3;
SELECT lives_ok($$SELECT bacmr_restore_drill('paths')$$, 'a key of a type with operators of its own');
SELECT is((status, (detail->'drill') - 'seconds'), ('discrepancies'::text,
  '{"ok":false,"rows":3,"missing":1,"different":1,"extra":0}'::jsonb), 'rows are told apart by them')
FROM last_run('drill');

SELECT raises($$SELECT bacmr_restore_drill('damaged')$$, '22P04', '', '', 'a damaged export is not restored');
SELECT is((SELECT count(*) FROM pg_class WHERE relname LIKE 'bacmr_drill%'), 0::bigint, 'no scratch table stays');
SELECT ok(abs(metric('bacmr_restore_last_proven_timestamp_seconds', 'public.chunks') - extract(epoch
  FROM clock_timestamp())) < 300,
  'the metric tells when a restore was proven');

SELECT * FROM finish();
DROP OWNED BY export_operator, export_writer, export_stranger, export_owner CASCADE;
DROP ROLE export_operator, export_writer, export_stranger, export_owner;
SELECT count(*) AS lines FROM shell('rm -rf ' || shell_quoted(artifact_folder())) \gset
