# A standby cannot write: it runs no worker until it is promoted. And default_transaction_read_only,
# which is for sessions, does not stop a worker.
use strict;
use warnings;
use BacmrTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = new_server('primary', streaming => 1,
    conf => [ q{bacmr.expire_interval = '1s'}, 'default_transaction_read_only = on' ]);
$ENV{PGOPTIONS} = '-c default_transaction_read_only=off';    # our own sessions write
app_database($primary, 'app');
give_wallets($primary, 'app', 3);
my $id = reserve($primary, 'app', 1, 10, '-1 second');
await_sql($primary, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'},
    'a worker expires in spite of default_transaction_read_only = on');

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

$primary->append_conf('postgresql.conf', 'bacmr.worker_enabled = off');
$primary->reload;
await("the primary's worker is off", sub { !worker_pid($primary, 'app') });
my $due = reserve($primary, 'app', 2, 10, '-1 second');
$primary->wait_for_catchup($standby, 'replay');

is($standby->safe_psql('app', qq{SELECT status FROM reservations WHERE id = '$due'}),
    'reserved', 'the standby holds a reservation that is due');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
       WHERE backend_type LIKE 'bacmr_ops%'}),
    0, 'and runs neither launcher nor worker');
is($standby->safe_psql('app', q{SELECT state FROM bacmr_status WHERE job = 'launcher'}),
    'not running', 'bacmr_status can be read there and says so');
like(error_of($standby, 'app', 'SELECT bacmr_expire_reservations()'),
    qr/ERROR:  25006: /, 'expiry by hand is refused as any write is');

$primary->stop('immediate');
$standby->promote;
await('after the promotion there is a worker', sub { worker_pid($standby, 'app') });
await_sql($standby, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$due'},
    'which expires what fell due meanwhile');
balances_agree($standby, 'app');
is(refunded_twice($standby, 'app'), 0, 'nothing was refunded twice');
is($standby->safe_psql('app', 'SELECT count(*) FROM bacmr_job_pause'),
    0, 'a promoted standby is no copy: nothing is paused');

$standby->stop;
done_testing();
