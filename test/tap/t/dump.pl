# What pg_dump carries along, in every format: attachments, history, jobs, namespaces, vectors, services
# and their secrets, marks of privileges. Numbers go on, and a copy starts with everything paused that
# would act twice. Schema-only dumps, parts, and whole clusters too.
use strict;
use warnings;
use BacmrTest;
use Catalogue;
use PostgreSQL::Test::Utils;
use ReindexJobs;
use Test::More;

my $folder = ${PostgreSQL::Test::Utils::tmp_check};
my $node = new_server('main', conf => [ q{bacmr.expire_interval = '1s'}, 'max_worker_processes = 40' ]);

# The extension in a schema of its own, whose name needs quotes; the application in another.
my $database = 'app';
app_database($node, $database);
give_wallets($node, $database, 5);
make_chunks($node, $database, 'grade 12', 40);
make_chunks($node, $database, 'grade 11', 10);
my $key_file = key_file('openai.key', 'sk-in-a-file');
$node->safe_psql('postgres', 'CREATE ROLE dump_app; CREATE ROLE dump_operator; CREATE ROLE dump_owner');
$node->safe_psql($database, <<"SQL");
DROP EXTENSION bacmr_ops;
CREATE SCHEMA "Ops x";
CREATE SCHEMA shop;
ALTER TABLE wallet SET SCHEMA shop;
ALTER TABLE wallet_ledger SET SCHEMA shop;
ALTER TABLE reservations SET SCHEMA shop;
ALTER TABLE chunks SET SCHEMA shop;
ALTER TABLE shop.wallet RENAME COLUMN token_balance TO credits;
GRANT USAGE ON SCHEMA "Ops x" TO dump_owner;
CREATE EXTENSION bacmr_ops SCHEMA "Ops x";
ALTER DATABASE $database SET search_path = shop, "Ops x", public;
SET search_path = shop, "Ops x", public;
SELECT bacmr_attach('wallet', 'shop.wallet', '{"token_balance": "credits"}'), bacmr_attach('wallet_ledger', 'shop.wallet_ledger'),
  bacmr_attach('reservations', 'shop.reservations'), bacmr_attach('chunks', 'shop.chunks');
CREATE SERVER openai FOREIGN DATA WRAPPER bacmr_embedder
  OPTIONS (type 'openai', base_url 'http://127.0.0.1:9/v1', model 'text-embedding-3-small', dimensions '64');
CREATE SERVER dr FOREIGN DATA WRAPPER bacmr_blob_store
  OPTIONS (type 's3', bucket 'bacmr-dr', region 'eu-west-3', endpoint 'http://127.0.0.1:9');
CREATE USER MAPPING FOR PUBLIC SERVER openai OPTIONS (api_key_file '$key_file');
CREATE USER MAPPING FOR dump_app SERVER dr OPTIONS (access_key_id 'AKIATEST', secret_access_key 'literal-secret');
GRANT USAGE ON FOREIGN SERVER openai TO dump_app;
ALTER SERVER dr OWNER TO dump_owner;
SELECT bacmr_grant('app', 'dump_app'), bacmr_grant('operator', 'dump_operator');
SELECT bacmr_metric_define('mine', 'counter', 'of my own', '{a}');
SELECT bacmr_pause('verify', 'by hand');
UPDATE shop.wallet SET credits = credits + 7 WHERE user_id = u(1);
SELECT bacmr_reconcile(), bacmr_export_chunks();
SQL
# A namespace that has been moved, and a job that is not done: it waits, and notes changes.
my $job = queue_job($node, $database, q{'grade 12', embedder => 'bacmr_local', vector_store => 'bacmr_postgres'});
await_job($node, $database, $job, 'completed', 'a reindex job is done');
$node->safe_psql($database, "SELECT bacmr_reindex_swap($job)");
my $open = $node->safe_psql($database, <<'SQL');
SELECT bacmr_pause('reindex', 'for this test');
SELECT bacmr_reindex('grade 11', embedder => 'bacmr_local', vector_store => 'bacmr_postgres');
SQL
$open =~ s/\s//g;
$node->safe_psql($database, q{UPDATE chunks SET content = content || '!' WHERE namespace = 'grade 11'});
# Due in an hour: in a copy it is moved.
$node->safe_psql($database, q{INSERT INTO reservations (user_id, amount, expires_at)
    VALUES (u(2), 10, now() + interval '1 hour')});
# The worker must not write between the look at the original and the dumps.
$node->safe_psql('postgres', 'ALTER SYSTEM SET bacmr.worker_enabled = off');
$node->reload;
await('no worker is there', sub { !worker_pid($node, $database) });

# --- what a copy must have -----------------------------------------------------------------------

my @tables = qw(bacmr_source bacmr_job_run bacmr_discrepancy bacmr_namespace bacmr_reindex_job
    bacmr_reindex_batch bacmr_reindex_failure bacmr_chunk_change bacmr_metric_definition bacmr_vector
    bacmr_job_pause wallet wallet_ledger reservations chunks);
my %queries = (
    (map { $_ => "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM $_ t" } @tables),
    servers => q{SELECT srvname, srvowner::regrole,
        (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(srvoptions) o), srvacl, fdwname FROM pg_foreign_server
        JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw ORDER BY 1},
    'privileges of schemas' => q{SELECT nspname, array(SELECT unnest(nspacl)::text ORDER BY 1)
        FROM pg_namespace WHERE nspname IN ('shop', 'Ops x') ORDER BY 1},
    mappings => q{SELECT srvname, usename, umoptions FROM pg_user_mappings ORDER BY 1, 2},
    triggers => q{SELECT tgname, tgenabled, pg_get_triggerdef(t.oid),
        (SELECT string_agg(deptype::text, '' ORDER BY deptype) FROM pg_depend d
         WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid)
        FROM pg_trigger t WHERE NOT tgisinternal ORDER BY 1},
);
sub contents {
    my ($server, $name) = @_;
    return { map { $_ => $server->safe_psql($name, $queries{$_}) } keys %queries };
}
# What the extension keeps is in its tables: none may be forgotten, nor a sequence, whose numbers would come twice.
is($node->safe_psql($database, <<'SQL'), '', 'every table of the extension, and every sequence, is marked for dumps');
SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_extension e
JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('r', 'p', 'S')
WHERE e.extname = 'bacmr_ops' AND c.oid <> ALL (e.extconfig)
SQL
my $original = contents($node, $database);
my @catalogue = extension_catalogue($node, $database);
my @sequences = ([ 'bacmr_job_run', 'run_id' ], [ 'bacmr_reindex_job', 'job_id' ], [ 'bacmr_chunk_change', 'change_id' ]);
my %highest = map { $_->[0] => $node->safe_psql($database,
        "SELECT last_value FROM pg_sequences WHERE sequencename = '$_->[0]_$_->[1]_seq'") } @sequences;
like($original->{$_}, qr/^[1-9]/, "the original has rows in $_") for grep { $_ ne 'bacmr_reindex_failure' } @tables;
cmp_ok($highest{$_}, '>', 0, "the original has numbered its rows in $_") for sort keys %highest;
unlike($original->{triggers}, qr/^\s*$/, 'the original has triggers on its chunks');
my $text_of_secret = qr/literal-secret/;

# Everything is there, before any worker has been; then the worker comes, and rests.
sub is_a_copy {
    my ($server, $name, $how) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $copy = contents($server, $name);
    for my $what (sort keys %queries) {
        is($copy->{$what}, $original->{$what}, "$how: the same $what");
    }
    same_catalogue(\@catalogue, [ extension_catalogue($server, $name) ], "$how: the same objects, marks and privileges");
    return starts_paused($server, $name, $how);
}

sub starts_paused {
    my ($server, $name, $how) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $server->safe_psql($name, q{UPDATE reservations SET expires_at = now() - interval '1 minute'});
    set_worker($server, 'on');
    await_sql($server, $name, q{SELECT state = 'paused' FROM bacmr_status WHERE job = 'worker'}, "$how: its worker rests");
    is($server->safe_psql($name, q{SELECT string_agg(job, ' ' ORDER BY job) FROM bacmr_job_pause}),
        'expire export reindex verify', "$how: expire, export and reindex are paused");
    await_sql($server, $name, qq{SELECT status = 'paused' AND NOT capturing FROM bacmr_reindex_job WHERE job_id = $open},
        "$how: the job that was under way is not taken up");
    await_sql($server, $name, q{SELECT NOT EXISTS (SELECT FROM pg_trigger WHERE tgname LIKE 'bacmr%')},
        "$how: and notes no changes");
    set_worker($server, 'off');
    await("$how: the worker is off", sub { !worker_pid($server, $name) });

    for my $job ('expire', 'export', 'reindex') {
        is($server->safe_psql($name, qq{CALL bacmr_run_job('$job');
               SELECT status FROM bacmr_job_run ORDER BY run_id DESC LIMIT 1}), 'skipped', "$how: a scheduled $job is skipped");
    }
    is($server->safe_psql($name, q{SELECT status FROM reservations}), 'reserved', "$how: nothing has expired");
    cmp_ok($server->safe_psql($name, 'SELECT run_id FROM bacmr_reconcile()'), '>', $highest{bacmr_job_run}, "$how: run ids go on");
    is($server->safe_psql($name, 'SELECT count(*) - count(DISTINCT run_id) FROM bacmr_job_run'), 0, "$how: none is there twice");
    $server->safe_psql($name, "SELECT bacmr_reindex_cancel($open)");
    cmp_ok($server->safe_psql($name, q{SELECT bacmr_reindex('grade 11', embedder => 'bacmr_local', vector_store => 'bacmr_postgres')}),
        '>', $highest{bacmr_reindex_job}, "$how: job numbers go on");
    $server->safe_psql($name, q{UPDATE chunks SET content = content || '.' WHERE namespace = 'grade 11'});
    cmp_ok($server->safe_psql($name, 'SELECT max(change_id) FROM bacmr_chunk_change'), '>', $highest{bacmr_chunk_change},
        "$how: changes are numbered on");
    is($server->safe_psql($name, q{SELECT bacmr_active_namespace('grade 12'), ok FROM bacmr_vectors_verify('grade 12', 'bacmr_postgres')}),
        'grade 12-v2|t', "$how: the active namespace has its vectors");
    is($server->safe_psql($name, q{SELECT bacmr_metric_inc('mine', '{"a": "b"}')}), '', "$how: the metric of one's own is known");
    return;
}

sub set_worker {
    my ($server, $state) = @_;
    $server->safe_psql('postgres', "ALTER SYSTEM SET bacmr.worker_enabled = $state");
    $server->reload;
    return;
}

# Databases beside the copy must not start workers of their own that count.
sub empty_database {
    my ($name) = @_;
    $node->safe_psql('postgres', qq{CREATE DATABASE $name});
    $node->safe_psql('postgres', qq{ALTER DATABASE $name SET search_path = shop, "Ops x", public});
    return $name;
}

# --- each format ---------------------------------------------------------------------------------

my %dumps = (
    plain => [ [], sub { [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $_[0], $_[1] ] } ],
    custom => [ ['-Fc'], sub { [ 'pg_restore', '-e', '-d', $_[1], $_[0] ] } ],
    directory => [ [ '-Fd', '-j2' ], sub { [ 'pg_restore', '-e', '-j2', '-d', $_[1], $_[0] ] } ],
);
for my $format (sort keys %dumps) {
    my ($options, $restore) = @{ $dumps{$format} };
    my $file = "$folder/$format.dump";
    $node->command_ok([ 'pg_dump', @$options, '-f', $file, $database ], "pg_dump: $format");
    my $copy = empty_database("of_$format");
    $node->command_ok($restore->($file, $copy), "$format: restored");
    is_a_copy($node, $copy, $format);
    $node->safe_psql('postgres', "DROP DATABASE $copy");
}
like(slurp_file("$folder/plain.dump"), $text_of_secret, 'a literal secret stands in the dump of a superuser, as documented');
unlike(slurp_file("$folder/plain.dump"), qr/sk-in-a-file/, 'one in a file does not');
like(slurp_file("$folder/plain.dump"), qr/\Q$key_file\E/, 'its path does');

# --- the schema alone ----------------------------------------------------------------------------

$node->command_ok([ 'pg_dump', '--schema-only', '-f', "$folder/schema.sql", $database ], 'pg_dump --schema-only');
my $bare = empty_database('bare');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$folder/schema.sql", $bare ], 'schema-only: restored');
same_catalogue(\@catalogue, [ extension_catalogue($node, $bare) ], 'schema-only: the same objects, marks and privileges');
is($node->safe_psql($bare, 'SELECT (SELECT count(*) FROM bacmr_source) + (SELECT count(*) FROM bacmr_job_run)
    + (SELECT count(*) FROM bacmr_reindex_job)'), 0, 'schema-only: no attachment, no history, no job');
is($node->safe_psql($bare, q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'bacmr%'}), 2, 'schema-only: the triggers of a job that is not there');
is(error_of($node, $bare, q{INSERT INTO chunks (namespace, content) VALUES ('grade 11', 'x')}), '', 'schema-only: chunks can be written all the same');
set_worker($node, 'on');
await_sql($node, $bare, q{SELECT NOT EXISTS (SELECT FROM pg_trigger WHERE tgname LIKE 'bacmr%')}, 'schema-only: the worker takes them away');
await_sql($node, $bare, 'SELECT NOT EXISTS (SELECT FROM bacmr_chunk_change)', 'schema-only: and what they noted');
set_worker($node, 'off');
await('the worker is off', sub { !worker_pid($node, $bare) });

# --- parts ---------------------------------------------------------------------------------------

# The extension's rows alone, into a database that has the tables and the extension already.
$node->command_ok([ 'pg_dump', '--data-only', '-n', '"Ops x"', '-f', "$folder/ops.sql", $database ], 'pg_dump of its schema, data only');
$node->command_ok([ 'pg_dump', '--data-only', '-n', 'shop', '-f', "$folder/shop.sql", $database ], 'pg_dump of the application\'s schema, data only');
$node->safe_psql($bare, 'TRUNCATE chunks');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$folder/$_.sql", $bare ], "$_: restored") for 'shop', 'ops';
my $parts = contents($node, $bare);
is($parts->{$_}, $original->{$_}, "from parts: the same $_") for @tables;
starts_paused($node, $bare, 'from parts');

# The application's schema, without the extension: the triggers want its function.
$node->command_ok([ 'pg_dump', '-n', 'shop', '-f', "$folder/shop_all.sql", $database ], 'pg_dump -n of the application\'s schema');
my $alone = empty_database('alone');
$node->safe_psql($alone, 'CREATE SCHEMA "Ops x"; CREATE EXTENSION bacmr_ops SCHEMA "Ops x";');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$folder/shop_all.sql", $alone ], 'into a database that has the extension');
$node->safe_psql($alone, q{SELECT bacmr_attach('reservations', 'reservations'), bacmr_attach('wallet_ledger', 'wallet_ledger'),
    bacmr_attach('wallet', 'wallet', '{"token_balance": "credits"}')});
is($node->safe_psql($alone, 'SELECT count(*) FROM bacmr_job_pause'), 0, 'where it is attached afresh, it is no copy, as documented');

# --- a whole cluster -----------------------------------------------------------------------------

$node->safe_psql('postgres', "DROP DATABASE $_") for $bare, $alone;
$node->command_ok([ 'pg_dumpall', '-f', "$folder/all.sql" ], 'pg_dumpall');
my $other = new_server('other', conf => [ q{bacmr.expire_interval = '1s'}, 'bacmr.worker_enabled = off' ]);
# Its superuser and its databases are there already.
$other->command_ok([ 'psql', '-Xq', '-f', "$folder/all.sql", 'postgres' ], 'restored into another cluster');
is_a_copy($other, $database, 'pg_dumpall');
$other->stop;

is_deeply(contents($node, $database), $original, 'and the original is what it was');
$node->stop;
done_testing();
