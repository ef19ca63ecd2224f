# Memory runs out, at one point after another: a process' memory is limited to what it has and a little
# more, by its address space as `ulimit -v` does, or by its data (RLIMIT_DATA).
#
#   what runs                    what it shows
#   every function, in a         under each limit it is right, or it fails with 53200, raised by
#   session                      Postgres' allocator and by std::bad_alloc both; the session goes on,
#                                and nothing is left behind
#   every job, by bacmr_run_job  likewise, and the run says "out of memory"
#   the worker                   says so in its runs, expires all once there is memory, once each
#   an upload, a reindex with    53200 likewise, and not a fault of the service's: its breaker stays
#   remote services              closed, nothing stays in the store, no text is lost
#   the reindex process          the job says so, and goes on to its end when it is resumed
#   the endpoint                 answers in full or not at all, and goes on
#   the launcher                 a database that comes meanwhile has its worker in the end
#
# And never does the server notice.
use strict;
use warnings;
use BacmrTest;
use Exports;
use Faults;
use HTTP::Tiny;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReindexJobs;
use Services;
use Test::More;

# In kB above what the process has when it begins.
my @LIMITS = (0, 64, 256, 1024, 2048, 4096, 8192, 20_000);
my $ENOUGH = 500_000;
use constant { WALLETS => 60_000, CHUNKS => 4000, INDEXED => 200, DUE => 3000, DIMENSIONS => 1536 };

plan skip_all => 'prlimit cannot limit a process here'
  unless run_log([ 'prlimit', '--pid', $$, '--data=unlimited:' ]);

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $openai = start_openai(latency_ms => 20);
my $pinecone = start_pinecone(dimension => DIMENSIONS);
my $node = new_server('main', conf => [
    q{bacmr.expire_interval = '1s'},
    'bacmr.breaker_threshold = 1',
    'bacmr.http_max_retries = 0',
    'autovacuum = off',
    "bacmr.metrics_listen = '127.0.0.1:$port'" ]);
app_database($node, 'app');
declare_services($node, 'app', $openai, $pinecone, embedder => 'openai', store => 'pinecone',
    embedder_options => { dimensions => DIMENSIONS });
give_wallets($node, 'app', WALLETS);
await('a worker is there', sub { worker_pid($node, 'app') });
$node->safe_psql('app', <<"SQL");
ALTER DATABASE app SET bacmr.embedder = 'bacmr_local';
ALTER DATABASE app SET bacmr.vector_store = 'bacmr_postgres';
INSERT INTO chunks (namespace, content)
  SELECT CASE WHEN n <= @{[INDEXED]} THEN 'n' ELSE 'bulk' END, repeat(md5(n::text) || ' ', 40)
  FROM generate_series(1, @{[CHUNKS]}) n;
CREATE TABLE copied (LIKE chunks INCLUDING ALL);
SELECT bacmr_metric_define('mine', 'gauge', labels => '{name}');
SELECT count(bacmr_metric_set('mine', jsonb_build_object('name', repeat('long ', 40) || n), n))
  FROM generate_series(1, 450) n;
SELECT bacmr_pause('reindex');
SQL
my $folder = artifact_folder($node, 'app');
my ($whole) = export_to($node, 'app');

# --- limits --------------------------------------------------------------------------------------

# What counts against a limit: its name in /proc, and prlimit's option. (A limit of the address space
# also ends a process whose stack has to grow: that is the kernel's doing, and so the sessions have
# their stack before.)
my %kind = (data => [ 'VmData', '--data' ], address => [ 'VmSize', '--as' ]);

sub limit_memory {
    my ($pid, $kind, $more) = @_;
    my ($counted, $option) = @{ $kind{$kind} };
    open my $status, '<', "/proc/$pid/status" or return 0;
    my ($kb) = map { /^$counted:\s+(\d+) kB/ ? $1 : () } <$status>;
    return system('prlimit', '--pid', $pid, "$option=" . ($kb + $more) * 1024 . ':') == 0;
}

sub free_memory {
    my ($pid) = @_;
    system('prlimit', '--pid', $pid, '--as=unlimited:', '--data=unlimited:') if kill 0, $pid;
    return;
}

my $deep = 'SELECT ' . '(' x 1500 . '1' . ')' x 1500;

my %raised_by = (Postgres => 0, 'C++' => 0);

# Runs the statement in a session with so much memory: what it answers, and its error.
sub run_limited {
    my ($sql, $kind, $limit, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $session = open_session($node, 'app');
    run_in($session, $deep);
    limit_memory($session->{pid}, $kind, $limit) or die 'prlimit';
    my $answer = run_in($session, $sql);
    my $error = $session->{err};
    free_memory($session->{pid});
    if ($error =~ /ERROR:  53200: /) {
        ++$raised_by{ $error =~ /ERROR:  53200: out of memory$(?!\nDETAIL)/m ? 'C++' : 'Postgres' };
    }
    is(run_in($session, 'SELECT 1'), 1, "$what: the session goes on") or diag($error, $session->{err});
    close_session($session);
    return ($answer, $error);
}

sub pause {
    my ($job, $on) = @_;
    $node->safe_psql('app', $on ? "SELECT bacmr_pause('$job')" : "SELECT bacmr_unpause('$job')");
    return;
}

# Due reservations that were taken from the wallets, each user's one.
my $backlog = q{WITH due AS (INSERT INTO reservations (user_id, amount, expires_at)
      SELECT u(n), 1, now() - interval '1 s' FROM generate_series(1, } . DUE . q{) n RETURNING user_id),
    taken AS (UPDATE wallet w SET token_balance = token_balance - 1 FROM due
      WHERE w.user_id = due.user_id)
  INSERT INTO wallet_ledger (user_id, delta, reason) SELECT user_id, -1, 'reserved' FROM due};
my $all_expired = q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'};

sub nothing_left {
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    balances_agree($node, 'app', "$what: every balance is the sum of its ledger");
    is(refunded_twice($node, 'app'), 0, "$what: nothing was refunded twice");
    is(join(' ', hidden_files($folder), lonely_files($folder)), '', "$what: no piece of a file is left");
    is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run WHERE status = 'running'}), 0,
        "$what: no run is left running");
    is($node->safe_psql('app', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), 0,
        "$what: nor is any lock held");
    return;
}

# --- functions -----------------------------------------------------------------------------------

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

pause('expire', 1);
for my $name (sort keys %functions) {
    my ($sql, $expected, $before) = @{ $functions{$name} };
    my %outcomes = (right => 0, '53200' => 0, other => 0);
    for my $limit (@LIMITS, $ENOUGH) {
        # By turns, so that each kind meets small and large ones.
        my $kind = (sort keys %kind)[ ++$outcomes{all} % 2 ];
        $node->safe_psql('app', $before) if $before;
        my ($answer, $error) = run_limited($sql, $kind, $limit, "$name with $limit kB more of $kind");
        my $outcome = $answer eq $expected && $error !~ /ERROR|FATAL/ ? 'right'
          : $error =~ /ERROR:  53200: / ? '53200' : 'other';
        ++$outcomes{$outcome};
        diag("$name with $limit kB: answers '$answer', $error") if $outcome eq 'other';
    }
    is($outcomes{other}, 0, "$name is right or runs out of memory, nothing else");
    cmp_ok($outcomes{'53200'}, '>', 0, "$name has run out of memory");
    cmp_ok($outcomes{right}, '>', 0, "$name has worked");
}
nothing_left('functions');

# --- jobs ----------------------------------------------------------------------------------------

# The run's row is written by the session that has no memory for the work: it had, or the next one says
# that its process is gone.
my %jobs = (
    reconcile => {},
    expire => { before => "TRUNCATE reservations; $backlog" },
    export => {},
    import => { arguments => qq{{"relation": "copied", "source": "$whole"}}, before => 'TRUNCATE copied' },
    verify => { arguments => qq{{"source": "$whole"}} },
    drill => { arguments => qq{{"source": "$whole"}} },
    reindex => { before => q{SELECT bacmr_reindex('n', batch_size => 50)
        WHERE NOT EXISTS (SELECT FROM bacmr_reindex_job WHERE status <> 'completed');
        SELECT bacmr_reindex_resume(job_id) FROM bacmr_reindex_job WHERE status = 'failed'} });
$node->append_conf('postgresql.conf', 'bacmr.worker_enabled = off');
$node->reload;
await('no worker takes part', sub { !worker_pid($node, 'app') });
pause($_, 0) for 'expire', 'reindex';
for my $job (sort keys %jobs) {
    my ($before, $arguments) = @{ $jobs{$job} }{qw(before arguments)};
    my $call = "CALL bacmr_run_job('$job', '" . ($arguments // '{}') . "')";
    my %outcomes = (right => 0, '53200' => 0, other => 0);
    my $highest = $node->safe_psql('app', 'SELECT coalesce(max(run_id), 0) FROM bacmr_job_run');
    for my $limit (@LIMITS) {
        my $kind = (sort keys %kind)[ ++$outcomes{all} % 2 ];
        $node->safe_psql('app', $before) if $before;
        my (undef, $error) = run_limited($call, $kind, $limit, "job $job with $limit kB more of $kind");
        my $outcome = $error !~ /ERROR|FATAL/ ? 'right'
          : $error =~ /ERROR:  53200: |P0001: .*out of memory/ ? '53200' : 'other';
        ++$outcomes{$outcome};
        diag("job $job with $limit kB: $error") if $outcome eq 'other';
    }
    is($outcomes{other}, 0, "job $job works or runs out of memory, nothing else");
    cmp_ok($outcomes{'53200'}, '>', 0, "job $job has run out of memory");
    $node->safe_psql('app', $before) if $before;
    is(error_of($node, 'app', $call) =~ s/^.*NOTICE:.*\n//gmr, '', "job $job: the next one works");
    my $since = "FROM bacmr_job_run WHERE job = '$job' AND run_id > $highest";
    is($node->safe_psql('app', qq{SELECT string_agg(DISTINCT error, '; ') $since
        AND status = 'failed' AND error !~ 'out of memory|is gone'}), '',
        "job $job: the runs that failed say that memory ran out");
    cmp_ok($node->safe_psql('app', qq{SELECT count(*) $since AND status = 'failed'
        AND error ~ 'out of memory'}), '>', 0, "job $job: and some have");
}
is($node->safe_psql('app', 'SELECT count(*) FROM copied'), CHUNKS, 'the import is whole');
is($node->safe_psql('app', $all_expired), 't', 'all reservations have expired');
is($node->safe_psql('app', q{SELECT string_agg(DISTINCT status, ', ') FROM bacmr_reindex_job}),
    'completed', 'each reindex job has come to its end');
nothing_left('jobs');
is($raised_by{$_} > 0 ? 'some' : 'none', 'some', "errors were raised by $_") for sort keys %raised_by;
note join ', ', map { "$_: $raised_by{$_}" } sort keys %raised_by;

# --- remote services -----------------------------------------------------------------------------

# Memory that runs out within libcurl, or for what it brings (an answer has 800 kB), is no fault of the
# service's.
my $remote = q{SELECT bacmr_reindex('n', embedder => 'openai', vector_store => 'pinecone',
    batch_size => 100, target_namespace => 'remote')};
my $job = $node->safe_psql('app', $remote);
my $ran_out = 0;
for my $limit (0, 128, 512, 1024, 2048, 4096, 8192) {
    my (undef, $error) = run_limited("CALL bacmr_reindex_run($job)", 'data', $limit,
        "remote services with $limit kB more");
    $error eq '' || like($error, qr/ERROR:  53200: /, "remote services with $limit kB more: 53200");
    ++$ran_out if $error =~ /ERROR:  53200: /;
    for my $service ('openai', 'pinecone') {
        is(metric($node, 'app', 'circuit_breaker_state', qq{{"service": "$service"}}) || 0, 0,
            "remote services with $limit kB more: the breaker of $service is closed");
    }
    $node->safe_psql('app', "SELECT bacmr_reindex_resume($job)")
      if job_status($node, 'app', $job) eq 'failed';
}
cmp_ok($ran_out, '>', 0, 'remote services: memory ran out');
is(call_job($node, 'app', $job) =~ s/^.*(?:NOTICE|HINT|LOCATION):.*\n//gmr, '',
    'remote services: with memory it goes on');
is(job_status($node, 'app', $job), 'completed', 'to its end');
store_agrees($node, 'app', 'n', $openai, $pinecone, 'remote', 'with a vector for each chunk',
    dimensions => DIMENSIONS);

# --- the worker ----------------------------------------------------------------------------------

sub log_has_run_out {
    my ($offset, $message) = @_;
    return scalar grep { $_->{message} eq $message && ($_->{fields}{error} // '') =~ /out of memory/ }
      log_entries($node, $offset);
}

$node->append_conf('postgresql.conf', 'bacmr.worker_enabled = on');
$node->reload;
my $worker = await('a worker is there', sub { worker_pid($node, 'app') });
for my $limit (0, 256, 1024) {
    my $what = "a worker with $limit kB more";
    pause('expire', 1);
    $node->safe_psql('app', "TRUNCATE reservations; $backlog");
    $worker = await("$what: it is there", sub { worker_pid($node, 'app') });
    my $offset = log_size($node);
    limit_memory($worker, 'data', $limit);
    pause('expire', 0);
    await("$what: it expires all, or says that it cannot", sub {
        ask($node, 'app', $all_expired) eq 't' || !kill(0, $worker)
          || log_has_run_out($offset, 'reservation expiry failed');
    });
    cmp_ok(log_has_run_out($offset, 'reservation expiry failed'), '>', 0, "$what: it has run out")
      if $limit == 0;
    money_or_refunds($what);
    free_memory($worker);
    await_sql($node, 'app', $all_expired, "$what: with memory it expires all");
    money_or_refunds("$what, afterwards");
}
await_sql($node, 'app', q{SELECT next_step IS NULL FROM bacmr_status WHERE job = 'worker'},
    'bacmr_status is good again');

sub money_or_refunds {
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    balances_agree($node, 'app', "$what: every balance is the sum of its ledger");
    is(refunded_twice($node, 'app'), 0, "$what: nothing was refunded twice");
    is($node->safe_psql('app', q{SELECT count(*) FROM reservations r WHERE (status = 'expired')
        <> EXISTS (SELECT FROM wallet_ledger l WHERE l.reservation_id = r.id)}), 0,
        "$what: none has expired without its refund");
    return;
}

# --- the process that reindexes ------------------------------------------------------------------

# Other chunks: what has been embedded once is not embedded again.
make_chunks($node, 'app', 'p', 300);
$openai->settings(latency_ms => 600);
$job = $node->safe_psql('app', $remote =~ s/'n'/'p'/r =~ s/'remote'/'process'/r =~ s/=> 100/=> 5/r);
# It waits for its first answer then, and has yet to do everything for the first time.
my $reindexer = await('a process reindexes', sub { reindexer_pid($node, 'app') });
my $offset = log_size($node);
limit_memory($reindexer, 'data', 0);
$openai->settings(latency_ms => 0);
await('it runs out of memory', sub { !kill 0, $reindexer });
free_memory($reindexer);
like(slurp_file($node->logfile, $offset), qr/\[$reindexer\].*out of memory/, 'and says so in the log');
await('it comes to its end, resumed where it has failed', sub {
    my $status = job_status($node, 'app', $job);
    if ($status eq 'failed') {
        like(job_value($node, 'app', $job, 'error'), qr/out of memory/, 'the job says so too');
        $node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
    }
    return $status eq 'completed';
});
store_agrees($node, 'app', 'p', $openai, $pinecone, 'process', 'with a vector for each chunk',
    dimensions => DIMENSIONS);

# --- the endpoint --------------------------------------------------------------------------------

sub get { return HTTP::Tiny->new(timeout => 20)->get("http://127.0.0.1:$port$_[0]"); }
await('the endpoint answers', sub { get('/metrics/json')->{status} == 200 });
my $endpoint = ask($node, 'app', q{SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'bacmr_ops endpoint'});
my %statuses;
for my $limit (0, 128, 512, 1024, 2048, 4096) {
    limit_memory($endpoint, 'data', $limit);
    my $answer = get('/metrics/prometheus');
    free_memory($endpoint);
    ++$statuses{ $answer->{status} };
    is(scalar(() = $answer->{content} =~ /^mine\{/gm), 450,
        "the endpoint with $limit kB more: an answer is whole") if $answer->{status} == 200;
}
note join ', ', map { "$_: $statuses{$_}" } sort keys %statuses;
is(join(' ', grep { !/^(?:200|599)$/ } keys %statuses), '', 'or there is none');
cmp_ok($statuses{599} // 0, '>', 0, 'it has run out of memory');
await('afterwards it answers', sub { get('/metrics/json')->{status} == 200 });

# --- the launcher --------------------------------------------------------------------------------

my $launcher = ask($node, 'app', q{SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'bacmr_ops launcher'});
limit_memory($launcher, 'data', 0);
$node->safe_psql('postgres', 'CREATE DATABASE newcomer');
$node->safe_psql('newcomer', 'CREATE EXTENSION bacmr_ops');
await('a launcher without memory starts a worker, or runs out', sub {
    worker_pid($node, 'newcomer') || !kill(0, $launcher)
      || slurp_file($node->logfile, $offset) =~ /\[$launcher\].*out of memory/;
});
free_memory($launcher);
await('a database that came meanwhile has its worker', sub { worker_pid($node, 'newcomer') });

# --- the server ----------------------------------------------------------------------------------

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|server process .* exited/,
    'nothing has crashed');
done_testing();
