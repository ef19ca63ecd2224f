# The worker refunds what falls due, by itself, and shows what it does.
use strict;
use warnings;
use BacmrTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_server('main', conf => [ q{bacmr.expire_interval = '1s'} ]);
app_database($node, 'app');
give_wallets($node, 'app', 20);

# --- it does its work ------------------------------------------------------------------------

reserve($node, 'app', $_, 10 * $_, '-1 minute') for 1 .. 3;
reserve($node, 'app', 4, 5, '1 hour');
await_sql($node, 'app', q{SELECT count(*) = 3 FROM reservations WHERE status = 'expired'},
    'reservations that are due become expired');
is($node->safe_psql('app', q{SELECT string_agg(token_balance::text, ',' ORDER BY user_id)
      FROM wallet WHERE user_id <= u(4)}),
    '1000,1000,1000,995', 'the due amounts are back in the wallets, the other one is not');
is($node->safe_psql('app', q{SELECT string_agg(l.delta::text, ',' ORDER BY l.delta)
      FROM wallet_ledger l JOIN reservations r ON r.id = l.reservation_id
        AND r.user_id = l.user_id AND r.amount = l.delta
      WHERE l.reason = 'reservation_expired'}),
    '10,20,30', 'each has its own ledger row');
balances_agree($node, 'app');

# --- it says what it does --------------------------------------------------------------------

await('a line in the log for a tick that expired something', sub {
    grep { $_->{message} eq 'reservations expired' } log_entries($node);
});
my @lines = grep { $_->{message} eq 'reservations expired' } log_entries($node);
my ($line) = @lines;
like($line->{timestamp}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'it has a UTC timestamp');
is($line->{level}, 'INFO', 'it has a level');
is($line->{logger}, 'bacmr_ops', 'it names its logger');
isnt($line->{request_id}, '', 'it has a request id');
my ($expired, $refunded) = (0, 0);
for (@lines) {
    $expired += $_->{fields}{totals}{expired};
    $refunded += $_->{fields}{totals}{tokens_refunded};
}
is($expired, 3, 'the lines count the reservations');
is($refunded, 60, 'and the tokens');
is($node->safe_psql('app',
        qq{SELECT job, status, request_id = '$line->{request_id}'
           FROM bacmr_job_run WHERE run_id = $line->{fields}{run_id}}),
    'expire|succeeded|t', 'the line names the run in bacmr_job_run');
is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run
       WHERE job = 'expire' AND (detail->>'expired')::int = 0}),
    0, 'a tick that did nothing leaves no run');
is($node->safe_psql('app', q{SELECT DISTINCT l.request_id = r.request_id FROM wallet_ledger l,
       bacmr_job_run r WHERE l.reason = 'reservation_expired' AND r.job = 'expire'
       AND l.request_id = r.request_id}),
    't', q{the ledger rows carry the run's request id});

await_sql($node, 'app', q{SELECT state = 'idle' AND last_success_at IS NOT NULL
    FROM bacmr_status WHERE job = 'worker'}, 'bacmr_status shows the worker and its last success');
is($node->safe_psql('app', q{SELECT state FROM bacmr_status WHERE job = 'launcher'}),
    'running', 'bacmr_status shows the launcher');
is($node->safe_psql('app', q{SELECT state || ' ' || last_status FROM bacmr_status
       WHERE job = 'expire'}),
    'idle succeeded', 'bacmr_status shows the job');
await_sql($node, 'app', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'app'
    AND backend_type = 'bacmr_ops worker' AND application_name = 'bacmr_ops worker'
    AND state = 'idle'}, 'pg_stat_activity shows one worker for the database');
is($node->safe_psql('app', q{SELECT count(*) FROM pg_stat_activity
       WHERE backend_type = 'bacmr_ops launcher' AND datname IS NULL}),
    1, 'and one launcher, which occupies no database');

# --- its pace --------------------------------------------------------------------------------

my $before = $node->safe_psql('app', 'SELECT coalesce(max(run_id), 0) FROM bacmr_job_run');
my $end = time + 5;
while (time < $end) {
    reserve($node, 'app', 5, 1, '-1 second');
    # Every wake-up that a session can cause is one more temptation.
    $node->safe_psql('app', 'SELECT bacmr_attach()');
}
await_sql($node, 'app', q{SELECT count(*) = 0 FROM reservations
    WHERE status = 'reserved' AND expires_at < now()},
    'a stream of due reservations is worked off');
is($node->safe_psql('app', qq{SELECT count(*) > 1 FROM bacmr_job_run WHERE run_id > $before}),
    't', 'in several ticks');
is($node->safe_psql('app', qq{SELECT count(*) FROM (SELECT started_at - lag(started_at)
       OVER (ORDER BY started_at) AS gap FROM bacmr_job_run
       WHERE job = 'expire' AND run_id > $before) g WHERE gap < '1 second'}),
    0, 'never two ticks within a second');

# With a long interval it is the due time of what it knows that wakes it.
$node->append_conf('postgresql.conf', q{bacmr.expire_interval = '1h'});
$node->reload;
my $first = reserve($node, 'app', 6, 7, '3 seconds');
my $second = reserve($node, 'app', 7, 7, '6 seconds');
$node->safe_psql('app', 'SELECT bacmr_attach()');    # wakes it
await_sql($node, 'app', qq{SELECT count(*) = 2 FROM reservations
    WHERE id IN ('$first', '$second') AND status = 'expired'},
    'with an interval of an hour, reservations expire when they fall due');
is($node->safe_psql('app', qq{SELECT count(*) FROM reservations
       WHERE id IN ('$first', '$second') AND updated_at < expires_at}),
    0, 'and not before');
is($node->safe_psql('app', qq{SELECT count(DISTINCT updated_at >= (SELECT expires_at
       FROM reservations WHERE id = '$second')) FROM reservations
       WHERE id IN ('$first', '$second')}),
    2, 'the first does not wait for the second');
await_sql($node, 'app', q{SELECT next_tick_at > now() + interval '30 minutes'
    FROM bacmr_worker_status() WHERE worker = 'worker'}, 'then it sleeps for the long interval');

# --- settings by reload ----------------------------------------------------------------------

my $asleep = reserve($node, 'app', 8, 7, '-1 second');
$node->append_conf('postgresql.conf', q{bacmr.expire_interval = '1s'});
$node->reload;
await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$asleep'},
    'a shorter bacmr.expire_interval takes effect in the middle of its sleep');

app_database($node, 'other');
await('a worker for a second database', sub { worker_pid($node, 'other') });
$node->append_conf('postgresql.conf', q{bacmr.databases = 'other'});
$node->reload;
await('a database that bacmr.databases leaves out loses its worker',
    sub { !worker_pid($node, 'app') });
ok(worker_pid($node, 'other'), 'the one that it names keeps it');
is($node->safe_psql('app', q{SELECT state FROM bacmr_status WHERE job = 'worker'}),
    'off (bacmr.databases)', 'bacmr_status names the setting');
$node->append_conf('postgresql.conf', q{bacmr.databases = '*'});
$node->reload;
await('and gets it back by reload', sub { worker_pid($node, 'app') });

$node->append_conf('postgresql.conf', 'bacmr.worker_enabled = off');
$node->reload;
await('bacmr.worker_enabled = off ends every worker',
    sub { !worker_pid($node, 'app') && !worker_pid($node, 'other') });
is($node->safe_psql('app', q{SELECT state FROM bacmr_status WHERE job = 'worker'}),
    'off (bacmr.worker_enabled)', 'bacmr_status names the setting');
my $left = reserve($node, 'app', 9, 7, '-1 second');
$node->append_conf('postgresql.conf', 'bacmr.worker_enabled = on');
$node->reload;
await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$left'},
    'bacmr.worker_enabled = on brings them back, and what fell due meanwhile is refunded');
balances_agree($node, 'app');
is(refunded_twice($node, 'app'), 0, 'nothing was refunded twice');

done_testing();
