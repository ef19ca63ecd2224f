# A worker comes with the extension, goes with it, and is in nobody's way.
use strict;
use warnings;
use BacmrTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('main', conf => [ q{bacmr.expire_interval = '1s'} ]);

# --- CREATE EXTENSION and DROP EXTENSION in a running server -------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE plain');
app_database($node, 'app');
my $pid = await('CREATE EXTENSION starts a worker', sub { worker_pid($node, 'app') });
ok(!worker_pid($node, 'plain'), 'a database without the extension has none');

$node->safe_psql('app', 'DROP EXTENSION bacmr_ops');
await('DROP EXTENSION ends it', sub { !worker_pid($node, 'app') });
$node->safe_psql('app', 'CREATE EXTENSION bacmr_ops; SELECT bacmr_attach();');
my $again = await('CREATE EXTENSION once more, and there is one again',
    sub { worker_pid($node, 'app') });
isnt($again, $pid, 'a new process');

# Locks that a tick holds are short: DROP EXTENSION needs no second try, again and again.
for my $round (1 .. 3) {
    is(error_of($node, 'app', 'DROP EXTENSION bacmr_ops'), '', "DROP EXTENSION, round $round");
    is(error_of($node, 'app', 'CREATE EXTENSION bacmr_ops; SELECT bacmr_attach();'),
        '', "CREATE EXTENSION, round $round");
}
await('after the last round there is a worker', sub { worker_pid($node, 'app') });

is(error_of($node, 'app', 'BEGIN; DROP EXTENSION bacmr_ops; ROLLBACK'),
    '', 'DROP EXTENSION that is rolled back');
give_wallets($node, 'app', 3);
my $id = reserve($node, 'app', 1, 10, '-1 second');
await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'},
    'leaves a worker that works');

# --- two databases at a time ---------------------------------------------------------------------

app_database($node, 'second');
give_wallets($node, 'second', 3);
reserve($node, $_, 2, 10, '-1 second') for 'app', 'second';
for my $database ('app', 'second') {
    await_sql($node, $database,
        q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'},
        "$database: its worker expires");
}
isnt(worker_pid($node, 'app'), worker_pid($node, 'second'), 'each database has its own worker');

# --- commands that need the database for themselves ---------------------------------------------

for my $round (1 .. 3) {
    await("round $round: a worker is there", sub { worker_pid($node, 'app') });
    is(error_of($node, 'postgres', 'CREATE DATABASE clone TEMPLATE app'),
        '', 'CREATE DATABASE … TEMPLATE of its database succeeds');
    await('the worker comes back after it', sub { worker_pid($node, 'app') });
    await('the clone gets a worker too', sub { worker_pid($node, 'clone') });
    is(error_of($node, 'postgres', 'ALTER DATABASE clone RENAME TO renamed'),
        '', 'ALTER DATABASE … RENAME succeeds');
    await('a renamed database has a worker again', sub { worker_pid($node, 'renamed') });
    is(error_of($node, 'postgres', 'DROP DATABASE renamed'), '', 'DROP DATABASE succeeds');
}
is(error_of($node, 'postgres', 'CREATE DATABASE one TEMPLATE app'), '', 'cloned once');
is(error_of($node, 'postgres', 'CREATE DATABASE two TEMPLATE app'), '', 'cloned twice in a row');
is(error_of($node, 'postgres', 'DROP DATABASE one'), '', 'dropped at once');
is(error_of($node, 'postgres', 'DROP DATABASE two'), '', 'the other one too');

like(error_of($node, 'app', 'DROP DATABASE app'),
    qr/55006|cannot drop the currently open database/, 'a DROP DATABASE that is refused');
await('leaves a worker', sub { worker_pid($node, 'app') });
{
    my $session = $node->background_psql('app');
    $session->query_safe('SELECT 1');
    like(error_of($node, 'postgres', 'DROP DATABASE app'),
        qr/55006.*There is 1 other session using the database/s,
        'DROP DATABASE still fails for an ordinary session, and the worker is not the one counted');
    $session->quit;
}
await('and a worker is back after that failure', sub { worker_pid($node, 'app') });
$id = reserve($node, 'app', 3, 10, '-1 second');
await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'},
    'and does its work');
balances_agree($node, 'app');

# --- a launcher that is ended --------------------------------------------------------------------

{
    my $before = worker_pid($node, 'app');
    my $launcher = $node->safe_psql('postgres',
        q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'bacmr_ops launcher'});
    $node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
    await_sql($node, 'postgres', qq{SELECT count(*) = 1 FROM pg_stat_activity
        WHERE backend_type = 'bacmr_ops launcher' AND pid <> $launcher}, 'a launcher comes back');
    is(worker_pid($node, 'app'), $before, 'the worker went on meanwhile');
    $node->safe_psql('postgres', "SELECT pg_terminate_backend($before)");
    # Its start was another launcher's: the new one must notice all the same, and soon.
    await('and the new launcher replaces it when it is gone',
        sub { my $pid = worker_pid($node, 'app'); $pid && $pid != $before }, 20);

    # The promise of the documentation: within a second of being asked.
    $before = worker_pid($node, 'app');
    my $asked = time;
    kill 'TERM', $before;
    await('a worker that is told to end, ends', sub { !kill 0, $before });
    cmp_ok(time - $asked, '<', 1, 'within a second');
    await('and is replaced', sub { worker_pid($node, 'app') });
}

# --- shutdown ------------------------------------------------------------------------------------

my $start = time;
$node->stop('fast');
# It would wait for ever if the worker did not leave; pg_ctl looks ten times a second.
cmp_ok(time - $start, '<', 15, 'a fast shutdown does not wait for workers');
unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal|exited with exit code [2-9]/,
    'and nothing in the log looks like a crash');

# --- max_worker_processes exhausted --------------------------------------------------------------

# One slot for the launcher, one for a worker.
$node->append_conf('postgresql.conf',
    "max_worker_processes = 2\nmax_logical_replication_workers = 0");
my $offset = log_size($node);
$node->start;
await('one of two databases gets the only slot',
    sub { worker_pid($node, 'app') || worker_pid($node, 'second') });
my ($served, $waiting) = worker_pid($node, 'app') ? ('app', 'second') : ('second', 'app');
await('the log says that a worker cannot start, and what to raise', sub {
    grep { $_->{level} eq 'WARNING' && $_->{message} =~ /cannot start.*max_worker_processes/ }
      log_entries($node, $offset);
});
await_sql($node, $waiting, q{SELECT state = 'cannot start'
      AND next_step LIKE '%max_worker_processes%' FROM bacmr_status WHERE job = 'worker'},
    'bacmr_status says it in the database that has none');
await_sql($node, $served, q{SELECT state = 'idle' AND next_step IS NULL
    FROM bacmr_status WHERE job = 'worker'}, 'and not in the one that has');
$node->safe_psql($served, 'DROP EXTENSION bacmr_ops');
await("a slot that becomes free is taken", sub { worker_pid($node, $waiting) }, 60);
await_sql($node, $waiting, q{SELECT state = 'idle' FROM bacmr_status WHERE job = 'worker'},
    'and bacmr_status is good again');

$node->stop('immediate');
done_testing();
