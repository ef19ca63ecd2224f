# An application reserves, finalizes and releases, in both lock orders, while the worker expires and
# backends and worker are killed at random. Afterwards every token must be where it belongs.
use strict;
use warnings;
use BacmrTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{BACMR_TEST_SEED} // time % 1_000_000_000;
srand $seed;
note "seed $seed (BACMR_TEST_SEED=$seed repeats its choices)";

use constant { USERS => 20, SECONDS => 15, KILLS => 4 };

my $node = new_server('main', conf => [
    q{bacmr.expire_interval = '1s'},
    'bacmr.expire_batch_size = 50',
    'log_lock_waits = on',
    q{deadlock_timeout = '200ms'} ]);
app_database($node, 'app');
give_wallets($node, 'app', USERS);
$node->safe_psql('app', <<'SQL');
-- Each is one transaction of the application; it commits as a whole or not at all.
CREATE FUNCTION app_reserve(n int, due interval) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM reserve(n, 1 + floor(random() * 5)::int, due);
END $$;

-- The tokens of the reservation are used up: they left the wallet when they were reserved. Now and
-- then the application takes its time before it commits.
CREATE FUNCTION app_finalize(n int, wallet_first boolean, dawdle float8) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  picked uuid;
BEGIN
  IF wallet_first THEN
    PERFORM FROM wallet WHERE user_id = u(n) FOR UPDATE;
  END IF;
  SELECT id INTO picked FROM reservations WHERE user_id = u(n) AND status = 'reserved'
    ORDER BY created_at LIMIT 1;
  UPDATE reservations SET status = 'finalized' WHERE id = picked AND status = 'reserved';
  IF FOUND AND NOT wallet_first THEN
    UPDATE wallet SET updated_at = now() WHERE user_id = u(n);
  END IF;
  PERFORM pg_sleep(dawdle);
END $$;

-- The application's own refund.
CREATE FUNCTION app_release(n int, wallet_first boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  picked uuid;
  tokens bigint;
BEGIN
  IF wallet_first THEN
    PERFORM FROM wallet WHERE user_id = u(n) FOR UPDATE;
  END IF;
  SELECT id INTO picked FROM reservations WHERE user_id = u(n) AND status = 'reserved'
    ORDER BY created_at DESC LIMIT 1;
  UPDATE reservations SET status = 'released' WHERE id = picked AND status = 'reserved'
    RETURNING amount INTO tokens;
  IF FOUND THEN
    INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
      VALUES (u(n), tokens, 'released', picked);
    UPDATE wallet SET token_balance = token_balance + tokens WHERE user_id = u(n);
  END IF;
END $$;
SQL

# A wallet always meets the same lock order, as in one application; half of them meet the other one.
my $script = "${PostgreSQL::Test::Utils::tmp_check}/load.sql";
append_to_file($script, <<'SQL');
\set n random(1, 20)
\set due random(1, 3000)
\set what random(1, 10)
\if :what <= 6
SELECT app_reserve(:n, :due * interval '1 millisecond');
\elif :what <= 8
SELECT app_finalize(:n, :n % 2 = 0, CASE WHEN :due < 50 THEN 0.5 ELSE 0 END);
\else
SELECT app_release(:n, :n % 2 = 0);
\endif
SQL

await('a worker is there', sub { worker_pid($node, 'app') });

# pgbench gives up when the server restarts: started again until the time is over.
my $end = time + SECONDS;
my $load;

sub start_load {
    my $left = int($end - time);
    return if $left < 1;
    my @command = ('pgbench', '-n', '-M', 'prepared', '-c', 3, '-R', 400, '-T', $left,
        '--random-seed', int(rand 1e6), '-f', $script, $node->connstr('app'));
    $load = fork // die $!;
    return if $load;
    open STDOUT, '>', "${PostgreSQL::Test::Utils::log_path}/pgbench.log" or POSIX::_exit(1);
    open STDERR, '>&', \*STDOUT or POSIX::_exit(1);
    exec @command or POSIX::_exit(1);
}

sub load_runs { return $load && waitpid($load, POSIX::WNOHANG()) == 0; }

sub server_answers {
    my $out;
    return $node->psql('app', 'SELECT 1', stdout => \$out, on_error_stop => 0) == 0;
}

my $kills = 0;
while (time < $end) {
    if (!load_runs()) {
        undef $load;
        await('the server is back', \&server_answers) unless server_answers();
        start_load();
    }
    # Once in a while the worker or a backend, in the middle of what it does; late if not before.
    if ($kills < KILLS && (rand() < 0.15 || ($kills < 2 && $end - time < 6))) {
        my $victim = $kills % 2 ? 'client backend' : 'bacmr_ops worker';
        my $out;
        $node->psql('app', "SELECT pid FROM pg_stat_activity WHERE datname = 'app'
              AND backend_type = '$victim' AND pid <> pg_backend_pid() LIMIT 1",
            stdout => \$out, on_error_stop => 0);
        if ($out) {
            ++$kills if kill 'KILL', $out;
            note "killed $victim $out";
        }
    }
    sleep 0.3;
}
waitpid $load, 0 if $load;
cmp_ok($kills, '>', 1, 'a worker and a backend were killed');
await('the server is up after it all', \&server_answers);

# --- afterwards ----------------------------------------------------------------------------------

await_sql($node, 'app', q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'},
    'no reservation that is due is forgotten');
for my $status ('expired', 'finalized', 'released') {
    cmp_ok($node->safe_psql('app', "SELECT count(*) FROM reservations WHERE status = '$status'"),
        '>', 0, "some were $status");
}
balances_agree($node, 'app');
is(refunded_twice($node, 'app'), 0, 'no reservation was refunded twice');
is($node->safe_psql('app', q{SELECT count(*) FROM reservations r
       WHERE (status = 'expired') <> EXISTS (SELECT FROM wallet_ledger l WHERE
         l.reservation_id = r.id AND reason = 'reservation_expired' AND l.delta = r.amount)}),
    0, 'what expired was refunded its amount, and nothing else was');
is($node->safe_psql('app', q{SELECT count(*) FROM reservations r
       WHERE (status = 'released') <> EXISTS (SELECT FROM wallet_ledger l
         WHERE l.reservation_id = r.id AND reason = 'released')}),
    0, 'what was released was given back by the application alone');
is($node->safe_psql('app', 'SELECT sum(token_balance) FROM wallet'),
    $node->safe_psql('app', 'SELECT 1000 * ' . USERS
          . q{ - coalesce(sum(amount), 0) FROM reservations WHERE status = 'finalized'}),
    'only what was finalized is gone');
is($node->safe_psql('app', 'SELECT discrepancies FROM bacmr_reconcile()'),
    0, 'reconciliation finds nothing');

my $log = slurp_file($node->logfile);
unlike($log, qr/deadlock detected/, 'no deadlock');
# "process … still waiting" names the waiting process, which must never be the worker's.
my %worker = map { $_ => 1 } $log =~ /\[(\d+)\][^\n]*"message":"reservations expired"/g;
cmp_ok(scalar(keys %worker), '>', 1, 'more than one worker has expired reservations');
my @waiting = $log =~ /LOG:  process (\d+) still waiting for/g;
cmp_ok(scalar(@waiting), '>', 0, 'sessions of the application had to wait for one another');
my @waited = grep { $worker{$_} } @waiting;
is("@waited", '', 'the worker waited for nobody');

$node->stop;
done_testing();
