# The report of a reconciliation, as a file and a notification. The file is a copy: the run and its
# rows are kept whatever becomes of it.
use strict;
use warnings;
use BacmrTest;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', conf => [ 'bacmr.worker_enabled = off' ]);
app_database($node, 'app');
give_wallets($node, 'app', 5);
my $artifacts = $node->data_dir . '/bacmr_artifacts';

sub reports {
    my @files = sort glob "$_[0]/wallet_discrepancies_*.json";
    return @files;
}

# --- a clean run, a run that finds something -----------------------------------------------------

$node->safe_psql('app', 'SELECT bacmr_reconcile()');
is(scalar(reports($artifacts)), 0, 'a clean run writes no file');
is(error_of($node, 'app', q{CALL bacmr_run_job('reconcile')}), '', 'and its CALL raises nothing');

$node->safe_psql('app',
    'UPDATE wallet SET token_balance = token_balance + 25 WHERE user_id = u(3)');
my $listener = $node->background_psql('app');
$listener->query_safe('LISTEN bacmr_alert');
my $error = error_of($node, 'app', q{CALL bacmr_run_job('reconcile')});
like($error, qr/WARNING: .*found 1 discrepancy, drift 25/, 'a finding is a WARNING');
like($error, qr/ERROR:  P0001: .*found 1 discrepancy, drift 25/, 'and the CALL ends with an error');
my $run = $node->safe_psql('app', 'SELECT max(run_id) FROM bacmr_job_run');
is($node->safe_psql('app', "SELECT status FROM bacmr_job_run WHERE run_id = $run"),
    'discrepancies', 'after the run has been committed');
is($node->safe_psql('app', "SELECT kind, user_id, current_balance, ledger_sum, discrepancy
       FROM bacmr_discrepancy WHERE run_id = $run"),
    'balance_mismatch|' . user_id(3) . '|1025|1000|25', 'with what it found');

my $heard = $listener->query_safe('SELECT 1');
like($heard, qr/Asynchronous notification "bacmr_alert" with payload/, 'a listener is told');
my ($payload) = $heard =~ /payload "(.*)" received/;
is_deeply(decode_json($payload // '{}'),
    { alert => 'wallet_discrepancy', run_id => $run, discrepancies => 1, drift => 25 },
    'alert, run, discrepancies and drift');

my ($file) = reports($artifacts);
like($file, qr{/wallet_discrepancies_\d{8}_\d{6}\.json$}, 'the file carries the time in its name');
my $report = decode_json(slurp_file($file));
is($report->{run_id}, $run, 'the file is the report of that run');
is($report->{rows}[0]{user_id}, user_id(3), 'with its rows');
is($node->safe_psql('app', "SELECT bacmr_reconcile_report($run) = pg_read_file('$file')::jsonb"),
    't', 'and says what bacmr_reconcile_report() says');
is((stat $file)[2] & 0777, 0600, 'only the server can read it');
is($node->safe_psql('app', "SELECT detail->>'report' FROM bacmr_job_run WHERE run_id = $run"),
    $file, 'the run names the file');
is(scalar(grep { !m{/wallet_discrepancies_} } glob "$artifacts/* $artifacts/.*[a-z]*"),
    0, 'no temporary file stays');

error_of($node, 'app', q{CALL bacmr_run_job('reconcile')}) for 1 .. 2;
is(scalar(reports($artifacts)), 3, 'each run has its file, also within a second');

# --- rollback ------------------------------------------------------------------------------------

my $runs = $node->safe_psql('app', 'SELECT count(*) FROM bacmr_job_run');
$node->safe_psql('app', 'BEGIN; SELECT bacmr_reconcile(); ROLLBACK');
is(scalar(reports($artifacts)), 3, 'a transaction that is rolled back takes its file along');
$node->safe_psql('app', 'BEGIN; SAVEPOINT s; SELECT bacmr_reconcile(); ROLLBACK TO s; COMMIT');
is(scalar(reports($artifacts)), 3, 'so does a savepoint');
is($node->safe_psql('app', 'SELECT count(*) FROM bacmr_job_run'), $runs, 'as it does the run');
$node->safe_psql('app', 'BEGIN; SAVEPOINT s; SELECT bacmr_reconcile(); RELEASE s; COMMIT');
is(scalar(reports($artifacts)), 4, 'what is committed keeps its file');
my @heard = $listener->query_safe('SELECT 1') =~ /"run_id":(\d+)/g;
is("@heard", $node->safe_psql('app', "SELECT string_agg(run_id::text, ' ' ORDER BY run_id)
       FROM bacmr_job_run WHERE status = 'discrepancies' AND run_id > $run"),
    'the listener has heard of those that were committed');
$listener->quit;

# --- a directory that cannot take it -------------------------------------------------------------

# The run and its rows are kept, and the failure shows in the run, to the client, and to nobody as
# the error of the job.
sub directory_fails {
    my ($directory, $why, $message) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $node->append_conf('postgresql.conf', "bacmr.artifact_directory = '$directory'");
    $node->reload;
    # A session that began after the reload has the new value.
    await_sql($node, 'app', "SELECT current_setting('bacmr.artifact_directory') = '$directory'",
        "$why: the setting is in force");
    my ($out, $err);
    $node->psql('app', 'SELECT discrepancies FROM bacmr_reconcile()', stdout => \$out,
        stderr => \$err);
    is($out, 1, "$why: bacmr_reconcile() gives its result");
    like($err, qr/WARNING: .*report file was not written: .*$message/, "$why: with a WARNING");
    my $last = 'WHERE run_id = (SELECT max(run_id) FROM bacmr_job_run)';
    is($node->safe_psql('app', "SELECT status FROM bacmr_job_run $last"),
        'discrepancies', "$why: the run is kept");
    like($node->safe_psql('app', "SELECT detail->>'report_error' FROM bacmr_job_run $last"),
        qr/$message/, "$why: and says what happened to the file");
    is($node->safe_psql('app', "SELECT count(*) FROM bacmr_discrepancy $last"),
        1, "$why: the rows are kept");
    my $call = error_of($node, 'app', q{CALL bacmr_run_job('reconcile')});
    like($call, qr/ERROR:  P0001: .*found 1 discrepancy/,
        "$why: the CALL ends with the discrepancy, not with the file");
    is($node->safe_psql('app', "SELECT status FROM bacmr_job_run $last"),
        'discrepancies', "$why: after its run was committed");
    return;
}

my $base = $node->basedir;
mkdir "$base/readonly" or die $!;
chmod 0500, "$base/readonly";
directory_fails("$base/readonly", 'read-only directory', 'Permission denied');
directory_fails("$base/readonly/below", 'directory that cannot be created', 'Permission denied');
is(scalar(reports("$base/readonly")), 0, 'nothing was written there');

append_to_file("$base/file", 'not a directory');
directory_fails("$base/file", 'file in the place of the directory', 'Not a directory');
is(slurp_file("$base/file"), 'not a directory', 'the file is as it was');

SKIP: {
    # A full disk: a small file system of our own, in a name space where an ordinary user may mount
    # one; the server runs in it.
    skip 'no user name spaces here (unshare), so no small disk to fill', 9
      unless system('unshare -rm mount -t tmpfs -o size=4k tmpfs /mnt 2>/dev/null') == 0;
    my $disk = "$base/disk";
    mkdir $disk or die $!;
    $node->stop;
    my $data = $node->data_dir;
    my $log = $node->logfile;
    append_to_file($node->data_dir . '/postgresql.conf',
        "\nbacmr.artifact_directory = '$disk'\n");
    # As the same user inside: the server refuses to run as root, even as a root in name only.
    my $uid = $<;
    my $mounted = system(
        "unshare -rm sh -c 'mount -t tmpfs -o size=8k,mode=777 tmpfs $disk && "
          . "head -c 8192 /dev/zero > $disk/filler; exec unshare -U --map-user=$uid "
          . "--map-group=$uid pg_ctl -s -w -D $data -l $log start' 2>/dev/null") == 0;
    skip 'the server does not start in a name space here, so no small disk to fill', 9
      unless $mounted;
    $node->_update_pid(1);
    directory_fails($disk, 'full disk', 'No space left on device');
    ok(1, 'the server is alive');
}
if (!defined $node->{_pid}) { $node->start; }

$node->append_conf('postgresql.conf', q{bacmr.artifact_directory = 'bacmr_artifacts'});
$node->reload;
await('as soon as the directory is good again, there are files again', sub {
    error_of($node, 'app', q{CALL bacmr_run_job('reconcile')});
    return reports($artifacts) > 4;
});

$node->stop;
done_testing();
