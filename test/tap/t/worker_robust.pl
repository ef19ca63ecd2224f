# What others do in the database, open transactions, table locks, unfit tables, must neither hold up
# the worker for long nor fill its history; and not everybody may send it away.
use strict;
use warnings;
use BacmrTest;
use Test::More;

my $node = new_server('main', conf => [ q{bacmr.expire_interval = '1s'},
        q{bacmr.history_retention = '1s'} ]);
app_database($node, 'app');
give_wallets($node, 'app', 200);

# --- an open transaction that prunes the same history ---------------------------------------------

$node->safe_psql('app', 'SELECT bacmr_reconcile()') for 1 .. 3;
await_sql($node, 'app', q{SELECT bool_and(finished_at < clock_timestamp() - interval '1 second')
    FROM bacmr_job_run}, 'there is history to prune');
my $open = in_background($node, 'app',
    q{BEGIN; SELECT bacmr_reconcile(); SELECT pg_advisory_lock(1), pg_sleep(600)});
await_sql($node, 'app', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory'},
    'a transaction has reconciled and stays open');
# A new worker prunes at once.
my $pid = worker_pid($node, 'app');
$node->safe_psql('app', "SELECT pg_terminate_backend($pid)") if $pid;
await('a new worker', sub { my $now = worker_pid($node, 'app'); $now && $now != $pid });
reserve($node, 'app', 1, 10, '-1 second');
await_sql($node, 'app', q{SELECT bool_and(status = 'expired') FROM reservations},
    'reservations expire all the same');
$node->safe_psql('app', q{SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'});
wait_for_end($open);

# --- a table lock ---------------------------------------------------------------------------------

my $lock = in_background($node, 'app', 'BEGIN; LOCK TABLE wallet_ledger IN SHARE MODE;'
      . ' SELECT pg_advisory_lock(2), pg_sleep(600)');
await_sql($node, 'app', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory'},
    'somebody locks the ledger');
$node->safe_psql('app', q{INSERT INTO reservations (user_id, amount, expires_at)
    SELECT user_id, 1, now() - interval '1 minute' FROM wallet});
is($node->safe_psql('app', q{SET statement_timeout = '30s'; SELECT expired
    FROM bacmr_expire_reservations()}), 0, 'under a table lock a call ends without waiting for each user');
$node->safe_psql('app', q{SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'});
wait_for_end($lock);
await_sql($node, 'app', q{SELECT bool_and(status = 'expired') FROM reservations},
    'and they expire once the lock is gone');
balances_agree($node, 'app');

# --- CREATEDB is not enough to send a worker away -------------------------------------------------

$node->safe_psql('postgres', 'CREATE ROLE maker CREATEDB');
$pid = await('the worker is there', sub { worker_pid($node, 'app') });
like(error_of($node, 'postgres', 'SET ROLE maker; CREATE DATABASE mine TEMPLATE app'),
    qr/permission denied to copy database/, 'CREATEDB cannot copy a database of somebody else');
is(worker_pid($node, 'app'), $pid, 'and its worker stays');

# --- a view attached as reservations --------------------------------------------------------------

my $offset = log_size($node);
my $failed = q{SELECT count(*) FROM bacmr_job_run WHERE job = 'expire' AND status = 'failed'};
$node->safe_psql('app', 'ALTER TABLE reservations RENAME TO held;'
      . ' CREATE VIEW reservations AS SELECT * FROM held');
await_sql($node, 'app', q{SELECT state = 'cannot expire' AND next_step LIKE '%view%' FROM bacmr_status
    WHERE job = 'worker'}, 'bacmr_status: the worker cannot expire a view');
my $before = $node->safe_psql('app', $failed);
for my $tick (1 .. 3) {
    my $last = $node->safe_psql('app', q{SELECT last_run_at FROM bacmr_status WHERE job = 'worker'});
    await_sql($node, 'app', qq{SELECT last_run_at > '$last' FROM bacmr_status WHERE job = 'worker'},
        "tick $tick");
}
is($node->safe_psql('app', $failed), $before, 'no failed runs pile up');
is(scalar(grep { $_->{message} =~ /cannot be expired here/ } log_entries($node, $offset)),
    1, 'and the log says it once');

$node->stop;
done_testing();
