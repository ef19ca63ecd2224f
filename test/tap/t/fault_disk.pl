# Disks that are full, each with one thing on it that has to grow: the ledger, the findings of a
# reconciliation, the history of the jobs, the drill's scratch table, imported chunks, vectors, WAL, the
# saved metrics. Nothing is lost, nothing is done twice, the runs say what happened where they can, and
# the next run works as soon as there is room.
#
# (Full artifact directories: export_limits.pl, and report_file.pl for the report.)
use strict;
use warnings;
use BacmrTest;
use Exports;
use Faults;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', conf => [
    q{bacmr.expire_interval = '1s'},
    'bacmr.expire_batch_size = 50',
    q{bacmr.embedder = 'bacmr_local'},
    q{bacmr.vector_store = 'bacmr_postgres'},
    'autovacuum = off',
    q{max_wal_size = '32MB'} ]);
my $data = $node->data_dir;
my $base = $node->basedir;
my $space = "$base/space";
my $wal = "$base/wal";
mkdir $_ or die "$_: $!" for $space, $wal;
$node->stop;
plan skip_all => 'a user may not make name spaces with file systems here'
  unless small_disks($space => '16m', $wal => '96m', "$data/pg_stat" => '1m');
in_disks('bash', '-c', 'mkdir "$0/ts" && cp -a "$2/pg_wal" "$1/" && rm -r "$2/pg_wal" &&'
      . ' ln -s "$1/pg_wal" "$2/pg_wal"', $space, $wal, $data);
start_on_disks($node);
app_database($node, 'app');
give_wallets($node, 'app', 100);
$node->safe_psql('app', "CREATE TABLESPACE small LOCATION '$space/ts'");
await('a worker is there', sub { worker_pid($node, 'app') });

# Has the table, with its indexes, on the small disk, and the disk full, while the code runs; afterwards
# both are as they were.
sub with_full_disk {
    my ($table, $code) = @_;
    place($table, 'small');
    fill_disk($space);
    $code->();
    free_disk($space);
    return;
}

sub place {
    my ($table, $where) = @_;
    my $indexes = $node->safe_psql('app', "SELECT string_agg(format('ALTER INDEX %s SET TABLESPACE"
          . " $where', indexrelid::regclass), ';') FROM pg_index WHERE indrelid = '$table'::regclass");
    $node->safe_psql('app', "SET lock_timeout = '20s'; ALTER TABLE $table SET TABLESPACE $where; $indexes");
    return;
}

my $full = qr/ERROR:  53100: .*No space left on device/;

sub last_run {
    my ($job) = @_;
    return $node->safe_psql('app', "SELECT status || coalesce(': ' || error, '') FROM bacmr_job_run
        WHERE job = '$job' ORDER BY run_id DESC LIMIT 1");
}

# --- the ledger ----------------------------------------------------------------------------------

with_full_disk('wallet_ledger', sub {
    my $offset = log_size($node);
    $node->safe_psql('app', q{ALTER TABLE reservations DISABLE TRIGGER USER;
        INSERT INTO reservations (user_id, amount, expires_at)
          SELECT u(n % 100 + 1), 1, now() - interval '1 s' FROM generate_series(1, 2000) n});
    await_sql($node, 'app', q{SELECT count(*) > 0 FROM bacmr_job_run WHERE job = 'expire'
        AND status = 'failed' AND error LIKE '%No space left on device%'},
        'no room for the ledger: the run of the worker says so');
    await_sql($node, 'app', q{SELECT next_step LIKE '%No space left on device%' FROM bacmr_status
        WHERE job = 'worker'}, 'so does bacmr_status');
    ok($node->safe_psql('app', q{SELECT count(*) > 0 FROM reservations WHERE status = 'reserved'}) eq 't',
        'what has no room stays reserved');
    is($node->safe_psql('app', q{SELECT count(*) FROM reservations r WHERE (status = 'expired')
        <> EXISTS (SELECT FROM wallet_ledger l WHERE l.reservation_id = r.id)}), 0,
        'and no reservation has expired without its refund');
});
await_sql($node, 'app', q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'},
    'with room again they expire', 90);
is(refunded_twice($node, 'app'), 0, 'once each');
# They were never taken from the wallets: the sum of what came back is all that is off.
is($node->safe_psql('app', q{SELECT sum(token_balance) FROM wallet}), 100_000 + 2000,
    'to the last token');
balances_agree($node, 'app');
place('wallet_ledger', 'pg_default');

# --- findings ------------------------------------------------------------------------------------

$node->safe_psql('app', q{UPDATE wallet SET token_balance = token_balance + 1 WHERE user_id = u(7);
    TRUNCATE bacmr_discrepancy});
with_full_disk('bacmr_discrepancy', sub {
    like(error_of($node, 'app', q{CALL bacmr_run_job('reconcile')}), $full,
        'no room for findings: the reconciliation fails');
    like(last_run('reconcile'), qr/^failed: .*No space left on device/, 'and its run says so');
    my $runs = $node->safe_psql('app', 'SELECT count(*) FROM bacmr_job_run');
    like(error_of($node, 'app', 'SELECT bacmr_reconcile()'), $full, 'so does the function');
    is($node->safe_psql('app', 'SELECT count(*) FROM bacmr_job_run'), $runs, 'which is undone as a whole');
});
like(error_of($node, 'app', q{CALL bacmr_run_job('reconcile')}), qr/P0001: .*found 1 discrepancy/,
    'with room again it finds what there is');
place('bacmr_discrepancy', 'pg_default');
$node->safe_psql('app', q{UPDATE wallet SET token_balance = token_balance - 1 WHERE user_id = u(7)});

# --- the history ---------------------------------------------------------------------------------

# One that has begun, and cannot write down its end. No page holds old versions of rows, whose place
# could be taken.
$node->safe_psql('app', 'TRUNCATE bacmr_job_run');
place('bacmr_job_run', 'small');
my $slow = in_background($node, 'app', q{CALL bacmr_run_job('reconcile', '{"recheck_after": "2 s"}')});
await_sql($node, 'app', q{SELECT count(*) = 1 FROM bacmr_job_run WHERE status = 'running'},
    'a reconciliation is under way');
my ($run) = running_runs($node, 'app');
fill_disk($space);
# Up to the last page of the table.
my $padding = error_of($node, 'app', q{DO $$ BEGIN LOOP
    INSERT INTO bacmr_job_run (job, status, started_at, request_id)
      VALUES ('verify', 'skipped', now(), 'padding');
    COMMIT;
  END LOOP; END $$});
like($padding, $full, 'now there is no room for the history');
my (undef, $stderr) = wait_for_end($slow);
like($stderr, $full, 'it fails, and says why');
is($node->safe_psql('app', q{SELECT state FROM bacmr_status WHERE job = 'reconcile'}), 'interrupted',
    'bacmr_status shows that it did not end well');
my $offset = log_size($node);
reserve($node, 'app', $_, 5, '-1 second') for 1 .. 10;
await_sql($node, 'app', q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'},
    'reservations expire all the same');
await('the log has what the history lacks', sub {
    grep { $_->{level} eq 'ERROR' && ($_->{fields}{sqlstate} // '') eq '53100' }
      log_entries($node, $offset);
});
balances_agree($node, 'app');
is(refunded_twice($node, 'app'), 0, 'once each');
for my $job ('reconcile', 'expire', 'export') {
    reserve($node, 'app', 1, 1, '-1 second');
    my $error = error_of($node, 'app', "CALL bacmr_run_job('$job')");
    $job eq 'expire' ? unlike($error, qr/PANIC|FATAL/, "$job: no crash") :
      like($error, $full, "$job: cannot even begin, and says why");
}
free_disk($space);
dead_run($node, 'app', $run, 'with room again');
is(error_of($node, 'app', q{CALL bacmr_run_job('reconcile')}), '', 'and the next one works');
await_sql($node, 'app', q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'},
    'nothing is forgotten', 90);
await_sql($node, 'app', q{SELECT next_step IS NULL FROM bacmr_status WHERE job = 'worker'},
    'bacmr_status is good again', 90);
place('bacmr_job_run', 'pg_default');

# --- the drill -----------------------------------------------------------------------------------

$node->safe_psql('app', q{INSERT INTO chunks (namespace, content)
    SELECT 'n', repeat(md5(n::text), 40) FROM generate_series(1, 2000) n});
my $folder = artifact_folder($node, 'app');
my ($whole) = export_to($node, 'app');
my @before = names_in($folder);
$node->safe_psql('app', q{ALTER DATABASE app SET temp_tablespaces = 'small'});
fill_disk($space);
like(error_of($node, 'app', "SELECT bacmr_restore_drill('$whole')"), $full,
    'no room for the scratch table: the drill fails');
like(error_of($node, 'app', qq{CALL bacmr_run_job('drill', '{"source": "$whole"}')}), $full,
    'so does its job');
like(last_run('drill'), qr/^failed: .*No space left on device/, 'and its run says so');
like(error_of($node, 'app', q{CALL bacmr_run_job('export')}), $full,
    'so does the scheduled export, which drills');
like(last_run('export'), qr/^failed: step export: .*No space left on device/, 'and its run says so');
is_deeply([ names_in($folder) ], \@before, 'with nothing left behind');
free_disk($space);
is(error_of($node, 'app', q{CALL bacmr_run_job('export')}), '', 'with room again it works');
$node->safe_psql('app', 'ALTER DATABASE app RESET temp_tablespaces');

# --- an import -----------------------------------------------------------------------------------

$node->safe_psql('app', 'CREATE TABLE copied (LIKE chunks INCLUDING ALL)');
with_full_disk('copied', sub {
    like(error_of($node, 'app', "SELECT bacmr_import('copied', '$whole')"), $full,
        'no room for the rows: the import fails');
    like(error_of($node, 'app', qq{CALL bacmr_run_job('import', '{"relation": "copied", "source": "$whole"}')}),
        $full, 'so does its job');
    like(last_run('import'), qr/^failed: .*No space left on device/, 'and its run says so');
    is($node->safe_psql('app', 'SELECT count(*) FROM copied'), 0, 'not a row is there');
});
is($node->safe_psql('app', "SELECT inserted FROM bacmr_import('copied', '$whole')"), 2000,
    'with room again all are');

# --- vectors -------------------------------------------------------------------------------------

# The first job makes the table.
$node->safe_psql('app', q{DELETE FROM chunks WHERE id NOT IN (SELECT id FROM chunks LIMIT 300);
    INSERT INTO chunks (namespace, content) VALUES ('first', 'one'); SELECT bacmr_reindex('first')});
await_sql($node, 'app', q{SELECT bool_and(status = 'completed') FROM bacmr_reindex_status},
    'a reindex job has room');
place($_, 'small') for 'bacmr_vector', 'bacmr_embedding_cache';
fill_disk($space);
my $job = $node->safe_psql('app', q{SELECT bacmr_reindex('n', batch_size => 20)});
my $job_row = "FROM bacmr_reindex_status WHERE job_id = $job";
await_sql($node, 'app', "SELECT status = 'failed' AND error LIKE '%No space left on device%' $job_row",
    'no room for vectors: the reindex job fails and says so');
is($node->safe_psql('app', q{SELECT count(*) > 0 FROM bacmr_job_run WHERE job = 'reindex'
    AND status = 'failed' AND error LIKE '%No space left on device%'}), 't', 'so does its run');
free_disk($space);
$node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
await_sql($node, 'app', "SELECT status = 'completed' $job_row", 'with room again it goes on to its end');
is($node->safe_psql('app', 'SELECT count(*) FROM bacmr_vector'), 301, 'with a vector for each chunk');

# --- saved metrics -------------------------------------------------------------------------------

$node->safe_psql('app', q{SELECT bacmr_metric_define('mine', 'counter'), bacmr_metric_inc('mine')});
fill_disk("$data/pg_stat");
$offset = log_size($node);
$node->stop;
like(slurp_file($node->logfile, $offset), qr/could not save the metrics.*No space left on device/,
    'no room for the saved metrics: the log says so');
free_disk("$data/pg_stat");
start_on_disks($node);
is(metric($node, 'app', 'mine', '{}'), '', 'and they begin anew');

# --- WAL -----------------------------------------------------------------------------------------

# The server itself gives up here, in the midst of a backlog. What was committed is there afterwards.
$node->safe_psql('app', q{SET synchronous_commit = off; ALTER TABLE reservations SET (fillfactor = 100);
    INSERT INTO reservations (user_id, amount, expires_at)
      SELECT u(n % 100 + 1), 1, now() + interval '1 hour' FROM generate_series(1, 60000) n});
fill_disk($wal);
$offset = log_size($node);
$node->psql('app', q{UPDATE reservations SET expires_at = now() - interval '1 s'
    WHERE status = 'reserved' AND id < '30000000-0000-0000-0000-000000000000'}, on_error_stop => 0);
my $load = in_background($node, 'app', q{CREATE TABLE heavy AS
    SELECT md5(n::text) AS t, repeat('x', 500) AS x FROM generate_series(1, 200000) n});
await('no room for WAL: the server gives up', sub {
    return slurp_file($node->logfile, $offset) =~ /PANIC:  .*No space left on device/;
});
eval { wait_for_end($load) };
# It may still try to recover, without the room to do so.
$node->stop('immediate', fail_ok => 1);
free_disk($wal);
in_disks('rm', '-f', "$data/postmaster.pid") if -e "$data/postmaster.pid"
  && !kill 0, (split /\n/, slurp_file("$data/postmaster.pid"))[0];
start_on_disks($node);
server_is_back($node, 'app', 'with room again');
$node->safe_psql('app', q{UPDATE reservations SET expires_at = now() - interval '1 s'
    WHERE status = 'reserved'});
await_sql($node, 'app', q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'},
    'the backlog is worked off', 90);
is(refunded_twice($node, 'app'), 0, 'nothing was refunded twice');
is($node->safe_psql('app', q{SELECT count(*) FROM reservations r FULL JOIN (SELECT * FROM wallet_ledger
       WHERE reason = 'reservation_expired') l ON l.reservation_id = r.id
       WHERE (r.status = 'expired' AND l.delta = r.amount) IS NOT TRUE}), 0,
    'each was refunded its amount');
balances_agree($node, 'app');
is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run WHERE status = 'running'}), 0,
    'no run is left running');

$node->stop;
done_testing();
