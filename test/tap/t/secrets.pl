# A secret never shows. One that lies in a file: nowhere but in that file. One written into a statement:
# in nothing that the extension emits (the statement itself, and a dump, hold it).
use strict;
use warnings;
use BacmrTest;
use File::Find;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $in_file = 'Fi1eS3cr3t' . int(rand(1e9));
my $literal = 'Litera1S3cr3t' . int(rand(1e9));
my $folder = "${PostgreSQL::Test::Utils::tmp_check}/secrets";
mkdir $folder or die "$folder: $!";

# A file that the server may read.
sub secret_file {
    my ($name, $content) = @_;
    my $path = "$folder/$name";
    open my $file, '>', $path or die "$path: $!";
    print {$file} $content;
    close $file or die "$path: $!";
    chmod 0600, $path;
    return $path;
}

my $statements = -e sharedir() . '/extension/pg_stat_statements.control';
my $node = new_server(
    'main',
    preload => [ $statements ? 'pg_stat_statements' : () ],
    conf => [ 'log_min_error_statement = error', 'log_min_messages = debug1',
        q{log_error_verbosity = verbose} ]);
app_database($node, 'app');
$node->safe_psql('app', 'CREATE EXTENSION pg_stat_statements') if $statements;
$node->safe_psql('app', <<'SQL');
INSERT INTO chunks (namespace, content) SELECT 'n', 'chunk ' || n FROM generate_series(1, 10) n;
CREATE ROLE app_user;
SELECT bacmr_grant('operator', 'app_user');
GRANT SELECT ON chunks TO app_user;
SQL

sub sharedir {
    my ($dir) = run_command([ 'pg_config', '--sharedir' ]);
    return $dir;
}

# --- stores -----------------------------------------------------------------------------------

# Answers every request like a store that refuses the signature: with all that it was sent.
sub refusing_store {
    my $listener = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die "socket: $!";
    my $port = $listener->sockport;
    my $pid = fork // die "fork: $!";
    return ($port, $pid) if $pid;
    $SIG{TERM} = 'DEFAULT';
    $SIG{PIPE} = 'IGNORE';
    while (my $client = $listener->accept) {
        my $head = '';
        while ($head !~ /\r\n\r\n/ && sysread $client, my $more, 65536) { $head .= $more; }
        my $body = '<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code>'
          . '<Message>The request signature does not match.</Message>'
          . "<CanonicalRequest>$head</CanonicalRequest><RequestId>r-1</RequestId></Error>";
        # What it does not read of the request must not turn the answer into a reset.
        print {$client} "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\n"
          . "Connection: close\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
        $client->flush;
        shutdown $client, 1;
        1 while IO::Select->new($client)->can_read(1) && sysread $client, my $rest, 65536;
        close $client;
    }
    POSIX::_exit(0);
}

my ($refusing_port, $refusing) = refusing_store();

END {
    local $? = $?;
    kill 'TERM', $refusing if $refusing;
}

# Takes connections and says nothing.
my $silent = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die "socket: $!";
my $silent_port = $silent->sockport;

my $secret_path = secret_file('s3', "$in_file\n");
my %port = (unreachable => 1, refusing => $refusing_port, silent => $silent_port);
for my $store (sort keys %port) {
    $node->safe_psql('app', <<"SQL");
CREATE SERVER $store FOREIGN DATA WRAPPER bacmr_blob_store
  OPTIONS (type 's3', bucket 'backups', region 'x', endpoint 'http://127.0.0.1:$port{$store}', max_retries '0');
GRANT USAGE ON FOREIGN SERVER $store TO app_user;
CREATE USER MAPPING FOR CURRENT_USER SERVER $store
  OPTIONS (access_key_id 'key', secret_access_key_file '$secret_path', session_token '$literal');
SQL
}
$node->safe_psql('app', <<"SQL");
CREATE SERVER ai FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'openai', base_url 'http://127.0.0.1:1');
CREATE SERVER vectors FOREIGN DATA WRAPPER bacmr_vector_store OPTIONS (type 'pinecone', host 'http://127.0.0.1:1');
GRANT USAGE ON FOREIGN SERVER ai, vectors, bacmr_artifacts TO app_user;
CREATE USER MAPPING FOR app_user SERVER ai OPTIONS (api_key '$literal');
CREATE USER MAPPING FOR PUBLIC SERVER vectors OPTIONS (api_key_file '$secret_path');
SQL

# --- errors of validators, with a literal secret in the statement --------------------------------

my $emitted = '';    # what clients were told
my $offset = log_size($node);

# The statement fails, with that SQLSTATE, and what is said has no secret in it.
sub fails {
    my ($statement, $code, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $error = error_of($node, 'app', $statement);
    $emitted .= $error;
    like($error, qr/ERROR:  $code/, $what);
    unlike($error, qr/\Q$in_file\E|\Q$literal\E/, '… without the secret');
    return $error;
}

my $mapping = 'CREATE USER MAPPING FOR app_user SERVER';
fails("$mapping unreachable OPTIONS (access_key_id 'a', secret_access_key '$literal', nonsense 'x')",
    'HV00D', 'a secret beside an unknown option');
fails("$mapping unreachable OPTIONS (secret_access_key '$literal')",
    'HV002', 'a secret without its key id');
fails("$mapping unreachable OPTIONS (access_key_id 'a', secret_access_key '$literal with spaces')",
    '22023', 'a secret that is none');
fails("$mapping vectors OPTIONS (api_key '$literal', api_key_file '$secret_path')",
    '22023', 'a secret and a file');
fails("$mapping vectors OPTIONS (api_key_file '$literal')", '22023', 'a secret in place of its path');
fails("ALTER USER MAPPING FOR app_user SERVER ai OPTIONS (ADD model 'x', SET api_key '$literal')",
    'HV00D', 'ALTER USER MAPPING');
fails("ALTER SERVER ai OPTIONS (ADD api_key '$literal')", 'HV00D', 'a secret as an option of a server');
fails("ALTER SERVER ai OPTIONS (SET base_url 'https://user:$literal\@example.com/')",
    '22023', 'a secret in a URL');
my $in_block = "ALTER USER MAPPING FOR app_user SERVER ai OPTIONS (SET api_key ''$literal'', ADD x ''y'')";
fails("DO 'BEGIN $in_block; END'", 'HV00D', 'in a DO block, whose context would repeat it');
fails(<<"SQL", 'HV00D', 'in a function, by EXECUTE');
CREATE FUNCTION pg_temp.rotate() RETURNS void LANGUAGE plpgsql AS
  'BEGIN EXECUTE ''ALTER USER MAPPING FOR app_user SERVER ai OPTIONS (SET api_key ''''$literal'''', ADD x ''''y'''')''; END';
SELECT pg_temp.rotate();
SQL

my $log = slurp_file($node->logfile, $offset);
like($log, qr/HV00D: invalid option "nonsense"/, 'the log has these errors');
unlike($log, qr/STATEMENT:.*USER MAPPING/s, '… without their statements');
unlike($log, qr/\Q$literal\E/, '… and without the secret');

# --- the same with the secret in a file ----------------------------------------------------------

# Sets the file that the superuser's user mapping for the unreachable store names.
sub use_file {
    my ($path) = @_;
    $node->safe_psql('app',
        "ALTER USER MAPPING FOR CURRENT_USER SERVER unreachable OPTIONS (SET secret_access_key_file '$path')");
    return;
}

use_file("$folder/nowhere");
like(fails("SELECT bacmr_export_chunks('unreachable')", '58P01', 'a file that is not there'),
    qr{"\Q$folder\E/nowhere"}, '… names the path');
use_file(secret_file('two_lines', "$in_file\n$in_file\n"));
fails("SELECT bacmr_export_chunks('unreachable')", '22023', 'a file with two lines');
use_file(secret_file('large', $in_file x 10_000));
fails("SELECT bacmr_export_chunks('unreachable')", '22023', 'a file that is too large');
use_file(secret_file('binary', "$in_file\x00\xff"));
fails("SELECT bacmr_export_chunks('unreachable')", '22023', 'a file with other bytes');
mkdir "$folder/folder";
use_file("$folder/folder");
fails("SELECT bacmr_export_chunks('unreachable')", '42809', 'a folder');
SKIP: {
    skip 'no FIFO here', 2 unless POSIX::mkfifo("$folder/fifo", 0600);
    use_file("$folder/fifo");
    fails("SET statement_timeout = '20s'; SELECT bacmr_export_chunks('unreachable')",
        '42809', 'a FIFO, at which nobody waits');
}
use_file($secret_path);

# --- stores that refuse, cannot be reached, or say nothing --------------------------------------

for my $store (qw(unreachable refusing)) {
    fails("SELECT bacmr_export_chunks('$store')", '\w{5}', "an export to a store: $store");
    my ($out, $err);
    $node->psql('app', "SET bacmr.blob_store = '$store';\nCALL bacmr_run_job('export');\n",
        stdout => \$out, stderr => \$err, on_error_stop => 0);
    like($err, qr/ERROR/, "the scheduled export: $store");
    $emitted .= $out . $err;
    for my $call ("bacmr_verify_export('$store/x.ndjson')", "bacmr_import_chunks('$store/x.ndjson')",
        "bacmr_restore_drill('$store/x.ndjson')") {
        $node->psql('app', "SELECT $call", stdout => \$out, stderr => \$err, on_error_stop => 0);
        $emitted .= ($out // '') . ($err // '');
    }
}

# While a session waits for its store, with the secret in its memory.
my $waiting = in_background($node, 'app', "SELECT bacmr_export_chunks('silent')");
await_sql($node, 'app', q{SELECT count(*) = 1 FROM pg_stat_activity
    WHERE query LIKE 'SELECT bacmr_export_chunks(''silent'')%' AND state = 'active'},
    'a session waits for its store');
my $activity = $node->safe_psql('app', 'SELECT a::text FROM pg_stat_activity a');
$node->safe_psql('app', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity
    WHERE query LIKE 'SELECT bacmr_export_chunks(''silent'')%' AND pid <> pg_backend_pid()});
$emitted .= join '', wait_for_end($waiting);
like($emitted, qr/57014/, 'and is cancelled');

# --- where a secret could have gone --------------------------------------------------------------

my %place = (
    'messages to clients' => $emitted,
    'pg_stat_activity' => $activity,
    'EXPLAIN' => $node->safe_psql('app', q{EXPLAIN (VERBOSE) SELECT bacmr_export_chunks('dr')}),
    'the status views' => $node->safe_psql('app', <<'SQL'),
SELECT s::text FROM bacmr_status s;
SELECT d::text FROM bacmr_doctor() d;
SELECT m::text FROM bacmr_metrics m;
SELECT bacmr_metrics_prometheus();
SELECT bacmr_worker_status();
SQL
);
for my $table (split /\n/, $node->safe_psql('app', q{SELECT oid::regclass FROM pg_class
    WHERE relname LIKE 'bacmr\_%' AND relkind IN ('r', 'v', 'm')})) {
    $place{"table $table"} = $node->safe_psql('app', "SELECT t::text FROM $table t");
}
cmp_ok(length $place{'table bacmr_job_run'}, '>', 0, 'there are job runs to look at');

sub artifacts {
    my $found = '';
    my $directory = $node->data_dir . '/bacmr_artifacts';
    find(sub { $found .= $File::Find::name . slurp_file($_) if -f }, $directory) if -d $directory;
    return $found;
}
$place{'the artifacts'} = artifacts();

my $dump = "${PostgreSQL::Test::Utils::tmp_check}/secrets.sql";
$node->command_ok([ 'pg_dump', '--file', $dump, 'app' ], 'pg_dump');
$node->stop;
$place{'the server\'s log'} = slurp_file($node->logfile, $offset);
$node->start;

for my $what (sort keys %place) {
    unlike($place{$what}, qr/\Q$in_file\E/, "$what: nothing of the file");
    unlike($place{$what}, qr/\Q$literal\E/, "$what: nothing of the literal");
}
unlike(slurp_file($dump), qr/\Q$in_file\E/, 'a dump: nothing of the file');
like(slurp_file($dump), qr/\Q$secret_path\E/, 'a dump: the path of the file');
like(slurp_file($dump), qr/\Q$literal\E/, 'a dump: the literal, as documented');
SKIP: {
    skip 'no pg_stat_statements', 1 unless $statements;
    unlike($node->safe_psql('app', 'SELECT s::text FROM pg_stat_statements s'), qr/\Q$in_file\E/,
        'pg_stat_statements: nothing of the file');
}
unlike($node->safe_psql('app', 'SELECT m::text FROM pg_user_mappings m'), qr/\Q$in_file\E/,
    'pg_user_mappings: nothing of the file');

# --- a dump keeps what was declared --------------------------------------------------------------

# (pg_dump sorts the options.)
my $declared = q{SELECT srvname, ARRAY(SELECT unnest(srvoptions) ORDER BY 1), srvacl
    FROM pg_foreign_server ORDER BY 1;
    SELECT srvname, usename, ARRAY(SELECT unnest(umoptions) ORDER BY 1) FROM pg_user_mappings ORDER BY 1, 2};
my $original = $node->safe_psql('app', $declared);
like($original, qr/bacmr_artifacts\|\{type=file\}\|\{.*app_user=U/, 'a built-in server was granted');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'restored' ],
    'the dump can be restored');
is($node->safe_psql('restored', $declared), $original,
    'with servers, user mappings and grants, those on built-in servers too');

$node->stop;
done_testing();
