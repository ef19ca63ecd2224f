# Metrics across sessions, shutdowns, crashes and databases, and what the worker keeps fresh.
use strict;
use warnings;
use BacmrTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', conf => [ q{bacmr.expire_interval = '1s'} ]);
app_database($node, 'app');
app_database($node, 'other');
my $file = $node->data_dir . '/pg_stat/bacmr_ops.metrics';

sub metric {
    my ($database, $name, $labels) = @_;
    $labels //= '{}';
    return $node->safe_psql($database,
        "SELECT value FROM bacmr_metrics WHERE name = '$name' AND labels = '$labels'");
}

# --- many sessions, exact totals -----------------------------------------------------------------

my @sessions = map {
    in_background($node, 'app', q{SELECT count(bacmr_record_openai_request('m', 'chat', 0.5, 2))
        FROM generate_series(1, 20000)})
} 1 .. 8;
wait_for_end($_) for @sessions;
is(metric('app', 'openai_tokens_used_total', '{"model": "m"}'), 320000,
    '8 sessions at once: every token is counted');
is(metric('app', 'openai_request_duration_seconds_count', '{"model": "m", "endpoint": "chat"}'),
    160000, 'and every observation');
is(metric('other', 'openai_tokens_used_total', '{"model": "m"}'), '', 'another database has its own');

# --- what the worker keeps fresh -----------------------------------------------------------------

give_wallets($node, 'app', 3);
reserve($node, 'app', 1, 10, '1 hour') for 1 .. 4;
my $past = reserve($node, 'app', 2, 10, '-1 second');
await('expired reservations are counted by the worker', sub {
    metric('app', 'wallet_reservation_total', '{"status": "expired"}') eq '1'
});
is(metric('app', 'bacmr_refunded_tokens_total'), 10, 'and their tokens');
await('open reservations are a gauge', sub { metric('app', 'active_reservations') eq '4' });
is(metric('app', 'bacmr_worker_up'), 1, 'the worker is up');
await('expiry notes its success also when nothing was due', sub {
    my $seen = metric('app', 'bacmr_job_last_success_timestamp_seconds', '{"job": "expire"}');
    $seen && abs($seen - time) < 10;
});
is(metric('app', 'bacmr_job_last_success_timestamp_seconds', '{"job": "reconcile"}'), 0,
    'a reconciliation that never was shows as 0');
$node->safe_psql('app', q{SELECT bacmr_pause('expire', 'test')});
reserve($node, 'app', 3, 5, '-10 minutes');
await('stale reservations are a gauge, also while the expiry is paused',
    sub { metric('app', 'bacmr_stale_reservations') eq '1' });
$node->safe_psql('app', q{SELECT bacmr_metrics_reset()});
await('after a reset the gauges come back', sub { metric('app', 'active_reservations') eq '5' });
$node->safe_psql('app', q{SELECT bacmr_detach('reservations')});
await('what is detached is no gauge any more', sub { metric('app', 'active_reservations') eq '' });
$node->safe_psql('app', q{SELECT bacmr_attach('reservations', 'reservations')});
await('and is one again when it is attached', sub { metric('app', 'active_reservations') eq '5' });
$node->safe_psql('app', 'SELECT bacmr_reconcile()');

# --- a clean shutdown keeps, a crash does not ----------------------------------------------------

$node->safe_psql('app', <<'SQL');
SELECT bacmr_metric_define('mine_total', 'counter', 'Mine.', '{who}');
SELECT bacmr_metric_inc('mine_total', '{"who": "سارة"}', 41);
SELECT bacmr_record_pinecone_query('n', 0.3) FROM generate_series(1, 5);
SQL
$node->restart;
ok(!-e $file, 'the file is used up once it is read');
is(metric('app', 'mine_total', '{"who": "سارة"}'), 41, 'a counter outlives a clean restart');
is(metric('app', 'pinecone_query_duration_seconds_count', '{"namespace": "n"}'), 5,
    'and a histogram');
like($node->safe_psql('app',
        q{SELECT bacmr_metrics_json()->'histograms'->'pinecone_query_duration_seconds{namespace="n"}'->>'p99'}),
    qr/^0\.(29|3)/, 'with its quantiles');
$node->stop('fast');
ok(-s $file, 'a clean shutdown saves');
$node->start;
$node->stop('immediate');
$node->start;
is(metric('app', 'mine_total', '{"who": "سارة"}'), '', 'after an unclean stop counters begin at 0');
await('while gauges come back from the tables', sub {
    metric('app', 'active_reservations') eq '5'
      && metric('app', 'bacmr_wallet_drift_tokens') eq '0';
});
$node->safe_psql('app', q{SELECT bacmr_metric_inc('mine_total', '{"who": "x"}')});
is(metric('app', 'mine_total', '{"who": "x"}'), 1, 'and definitions from theirs');

my $victim = $node->background_psql('app');
my $pid = $victim->query_safe('SELECT pg_backend_pid()');
kill 'KILL', $pid;
await_sql($node, 'app', q{SELECT count(*) = 0 FROM bacmr_metrics WHERE name = 'mine_total'},
    'a backend that is killed restarts the server: counters begin at 0');

# --- a damaged file is set aside -----------------------------------------------------------------

$node->safe_psql('app', q{SELECT bacmr_metric_inc('mine_total', '{"who": "x"}', 7)});
$node->stop('fast');
my $bytes = slurp_file($file);
for my $damage ([ 'cut off', substr($bytes, 0, length($bytes) / 2) ],
    [ 'changed', substr($bytes, 0, 60) . chr(ord(substr($bytes, 60, 1)) ^ 1) . substr($bytes, 61) ],
    [ 'empty', '' ]) {
    my ($what, $content) = @$damage;
    open my $out, '>:raw', $file or die "$file: $!";
    print $out $content;
    close $out;
    my $offset = log_size($node);
    $node->start;
    is(metric('app', 'mine_total', '{"who": "x"}'), '', "$what: nothing of it is taken");
    like(slurp_file($node->logfile, $offset), qr/WARNING:.*saved metrics are damaged/,
        "$what: the log says so");
    ok(-e "$file.damaged", "$what: and it is set aside");
    $node->stop('fast');
}
$node->start;

# --- databases that are dropped give their room back ---------------------------------------------

$node->safe_psql('other', q{SELECT count(bacmr_record_rate_limit_rejection('x', i::text))
    FROM generate_series(1, 100) i});
my $used = metric('app', 'bacmr_metrics_series_in_use');
$node->safe_psql('postgres', 'DROP DATABASE other');
await('DROP DATABASE frees its series',
    sub { metric('app', 'bacmr_metrics_series_in_use') <= $used - 100 });

# --- without preload -----------------------------------------------------------------------------

$node->stop('fast');
$node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
$node->start;
my ($out, $err);
$node->psql('app', q{SELECT bacmr_record_wallet_reservation('x'); SELECT bacmr_record_wallet_reservation('x');
    SELECT count(*) FROM bacmr_metrics; SELECT bacmr_metric_inc('mine_total', '{"who": "x"}')},
    stdout => \$out, stderr => \$err);
is(() = $err =~ /not in shared_preload_libraries/g, 1, 'without preload a session is told once');
like($out, qr/^0$/m, 'and there are no metrics');
is(error_of($node, 'app', 'SELECT bacmr_reconcile()'), '', 'jobs run all the same');
$node->stop;
done_testing();
