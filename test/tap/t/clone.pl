# A cluster that was copied by pg_basebackup and started as it is has the identity of its original. It
# runs beside that, or in its place, and cannot tell which: it starts with everything paused that would
# act twice. A standby that is promoted, and a recovery from an archive, take the original's place.
use strict;
use warnings;
use BacmrTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReindexJobs;
use Test::More;

my $main = new_server('main', streaming => 1,
    conf => [ q{bacmr.expire_interval = '1s'} ]);
app_database($main, 'app');
give_wallets($main, 'app', 5);
make_chunks($main, 'app', 'n', 20);
$main->safe_psql('app', q{SELECT bacmr_reconcile()});
await('the original has a worker', sub { worker_pid($main, 'app') });
$main->safe_psql('app', q{SELECT bacmr_pause('reindex', 'for this test')});
my $job = queue_job($main, 'app', q{'n', embedder => 'bacmr_local', vector_store => 'bacmr_postgres'});

my $paused = q{SELECT string_agg(job, ' ' ORDER BY job) FROM bacmr_job_pause};

# A server from a backup; %options as of init_from_backup.
sub copy_of {
    my ($origin, $backup, $name, %options) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init_from_backup($origin, $backup, %options);
    $node->start;
    return $node;
}

sub identifier { return $_[0]->safe_psql('app', 'SELECT system_identifier FROM pg_control_system()'); }

sub tick {
    my ($node, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return await_sql($node, 'app', q{SELECT last_tick_at IS NOT NULL AND state IN ('idle', 'paused')
        FROM bacmr_worker_status() WHERE worker = 'worker'}, $what);
}

sub expires {
    my ($node, $n, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $id = reserve($node, 'app', $n, 10, '-1 second');
    return await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'}, $what);
}

# --- a clone beside its original -----------------------------------------------------------------

my $due = reserve($main, 'app', 1, 10, '1 hour');
$main->backup('base');
my $clone = copy_of($main, 'base', 'clone');
is(identifier($clone), identifier($main), 'a cloned cluster has the identifier of its original');
$clone->safe_psql('app', qq{UPDATE reservations SET expires_at = now() - interval '1 minute' WHERE id = '$due'});
tick($clone, 'the worker has looked around');
await_sql($clone, 'app', q{SELECT state = 'paused' FROM bacmr_status WHERE job = 'worker'}, 'and rests');
is($clone->safe_psql('app', $paused), 'expire export reindex', 'expire, export and reindex are paused');
like($clone->safe_psql('app', q{SELECT next_step FROM bacmr_status WHERE job = 'expire'}),
    qr/restored or cloned from database app of cluster \d+: make sure that the original is gone.*bacmr_unpause/s,
    'the reason says where it comes from, and the way on');
is($clone->safe_psql('app', qq{SELECT status FROM reservations WHERE id = '$due'}), 'reserved', 'nothing expires');
is($clone->safe_psql('app', qq{SELECT status, capturing FROM bacmr_reindex_job WHERE job_id = $job}),
    'paused|f', 'the original\'s reindex job is not taken up');
is($clone->safe_psql('app', q{CALL bacmr_run_job('export'); SELECT status FROM bacmr_job_run ORDER BY run_id DESC LIMIT 1}),
    'skipped', 'a scheduled export is skipped');
is($main->safe_psql('app', $paused), 'reindex', 'the original is not paused');
expires($main, 2, 'and expires');
is($main->safe_psql('app', qq{SELECT status, capturing FROM bacmr_reindex_job WHERE job_id = $job}),
    'queued|t', 'its reindex job is as it was');

# --- the clone takes over ------------------------------------------------------------------------

$clone->safe_psql('app', q{SELECT bacmr_unpause('expire'), bacmr_unpause('export'), bacmr_unpause('reindex')});
await_sql($clone, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$due'}, 'after bacmr_unpause it expires');
for my $how ('fast', 'immediate') {
    $clone->stop($how);
    $clone->start;
    tick($clone, "after a restart ($how) the worker has looked around");
    is($clone->safe_psql('app', $paused), '', 'and nothing is paused again');
}
# Deploy scripts attach again.
$clone->safe_psql('app', 'SELECT bacmr_attach()');
expires($clone, 3, 'it goes on');

# A second clone of the same backup, in which tables are attached before a worker has looked around.
my $second = PostgreSQL::Test::Cluster->new('second');
$second->init_from_backup($main, 'base');
$second->append_conf('postgresql.conf', 'bacmr.worker_enabled = off');
$second->start;
$second->safe_psql('app', q{SELECT bacmr_detach('wallet'); SELECT bacmr_attach()});
is($second->safe_psql('app', $paused), 'expire export reindex', 'a clone in which tables are attached again stays paused');
$second->stop;

# A clone of the clone; and a standby of the clone, which is promoted.
$clone->backup('again');
my $third = copy_of($clone, 'again', 'third');
tick($third, 'a clone of the clone: the worker has looked around');
is($third->safe_psql('app', $paused), 'expire export reindex', 'it is paused as well');
$third->stop;
my $standby = copy_of($clone, 'again', 'standby', has_streaming => 1);
$clone->wait_for_catchup($standby, 'replay');
$clone->stop('immediate');
$standby->promote;
tick($standby, 'a promoted standby of the clone: the worker has looked around');
is($standby->safe_psql('app', $paused), '', 'nothing is paused');
expires($standby, 4, 'and it expires');
balances_agree($standby, 'app');
is(refunded_twice($standby, 'app'), 0, 'nothing was refunded twice');

# Promoted clusters have clones, too.
$standby->append_conf('postgresql.conf', 'wal_level = replica');
$standby->backup('promoted');
my $fourth = copy_of($standby, 'promoted', 'fourth');
tick($fourth, 'a clone of what was promoted: the worker has looked around');
is($fourth->safe_psql('app', $paused), 'expire export reindex', 'it is paused');
$fourth->stop;
$standby->stop;

# --- recovery from an archive --------------------------------------------------------------------

$main->enable_archiving;
$main->restart;
$main->backup('archived');
my $id = reserve($main, 'app', 5, 10, '2 hours');
my $segment = $main->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
$main->safe_psql('postgres', 'SELECT pg_switch_wal()');
await_sql($main, 'postgres', qq{SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver}, 'the WAL is in the archive');
$main->stop('immediate');
my $recovered = PostgreSQL::Test::Cluster->new('recovered');
$recovered->init_from_backup($main, 'archived', has_restoring => 1, standby => 0);
$recovered->start;
await_sql($recovered, 'postgres', 'SELECT NOT pg_is_in_recovery()', 'the recovery has ended');
tick($recovered, 'a recovered cluster: the worker has looked around');
is($recovered->safe_psql('app', $paused), 'reindex', 'it takes the place of the lost one: nothing is paused but by hand');
is($recovered->safe_psql('app', qq{SELECT count(*) FROM reservations WHERE id = '$id'}), 1, 'with all that was archived');
expires($recovered, 5, 'and it expires');

$recovered->stop;
done_testing();
