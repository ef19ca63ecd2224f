# The clock of the machine is set, forward and back, while the server runs: work goes on at once, no
# reservation expires twice, nothing is overwritten, and no age is below nothing.
#
# test/tap/lib/clock.c stands between the server and the wall clock.
use strict;
use warnings;
use BacmrTest;
use Cwd ();
use Exports;
use Faults;
use File::Basename qw(dirname);
use HTTP::Tiny;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $library = "${PostgreSQL::Test::Utils::tmp_check}/clock.so";
my $source = dirname(Cwd::realpath(__FILE__)) . '/../lib/clock.c';
plan skip_all => 'no C compiler, so no clock to set'
  unless run_log([ 'cc', '-O2', '-shared', '-fPIC', '-o', $library, $source, '-ldl' ]);

my $clock = "${PostgreSQL::Test::Utils::tmp_check}/clock";
append_to_file($clock, pack 'qq', 0, 0);

# Sets the server's clock to so many hours ahead of the right time; $still: the second since 1970 at
# which it stands still.
sub set_clock {
    my ($hours, $still) = @_;
    open my $file, '+<', $clock or die "$clock: $!";
    syswrite $file, pack 'qq', $hours * 3_600_000_000, ($still // 0) * 1_000_000 or die "$clock: $!";
    close $file or die "$clock: $!";
    return;
}

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $node = new_server('main', conf => [
    q{bacmr.expire_interval = '1s'},
    'bacmr.breaker_threshold = 1',
    q{bacmr.breaker_cooldown = '2s'},
    'bacmr.http_max_retries = 0',
    'bacmr.export_keep = 2',
    q{bacmr.export_keep_age = '0'},
    'autovacuum = off',
    "bacmr.metrics_listen = '127.0.0.1:$port'" ]);
$node->stop;
{
    local @ENV{qw(LD_PRELOAD BACMR_TEST_CLOCK)} = ($library, $clock);
    $node->start;
}
app_database($node, 'app');
give_wallets($node, 'app', 50);
await('a worker is there', sub { worker_pid($node, 'app') });
my $folder = artifact_folder($node, 'app');

sub off_by {
    my ($hours, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $now = $node->safe_psql('app', 'SELECT extract(epoch FROM clock_timestamp())::bigint');
    return is(int(($now - time) / 3600 + ($now < time ? -0.5 : 0.5)), $hours, $what);
}

sub expires {
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $id = reserve($node, 'app', 1, 1, '-1 second');
    return await_sql($node, 'app', "SELECT status = 'expired' FROM reservations WHERE id = '$id'",
        $what);
}

sub nothing_negative {
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($node->safe_psql('app', q{SELECT string_agg(job || ' ' || age, ', ') FROM bacmr_status
        WHERE age < '0'}), '', "$what: no age in bacmr_status is negative");
    is($node->safe_psql('app', q{SELECT string_agg(name || ' ' || labels, ', ') FROM bacmr_metrics
        WHERE value < 0}), '', "$what: nor is any metric");
    return;
}

off_by(0, 'the clock is right');
expires('reservations expire');
$node->safe_psql('app', q{CALL bacmr_run_job('reconcile')});

# --- back ----------------------------------------------------------------------------------------

my $recheck = in_background($node, 'app',
    q{SELECT discrepancies FROM bacmr_reconcile('3 seconds')});
await_sql($node, 'app', q{SELECT count(*) = 1 FROM pg_stat_activity
    WHERE query LIKE 'SELECT discrepancies%' AND state = 'active' AND wait_event_type IS NOT NULL},
    'a reconciliation waits for its second look');
set_clock(-24);
off_by(-24, 'the clock is set back by a day');
expires('the worker goes on, and does not wait for yesterday to pass');
my ($found) = wait_for_end($recheck);
is($found, "0\n", 'so does the reconciliation, in its three seconds');
nothing_negative('a day back');

# Its launcher holds back a worker that has ended, a little longer each time; and the clock is set
# back meanwhile.
for my $days (2, 3) {
    my $pid = await('a worker is there', sub { worker_pid($node, 'app') });
    $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
    set_clock(-$days * 24);
    await("$days days back: a worker that has ended is replaced", sub {
        my $now = worker_pid($node, 'app');
        return $now && $now != $pid;
    });
}
$node->safe_psql('postgres', 'CREATE DATABASE newcomer');
$node->safe_psql('newcomer', 'CREATE EXTENSION bacmr_ops;'
      . q{ SELECT bacmr_record_openai_request('m', 'chat', 0.5, 7)});
money_is_right($node, 'app', 'days back');

# --- forward -------------------------------------------------------------------------------------

set_clock(0);
expires('the clock is right again: the worker goes on');
my $later = $node->safe_psql('app', q{SELECT count(reserve(n, 2, n * interval '1 hour'))
    FROM generate_series(1, 50) n});
set_clock(24);
off_by(24, 'the clock is set forward by a day');
my $reserved = q{FROM reservations WHERE status = 'reserved'};
await_sql($node, 'app', "SELECT count(*) = 26 $reserved",
    'what the clock calls due expires');
expires('the worker has walked on');
is($node->safe_psql('app', "SELECT count(*) $reserved"), 26, 'what it does not, stays');
is($node->safe_psql('app', q{SELECT count(*) FROM reservations
       WHERE status = 'expired' AND expires_at > clock_timestamp()}), 0, 'nothing expired early');
money_is_right($node, 'app', 'a day forward');
nothing_negative('a day forward');

set_clock(0);
expires('back to the right time: the worker goes on');
is($node->safe_psql('app', "SELECT count(*) $reserved"), 26,
    'and expires none that is not due by the right time');
$node->safe_psql('app', "UPDATE reservations SET expires_at = expires_at - interval '3 days'
    WHERE status = 'reserved'");
await_sql($node, 'app', "SELECT count(*) = 0 $reserved", 'until it is');
money_is_right($node, 'app', 'back and forth');
nothing_negative('back and forth');

# --- files ---------------------------------------------------------------------------------------

$node->safe_psql('app', q{INSERT INTO chunks (namespace, content)
    SELECT 'n', 'text ' || n FROM generate_series(1, 100) n});
$node->safe_psql('app', q{UPDATE wallet SET token_balance = token_balance + 1 WHERE user_id = u(3)});
set_clock(0, 1_767_236_400);
my %sha256;
for my $round (1 .. 3) {
    my ($name, undef, undef, undef, undef, $sha256) = export_to($node, 'app');
    is($name, 'dr_export_chunks_20260101_030000' . ($round > 1 ? "_$round" : '') . '.ndjson',
        "an export at a time that has been before, $round, has a name of its own");
    $sha256{$name} = $sha256;
    $node->safe_psql('app', q{SELECT bacmr_reconcile()});
    $node->safe_psql('app', q{INSERT INTO chunks (namespace, content) VALUES ('n', 'more')});
}
is(scalar(() = glob $node->data_dir . '/bacmr_artifacts/wallet_discrepancies_20260101_030000*.json'),
    3, 'so has each report');
set_clock(0);
is(file_sha256("$folder/$_"), $sha256{$_}, "$_ was not overwritten") for sort keys %sha256;
is($node->safe_psql('app', "SELECT ok FROM bacmr_verify_export('$_')"), 't', "$_ is whole")
  for sort keys %sha256;

# bacmr.export_keep = 2: those that were made while the clock was ahead must not stand for the latest.
sub scheduled_export {
    $node->safe_psql('app', q{CALL bacmr_run_job('export')});
    return $node->safe_psql('app', q{SELECT detail->>'file' FROM bacmr_job_run
        WHERE job = 'export' AND status = 'succeeded' ORDER BY run_id DESC LIMIT 1});
}

set_clock(400 * 24);
my @ahead = map { scheduled_export() } 1 .. 3;
set_clock(0);
my @right = map { scheduled_export() } 1 .. 3;
for my $name (@right[ 1, 2 ]) {
    is($node->safe_psql('app', "SELECT ok FROM bacmr_verify_export('$name')"), 't',
        'the latest two exports are kept beside those from the future');
}
set_clock(-400 * 24);
my @behind = map { scheduled_export() } 1 .. 2;
is($node->safe_psql('app', "SELECT ok FROM bacmr_verify_export('$behind[1]')"), 't',
    'with the clock behind, the latest export is there');
ok(-e "$folder/$right[2]", 'and the latest from before');
set_clock(0);
is($node->safe_psql('app', q{SELECT string_agg(j, ', ') FROM unnest('{reconcile,export,verify}'::text[]) j
    WHERE NOT EXISTS (SELECT FROM bacmr_status s WHERE s.job = j AND last_success_at IS NOT NULL)}),
    '', 'no job has lost its latest success from the history');
nothing_negative('jobs at all times');

# --- waiting for a service -----------------------------------------------------------------------

my $closed = PostgreSQL::Test::Cluster::get_free_port();
declare_store($node, 'app', 'gone', {
    endpoint => "http://127.0.0.1:$closed", region => 'r', access_key => 'k', secret_key => 's' });
my $export = q{SELECT bacmr_export_chunks('gone')};
like(error_of($node, 'app', $export), qr/ERROR:  08/, 'a store that is not there');
set_clock(-24);
like(error_of($node, 'app', $export), qr/ERROR:  (?:08|53)\w+: .*(?:breaker|not tried|circuit)/is,
    'is left alone for a while');
await('which passes by the same clock as ever', sub {
    return error_of($node, 'app', $export) !~ /breaker|circuit|not tried/i;
});
set_clock(0);

# --- rates ---------------------------------------------------------------------------------------

$node->safe_psql('app', q{ALTER DATABASE app SET bacmr.embedder = 'bacmr_local';
    ALTER DATABASE app SET bacmr.vector_store = 'bacmr_postgres';
});
$node->append_conf('postgresql.conf', 'bacmr.worker_enabled = off');
$node->reload;
await('no worker takes the job', sub { !worker_pid($node, 'app') });
my $job = $node->safe_psql('app', q{SELECT bacmr_reindex('n', batch_size => 20)});
my $rates = qq{SELECT chunks_per_second >= 0 AND coalesce(eta >= '0', true)
    AND progress_pct BETWEEN 0 AND 100 FROM bacmr_reindex_status WHERE job_id = $job};
is(error_of($node, 'app', "CALL bacmr_reindex_run($job, 2)"), '', 'a reindex job begins');
set_clock(-24);
is($node->safe_psql('app', $rates), 't', 'a day back: rate, progress and ETA are not negative');
is(error_of($node, 'app', "CALL bacmr_reindex_run($job, 1)"), '', 'it goes on');
set_clock(24);
is(error_of($node, 'app', "CALL bacmr_reindex_run($job)"), '', 'and ends a day later');
is($node->safe_psql('app', "SELECT status FROM bacmr_reindex_status WHERE job_id = $job"),
    'completed', 'in success');
is($node->safe_psql('app', $rates), 't', 'with rates that are not negative');
cmp_ok($node->safe_psql('app', "SELECT chunks_per_second FROM bacmr_reindex_status WHERE job_id = $job"),
    '>', 1, 'nor has it taken a day');
set_clock(0);

await('the endpoint has learnt of the database that came while the clock was behind', sub {
    return HTTP::Tiny->new(timeout => 10)->get("http://127.0.0.1:$port/metrics/prometheus")->{content}
      =~ /^openai_tokens_used_total\{datname="newcomer",/m;
});
nothing_negative('in the end');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'and nothing has crashed');
done_testing();
