# A database restored from a dump or cloned keeps its attachments and history, and starts with
# everything paused that would act twice beside the original.
use strict;
use warnings;
use BacmrTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', conf => [ q{bacmr.expire_interval = '1s'} ]);
app_database($node, 'app');
give_wallets($node, 'app', 5);
$node->safe_psql('app', <<'SQL');
CREATE SCHEMA billing;
ALTER TABLE wallet SET SCHEMA billing;
ALTER TABLE billing.wallet RENAME COLUMN token_balance TO credits;
SELECT bacmr_attach('wallet', 'billing.wallet', '{"token_balance": "credits"}');
UPDATE billing.wallet SET credits = credits + 7 WHERE user_id = u(1);
SELECT bacmr_pause('verify', 'by hand');
SQL
$node->safe_psql('app', 'SELECT bacmr_reconcile()');
$node->safe_psql('app', "INSERT INTO reservations (user_id, amount, expires_at)
    VALUES (u(2), 10, now() + interval '1 hour')");
await('the original has a worker', sub { worker_pid($node, 'app') });

my $history = q{SELECT run_id, job, status, request_id, started_at FROM bacmr_job_run
    ORDER BY run_id};
my $found = q{SELECT run_id, kind, user_id, discrepancy, first_seen FROM bacmr_discrepancy};
my $sources = q{SELECT * FROM bacmr_sources};
my %original = map { $_ => $node->safe_psql('app', $_) } $history, $found, $sources;
like($original{$found}, qr/\|balance_mismatch\|.*\|7\|/, 'the original knows a discrepancy');

# What holds of every copy.
sub is_a_copy {
    my ($copy, $how) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($node->safe_psql($copy, $sources), $original{$sources}, "$how: the attachments are there");
    is($node->safe_psql($copy, $history), $original{$history}, "$how: the history is there");
    is($node->safe_psql($copy, $found), $original{$found}, "$how: the discrepancies are there");

    # What is due in a copy is due in the original too, and refunded there.
    $node->safe_psql($copy, q{UPDATE reservations SET expires_at = now() - interval '1 minute'});
    await_sql($node, $copy, q{SELECT state = 'paused' FROM bacmr_status WHERE job = 'worker'},
        "$how: its worker rests");
    is($node->safe_psql($copy, q{SELECT string_agg(job, ' ' ORDER BY job) FROM bacmr_job_pause}),
        'expire export reindex verify', "$how: expire, export and reindex start paused");
    like($node->safe_psql($copy, q{SELECT next_step FROM bacmr_status WHERE job = 'expire'}),
        qr/restored or cloned.*\bapp\b.*bacmr_unpause/s,
        "$how: the reason names the original and the way on");
    is($node->safe_psql($copy, q{SELECT reason FROM bacmr_job_pause WHERE job = 'verify'}),
        'by hand', "$how: a pause by hand keeps its reason");
    is($node->safe_psql($copy, q{CALL bacmr_run_job('expire');
           SELECT status FROM bacmr_job_run ORDER BY run_id DESC LIMIT 1}),
        'skipped', "$how: a scheduled expiry is skipped");

    my $run = $node->safe_psql($copy, q{SELECT run_id FROM bacmr_reconcile()});
    cmp_ok($run, '>', $1, "$how: run ids go on") if $original{$history} =~ /(\d+)\|[^\n]*\z/;
    is($node->safe_psql($copy, qq{SELECT count(*) FROM bacmr_discrepancy d JOIN bacmr_discrepancy f
           USING (kind, user_id, first_seen) WHERE d.run_id = $run AND f.run_id < $run}),
        1, "$how: reconciliation is not paused, and goes on with the same series");

    is($node->safe_psql($copy, q{SELECT status FROM reservations}),
        'reserved', "$how: nothing has expired so far");
    $node->safe_psql($copy, q{SELECT bacmr_unpause('expire')});
    await_sql($node, $copy, q{SELECT status = 'expired' FROM reservations},
        "$how: after bacmr_unpause it expires");
    is($node->safe_psql($copy, q{SELECT string_agg(job, ' ' ORDER BY job) FROM bacmr_job_pause}),
        'export reindex verify', "$how: the other pauses stay");
    return;
}

my $dump = "${PostgreSQL::Test::Utils::tmp_check}/app.sql";
$node->command_ok([ 'pg_dump', '--file', $dump, 'app' ], 'pg_dump');

$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'restored' ],
    'the dump can be restored while workers run');
is_a_copy('restored', 'restored');

# A worker that has already looked around in the database must not have left anything there that a
# restore stumbles over, nor have taken it for a database of its own.
$node->safe_psql('postgres', 'CREATE DATABASE prepared');
$node->safe_psql('prepared', 'CREATE EXTENSION bacmr_ops');
await_sql($node, 'prepared', q{SELECT last_run_at IS NOT NULL FROM bacmr_status
    WHERE job = 'worker'}, 'a database with the extension, where the worker has been');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'prepared' ],
    'the dump can be restored there');
is_a_copy('prepared', 'restored beside a worker');

$node->safe_psql('postgres', 'CREATE DATABASE cloned TEMPLATE app');
is_a_copy('cloned', 'cloned');

# A deploy script that attaches again must not make a copy pass for the original: at once, before
# any worker has looked around there.
$node->safe_psql('postgres', 'CREATE DATABASE deployed TEMPLATE app');
$node->safe_psql('deployed', q{SELECT bacmr_detach('reservations');
    SELECT bacmr_attach('reservations', 'reservations'); SELECT bacmr_attach('public')});
is($node->safe_psql('deployed', q{SELECT string_agg(job, ' ' ORDER BY job) FROM bacmr_job_pause}),
    'expire export reindex verify', 'a clone in which tables are attached again stays paused');

is($node->safe_psql('app', q{SELECT string_agg(job, ' ') FROM bacmr_job_pause}),
    'verify', 'the original is not paused');
$node->safe_psql('postgres', 'ALTER DATABASE app RENAME TO renamed');
$node->safe_psql('renamed', q{UPDATE reservations SET expires_at = now() - interval '1 minute'});
await_sql($node, 'renamed', q{SELECT status = 'expired' FROM reservations},
    'nor does a new name make it a copy');

# --- what belongs to the user --------------------------------------------------------------------

my $vanish = 'DROP EXTENSION bacmr_ops';
is(error_of($node, 'renamed', $vanish), '', 'DROP EXTENSION needs no CASCADE');
is($node->safe_psql('renamed', q{SELECT (SELECT count(*) FROM billing.wallet),
       (SELECT count(*) > 0 FROM wallet_ledger), (SELECT count(*) FROM reservations),
       to_regclass('chunks') IS NOT NULL}),
    '5|t|1|t', 'and leaves the tables that bacmr_create_tables made, with their rows');
is($node->safe_psql('renamed', q{SELECT count(*) FROM pg_class WHERE relname LIKE 'bacmr%'}),
    0, 'and nothing of its own');

$node->stop;
done_testing();
