# What runs short: the disk, the size a file may have, and memory.
use strict;
use warnings;
use BacmrTest;
use Exports;
use PostgreSQL::Test::Utils;
use Test::More;

use constant MB => 1024;    # in kB

my $node = new_server('main');
app_database($node, 'app');
load_handbook($node, 'app', 12);
$node->safe_psql('app', 'CREATE TABLE few AS SELECT * FROM chunks LIMIT 100; VACUUM ANALYZE chunks');
my $folder = artifact_folder($node, 'app');
my $rows = $node->safe_psql('app', 'SELECT count(*) FROM chunks');
my ($whole, undef, undef, undef, $bytes) = export_to($node, 'app');
cmp_ok($bytes, '>', 50_000_000, 'an export of 50 MB');

# --- the size of files ---------------------------------------------------------------------------

# New processes inherit the server's own limit. 20 MB: what the server itself writes is smaller.
sub limit_files {
    my ($limit) = @_;
    my ($pid) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
    system_or_bail('prlimit', '--pid', $pid, "--fsize=$limit:");
    return;
}

my @before = names_in($folder);
$node->safe_psql('app', 'CHECKPOINT');
limit_files(20_000_000);
like(error_of($node, 'app', q{SELECT bacmr_export_chunks(file_name => 'long')}),
    qr/ERROR:  58030: could not write ".*long.*": File too large/,
    'a file that may not grow any more is an error that says so');
is_deeply([ names_in($folder) ], \@before, 'and nothing of it is left');
limit_files('unlimited');
is(error_of($node, 'app', q{SELECT bacmr_export_chunks(file_name => 'long')}), '',
    'without the limit it works again');
unlink map { "$folder/long$_" } '', '.manifest.json';

# --- the disk ------------------------------------------------------------------------------------

# The server in a mount namespace of its own, with small file systems for the artifacts: one is full
# before it has been looked at again, the other runs out with space left for the server.
my @namespace = ('unshare', '--user', '--map-current-user', '--mount', '--keep-caps');
SKIP: {
    skip 'a user may not make mount namespaces here', 15
      unless run_log([ @namespace, 'mount', '-t', 'tmpfs', 'none', '/mnt' ]);
    my %size = (full => '20m', short => '33m');
    my $base = $node->basedir;
    mkdir "$base/$_" or die "$base/$_: $!" for 'full', 'short', 'store', 'store/app';
    my $mounts = join ' && ', map { "mount -t tmpfs -o size=$size{$_} none '$base/$_'" } sort keys %size;
    $node->stop;
    system_or_bail(@namespace, 'bash', '-c', $mounts . ' && exec pg_ctl -w -s -D "$0" -l "$1" start',
        $node->data_dir, $node->logfile);
    $node->_update_pid(1);
    # A store that is a folder: what is imported from it is copied to the artifacts first.
    $node->safe_psql('app', 'CREATE SERVER store FOREIGN DATA WRAPPER bacmr_blob_store OPTIONS ('
          . "type 'file', directory '$base/store'); CREATE TABLE gone AS SELECT FROM chunks LIMIT 0");
    for my $name ("$whole", "$whole.manifest.json") {
        system_or_bail('cp', "$folder/$name", "$base/store/app/$name");
    }
    for my $disk (sort keys %size) {
        $node->safe_psql('postgres', "ALTER SYSTEM SET bacmr.artifact_directory = '$base/$disk'");
        $node->reload;
        await_sql($node, 'app',
            "SELECT current_setting('bacmr.artifact_directory') = '$base/$disk'", "on the disk $disk");
        my $error = error_of($node, 'app', 'SELECT bacmr_export_chunks()');
        like($error, qr/ERROR:  53100: /, "$disk: the export fails, since the disk is full");
        like($error, $disk eq 'full' ? qr/No space left on device/ : qr/not enough free space/,
            "$disk: which the message says");
        like(error_of($node, 'app', "SELECT bacmr_import_chunks('store/app/$whole')"),
            qr/ERROR:  53100: /, "$disk: so does an import that has to fetch its file");
        like(error_of($node, 'app', q{CALL bacmr_run_job('export', '{"destination": null}')}),
            qr/ERROR:  53100: /, "$disk: so does the scheduled run, at once");
        is($node->safe_psql('app', "SELECT count(*) FROM pg_ls_dir('$base/$disk/app')"),
            0, "$disk: nothing is left on it");
        is(error_of($node, 'app', q{SELECT bacmr_export('few')}), '', "$disk: a small one has room");
    }
    is($node->safe_psql('app', 'SELECT count(*) FROM chunks'), $rows, 'the data are as they were');
    $node->safe_psql('postgres', 'ALTER SYSTEM RESET bacmr.artifact_directory');
    $node->restart;
}

# --- memory --------------------------------------------------------------------------------------

# Twenty times the rows may not take more than this, be it that the heap is left in another shape: a
# single byte a row would be 2 MB.
my $allowed = 4 * MB;

my %peak;
for my $size (100_000, 2_000_000) {
    $node->safe_psql('app', "CREATE TABLE s$size (id int PRIMARY KEY, t text, j jsonb)");
    $node->safe_psql('app', "INSERT INTO s$size SELECT n, 'row ' || n, NULLIF(n % 3, 0)::text::jsonb"
          . " FROM generate_series(1, $size) n; VACUUM ANALYZE s$size; CHECKPOINT");
    my $session = open_session($node, 'app');
    # What is loaded once stays.
    run_in($session, q{SELECT bacmr_export('few', file_name => 'few.ndjson')});
    my ($answer, $kb) = peak_while($session,
        "SELECT chunks FROM bacmr_export('s$size', file_name => 's$size.ndjson')");
    is($answer, $size, "$size rows are exported");
    $peak{export}{$size} = $kb;
    run_in($session, "TRUNCATE s$size");
    ($answer, $kb) = peak_while($session, "SELECT inserted FROM bacmr_import('s$size', 's$size.ndjson')");
    is($answer, $size, "$size rows are imported");
    $peak{import}{$size} = $kb;
    close_session($session);
    is($node->safe_psql('app', "SELECT count(*), count(j), sum(id), count(DISTINCT t) FROM s$size"),
        join('|', $size, $size - int($size / 3), $size * ($size + 1) / 2, $size),
        "$size rows are as they were");
    unlink map { ("$folder/$_.ndjson", "$folder/$_.ndjson.manifest.json") } "s$size", 'few';
}
for my $job ('export', 'import') {
    my ($small, $large) = @{ $peak{$job} }{ 100_000, 2_000_000 };
    note "$job: $small kB for 100,000 rows, $large kB for 2,000,000";
    cmp_ok($small, '>', 0, "$job: the memory is measured");
    cmp_ok($large - $small, '<', $allowed, "$job: memory does not grow with the table");
}

# --- a job that takes long says how far it is ----------------------------------------------------

# The trigger makes it long: nothing is waited for.
$node->safe_psql('app', <<'SQL');
CREATE TABLE slow (id int, t text);
INSERT INTO slow SELECT n, 'row ' || n FROM generate_series(1, 3) n;
SELECT bacmr_export('slow', file_name => 'slow.ndjson');
TRUNCATE slow;
CREATE FUNCTION take_long() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.pg_sleep(5.1); RETURN NEW; END';
CREATE TRIGGER take_long BEFORE INSERT ON slow FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION take_long();
SQL
$node->psql('app', q{SELECT bacmr_import('slow', 'slow.ndjson')}, stderr => \my $said);
like($said, qr/NOTICE:  importing slow\.ndjson: \d of 3 rows$/m, 'a NOTICE says how far a long import is');

$node->stop;
done_testing();
