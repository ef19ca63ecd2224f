# A standby takes over, the old primary went on for a while, is rewound, follows, and takes over again.
# Whichever is the primary expires, nobody refunds twice, run ids never come twice, and a reindex job
# goes on where the primary is.
use strict;
use warnings;
use BacmrTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReindexJobs;
use Test::More;

my $a = new_server('a', streaming => 1,
    conf => [ q{bacmr.expire_interval = '1s'}, 'wal_log_hints = on', q{wal_keep_size = '256MB'}, 'autovacuum = off',
        'max_worker_processes = 20' ]);
app_database($a, 'app');
give_wallets($a, 'app', 20);
make_chunks($a, 'app', 'n', 300);
$a->safe_psql('app', 'SELECT bacmr_reconcile()');
$a->backup('base');
my $b = PostgreSQL::Test::Cluster->new('b');
$b->init_from_backup($a, 'base', has_streaming => 1);
$b->start;

sub state_is {
    my ($node, $wanted, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return await_sql($node, 'app', qq{SELECT count(*) = 0 FROM reservations WHERE status <> '$wanted'}, $what);
}

sub sound {
    my ($node, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    balances_agree($node, 'app', "$what: every balance is the sum of its ledger");
    is(refunded_twice($node, 'app'), 0, "$what: nothing was refunded twice");
    is($node->safe_psql('app', q{SELECT string_agg(job, ' ') FROM bacmr_job_pause}), 'reindex', "$what: nothing is paused but by hand");
    is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_doctor() WHERE severity = 'error'}), 0, "$what: the doctor finds no error");
    return;
}

# --- the primary is lost from sight --------------------------------------------------------------

# A job that is queued, and must not be done before the failover.
$a->safe_psql('app', q{SELECT bacmr_pause('reindex', 'until the failover')});
my $job = queue_job($a, 'app', q{'n', embedder => 'bacmr_local', vector_store => 'bacmr_postgres', batch_size => 10});
$a->safe_psql('app', q{UPDATE chunks SET content = 'changed' WHERE id IN (SELECT id FROM chunks ORDER BY id LIMIT 5)});
my @before = map { reserve($a, 'app', $_, 10, '-1 second') } 1 .. 5;
state_is($a, 'expired', 'the primary expires');
my $later = reserve($a, 'app', 6, 10, '1 hour');
$a->wait_for_catchup($b, 'replay');

$b->promote;
await('the promoted standby has a worker', sub { worker_pid($b, 'app') });
# Nobody has told the old primary: it goes on, and expires what the new one does, too.
$_->safe_psql('app', qq{UPDATE reservations SET expires_at = now() - interval '1 second' WHERE id = '$later'}) for $a, $b;
reserve($a, 'app', 7, 10, '-1 second');
reserve($b, 'app', 8, 10, '-1 second');
state_is($_, 'expired', $_->name . ' expires what it has') for $a, $b;
sound($b, 'the new primary');
isnt($a->safe_psql('app', 'SELECT sum(id) FROM wallet_ledger'), $b->safe_psql('app', 'SELECT sum(id) FROM wallet_ledger'),
    'the two have gone apart');

# --- the old primary is rewound ------------------------------------------------------------------

$a->stop('fast');
$b->safe_psql('postgres', 'CHECKPOINT');
# pg_rewind wants its target's configuration afterwards as it was.
my $conf = $a->data_dir . '/postgresql.conf';
my $own = slurp_file($conf);
$b->command_ok(
    [ 'pg_rewind', '--target-pgdata', $a->data_dir, '--source-server', $b->connstr('postgres'), '--no-sync' ],
    'pg_rewind');
open my $file, '>', $conf or die "$conf: $!";
print {$file} $own;
close $file or die "$conf: $!";
$a->enable_streaming($b);
$a->start;
$b->wait_for_catchup($a, 'replay');
is($a->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'bacmr_ops%'}), 0,
    'the rewound primary is a standby: it runs no worker');
is($a->safe_psql('app', 'SELECT sum(id) FROM wallet_ledger'), $b->safe_psql('app', 'SELECT sum(id) FROM wallet_ledger'),
    'what it did alone is gone');
is($a->safe_psql('app', q{SELECT state FROM bacmr_status WHERE job = 'launcher'}), 'not running', 'and says so');
reserve($b, 'app', 9, 10, '-1 second');
state_is($b, 'expired', 'the new primary expires');
$b->wait_for_catchup($a, 'replay');
state_is($a, 'expired', 'the standby has it');

# --- and takes over again ------------------------------------------------------------------------

my $due = reserve($b, 'app', 10, 10, '-1 second');
$b->wait_for_catchup($a, 'replay');
$b->stop('immediate');
$a->promote;
await('it has a worker again', sub { worker_pid($a, 'app') });
reserve($a, 'app', 11, 10, '-1 second');
state_is($a, 'expired', 'which expires');
sound($a, 'the old primary');
my $runs = $a->safe_psql('app', 'SELECT max(run_id) FROM bacmr_job_run');
cmp_ok($a->safe_psql('app', 'SELECT run_id FROM bacmr_reconcile()'), '>', $runs, 'run ids go on');
is($a->safe_psql('app', 'SELECT discrepancies FROM bacmr_reconcile()'), 0, 'and the wallets agree');

# The job that was queued before both failovers, with the changes that were noted.
is($a->safe_psql('app', "SELECT status, capturing FROM bacmr_reindex_job WHERE job_id = $job"), 'queued|t',
    'the reindex job is where it was');
$a->safe_psql('app', q{UPDATE chunks SET content = 'changed again' WHERE id IN (SELECT id FROM chunks ORDER BY id LIMIT 3)});
$a->safe_psql('app', q{SELECT bacmr_unpause('reindex')});
await_job($a, 'app', $job, 'completed', 'it is done after the failovers');
$a->safe_psql('app', "SELECT bacmr_reindex_swap($job)");
is($a->safe_psql('app', q{SELECT expected, ok FROM bacmr_vectors_verify('n', 'bacmr_postgres')}), '300|t', 'and has missed nothing');
unlike(slurp_file($_->logfile), qr/PANIC|was terminated by signal/, $_->name . ': nothing crashed') for $a, $b;

$a->stop;
done_testing();
