# docs/scaling.md on a real Citus: a coordinator and two workers, on which the statements of that page
# are run as they stand there. Debian has no Citus: where it is not installed this test is skipped
# (test/sql/pgtap/distributed.sql has what can be tested without).
use strict;
use warnings;
use BacmrTest;
use Cwd ();
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Test::More;

my ($pkglibdir) = run_command([ 'pg_config', '--pkglibdir' ]);
plan skip_all => 'Citus is not installed: the statements of docs/scaling.md are not tried on it'
  unless -e "$pkglibdir/citus.so";

my $docs = $ENV{BACMR_DOCS} // dirname(Cwd::realpath(__FILE__)) . '/../../../docs';
my ($page) = slurp_file("$docs/scaling.md") =~ /^(## Citus\n.*)/ms or die 'scaling.md has no section Citus';
my ($setup, $expire_shards, $expire_local, $grants) = $page =~ /^```sql\n(.*?)^```\n/msg;
my ($on_coordinator, $on_workers) = $grants =~ /\A(.*)^(-- on each worker.*)\z/ms
  or die 'the grants of scaling.md are not divided';

my @nodes = map {
    new_server($_, conf => [ q{shared_preload_libraries = 'citus, bacmr_ops'}, q{listen_addresses = '127.0.0.1'},
        'max_prepared_transactions = 20', 'max_connections = 100', 'max_worker_processes = 20',
        'citus.shard_count = 6', q{citus.node_conninfo = 'sslmode=disable'} ])
} qw(coordinator north south);
my ($coordinator, @workers) = @nodes;
for my $node (@nodes) {
    $node->safe_psql('postgres', 'CREATE DATABASE app');
    $node->safe_psql('app', 'CREATE EXTENSION citus');
}
$coordinator->safe_psql('app', "SELECT citus_set_coordinator_host('127.0.0.1', " . $coordinator->port . ')');
$coordinator->safe_psql('app', "SELECT citus_add_node('127.0.0.1', " . $_->port . ')') for @workers;
$coordinator->safe_psql('app', 'CREATE SCHEMA shop; CREATE ROLE expirer LOGIN');

# --- as the page says ----------------------------------------------------------------------------

is(error_of($coordinator, 'app', $setup), '', 'the tables, and the extension');
is($_->safe_psql('app', q{SELECT count(*) FROM pg_extension WHERE extname = 'bacmr_ops'}), 1, $_->name . ' has it') for @nodes;
is(error_of($coordinator, 'app', $expire_shards), '', 'the function of the coordinator');
is(error_of($coordinator, 'app', $expire_local), '', 'the procedure of the workers');
is(error_of($coordinator, 'app', $on_coordinator), '', 'grants on the coordinator');
is(error_of($_, 'app', $on_workers), '', 'grants on ' . $_->name) for @workers;
$coordinator->safe_psql('app', 'GRANT EXECUTE ON PROCEDURE shop.expire_local_shards() TO expirer');

$coordinator->safe_psql('app', <<'SQL');
INSERT INTO wallet SELECT gen_random_uuid(), 100 FROM generate_series(1, 300);
INSERT INTO wallet_ledger (user_id, delta, reason) SELECT user_id, 100, 'deposit' FROM wallet;
SQL
sub fall_due {
    $coordinator->safe_psql('app', <<'SQL');
UPDATE wallet SET token_balance = token_balance - 10;
INSERT INTO wallet_ledger (user_id, delta, reason) SELECT user_id, -10, 'reserved' FROM wallet;
INSERT INTO reservations (user_id, amount, expires_at) SELECT user_id, 10, now() - interval '1 minute' FROM wallet;
SQL
    return;
}

sub as_expirer {
    my ($node, $sql) = @_;
    my ($out, $err) = ('', '');
    $node->psql('app', $sql, stdout => \$out, stderr => \$err, on_error_stop => 1, extra_params => [ '-U', 'expirer' ]);
    return $out . $err;
}

sub all_is_well {
    my ($expired) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($coordinator->safe_psql('app', 'SELECT wallets_checked, ledger_rows, discrepancies, drift FROM bacmr_reconcile()'),
        '300|' . (300 + 2 * $expired) . '|0|0', 'reconciliation reads every shard, and all is well');
    is($coordinator->safe_psql('app', q{SELECT count(*) FROM reservations WHERE status = 'expired'}), $expired,
        "$expired are expired");
    return;
}

# --- expiry --------------------------------------------------------------------------------------

fall_due();
like(error_of($coordinator, 'app', q{SELECT id FROM reservations WHERE status = 'reserved' FOR UPDATE SKIP LOCKED}),
    qr/could not run distributed query with FOR UPDATE/, 'Citus locks no rows over several shards');
for my $call ('SELECT bacmr_expire_reservations()', q{SELECT bacmr_expire_in('reservations', 'wallet', 'wallet_ledger')}) {
    like(error_of($coordinator, 'app', $call), qr/ERROR:  55000: .*distributed table of Citus.*HINT:.*bacmr_expire_in/s,
        "$call refuses");
}
is(as_expirer($coordinator, 'SELECT * FROM shop.expire_shards()'), '300|3000', 'from the coordinator, every shard');
all_is_well(300);
is(as_expirer($coordinator, 'SELECT * FROM shop.expire_shards()'), '0|0', 'once more: nothing');
fall_due();
is(as_expirer($_, 'CALL shop.expire_local_shards()'), '', 'from ' . $_->name . ', its shards') for @workers;
all_is_well(600);
cmp_ok($_->safe_psql('app', q{SELECT count(DISTINCT detail->>'relation') FROM bacmr_job_run WHERE status = 'succeeded'}),
    '>', 1, $_->name . ' has the runs of its shards') for @workers;

# One worker where the role may not: an error, and the others' shards are done.
fall_due();
$workers[0]->safe_psql('app', 'SET citus.enable_ddl_propagation = off; REVOKE EXECUTE ON FUNCTION bacmr_expire_in FROM expirer');
like(as_expirer($coordinator, 'SELECT * FROM shop.expire_shards()'),
    qr/ERROR:  3 shards could not be expired; .*permission denied for function bacmr_expire_in/, 'shards that failed are an error');
my $done = $coordinator->safe_psql('app', q{SELECT count(*) FROM reservations WHERE status = 'expired'});
cmp_ok($done, '>', 600, 'the others are done');
$workers[0]->safe_psql('app', 'SET citus.enable_ddl_propagation = off; GRANT EXECUTE ON FUNCTION bacmr_expire_in TO expirer');
is(as_expirer($coordinator, 'SELECT expired FROM shop.expire_shards()'), 900 - $done, 'once mended, the rest');
all_is_well(900);

# --- reconciliation ------------------------------------------------------------------------------

my ($out, $plans) = ('', '');
$coordinator->psql('app', <<'SQL', stdout => \$out, stderr => \$plans, on_error_stop => 1);
LOAD 'auto_explain';
SET auto_explain.log_min_duration = 0;
SET auto_explain.log_nested_statements = on;
SET auto_explain.log_level = notice;
SET citus.explain_all_tasks = off;
SELECT bacmr_reconcile();
SQL
for my $each ([ 'balances and ledger', qr/FULL JOIN/ ], [ 'open reservations and wallets', qr/'orphan_reservation'/ ],
    [ 'expired reservations and refunds', qr/'unrefunded_expiry'/ ])
{
    my ($what, $query) = @$each;
    my ($plan) = grep { /^.*Query Text: SELECT/ && (split /\n/, $_)[0] =~ $query } split /(?=NOTICE:  duration)/, $plans =~ s/plan:\n/plan: /gr;
    like($plan // '', qr/Custom Scan \(Citus Adaptive\).*\n\s*Task Count: 6\n/, "$what: one task a shard");
    unlike($plan // 'none', qr/Distributed Subplan/, 'and nothing is fetched for it');
}

$coordinator->safe_psql('app', <<'SQL');
SET client_min_messages = error;
UPDATE wallet SET token_balance = token_balance + 7 WHERE user_id = (SELECT min(user_id::text)::uuid FROM wallet);
SELECT * FROM bacmr_reconcile();
SQL
is($coordinator->safe_psql('app', q{SET client_min_messages = error;
       SELECT discrepancies, drift FROM bacmr_reconcile('1 second')}), '1|7', 'what is wrong is found, and a second look too');

# --- export and import ---------------------------------------------------------------------------

my ($path, $rows) = split /\|/, $coordinator->safe_psql('app', q{SELECT path, chunks FROM bacmr_export('wallet_ledger')});
is($rows, 2100, 'an export has the rows of all shards');
like(error_of($coordinator, 'app', "SELECT bacmr_import('wallet_ledger', '$path')"),
    qr/ERROR:  0A000: rows cannot be imported into public\.wallet_ledger, a distributed table of Citus/, 'an import is refused');
is($coordinator->safe_psql('app', <<"SQL"), "2100\n2100", 'and goes by way of an ordinary table');
CREATE TABLE staging (LIKE wallet_ledger);
SELECT inserted FROM bacmr_import('staging', '$path');
TRUNCATE wallet_ledger;
INSERT INTO wallet_ledger SELECT * FROM staging;
SELECT count(*) FROM wallet_ledger;
SQL

# --- a ledger with a sequence --------------------------------------------------------------------

$coordinator->safe_psql('app', <<'SQL');
CREATE TABLE numbered (id bigint GENERATED BY DEFAULT AS IDENTITY, user_id uuid NOT NULL, delta bigint NOT NULL,
  reason text NOT NULL, reservation_id uuid, PRIMARY KEY (user_id, id));
SELECT create_distributed_table('numbered', 'user_id', colocate_with => 'wallet');
SQL
my ($reservations, $wallet, $numbered) = split /\|/, $workers[0]->safe_psql('app', <<'SQL');
SELECT shard_name(r.logicalrelid, r.shardid), shard_name(w.logicalrelid, w.shardid), shard_name(l.logicalrelid, l.shardid)
FROM pg_dist_shard r JOIN pg_dist_placement p USING (shardid) JOIN pg_dist_local_group USING (groupid)
JOIN pg_dist_shard w ON w.logicalrelid = 'wallet'::regclass AND w.shardminvalue = r.shardminvalue
JOIN pg_dist_shard l ON l.logicalrelid = 'numbered'::regclass AND l.shardminvalue = r.shardminvalue
WHERE r.logicalrelid = 'reservations'::regclass ORDER BY 1 LIMIT 1
SQL
my $in_shards = "SELECT bacmr_expire_in('$reservations', '$wallet', '$numbered')";
like(error_of($workers[0], 'app', $in_shards), qr/ERROR:  55000: .*a new row needs a value for id/, 'shards have no sequences');
my ($remedy) = $page =~ /`(SELECT run_command_on_shards\('wallet_ledger'.*?)`/s or die 'scaling.md has no remedy';
$coordinator->safe_psql('app', $remedy =~ s/wallet_ledger/numbered/gr);
is(error_of($workers[0], 'app', $in_shards), '', 'the remedy of the page');

unlike(slurp_file($_->logfile), qr/PANIC|was terminated by signal/, $_->name . ': nothing crashed') for @nodes;
$_->stop for reverse @nodes;
done_testing();
