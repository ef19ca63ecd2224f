# Services that mean harm (redirections, endless answers, forged lines of a log), TLS that is not what it
# should be, text that wants to be a line of the log, and hostile triggers under the worker of reindex
# jobs. docs/security.md says which threats these are.
use strict;
use warnings;
use BacmrTest;
use Cwd ();
use File::Basename qw(dirname);
use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Services;
use Test::More;

my $folder = "${PostgreSQL::Test::Utils::tmp_check}/security";
mkdir $folder or die "$folder: $!";

# Where nobody may be led: not by a redirection, nor by a proxy of the environment's.
my $trap = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1') or die "socket: $!";
my $trap_url = 'http://127.0.0.1:' . $trap->sockport . '/';
local @ENV{qw(http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY)} = ($trap_url) x 6;
delete local @ENV{qw(no_proxy NO_PROXY)};

sub is_sprung { return IO::Select->new($trap)->can_read(0) ? 1 : 0; }

sub start_hostile {
    my ($name, @options) = @_;
    my $log = "$folder/$name.log";
    my %self = Services::start_program('python3',
        dirname(Cwd::realpath(__FILE__)) . '/../../services/hostile.py', '--with-parent',
        '--log', $log, '--target', $trap_url, @options);
    return { %self, log => $log };
}

# What it was asked, and how much was taken of endless answers, since it was last asked for that.
sub heard {
    my ($service) = @_;
    my $heard = -e $service->{log} ? slurp_file($service->{log}) : '';
    unlink $service->{log};
    return $heard;
}

my $key = "$folder/key";
append_to_file($key, "sk-security\n");
my $node = new_server('main',
    conf => [ 'bacmr.worker_enabled = off', 'bacmr.http_max_retries = 0', 'bacmr.http_timeout = 20', q{bacmr.breaker_cooldown = '1s'},
        'bacmr.breaker_threshold = 1000' ]);
app_database($node, 'app');
$node->safe_psql('app', q{INSERT INTO chunks (namespace, content) VALUES ('n', 'a text')});

# Servers of all three kinds at that URL.
sub declare {
    my ($name, $url, $options) = @_;
    my ($origin) = $url =~ m{^(\w+://[^/]+)};
    $options //= '';
    $node->safe_psql('app', <<"SQL");
CREATE SERVER ${name}_ai FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'openai', base_url '$url', model 'm', dimensions '8' $options);
CREATE SERVER ${name}_pine FOREIGN DATA WRAPPER bacmr_vector_store OPTIONS (type 'pinecone', host '$origin' $options);
CREATE SERVER ${name}_s3 FOREIGN DATA WRAPPER bacmr_blob_store
  OPTIONS (type 's3', bucket 'bucket', region 'x', endpoint '$url', addressing 'path' $options);
CREATE USER MAPPING FOR PUBLIC SERVER ${name}_ai OPTIONS (api_key_file '$key');
CREATE USER MAPPING FOR PUBLIC SERVER ${name}_pine OPTIONS (api_key_file '$key');
CREATE USER MAPPING FOR PUBLIC SERVER ${name}_s3 OPTIONS (access_key_id 'id', secret_access_key_file '$key');
SQL
    return;
}

my $said = '';    # to clients

# The error of a job with that embedder.
sub embed_with {
    my ($server) = @_;
    my $job = $node->safe_psql('app', "SELECT bacmr_reindex('n', embedder => '$server', vector_store => 'bacmr_postgres')");
    # A service that is out of order is waited for: not here.
    my $error = error_of($node, 'app', "SET statement_timeout = '10s'; CALL bacmr_reindex_run($job)");
    # What is kept of it: of the job's, and of the chunks that failed.
    my $kept = $node->safe_psql('app', "SELECT coalesce(error, '') FROM bacmr_reindex_job WHERE job_id = $job
        UNION ALL SELECT reason FROM bacmr_reindex_failure WHERE job_id = $job");
    unlike($kept, qr/[\x00-\x09\x0b-\x1f\x7f]/, "$server: what is kept of the error has no control characters");
    $error .= $kept;
    $node->safe_psql('app', "SELECT bacmr_reindex_cancel($job)");
    $said .= $error;
    return $error;
}

sub fails {
    my ($sql, $pattern, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $error = error_of($node, 'app', $sql);
    $said .= $error;
    return like($error, $pattern, $what);
}

# --- redirections --------------------------------------------------------------------------------

my $hostile = start_hostile('plain');
for my $code (301, 302, 303, 307, 308) {
    my $name = "r$code";
    declare($name, "$hostile->{endpoint}/redirect-$code");
    like(embed_with("${name}_ai"), qr/ERROR:.*HTTP $code/s, "an embedder that redirects: $code");
    fails("SELECT bacmr_export_chunks('${name}_s3')", qr/ERROR:.*${name}_s3/s, "a blob store that redirects: $code");
    fails("SELECT bacmr_verify_export('${name}_s3/x.ndjson')", qr/ERROR:/, "… that is read from: $code");
}
fails(q{SELECT bacmr_vectors_verify('n', 'r307_pine')}, qr/ERROR:.*HTTP 307/s, 'a vector store that redirects');
my $heard = heard($hostile);
like($heard, qr{^POST /redirect-302/embeddings Bearer sk-security$}m, 'the service itself was asked');
like($heard, qr{^PUT /redirect-307/bucket/}m, 'so was the blob store');
is(is_sprung(), 0, 'nobody went where they pointed, nor through the proxy of the environment');

# --- answers without end, or without sense ------------------------------------------------------------

for my $mode (qw(endless headers bytes error)) {
    declare($mode, "$hostile->{endpoint}/$mode");
    my $error = embed_with("${mode}_ai");
    like($error, $mode eq 'error' ? qr/no \[31m.*forged.*HTTP 400/ : qr/ERROR:.*("${mode}_ai"|57014)/s,
        "an embedder: $mode");
    fails("SELECT bacmr_export_chunks('${mode}_s3')", qr/ERROR:/, "a blob store, written to: $mode");
    fails("DO \$\$BEGIN ASSERT (SELECT ok FROM bacmr_verify_export('${mode}_s3/x.ndjson')); END\$\$", qr/ERROR:/,
        "a blob store, read from: $mode");
}
my @sent = heard($hostile) =~ /^sent (\d+)$/mg;
cmp_ok(scalar @sent, '>=', 4, 'answers without end were broken off');
cmp_ok((sort { $b <=> $a } @sent)[0], '<', 256 << 20, 'before they had cost anything much');
is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_vector WHERE namespace <> 'n'}) + 0, 0, 'no vector came of that')
  if $node->safe_psql('app', q{SELECT to_regclass('bacmr_vector') IS NOT NULL}) eq 't';

# --- TLS -------------------------------------------------------------------------------------------

# A certificate for $host, signed by an authority of its own.
sub certificate {
    my ($name, $host) = @_;
    my $base = "$folder/$name";
    for my $command (
        [ 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', "/CN=authority of $name",
            '-keyout', "$base.ca.key", '-out', "$base.ca.pem" ],
        [ 'req', '-newkey', 'rsa:2048', '-nodes', '-subj', "/CN=$host", '-keyout', "$base.key", '-out', "$base.csr" ]) {
        system_or_bail('openssl', @$command);
    }
    append_to_file("$base.ext", "subjectAltName = DNS:$host\n");
    system_or_bail('openssl', 'x509', '-req', '-in', "$base.csr", '-CA', "$base.ca.pem", '-CAkey', "$base.ca.key",
        '-CAcreateserial', '-days', '2', '-extfile', "$base.ext", '-out', "$base.pem");
    return (ca => "$base.ca.pem", pem => "$base.pem", key => "$base.key");
}
my %good = certificate('good', 'localhost');
my %other = certificate('other', 'other.example');
my $tls = start_hostile('tls', '--certificate', $good{pem}, '--key', $good{key});
my $misnamed = start_hostile('misnamed', '--certificate', $other{pem}, '--key', $other{key});
declare('tls_unknown', "$tls->{endpoint}/error");
declare('tls_wrong_ca', "$tls->{endpoint}/error", ", ca_file '$other{ca}'");
declare('tls_misnamed', "$misnamed->{endpoint}/error", ", ca_file '$other{ca}'");
declare('tls_good', "$tls->{endpoint}/error", ", ca_file '$good{ca}'");
for my $case (qw(tls_unknown tls_wrong_ca tls_misnamed)) {
    like(embed_with("${case}_ai"), qr/ERROR:.*(certificate|SSL)/s, "$case: an embedder is not spoken to");
    fails("SELECT bacmr_export_chunks('${case}_s3')", qr/ERROR:.*(certificate|SSL)/s, "$case: nor a blob store");
    fails("SELECT bacmr_vectors_verify('n', '${case}_pine')", qr/ERROR:.*(certificate|SSL)/s, "$case: nor a vector store");
}
is(heard($tls) . heard($misnamed), '', 'none of them has heard a word, let alone the key');
like(embed_with('tls_good_ai'), qr/HTTP 400/, 'with the right authority it is');
like(heard($tls), qr{^POST /error/embeddings Bearer sk-security$}m, 'and is told the key');
fails(q{CREATE SERVER x FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'openai', base_url 'http://example.com')},
    qr/22023.*must be an https URL/s, 'without TLS there is nothing but this machine');

# --- text that wants to be a line of the log -----------------------------------------------------------

my $forged = qq{x\n2001-01-01 00:00:00.000 UTC [1] LOG:  {"timestamp":"2001-01-01T00:00:00.000Z","message":"forged"}\r\n\x1b[31m};
my $sql = "E'" . ($forged =~ s/(\\)/\\$1/gr =~ s/\n/\\n/gr =~ s/\r/\\r/gr =~ s/\x1b/\\x1b/gr) . "'";
$node->safe_psql('app', 'CREATE ROLE forger; SELECT bacmr_grant(p, \'forger\') FROM unnest(\'{app,operator}\'::text[]) p');
my $names = qq{"bad\n2001-01-01 00:00:00.000 UTC [1] LOG:  {""message"":""forged""}"};
$node->safe_psql('app', "CREATE TABLE $names (id int); GRANT SELECT ON $names TO forger");
like(error_of($node, 'app', "SET bacmr.request_id = $sql"), qr/22023.*bacmr\.request_id/s, 'a request id has one line');
for my $format ('json', 'text') {
    $node->safe_psql('postgres', "ALTER SYSTEM SET bacmr.log_format = '$format'");
    $node->reload;
    await_sql($node, 'app', "SELECT current_setting('bacmr.log_format') = '$format'", "lines of the log are $format");
    my $offset = log_size($node);
    $node->safe_psql('app', <<"SQL");
SET ROLE forger;
SET bacmr.request_id = 'the one"} {"';
SELECT bacmr_log('info', $sql, jsonb_build_object($sql, $sql)), bacmr_log('error', $sql);
SELECT bacmr_record_openai_request($sql, $sql, 1, 1), bacmr_record_rate_limit_rejection($sql, $sql);
SELECT bacmr_metric_define('forged_$format', 'counter', $sql, ARRAY['a']), bacmr_metric_inc('forged_$format', jsonb_build_object('a', $sql));
SELECT bacmr_pause('export', $sql);
SELECT bacmr_export('$names');
SQL
    error_of($node, 'app', "SET ROLE forger; SELECT bacmr_metric_inc($sql)");
    error_of($node, 'app', "SET ROLE forger; SELECT bacmr_reindex($sql, target_namespace => $sql)");
    error_of($node, 'app', "SET ROLE forger; CALL bacmr_run_job($sql)");
    error_of($node, 'app', "SET ROLE forger; SELECT bacmr_verify_export($sql)");
    embed_with('error_ai');
    $node->safe_psql('app', q{SELECT bacmr_unpause('export')});
    my $log = slurp_file($node->logfile, $offset);
    like($log, qr/forged/, "$format: the forged text is in the log");
    unlike($log, qr/^2001-01-01/m, "$format: but never at the beginning of a line");
    is((grep { !/^\d{4}-\d\d-\d\d \d\d:|^\t|^$/ } split /\n/, $log), 0,
        "$format: each line is the server's own, or goes on from one");
    # What goes on from a line begins with a tab: whoever reads the log takes no entry from there.
    my @lines = map { /^\d\S+ \S+ \S+ \[\d+\] (?:\S+ )?LOG:  (\{"timestamp".*)/ ? $1 : () } split /\n/, $log;
    if ($format eq 'json') {
        my @entries = map { JSON::PP::decode_json($_) } @lines;
        cmp_ok(scalar @entries, '>=', 3, 'the entries can be read');
        is((grep { $_->{message} eq 'forged' || $_->{timestamp} =~ /^2001/ } @entries), 0, 'none is forged');
        ok((grep { $_->{request_id} eq 'the one"} {"' && $_->{message} eq $forged } @entries), 'the text is what was given');
        is((grep { /[\x00-\x1f\x7f]/ } @lines), 0, 'no control characters in them');
    }
    else { is(scalar @lines, 0, 'nothing looks like an entry in JSON'); }
}
for my $line (split /\n/, $node->safe_psql('app', 'SELECT bacmr_metrics_prometheus()')) {
    next if $line =~ /\A(# (HELP|TYPE) \w+ .*|\w+(\{(\w+="([^"\\]|\\.)*",?)*\})? \S+)\z/ || $line eq '';
    fail('a line of the exposition that is none');
    diag($line);
}
unlike($said, qr/\x1b/, 'no escape of a service\'s reached a terminal');

# --- the worker of reindex jobs, and a hostile role ------------------------------------------------------

$node->safe_psql('postgres', 'ALTER SYSTEM SET bacmr.worker_enabled = on');
$node->reload;
$node->safe_psql('app', <<'SQL');
SELECT bacmr_detach('chunks');
CREATE ROLE mallory;
SELECT bacmr_grant('operator', 'mallory');
CREATE SCHEMA mal AUTHORIZATION mallory;
SET ROLE mallory;
CREATE TABLE mal.seen (what text, who name, superuser boolean, outcome text);
GRANT ALL ON mal.seen TO PUBLIC;
CREATE FUNCTION mal.strike(what text, outcome text DEFAULT 'ran') RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO mal.seen SELECT what, current_user, rolsuper, outcome FROM pg_catalog.pg_roles
    WHERE rolname OPERATOR(pg_catalog.=) current_user;
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user) THEN
    EXECUTE 'ALTER ROLE mallory SUPERUSER';
  END IF;
  RETURN true;
END $$;
CREATE FUNCTION mal.attempt(what text, statement text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  outcome text := 'done';
BEGIN
  BEGIN
    EXECUTE statement;
  EXCEPTION WHEN OTHERS THEN
    outcome := SQLSTATE;
  END;
  PERFORM mal.strike(what, outcome);
END $$;
CREATE FUNCTION mal.row_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM mal.attempt('cursor', 'DECLARE held CURSOR WITH HOLD FOR SELECT mal.strike(''held'')');
  PERFORM mal.attempt('temp', 'CREATE TEMP TABLE planted (x int)');
  PERFORM mal.attempt('prepare', 'PREPARE planted AS SELECT 1');
  PERFORM mal.attempt('reset', 'RESET ROLE');
  PERFORM mal.attempt('session', 'RESET SESSION AUTHORIZATION');
  PERFORM mal.attempt('role', (SELECT pg_catalog.format('SET ROLE %I', rolname) FROM pg_catalog.pg_roles WHERE oid = 10));
  PERFORM pg_catalog.set_config('search_path', 'mal, pg_catalog', false);
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE FUNCTION mal.late_trigger() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN PERFORM mal.strike('deferred ' || TG_OP); RETURN NULL; END$$;
-- Better matches, once they are in the search_path.
CREATE FUNCTION mal.count() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN PERFORM mal.strike(''count''); RETURN 0; END';
CREATE FUNCTION mal.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
  'BEGIN PERFORM mal.strike(''clock''); RETURN pg_catalog.clock_timestamp(); END';
CREATE TABLE mal.data (id int PRIMARY KEY, namespace text, content text);
INSERT INTO mal.data SELECT n, 'n', 'text ' || n FROM generate_series(1, 5) n;
CREATE TABLE mal.bacmr_vector (namespace text, id text, embedding real[], metadata jsonb, PRIMARY KEY (namespace, id));
CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON mal.bacmr_vector FOR EACH ROW EXECUTE FUNCTION mal.row_trigger();
SELECT bacmr_attach('chunks', 'mal.data');
SQL

# A job of mallory's, which the worker ends with that status.
sub worker_runs {
    my ($target, $status, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $job = $node->safe_psql('app', <<"SQL");
SET ROLE mallory;
TRUNCATE mal.seen;
SELECT bacmr_reindex('n', embedder => 'bacmr_local', vector_store => 'bacmr_postgres', target_namespace => '$target');
SQL
    await_sql($node, 'app', "SELECT status = '$status' FROM bacmr_reindex_job WHERE job_id = $job", "$what: $status");
    is($node->safe_psql('app', q{SELECT count(*) FROM mal.seen WHERE superuser OR who <> 'mallory'}), 0,
        "$what: nothing ran as anybody else");
    is($node->safe_psql('app', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', "$what: no superuser");
    $node->safe_psql('app', "SET ROLE mallory; SELECT bacmr_reindex_cancel($job)");
    return;
}
worker_runs('first', 'completed', 'a row trigger');
is($node->safe_psql('app', q{SELECT string_agg(DISTINCT what || ' ' || outcome, ', ' ORDER BY what || ' ' || outcome) FROM mal.seen}),
    'cursor 42501, prepare 42501, reset 42501, role 42501, session 42501, temp 42501',
    'the trap was set off, and nothing that outlasts it was allowed');
$node->safe_psql('app', <<'SQL');
SET ROLE mallory;
DROP TRIGGER a ON mal.bacmr_vector;
CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE OR DELETE ON mal.bacmr_vector DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION mal.late_trigger();
SQL
worker_runs('second', 'completed', 'a deferred trigger');
is($node->safe_psql('app', 'SELECT DISTINCT what FROM mal.seen'), 'deferred INSERT', 'it did fire');
$node->safe_psql('app', <<'SQL');
SET ROLE mallory;
CREATE FUNCTION mal.defer_again() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN SET CONSTRAINTS ALL DEFERRED; RETURN NEW; END';
CREATE TRIGGER b BEFORE INSERT ON mal.bacmr_vector FOR EACH ROW EXECUTE FUNCTION mal.defer_again();
SQL
worker_runs('third', 'failed', 'a trigger that defers again');

is(is_sprung(), 0, 'in all that time nobody has stepped into the trap');
unlike(slurp_file($node->logfile), qr/sk-security|PANIC|was terminated by signal/, 'no key in the log, and no crash');
$node->stop;
done_testing();
