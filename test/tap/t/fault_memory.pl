# Memory runs out, at one point after another: a session's address space is limited to what it has and a
# little more, and every function runs under each limit. It works and is right, or it fails with 53200;
# the session goes on, the server does not notice, and the next call works. Likewise for the worker, the
# process that reindexes, and the endpoint.
use strict;
use warnings;
use BacmrTest;
use Exports;
use Faults;
use HTTP::Tiny;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# In kB above what the session has when it begins.
my @LIMITS = (0, 128, 512, 1024, 2048, 4096, 8192, 20_000, 500_000);
use constant { WALLETS => 60_000, CHUNKS => 4000, DUE => 3000 };

plan skip_all => 'prlimit cannot limit a process here'
  unless run_log([ 'prlimit', '--pid', $$, '--as=unlimited:' ]);

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $node = new_server('main', conf => [
    q{bacmr.expire_interval = '1s'},
    q{bacmr.embedder = 'bacmr_local'},
    q{bacmr.vector_store = 'bacmr_postgres'},
    'autovacuum = off',
    "bacmr.metrics_listen = '127.0.0.1:$port'" ]);
app_database($node, 'app');
give_wallets($node, 'app', WALLETS);
await('a worker is there', sub { worker_pid($node, 'app') });
$node->safe_psql('app', <<"SQL");
INSERT INTO chunks (namespace, content)
  SELECT CASE WHEN n <= 200 THEN 'n' ELSE 'bulk' END, repeat(md5(n::text) || ' ', 40)
  FROM generate_series(1, @{[CHUNKS]}) n;
CREATE TABLE copied (LIKE chunks INCLUDING ALL);
SELECT bacmr_metric_define('mine', 'gauge', labels => '{name}');
SELECT count(bacmr_metric_set('mine', jsonb_build_object('name', repeat('long ', 40) || n), n))
  FROM generate_series(1, 450) n;
SELECT bacmr_pause('reindex');
SQL
my $folder = artifact_folder($node, 'app');
my ($whole) = export_to($node, 'app');

sub set {
    my ($pid, $kb) = @_;
    system_or_bail('prlimit', '--pid', $pid, '--as=' . ($kb eq 'unlimited' ? $kb : $kb * 1024) . ':');
    return;
}

sub size_kb {
    my ($pid) = @_;
    open my $status, '<', "/proc/$pid/status" or return 0;
    my ($kb) = map { /^VmSize:\s+(\d+) kB/ ? $1 : () } <$status>;
    return $kb // 0;
}

sub pause_worker {
    my ($on) = @_;
    $node->safe_psql('app', $on ? q{SELECT bacmr_pause('expire')} : q{SELECT bacmr_unpause('expire')});
    return;
}

# Due reservations that were taken from the wallets, each user's one.
my $backlog = q{WITH due AS (INSERT INTO reservations (user_id, amount, expires_at)
      SELECT u(n), 1, now() - interval '1 s' FROM generate_series(1, } . DUE . q{) n RETURNING user_id),
    taken AS (UPDATE wallet w SET token_balance = token_balance - 1 FROM due
      WHERE w.user_id = due.user_id)
  INSERT INTO wallet_ledger (user_id, delta, reason) SELECT user_id, -1, 'reserved' FROM due};
my $nothing_reserved = q{SELECT count(*) FROM reservations WHERE status = 'reserved'};

# Name => [ statement, what it returns, statement before it ].
my %functions = (
    bacmr_reconcile => [ 'SELECT wallets_checked, discrepancies FROM bacmr_reconcile()', WALLETS . '|0' ],
    bacmr_expire_reservations => [ 'SELECT expired FROM bacmr_expire_reservations()', DUE,
        "TRUNCATE reservations; $backlog" ],
    bacmr_export_chunks => [ q{SELECT chunks FROM bacmr_export_chunks()}, CHUNKS ],
    'bacmr_export_chunks, zstd' => [ q{SELECT chunks FROM bacmr_export_chunks(compression => 'zstd')},
        CHUNKS ],
    bacmr_import => [ "SELECT inserted FROM bacmr_import('copied', '$whole')", CHUNKS, 'TRUNCATE copied' ],
    bacmr_verify_export => [ "SELECT chunks FROM bacmr_verify_export('$whole')", CHUNKS ],
    bacmr_restore_drill => [ "SELECT ok FROM bacmr_restore_drill('$whole')", 't' ],
    bacmr_metrics_json => [ q{SELECT count(*) FROM jsonb_object_keys(bacmr_metrics_json()->'gauges') k
        WHERE k LIKE 'mine%'}, 450 ],
    bacmr_metrics_prometheus => [ q{SELECT count(*) FROM regexp_matches(bacmr_metrics_prometheus(),
        '^mine', 'gn')}, 450 ]);

pause_worker(1);
for my $name (sort keys %functions) {
    my ($sql, $expected, $before) = @{ $functions{$name} };
    my %outcomes = (right => 0, '53200' => 0, other => 0);
    for my $limit (@LIMITS) {
        $node->safe_psql('app', $before) if $before;
        my $session = open_session($node, 'app');
        set($session->{pid}, size_kb($session->{pid}) + $limit);
        my $answer = run_in($session, $sql);
        my $error = $session->{err};
        set($session->{pid}, 'unlimited');
        my $outcome = $answer eq $expected && $error !~ /ERROR|FATAL/ ? 'right'
          : $error =~ /ERROR:  53200: / ? '53200' : 'other';
        ++$outcomes{$outcome};
        diag("$name with $limit kB: answers '$answer', $error") if $outcome eq 'other';
        is(run_in($session, 'SELECT 1'), 1, "$name with $limit kB: $outcome, and the session goes on")
          or diag($session->{err});
        close_session($session);
    }
    is($outcomes{other}, 0, "$name is right or runs out of memory, nothing else");
    cmp_ok($outcomes{'53200'}, '>', 0, "$name has run out of memory");
    cmp_ok($outcomes{right}, '>', 0, "$name has worked");
}
balances_agree($node, 'app');
is(refunded_twice($node, 'app'), 0, 'nothing was refunded twice');
is(join(' ', hidden_files($folder), lonely_files($folder)), '', 'no export has left a piece');
is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run WHERE status = 'running'}), 0,
    'no run is left running');

# --- jobs ----------------------------------------------------------------------------------------

# The run's row is written by the session that has no memory for the work: it had, or the next one says
# that its process is gone.
for my $job ('reconcile', 'export', 'drill', 'reindex') {
    $node->safe_psql('app', q{SELECT bacmr_unpause('reindex'); SELECT bacmr_reindex('n')})
      if $job eq 'reindex';
    for my $limit (@LIMITS[ 1 .. 6 ]) {
        my $session = open_session($node, 'app');
        set($session->{pid}, size_kb($session->{pid}) + $limit);
        run_in($session, "CALL bacmr_run_job('$job')");
        my $error = $session->{err};
        set($session->{pid}, 'unlimited');
        $error eq '' || like($error, qr/ERROR:  53200: |NOTICE/, "$job with $limit kB: 53200");
        is(run_in($session, 'SELECT 1'), 1, "$job with $limit kB: the session goes on");
        close_session($session);
    }
    is(error_of($node, 'app', "CALL bacmr_run_job('$job')") =~ s/^.*NOTICE:.*\n//gmr, '',
        "$job: the next one works");
}
is($node->safe_psql('app', q{SELECT string_agg(DISTINCT error, '; ') FROM bacmr_job_run
    WHERE status = 'failed' AND error !~ 'out of memory|is gone'}), '',
    'the runs that failed say that memory ran out');
cmp_ok($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run WHERE status = 'failed'
    AND error ~ 'out of memory'}), '>', 0, 'and some have');
is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run WHERE status = 'running'}), 0,
    'none is left running');

# --- the worker ----------------------------------------------------------------------------------

$node->safe_psql('app', "TRUNCATE reservations; $backlog");
my $worker = await('a worker is there', sub { worker_pid($node, 'app') });
set($worker, size_kb($worker));
pause_worker(0);
await_sql($node, 'app', "SELECT ($nothing_reserved) = 0",
    'a worker without memory, or the one after it, works off a backlog', 90);
balances_agree($node, 'app');
is(refunded_twice($node, 'app'), 0, 'nothing was refunded twice');

# --- the endpoint --------------------------------------------------------------------------------

sub get { return HTTP::Tiny->new(timeout => 20)->get("http://127.0.0.1:$port$_[0]"); }
await('the endpoint answers', sub { get('/metrics/json')->{status} == 200 });
my $endpoint = ask($node, 'app', q{SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'bacmr_ops endpoint'});
my %statuses;
for my $limit (0, 128, 512, 1024, 2048, 4096) {
    set($endpoint, size_kb($endpoint) + $limit);
    ++$statuses{ get($_)->{status} } for '/metrics/json', '/metrics/prometheus';
    set($endpoint, 'unlimited');
}
note(join ', ', map { "$_: $statuses{$_}" } sort keys %statuses);
await('afterwards the endpoint answers', sub { get('/metrics/json')->{status} == 200 });

# --- the server ----------------------------------------------------------------------------------

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|server process .* exited/,
    'nothing has crashed');
$node->stop;
done_testing();
