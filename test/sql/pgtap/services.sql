-- Services: options of servers and user mappings, who may declare which, what errors tell, and how a
-- server and its secrets are found.
-- The procedure commits: no transaction around this file.
\ir include/helpers.psql
SELECT plan(482);  -- some statements fail on purpose: a test lost to an error must show
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');
DROP ROLE IF EXISTS services_alice, services_bob, services_owner;
CREATE ROLE services_alice;
CREATE ROLE services_bob;
CREATE ROLE services_owner;

-- The least that each type needs.
CREATE TABLE kind (type text, wrapper text, least text);
INSERT INTO kind VALUES
  ('s3', 'bacmr_blob_store', $$type 's3', bucket 'backups'$$),
  ('file', 'bacmr_blob_store', $$type 'file'$$),
  ('openai', 'bacmr_embedder', $$type 'openai', base_url 'https://api.example.com/v1'$$),
  ('local', 'bacmr_embedder', $$type 'local'$$),
  ('pinecone', 'bacmr_vector_store', $$type 'pinecone', host 'https://index.example.com'$$),
  ('postgres', 'bacmr_vector_store', $$type 'postgres'$$);
CREATE FUNCTION create_server(of_type text, options text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
  SELECT format('CREATE SERVER scratch FOREIGN DATA WRAPPER %I OPTIONS (%s)', wrapper,
                concat_ws(', ', least, options)) FROM kind WHERE type = of_type
$$;
-- Creates the server, and drops it again.
CREATE FUNCTION tries(statement text) RETURNS text LANGUAGE sql AS
  $$SELECT format('DO %L', 'BEGIN ' || statement || '; DROP SERVER scratch CASCADE; END')$$;

-- ---------------------------------------------------------------------------------------------
-- What CREATE EXTENSION makes
-- ---------------------------------------------------------------------------------------------

SELECT is((SELECT string_agg(concat_ws(' ', s.srvname, w.fdwname, s.srvoptions), ', ' ORDER BY s.srvname)
           FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw),
  'bacmr_artifacts bacmr_blob_store {type=file}, bacmr_local bacmr_embedder {type=local}, '
  'bacmr_postgres bacmr_vector_store {type=postgres}',
  'three built-in servers, with their type and nothing else');
SELECT is_empty($$
  SELECT w.fdwname FROM pg_foreign_data_wrapper w WHERE w.fdwacl IS NOT NULL OR w.fdwhandler <> 0
    OR obj_description(w.oid, 'pg_foreign_data_wrapper') IS NULL
  UNION ALL SELECT s.srvname FROM pg_foreign_server s WHERE s.srvacl IS NOT NULL
    OR obj_description(s.oid, 'pg_foreign_server') IS NULL
$$, 'with comments, no handlers, and granted to nobody');
SELECT raises('DROP SERVER bacmr_artifacts', '2BP01', 'extension', '.',
  'they cannot be dropped one by one');

-- ---------------------------------------------------------------------------------------------
-- Each option: good values and bad ones
-- ---------------------------------------------------------------------------------------------

SELECT lives_ok(tries(create_server(type)), type || ': its least options') FROM kind;
SELECT lives_ok(tries(create_server(type, format('%s %L', option, value))),
                format('%s: %s %s', type, option, to_json(left(value, 60))))
FROM (VALUES
  ('s3', 'prefix', '{chunks,chunks/,a/b/c,2026.1_x-y,"a(1)*!"}'::text[]),
  ('s3', 'region', '{eu-west-3,us-east-1,auto,RegionOne}'),
  ('s3', 'endpoint', '{https://s3.example.com,https://s3.example.com:9000/,https://p.supabase.co/storage/v1/s3,
                       http://localhost:9000,http://127.0.0.1:9000,http://127.9.9.9,"http://[::1]:9000",
                       "https://[2001:db8::1]:9000"}'),
  ('s3', 'addressing', '{path,virtual}'),
  ('s3', 'storage_class', '{STANDARD_IA,GLACIER}'),
  ('s3', 'server_side_encryption', '{AES256,aws:kms}'),
  ('s3', 'part_size', '{5MB,5120kB,8MB,5120MB,5GB}'),
  ('s3', 'parallel', '{1,16}'),
  ('s3', 'allow_http', '{true,false}'),
  ('s3', 'ca_file', '{/etc/ssl/own.pem,"/etc/own ca/اسم.pem"}'),
  ('s3', 'timeout', '{1,3600}'),
  ('s3', 'max_retries', '{0,100}'),
  ('file', 'directory', '{/mnt/backups,/mnt/backups/,"/mnt/my backups"}'),
  ('openai', 'model', '{text-embedding-3-small,BAAI/bge-m3,nomic-embed-text:v1.5}'),
  ('openai', 'dimensions', '{1,1536,20000}'),
  ('openai', 'max_inputs', '{1,2048}'),
  ('openai', 'max_tokens', '{1,300000}'),
  ('openai', 'api_version', '{2024-10-21,preview}'),
  ('openai', 'auth_header', '{bearer,api-key}'),
  ('openai', 'requests_per_minute', '{1,3000}'),
  ('openai', 'tokens_per_minute', '{1,1000000}'),
  ('openai', 'price_per_million_tokens', '{0,0.02,12}'),
  ('openai', 'allow_http', '{true,false}'),
  ('openai', 'ca_file', '{/etc/ssl/own.pem}'),
  ('openai', 'timeout', '{1,3600}'),
  ('openai', 'max_retries', '{0,100}'),
  ('local', 'dimensions', '{1,512}'),
  ('pinecone', 'dimension', '{1,20000}'),
  ('pinecone', 'requests_per_minute', '{1}'),
  ('pinecone', 'allow_http', '{true,false}'),
  ('pinecone', 'ca_file', '{/etc/ssl/own.pem}'),
  ('pinecone', 'timeout', '{1}'),
  ('pinecone', 'max_retries', '{0}')) v(type, option, vals), unnest(vals) value;

-- Every one is refused by name; no message repeats the value, which could be a secret.
CREATE FUNCTION refuses_value(of_type text, option text, value text) RETURNS text
  LANGUAGE plpgsql AS $function$
DECLARE
  statement text := create_server(of_type, format('%I %L', option, value));
  got_code text := 'none'; got_message text; got_detail text; got_hint text; got_context text;
BEGIN
  BEGIN
    EXECUTE statement;
  EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS got_code = RETURNED_SQLSTATE, got_message = MESSAGE_TEXT,
      got_detail = PG_EXCEPTION_DETAIL, got_hint = PG_EXCEPTION_HINT,
      got_context = PG_EXCEPTION_CONTEXT;
  END;
  -- A short value may stand in a hint by chance.
  IF got_code = '22023' AND got_message = format('invalid value for option "%s"', option)
     AND got_detail = '' AND got_hint <> '' AND got_context = ''
     AND (length(value) < 10 OR strpos(got_message || got_hint, value) = 0) THEN
    RETURN ok(true, format('%s: %s not %s', of_type, option, to_json(left(value, 40))));
  END IF;
  RETURN ok(false, format('%s: %s not %s', of_type, option, to_json(left(value, 40)))) || E'\n'
    || diag(concat_ws(' / ', got_code, got_message, got_detail, got_hint, got_context));
END
$function$;
SELECT refuses_value(type, option, value)
FROM (VALUES
  ('s3', 'prefix', ARRAY['', '/chunks', 'a//b', '../x', 'a/../b', 'a/./b', 'a b', 'a?b', 'a%2fb',
                         E'a\nb', 'é', '/', repeat('a', 513)]),
  ('s3', 'region', ARRAY['', 'eu west', 'eu.west', 'eu/west', '-eu', 'eu@evil.com', repeat('a', 65)]),
  ('s3', 'endpoint', ARRAY['', 's3.example.com', 'ftp://s3.example.com', 'https://', 'https:///x',
                           'https://user:pass@s3.example.com', 'https://s3.example.com?x=1',
                           'https://s3.example.com/#x', 'https://s3.example.com:0',
                           'https://s3.example.com:65536', 'https://s3.example.com:', 'https://a..b',
                           'https://-a.com', 'https://s3.example.com/a//b', 'https://s3.example.com/..',
                           'https://s3.example.com/%2e', 'https://s3 example.com', 'HTTPS://s3.example.com',
                           E'https://s3.example.com\r\nX: y', 'https://[::1', 'https://[evil.com]',
                           'https://s3.example.com\@evil.com', repeat('a', 3000)]),
  ('s3', 'addressing', ARRAY['', 'Path', 'host']),
  ('s3', 'storage_class', ARRAY['', 'A B', E'A\r\nB', repeat('a', 65)]),
  ('s3', 'server_side_encryption', ARRAY['', 'aes256', 'kms', 'none']),
  ('s3', 'kms_key_id', ARRAY['', 'a b', E'a\nb']),
  ('s3', 'part_size', ARRAY['', '8', '8 MB', '8mb', '4MB', '5119kB', '6GB', '-8MB', '8.5MB', '8TB', 'MB',
                            '99999999999999999999MB', '9999999999GB']),
  ('s3', 'parallel', ARRAY['', '0', '17', '-1', '1.5', 'x', ' 1', '1 ', '+1', '99999999999999999999']),
  ('s3', 'allow_http', ARRAY['', 'yes', 'on', '1', 'TRUE']),
  ('s3', 'ca_file', ARRAY['', 'own.pem', './own.pem', '/', '/etc/../x', '/etc/./x', '/etc//x', E'/etc/\nx',
                          '/' || repeat('a', 1023)]),
  ('s3', 'timeout', ARRAY['0', '3601', '10s']),
  ('s3', 'max_retries', ARRAY['101', '-1']),
  ('file', 'directory', ARRAY['', 'backups', '../backups', '/mnt/../etc', '/', '//mnt', '~/x']),
  ('openai', 'model', ARRAY['', 'a b', 'a"b', E'a\nb', repeat('a', 201)]),
  ('openai', 'dimensions', ARRAY['0', '20001', 'many']),
  ('openai', 'max_inputs', ARRAY['0', '2049']),
  ('openai', 'max_tokens', ARRAY['0', '10000001']),
  ('openai', 'api_version', ARRAY['', '2024&x=1', '2024/10']),
  ('openai', 'auth_header', ARRAY['', 'Bearer', 'basic']),
  ('openai', 'requests_per_minute', ARRAY['0', '1000000001']),
  ('openai', 'tokens_per_minute', ARRAY['0', '-1']),
  ('openai', 'price_per_million_tokens', ARRAY['', '-1', '1e3', '.5', '5.', '1.2.3', 'NaN', '$1']),
  ('openai', 'allow_http', ARRAY['maybe']),
  ('openai', 'ca_file', ARRAY['own.pem']),
  ('openai', 'timeout', ARRAY['0']),
  ('openai', 'max_retries', ARRAY['x']),
  ('local', 'dimensions', ARRAY['0', '']),
  ('pinecone', 'dimension', ARRAY['0', '']),
  ('pinecone', 'requests_per_minute', ARRAY['0']),
  ('pinecone', 'allow_http', ARRAY['']),
  ('pinecone', 'ca_file', ARRAY['x']),
  ('pinecone', 'timeout', ARRAY['x']),
  ('pinecone', 'max_retries', ARRAY['x'])) v(type, option, vals), unnest(vals) value;

-- Those that are among the least options.
UPDATE kind SET least = format('type %L', type) WHERE type IN ('s3', 'openai', 'pinecone');
SELECT refuses_value(type, option, value)
FROM (VALUES
  ('s3', 'bucket', ARRAY['', 'ab', '-ab', 'ab-', '.ab', 'a..b', 'a/b', 'a b', 'a?b', 'é-bucket',
                         'bucket@evil', repeat('a', 223)]),
  ('openai', 'base_url', ARRAY['', 'api.example.com', 'https://u@api.example.com', 'https://a.com/v1?x']),
  ('pinecone', 'host', ARRAY['', 'index.example.com', 'https://index.example.com/path']))
  v(type, option, vals), unnest(vals) value;
SELECT lives_ok(tries(create_server(type, format('%s %L', option, value))),
                format('%s: %s %s', type, option, value))
FROM (VALUES
  ('s3', 'bucket', ARRAY['abc', 'bacmr-dr', 'my.bucket', 'My_Bucket', repeat('a', 222)]),
  ('openai', 'base_url', ARRAY['https://api.example.com', 'http://localhost:11434/v1/',
                               'https://r.openai.azure.com/openai/deployments/e-3']),
  ('pinecone', 'host', ARRAY['https://i-abc123.svc.aped-4627-b74a.pinecone.io/', 'http://127.0.0.1:5080']))
  v(type, option, vals), unnest(vals) value;
SELECT raises(create_server(type), 'HV002', format('option "%s" is required for type "%s"', option, type),
              'Expected', type || ': ' || option || ' is required')
FROM (VALUES ('s3', 'bucket'), ('openai', 'base_url'), ('pinecone', 'host')) v(type, option);
UPDATE kind SET least = least || $$, bucket 'backups'$$ WHERE type = 's3';
UPDATE kind SET least = least || $$, base_url 'https://api.example.com/v1'$$ WHERE type = 'openai';
UPDATE kind SET least = least || $$, host 'https://index.example.com'$$ WHERE type = 'pinecone';

-- ---------------------------------------------------------------------------------------------
-- Types, unknown options, options in the wrong place
-- ---------------------------------------------------------------------------------------------

SELECT raises('CREATE SERVER scratch FOREIGN DATA WRAPPER ' || wrapper, 'HV002',
              'option "type" is required', 'OPTIONS \(type .*' || types, wrapper || ': without a type')
FROM (VALUES ('bacmr_blob_store', 'file, s3'), ('bacmr_embedder', 'local, openai'),
             ('bacmr_vector_store', 'postgres, pinecone')) v(wrapper, types);
SELECT raises($$CREATE SERVER scratch TYPE 's3' FOREIGN DATA WRAPPER bacmr_blob_store$$, 'HV002',
  'option "type" is required', 'OPTIONS \(type', 'the TYPE clause is not the option');
SELECT raises($$CREATE SERVER scratch FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'opneai')$$,
  '22023', '^invalid value for option "type"$', ': openai, local\.$',
  'an unknown type: the closest one comes first');
SELECT raises($$CREATE SERVER scratch FOREIGN DATA WRAPPER bacmr_blob_store OPTIONS (type 'openai')$$,
  '22023', 'invalid value for option "type"', 's3', 'the type of another wrapper');
SELECT raises(create_server('s3', $$bukcet 'x'$$), 'HV00D', 'invalid option "bukcet" for type "s3"',
  'type: bucket, type, prefix, region, endpoint, addressing, storage_class, server_side_encryption, '
  'kms_key_id, part_size, parallel, allow_http, ca_file, timeout, max_retries\.$',
  'an unknown option: all others are listed, the closest first');
SELECT raises(create_server('s3', $$retries '1'$$), 'HV00D', 'invalid option "retries"',
  'type: max_retries, type', 'another');
SELECT raises(create_server('file', $$bucket 'x'$$), 'HV00D', 'invalid option "bucket" for type "file"',
  'directory', 'the option of another type');
SELECT raises(create_server('postgres', $$dimension '3'$$), 'HV00D', 'invalid option "dimension"',
  'Options of this type: type\.', 'a type that takes none');
SELECT raises(create_server('s3', $$Bucket 'x', "BUCKET" 'y'$$), '42710', '', '',
  'the server itself refuses an option given twice');
SELECT raises(create_server('s3', $$"BUCKET" 'y'$$), 'HV00D', 'invalid option "BUCKET"', 'bucket',
  'names of options are in lower case');
SELECT raises(create_server('s3', format('%I %L', repeat('é', 31), 'x')), 'HV00D', 'invalid option "é', 'bucket',
  'an odd name');
SELECT raises(create_server(type, format('%I %L', option, 'S3CRET-marker')), 'HV00D',
              format('^option "%s" is not for servers$', option), 'USER MAPPING',
              format('%s: %s belongs into the user mapping', type, option))
FROM (VALUES ('s3', 'access_key_id'), ('s3', 'secret_access_key'), ('s3', 'secret_access_key_file'),
             ('s3', 'session_token'), ('openai', 'api_key'), ('openai', 'api_key_file'),
             ('pinecone', 'api_key'), ('pinecone', 'api_key_file')) v(type, option);
SELECT raises($$CREATE SERVER scratch FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (api_key 'x', nonsense 'y')$$,
  'HV00D', 'option "api_key" is not for servers', 'USER MAPPING',
  'a secret in the wrong place is what is said first');

-- Not for anything else
SELECT raises(format('ALTER FOREIGN DATA WRAPPER %s OPTIONS (ADD type %L)', wrapper, 'x'), 'HV00D',
              'invalid option "type" for a foreign-data wrapper', 'server', wrapper || ': takes no options')
FROM (SELECT DISTINCT wrapper FROM kind) k;
SELECT raises(format('CREATE FOREIGN TABLE t (a int) SERVER %I', srvname), '0A000',
              'foreign tables of wrapper "bacmr_.*" are not supported', 'functions', srvname || ': no tables')
FROM pg_foreign_server;
SELECT raises(format('SELECT %s(%L, %L::regclass)', wrapper || '_validator', '{type}', 'pg_foreign_server'),
  '22023', 'type', '.', wrapper || ': a direct call with an option that has no value')
FROM (SELECT DISTINCT wrapper FROM kind) k;
SELECT is(bacmr_blob_store_validator(NULL, NULL)::text, NULL, 'a direct call with NULL');
SELECT raises($$SELECT bacmr_blob_store_validator('{NULL}', 'pg_foreign_server'::regclass)$$, '22004', '', '',
  'a direct call with NULL among the options');
SELECT raises($$SELECT bacmr_blob_store_validator('{a=b}', 0)$$, 'HV00D', 'a', '', 'of no catalog');

-- ---------------------------------------------------------------------------------------------
-- Rules that connect options
-- ---------------------------------------------------------------------------------------------

UPDATE kind SET least = format('type %L', type) WHERE type IN ('openai', 'pinecone');
SELECT raises(create_server(type, format('%s %L%s', option, url, more)), '22023',
              format('^option "%s" must be an https URL$', option), 'allow_http', format('%s: %s%s', type, url, more))
FROM (VALUES ('s3', 'endpoint'), ('openai', 'base_url'), ('pinecone', 'host')) v(type, option),
  unnest(ARRAY['http://s3.example.com', 'http://10.0.0.1:9000', 'http://127.0.0.1.example.com', 'http://127.1',
               'http://localhost.example.com', 'http://LOCALHOST', 'http://0.0.0.0', 'http://127.0.0.256',
               'http://127.0.0.1.1', 'http://[::2]', 'http://[::ffff:127.0.0.1]']) url,
  unnest(ARRAY['', $$, allow_http 'false'$$]) more;
SELECT lives_ok(tries(create_server(type, format('%s %L, allow_http %L', option, 'http://10.0.0.1:9000', 'true'))),
                type || ': http where it is allowed')
FROM (VALUES ('s3', 'endpoint'), ('openai', 'base_url'), ('pinecone', 'host')) v(type, option);
SELECT raises(create_server('s3', $$endpoint 'https://10.0.0.1', addressing 'virtual'$$), '22023',
  'addressing', 'path', 'no name of a bucket before an address');
SELECT lives_ok(tries(create_server('s3', $$endpoint 'https://s3.example.com', addressing 'virtual'$$)),
  'but before a host name');
SELECT raises(create_server('s3', $$kms_key_id 'alias/x'$$ || more), '22023', 'kms_key_id', 'both',
              'a key id without its encryption' || more)
FROM unnest(ARRAY['', $$, server_side_encryption 'AES256'$$]) more;
SELECT lives_ok(tries(create_server('s3', $$server_side_encryption 'aws:kms',
  kms_key_id 'arn:aws:kms:eu-west-3:111122223333:key/1234abcd-12ab'$$)), 'a key id with it');

-- ---------------------------------------------------------------------------------------------
-- User mappings
-- ---------------------------------------------------------------------------------------------

CREATE SERVER dr FOREIGN DATA WRAPPER bacmr_blob_store OPTIONS (type 's3', bucket 'backups');
CREATE SERVER ai FOREIGN DATA WRAPPER bacmr_embedder
  OPTIONS (type 'openai', base_url 'https://api.example.com/v1');
CREATE SERVER vectors FOREIGN DATA WRAPPER bacmr_vector_store
  OPTIONS (type 'pinecone', host 'https://index.example.com');
CREATE FUNCTION create_mapping(server text, options text, of_user text DEFAULT 'CURRENT_USER') RETURNS text LANGUAGE sql AS
  $$SELECT format('CREATE USER MAPPING FOR %s SERVER %I OPTIONS (%s)', of_user, server, options)$$;
CREATE FUNCTION tries_mapping(server text, options text) RETURNS text LANGUAGE sql AS $$
  SELECT format('DO %L', 'BEGIN ' || create_mapping(server, options)
    || format('; DROP USER MAPPING FOR CURRENT_USER SERVER %I; END', server))
$$;
SELECT lives_ok(tries_mapping(server, options), server || ': ' || options)
FROM (VALUES
  ('dr', $$access_key_id 'AKIAEXAMPLE', secret_access_key 'a/b+c='$$),
  ('dr', $$access_key_id 'AKIAEXAMPLE', secret_access_key 'x', session_token 'y=='$$),
  ('dr', $$access_key_id 'AKIAEXAMPLE', secret_access_key_file '/run/secrets/s3'$$),
  ('ai', $$api_key 'sk-x'$$), ('ai', $$api_key_file '/run/secrets/openai'$$),
  ('vectors', $$api_key 'pc-x'$$), ('vectors', $$api_key_file '/run/secrets/pinecone'$$)) v(server, options);
SELECT lives_ok(format('CREATE USER MAPPING FOR CURRENT_USER SERVER %I', server), server || ': an empty one')
FROM unnest('{dr,ai,vectors,bacmr_artifacts}'::text[]) server;
DROP USER MAPPING FOR CURRENT_USER SERVER dr;
DROP USER MAPPING FOR CURRENT_USER SERVER ai;
DROP USER MAPPING FOR CURRENT_USER SERVER vectors;
DROP USER MAPPING FOR CURRENT_USER SERVER bacmr_artifacts;

SELECT raises(create_mapping(server, options), code, message, hint, server || ': ' || options)
FROM (VALUES
  ('dr', $$access_key_id 'x'$$, 'HV002', 'access_key_id', 'secret_access_key'),
  ('dr', $$secret_access_key 'x'$$, 'HV002', 'access_key_id', 'secret_access_key'),
  ('dr', $$session_token 'x'$$, 'HV002', 'access_key_id', 'session_token'),
  ('dr', $$access_key_id 'x', secret_access_key 'y', secret_access_key_file '/y'$$, '22023',
    '"secret_access_key" and "secret_access_key_file" exclude each other', 'one'),
  ('ai', $$api_key 'x', api_key_file '/y'$$, '22023', '"api_key" and "api_key_file" exclude', 'one'),
  ('vectors', $$api_key 'x', api_key_file '/y'$$, '22023', '"api_key" and "api_key_file" exclude', 'one'),
  ('dr', $$secret_acess_key 'x'$$, 'HV00D', 'invalid option "secret_acess_key" for a user mapping',
    'mapping: secret_access_key, access_key_id, secret_access_key_file, session_token\.$'),
  ('ai', $$apikey 'x'$$, 'HV00D', 'invalid option "apikey"', 'mapping: api_key, api_key_file\.$'),
  ('dr', $$api_key 'x'$$, 'HV00D', 'invalid option "api_key"', 'access_key_id'),
  ('dr', $$bucket 'x'$$, 'HV00D', 'option "bucket" is not for user mappings', 'SERVER'),
  ('ai', $$base_url 'x'$$, 'HV00D', 'option "base_url" is not for user mappings', 'SERVER'),
  ('ai', $$api_key_file 'secrets/openai'$$, '22023', '^invalid value for option "api_key_file"$', 'absolute'),
  ('ai', $$api_key_file '/run/../etc/passwd'$$, '22023', '^invalid value for option "api_key_file"$', 'absolute'),
  ('ai', $$api_key ''$$, '22023', '^invalid value for option "api_key"$', 'printable'))
  v(server, options, code, message, hint);

-- Whatever is wrong, the secret beside it is not in the message, and no context repeats the statement.
CREATE FUNCTION keeps_secret(statement text, description text) RETURNS text LANGUAGE plpgsql AS $function$
DECLARE
  code text := 'none'; message text := ''; detail text; hint text; context text;
BEGIN
  BEGIN
    EXECUTE statement;
  EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
      detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
  END;
  IF code <> 'none' AND concat(message, detail, hint, context) !~ 'S3CR3T' AND context = '' THEN
    RETURN ok(true, description);
  END IF;
  RETURN ok(false, description) || E'\n' || diag(concat_ws(' / ', code, message, detail, hint, context));
END
$function$;
SELECT keeps_secret(create_mapping(server, options), 'not told: ' || to_json(left(options, 60)))
FROM (VALUES
  ('ai', $$api_key 'S3CR3T with a space'$$),
  ('ai', E'api_key \'S3CR3T\r\nX-Injected: 1\''),
  ('ai', $$api_key 'S3CR3T-é'$$),
  ('ai', $$api_key 'S3CR3T', api_key_file 'S3CR3T'$$),
  ('ai', $$api_key_file 'S3CR3T'$$),
  ('ai', $$api_key 'S3CR3T', nonsense 'S3CR3T'$$),
  ('ai', $$api_key 'S3CR3T', base_url 'S3CR3T'$$),
  ('dr', $$access_key_id 'S3CR3T'$$),
  ('dr', $$secret_access_key 'S3CR3T', session_token 'S3CR3T'$$),
  ('dr', format('access_key_id %L, secret_access_key %L', 'a', 'S3CR3T' || repeat('x', 20000)))) v(server, options);
SELECT keeps_secret(create_server('s3', options), 'not told: ' || to_json(left(options, 60)))
FROM (VALUES ($$secret_access_key 'S3CR3T'$$), ($$endpoint 'https://user:S3CR3T@s3.example.com'$$),
             ($$region 'S3CR3T S3CR3T'$$), ($$nonsense 'S3CR3T'$$)) v(options);
SELECT keeps_secret(statement, 'not told: ' || statement)
FROM (VALUES
  ($$CREATE SERVER scratch FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'S3CR3T')$$),
  ($$ALTER SERVER dr OPTIONS (ADD secret_access_key 'S3CR3T')$$),
  ($$DO 'BEGIN ALTER SERVER dr OPTIONS (ADD secret_access_key ''S3CR3T''); END'$$)) v(statement);

-- ---------------------------------------------------------------------------------------------
-- ALTER: the validator sees the whole new list
-- ---------------------------------------------------------------------------------------------

SELECT lives_ok($$ALTER SERVER dr OPTIONS (ADD region 'eu-west-3', ADD parallel '2')$$, 'ALTER SERVER: add');
SELECT lives_ok($$ALTER SERVER dr OPTIONS (SET parallel '3', DROP region)$$, 'ALTER SERVER: set and drop');
SELECT is((SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'dr'),
  '{type=s3,bucket=backups,parallel=3}', 'ALTER SERVER: that is what stands there');
SELECT raises(statement, code, message, hint, statement)
FROM (VALUES
  ('ALTER SERVER dr OPTIONS (DROP bucket)', 'HV002', '"bucket" is required', '.'),
  ('ALTER SERVER dr OPTIONS (DROP type)', 'HV002', '"type" is required', 's3'),
  ($$ALTER SERVER dr OPTIONS (SET type 'file')$$, 'HV00D', 'for type "file"', 'directory'),
  ($$ALTER SERVER dr OPTIONS (SET parallel '0')$$, '22023', 'parallel', '16'),
  ($$ALTER SERVER dr OPTIONS (ADD nonsense '0')$$, 'HV00D', 'nonsense', 'bucket'),
  ($$ALTER SERVER ai OPTIONS (SET base_url 'http://api.example.com')$$, '22023', 'https', 'allow_http'))
  v(statement, code, message, hint);
CREATE USER MAPPING FOR CURRENT_USER SERVER ai OPTIONS (api_key 'x');
SELECT raises($$ALTER USER MAPPING FOR CURRENT_USER SERVER ai OPTIONS (ADD api_key_file '/x')$$, '22023',
  'exclude each other', 'one', 'ALTER USER MAPPING: not both');
SELECT lives_ok($$ALTER USER MAPPING FOR CURRENT_USER SERVER ai OPTIONS (DROP api_key, ADD api_key_file '/x')$$,
  'ALTER USER MAPPING: from one to the other');
DROP USER MAPPING FOR CURRENT_USER SERVER ai;

-- ---------------------------------------------------------------------------------------------
-- Who may declare what
-- ---------------------------------------------------------------------------------------------

SELECT raises(create_server('local'), '42501', 'foreign-data wrapper', '',
  'without USAGE on the wrapper nobody creates a server', 'services_alice');
GRANT USAGE ON FOREIGN DATA WRAPPER bacmr_embedder, bacmr_vector_store, bacmr_blob_store TO services_owner, services_alice;
SELECT works_for('services_owner', tries(create_server(type, options)), 'with it, a role may: ' || type)
FROM (VALUES ('file', NULL), ('local', $$dimensions '64'$$), ('postgres', NULL)) v(type, options);
SELECT raises(create_server(type, options), '42501', format('permission denied to declare option "%s"', option),
              'superusers', format('but not %s (%s)', option, type), 'services_owner')
FROM (VALUES
  ('s3', NULL, 'bucket'), ('file', $$directory '/mnt/x'$$, 'directory'),
  ('openai', $$base_url 'https://api.example.com'$$, 'base_url'),
  ('pinecone', $$host 'https://index.example.com'$$, 'host'),
  ('openai', $$allow_http 'true', model 'x'$$, 'allow_http'),
  ('openai', $$api_version 'x'$$, 'api_version'), ('openai', $$ca_file '/x'$$, 'ca_file'))
  v(type, options, option);
UPDATE kind SET least = format('type %L', type) WHERE type = 's3';
SELECT raises(create_server('s3', format('%s %L', option, value)), '42501',
              format('permission denied to declare option "%s"', option), 'superusers', 'nor ' || option, 'services_owner')
FROM (VALUES ('prefix', 'x'), ('region', 'x'), ('endpoint', 'https://x.example.com'), ('allow_http', 'true'),
             ('ca_file', '/x')) v(option, value);

ALTER SERVER dr OWNER TO services_owner;
SELECT raises(statement, '42501', 'permission denied to declare option', 'superusers',
              'an owner who is no superuser: ' || statement, 'services_owner')
FROM unnest(ARRAY[$$ALTER SERVER dr OPTIONS (SET parallel '4')$$,
                  $$ALTER SERVER dr OPTIONS (SET bucket 'other')$$,
                  $$ALTER SERVER dr OPTIONS (ADD endpoint 'https://evil.example.com')$$]) statement;
SELECT raises('ALTER SERVER dr OPTIONS (DROP bucket)', 'HV002', 'bucket', '.', 'nor can it drop what must be there',
              'services_owner');
SELECT works_for('services_owner', 'COMMENT ON SERVER dr IS ''x''', 'all else is the owner''s');

SELECT raises(create_mapping('ai', $$api_key 'x'$$), '42501', 'foreign server ai', '',
  'without USAGE on the server there is no user mapping', 'services_alice');
GRANT USAGE ON FOREIGN SERVER ai, dr, vectors TO services_alice;
SELECT works_for('services_alice', tries_mapping('ai', $$api_key 'x'$$), 'with it, a literal secret of one''s own');
SELECT works_for('services_alice', tries_mapping('dr', $$access_key_id 'x', secret_access_key 'y'$$), 'of a blob store too');
SELECT raises(create_mapping(server, options), '42501', 'permission denied to declare option ".*_file"', 'superusers',
              server || ': a file is the superuser''s to name', 'services_alice')
FROM (VALUES ('ai', $$api_key_file '/etc/passwd'$$), ('vectors', $$api_key_file '/etc/passwd'$$),
             ('dr', $$access_key_id 'x', secret_access_key_file '/etc/passwd'$$)) v(server, options);
SELECT lives_ok(create_mapping('ai', $$api_key_file '/run/secrets/openai'$$, 'services_alice'),
  'a superuser names it for others');
SELECT raises($$ALTER USER MAPPING FOR CURRENT_USER SERVER ai OPTIONS (SET api_key_file '/etc/passwd')$$, '42501',
  'api_key_file', 'superusers', 'who may not change it', 'services_alice');
SELECT works_for('services_alice',
  $$ALTER USER MAPPING FOR CURRENT_USER SERVER ai OPTIONS (DROP api_key_file, ADD api_key 'x')$$,
  'but replace it by a literal');
SELECT is((SELECT umoptions FROM pg_user_mappings WHERE srvname = 'ai' AND usename = 'services_alice'), '{api_key=x}',
  'which takes effect');

-- ---------------------------------------------------------------------------------------------
-- Finding a server and its secrets, by way of an export
-- ---------------------------------------------------------------------------------------------

DROP SERVER ai, vectors CASCADE;
DROP SERVER dr CASCADE;
SELECT bacmr_create_tables();
GRANT SELECT ON chunks TO services_alice, services_bob;
SELECT bacmr_grant('operator', 'services_alice'), bacmr_grant('operator', 'services_bob');
-- Nobody listens there, and nobody waits for it.
CREATE SERVER dr FOREIGN DATA WRAPPER bacmr_blob_store
  OPTIONS (type 's3', bucket 'backups', region 'x', endpoint 'http://127.0.0.1:1', max_retries '0');
SELECT raises($$SELECT bacmr_export_chunks('nowhere')$$, '42704', 'server "nowhere" does not exist', 'CREATE SERVER',
  'a server that is not there');
SELECT raises($$SELECT bacmr_export_chunks('bacmr_local')$$, '42809', '"bacmr_local" is no blob store',
  'bacmr_blob_store', 'a server of another wrapper');
SELECT raises($$SELECT bacmr_export_chunks('dr')$$, '42501', 'permission denied for foreign server dr', 'GRANT USAGE',
  'a server without USAGE', 'services_alice');
GRANT USAGE ON FOREIGN SERVER dr TO services_alice, services_bob;

CREATE USER MAPPING FOR PUBLIC SERVER dr
  OPTIONS (access_key_id 'x', secret_access_key_file '/nowhere/of-public');
CREATE USER MAPPING FOR services_alice SERVER dr
  OPTIONS (access_key_id 'x', secret_access_key_file '/nowhere/of-alice');
SELECT raises($$SELECT bacmr_export_chunks('dr')$$, '58P01', '"/nowhere/of-alice"', 'readable',
  'a user mapping of one''s own counts', 'services_alice');
SELECT raises($$SELECT bacmr_export_chunks('dr')$$, '58P01', '"/nowhere/of-public"', 'readable',
  'else PUBLIC''s', 'services_bob');
SELECT raises($$SELECT bacmr_export_chunks('dr')$$, '58P01', '"/nowhere/of-public"', 'readable',
  'also for a superuser');

-- Files that hold no secret; their content is never told. (Written by the server, in its directory.)
SELECT current_setting('data_directory') || '/services_test' AS secret_file \gset
CREATE FUNCTION with_file(content text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  object oid := lo_from_bytea(0, convert_to(content, 'UTF8'));
BEGIN
  PERFORM lo_export(object, current_setting('data_directory') || '/services_test');
  PERFORM lo_unlink(object);
END $$;
ALTER USER MAPPING FOR PUBLIC SERVER dr OPTIONS (SET secret_access_key_file :'secret_file');
CREATE FUNCTION refuses_file(description text, code text, message text) RETURNS text LANGUAGE sql AS $$
  SELECT raises('SELECT bacmr_export_chunks(''dr'')', code, '^file "[^"]*/services_test" ' || message || '$',
                'regular file', description)
$$;
SELECT with_file('');
SELECT refuses_file('an empty file', '22023', 'holds no secret');
SELECT with_file(E'\n');
SELECT refuses_file('a file with a newline alone', '22023', 'holds no secret');
SELECT with_file(E'S3CR3T\nS3CR3T\n');
SELECT refuses_file('a file with two lines', '22023', 'holds something else than one secret.*');
SELECT with_file('S3CR3T é');
SELECT refuses_file('a file with other characters', '22023', 'holds something else than one secret.*');
SELECT with_file(repeat('x', 65537));
SELECT refuses_file('a file of more than 64 kB', '22023', 'is larger than 64 kB');
SELECT current_setting('data_directory') || '/base' AS directory \gset
ALTER USER MAPPING FOR PUBLIC SERVER dr OPTIONS (SET secret_access_key_file :'directory');
SELECT raises($$SELECT bacmr_export_chunks('dr')$$, '42809', 'is not a regular file', 'regular file', 'a directory');
-- Read anew at each use, its last newline left out; then the store is what cannot be reached.
ALTER USER MAPPING FOR PUBLIC SERVER dr OPTIONS (SET secret_access_key_file :'secret_file');
SELECT with_file(E'S3CR3T\r\n');
\set VERBOSITY sqlstate
\set ON_ERROR_STOP off
SELECT bacmr_export_chunks('dr');
SELECT ok(:'SQLSTATE' NOT IN ('00000', '58P01', '22023', '42501', '42809'),
  'a good file: only the store is missing');
SELECT unalike(:'LAST_ERROR_MESSAGE'::text, '%S3CR3T%', 'which the message says without the secret');

-- Built-in servers: for whom they are granted to, and as they are.
SELECT lives_ok($$SELECT bacmr_export_chunks('bacmr_artifacts')$$, 'the built-in blob store');
ALTER SERVER bacmr_artifacts OPTIONS (ADD directory '/mnt/x');
SELECT raises($$SELECT bacmr_export_chunks('bacmr_artifacts')$$, '55000', 'built-in server "bacmr_artifacts" takes no options',
  'server of your own', 'an option of a built-in server would not be in a dump');
ALTER SERVER bacmr_artifacts OPTIONS (DROP directory);

-- Which one, where none is named
CALL bacmr_run_job('export');
SELECT is(:'SQLSTATE'::text, '55000', 'a server was declared and none is named: that is asked');
SELECT is(:'LAST_ERROR_MESSAGE'::text, 'which blob store?', 'in these words');
SET bacmr.blob_store = 'bacmr_artifacts';
CALL bacmr_run_job('export');
SELECT is(:'SQLSTATE'::text, '00000', 'the setting names the built-in one');
SET bacmr.blob_store = 'nowhere';
CALL bacmr_run_job('export');
SELECT is(:'SQLSTATE'::text, '42704', 'the setting names none that is there');
RESET bacmr.blob_store;
DROP SERVER dr CASCADE;
CALL bacmr_run_job('export');
SELECT is(:'SQLSTATE'::text, '00000', 'the built-in one alone is taken');

SELECT * FROM finish();
DROP OWNED BY services_alice, services_bob, services_owner CASCADE;
DROP ROLE services_alice, services_bob, services_owner;
