# What kills or stops a worker or a job, and what is left after it.
use strict;
use warnings;
use BacmrTest;
use Test::More;

my $node = new_server('main',
    conf => [ q{bacmr.expire_interval = '1s'}, 'bacmr.expire_batch_size = 5' ]);
app_database($node, 'app');
give_wallets($node, 'app', 50);
await('a worker is there', sub { worker_pid($node, 'app') });

# Due reservations of many users, so that there are many batches and the kill falls between them.
sub backlog {
    $node->safe_psql('app',
        q{SELECT count(reserve(n % 50 + 1, 1, '-1 second')) FROM generate_series(1, 1000) n});
    await_sql($node, 'app', q{SELECT count(*) < 1000 FROM reservations WHERE status = 'reserved'},
        'the worker has begun with a backlog');
    return;
}

sub all_is_well {
    my ($after) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    await_sql($node, 'app', q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'},
        "after $after the worker works the rest off");
    is(refunded_twice($node, 'app'), 0, "after $after nothing was refunded twice");
    is($node->safe_psql('app', q{SELECT count(*) FROM reservations r WHERE status = 'expired'
           AND NOT EXISTS (SELECT FROM wallet_ledger l WHERE l.reservation_id = r.id)}),
        0, "after $after nothing expired without its refund");
    balances_agree($node, 'app', "after $after every balance is the sum of its ledger");
    return;
}

# --- kill -9 -------------------------------------------------------------------------------------

backlog();
my $pid = worker_pid($node, 'app');
my $offset = log_size($node);
is(kill('KILL', $pid), 1, 'kill -9 of the worker');
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
await('the server restarts itself, and a new worker is there', sub {
    my $now = worker_pid($node, 'app');
    return $now && $now != $pid;
});
all_is_well('kill -9 of the worker');

backlog();
$pid = worker_pid($node, 'app');
$node->kill9;
await('a worker whose postmaster was killed leaves by itself', sub { !kill 0, $pid });
start_again($node, 'the server starts again');
all_is_well('kill -9 of the postmaster');

backlog();
$pid = worker_pid($node, 'app');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
await('a worker that somebody terminates is replaced', sub {
    my $now = worker_pid($node, 'app');
    return $now && $now != $pid;
});
all_is_well('pg_terminate_backend of the worker');

backlog();
$pid = worker_pid($node, 'app');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)") for 1 .. 3;
all_is_well('pg_cancel_backend of the worker');

# --- an application's trigger that fails for one user --------------------------------------------

$offset = log_size($node);
$node->safe_psql('app', <<'SQL');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = public.u(7) AND NEW.reason = 'reservation_expired' THEN
    RAISE EXCEPTION 'no refunds for number seven' USING ERRCODE = 'AP007';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON wallet_ledger FOR EACH ROW EXECUTE FUNCTION refuse();
SELECT count(reserve(n % 10 + 1, 1, '-1 second')) FROM generate_series(1, 30) n;
SQL
await_sql($node, 'app', q{SELECT count(*) = 3 AND bool_and(user_id = u(7)) FROM reservations
    WHERE status = 'reserved'}, 'a trigger that raises for one user stops no other');
my $error = await('the log names user, SQLSTATE and error', sub {
    my ($entry) = grep {
        $_->{level} eq 'WARNING' && ($_->{fields}{user_id} // '') eq user_id(7)
    } log_entries($node, $offset);
    return $entry;
});
is($error->{fields}{sqlstate}, 'AP007', q{the application's SQLSTATE is kept});
like($error->{fields}{error}, qr/no refunds for number seven/, 'and its message');
await_sql($node, 'app', q{SELECT bool_or(status = 'failed' AND error LIKE '%no refunds for number%'
    AND error LIKE '%' || u(7) || '%') FROM bacmr_job_run WHERE job = 'expire'},
    'the run is recorded as failed, with user and error');
await_sql($node, 'app', q{SELECT next_step LIKE '%no refunds for number seven%'
    FROM bacmr_status WHERE job = 'worker'}, 'bacmr_status shows it at the worker');
is($node->safe_psql('app', q{SELECT token_balance FROM wallet WHERE user_id = u(7)}),
    997, 'the wallet of the failed user is as it was: nothing is half done');
my $id = reserve($node, 'app', 8, 1, '-1 second');
await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'},
    'what falls due later expires in spite of the old failure');
$node->safe_psql('app', 'DROP TRIGGER refuse ON wallet_ledger');
await_sql($node, 'app', q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'},
    'once the cause is mended, the failed ones are tried again', 90);
await_sql($node, 'app', q{SELECT next_step IS NULL FROM bacmr_status WHERE job = 'worker'},
    'and bacmr_status is good again');
all_is_well('a failing trigger');

# --- a job whose process is killed ---------------------------------------------------------------

# Its second look an hour later keeps it running.
my $call = q{CALL bacmr_run_job('reconcile', '{"recheck_after": "1 hour"}')};
my $running = q{SELECT count(*) = 1 FROM bacmr_job_run WHERE job = 'reconcile'
    AND status = 'running'};

sub backend_of_call {
    return $node->safe_psql('app', q{SELECT pid FROM pg_stat_activity
        WHERE datname = 'app' AND query LIKE 'CALL bacmr_run_job%' AND state = 'active'});
}

my $session = in_background($node, 'app', $call);
await_sql($node, 'app', $running, 'a running job has a row that everybody sees');
is($node->safe_psql('app', q{SELECT state FROM bacmr_status WHERE job = 'reconcile'}),
    'running', 'bacmr_status shows it running');
$offset = log_size($node);
is(kill('KILL', backend_of_call()), 1, 'kill -9 of its backend');
wait_for_end($session);
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
await_sql($node, 'app', q{SELECT status = 'failed' AND finished_at IS NOT NULL AND error <> ''
    FROM bacmr_job_run WHERE job = 'reconcile' ORDER BY run_id DESC LIMIT 1},
    'afterwards the run is failed, and says why');
is($node->safe_psql('app', 'SELECT discrepancies FROM bacmr_reconcile()'),
    0, 'and the next run is not in its way');

# --- a job that is cancelled ---------------------------------------------------------------------

$session = in_background($node, 'app', $call);
await_sql($node, 'app', $running, 'another running job');
# The row is committed a moment before the job itself begins.
await_sql($node, 'app', q{SELECT wait_event_type IS NOT NULL FROM pg_stat_activity
    WHERE query LIKE 'CALL bacmr_run_job%' AND state = 'active'}, 'it waits for its second look');
$node->safe_psql('app', 'SELECT pg_cancel_backend(' . backend_of_call() . ')');
my (undef, $stderr) = wait_for_end($session);
like($stderr, qr/ERROR:  57014: canceling statement due to user request/, 'a cancel is a cancel');
is($node->safe_psql('app', q{SELECT status || ': ' || error FROM bacmr_job_run
       WHERE job = 'reconcile' ORDER BY run_id DESC LIMIT 1}),
    'failed: canceling statement due to user request', 'and its run is recorded as failed');
my $runs = $node->safe_psql('app', 'SELECT count(*) FROM bacmr_job_run');
$session = in_background($node, 'app', q{SELECT bacmr_reconcile('1 hour')});
await_sql($node, 'app', q{SELECT count(*) = 1 FROM pg_stat_activity
    WHERE query LIKE 'SELECT bacmr_reconcile%' AND state = 'active'
    AND wait_event_type IS NOT NULL}, 'the function waits too');
$node->safe_psql('app', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity
    WHERE query LIKE 'SELECT bacmr_reconcile%' AND state = 'active'});
(undef, $stderr) = wait_for_end($session);
like($stderr, qr/ERROR:  57014: /, 'a cancel of the function');
is($node->safe_psql('app', 'SELECT count(*) FROM bacmr_job_run'),
    $runs, 'takes its row along: it was one transaction');
is($node->safe_psql('app', 'SELECT discrepancies FROM bacmr_reconcile()'),
    0, 'the next run is not in its way');

$node->stop;
done_testing();
