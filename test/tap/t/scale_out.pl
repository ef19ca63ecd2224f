# Wallet, ledger and reservations divided by user: a coordinator whose partitions are foreign tables
# on two nodes (postgres_fdw), with one partition of its own. Reconciliation on the coordinator tells
# the truth, and sums where the rows are; expiry runs on the nodes, shard by shard.
use strict;
use warnings;
use BacmrTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Partition => node; the last one is the coordinator's own.
my @where = ('north', 'north', 'south', 'south', 'front');
my %node;
for my $name (qw(north south front)) {
    $node{$name} = new_server($name,
        conf => [ 'bacmr.worker_enabled = off', 'max_prepared_transactions = 0' ]);
    $node{$name}->safe_psql('postgres', 'CREATE DATABASE app');
    $node{$name}->safe_psql('app', 'CREATE EXTENSION bacmr_ops');
}
my $front = $node{front};

my %columns = (
    wallet        => 'user_id bigint NOT NULL, token_balance bigint',
    wallet_ledger => 'user_id bigint, delta bigint, reason text NOT NULL, reservation_id bigint,'
      . ' request_id text',
    reservations => 'id bigint NOT NULL, user_id bigint, amount bigint, status text NOT NULL,'
      . ' expires_at timestamptz, updated_at timestamptz');
my %keys = (
    wallet        => 'PRIMARY KEY (user_id)',
    wallet_ledger => q{UNIQUE (reservation_id, user_id, reason)},
    reservations  => 'PRIMARY KEY (id)');

sub shard_names { return map { $_ . '_' . $_[0] } qw(reservations wallet wallet_ledger) }

$front->safe_psql('app', 'CREATE EXTENSION postgres_fdw');
for my $name (qw(north south)) {
    $front->safe_psql('app',
        "CREATE SERVER $name FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '"
          . $node{$name}->host . "', port '" . $node{$name}->port
          . "', dbname 'app', async_capable 'true');"
          . " CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (user 'postgres')");
    $node{$name}->safe_psql('postgres',
        q{DO $$BEGIN CREATE ROLE postgres SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN END$$});
}
for my $table (sort keys %columns) {
    $front->safe_psql('app',
        "CREATE TABLE $table ($columns{$table}) PARTITION BY HASH (user_id)");
    for my $part (0 .. $#where) {
        my $bounds = 'FOR VALUES WITH (MODULUS ' . @where . ", REMAINDER $part)";
        if ($where[$part] eq 'front') {
            $front->safe_psql('app', "CREATE TABLE ${table}_$part PARTITION OF $table $bounds;"
                  . " ALTER TABLE ${table}_$part ADD $keys{$table}");
        } else {
            $node{ $where[$part] }->safe_psql('app',
                "CREATE TABLE ${table}_$part ($columns{$table}, $keys{$table})");
            $front->safe_psql('app',
                "CREATE FOREIGN TABLE ${table}_$part PARTITION OF $table $bounds SERVER $where[$part]");
        }
    }
}

# 400 users with 2,000 tokens, 20 ledger rows each, and three reservations each: one due, one not
# yet, one closed.
$front->safe_psql('app', <<'SQL');
INSERT INTO wallet SELECT n, 2000 - 3 * n FROM generate_series(1, 400) n;
INSERT INTO wallet_ledger (user_id, delta, reason)
  SELECT n, 100, 'purchase' FROM generate_series(1, 400) n, generate_series(1, 20);
INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
  SELECT n, -n, 'reserve', 1000 * k + n FROM generate_series(1, 400) n, generate_series(1, 3) k;
INSERT INTO reservations
  SELECT 1000 * k + n, n, n, CASE k WHEN 3 THEN 'finalized' ELSE 'reserved' END,
         now() + CASE k WHEN 1 THEN - interval '1 minute' ELSE interval '1 day' END, now()
  FROM generate_series(1, 400) n, generate_series(1, 3) k;
ANALYZE wallet, wallet_ledger, reservations;
SQL
for my $part (0 .. 3) {
    for my $table (shard_names($part)) {
        $node{ $where[$part] }->safe_psql('app', "ANALYZE $table");
        $front->safe_psql('app', "ANALYZE $table");
    }
}
is($front->safe_psql('app', 'SELECT count(DISTINCT tableoid) FROM wallet'),
    5, 'every partition has wallets');
is($front->safe_psql('app', q{SELECT count(*) FROM bacmr_attach() WHERE source <> 'chunks'
       AND status = format('invalid: for expiry, its partition public.%s_0 is a foreign table, whose rows cannot'
                           ' be locked without waiting', source)}),
    3, 'tables with foreign partitions can be attached, and say that they cannot be expired');

# Runs SQL on the coordinator in one session; returns what it prints, and what it says (a second
# result).
sub run_sql {
    my ($sql) = @_;
    my ($out, $err) = ('', '');
    $front->psql('app', $sql, stdout => \$out, stderr => \$err, on_error_stop => 1,
        extra_params => [ '-v', 'VERBOSITY=verbose' ]);
    return ($out, $err);
}

# ------------------------------------------------------------------------------------------------
# Reconciliation
# ------------------------------------------------------------------------------------------------

is($front->safe_psql('app', 'SELECT wallets_checked, ledger_rows, discrepancies, drift FROM bacmr_reconcile()'),
    '400|9200|0|0', 'reconciliation over three servers: every row counts, and all is well');
is($front->safe_psql('app', q{SELECT left(detail->>'method', 4) FROM bacmr_job_run ORDER BY run_id DESC LIMIT 1}),
    'sql:', 'by SQL');

# What the statements did: their plans, and what reached a node.
$node{north}->append_conf('postgresql.conf', 'log_statement = all');
$node{north}->reload;
$node{north}->poll_query_until('app', q{SELECT current_setting('log_statement') = 'all'})
  or die 'the setting did not arrive';
my $offset = log_size($node{north});
sub plans_of_a_reconciliation {
    my (undef, $said) = run_sql(<<'SQL');
LOAD 'auto_explain';
SET auto_explain.log_min_duration = 0;
SET auto_explain.log_nested_statements = on;
SET auto_explain.log_verbose = on;
SET auto_explain.log_level = notice;
SELECT bacmr_reconcile();
SQL
    return $said;
}

# What the nodes are asked of the ledger: sums by user, and never its rows.
sub sums_on_the_nodes {
    my ($plans, $how) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @ledger_sql = $plans =~ /Remote SQL: ([^\n]*wallet_ledger_\d[^\n]*)/g;
    my @sums = grep { /^SELECT user_id, sum\(delta\), count\(\*\), .*GROUP BY 1/ } @ledger_sql;
    is(scalar(@sums), 4, "$how: the sums of the ledger are made on the nodes, one a foreign partition");
    my @counts = grep { /^SELECT count\(\*\), user_id FROM|^SELECT user_id, count\(\*\) FROM/ } @ledger_sql;
    is(scalar(@counts), 4, "$how: so are the counts");
    return is_deeply([ grep { !/GROUP BY|WHERE/ } @ledger_sql ], [], "$how: no statement fetches the ledger row by row")
      || diag($plans);
}
my $plans = plans_of_a_reconciliation();
$node{north}->append_conf('postgresql.conf', 'log_statement = none');
$node{north}->reload;
sums_on_the_nodes($plans, 'EXPLAIN');
like($plans, qr/Async Foreign Scan/, 'several nodes work at a time');
my @joins = grep { /LEFT JOIN public\.wallet_\d/ } $plans =~ /Remote SQL: ([^\n]*reservations_\d[^\n]*)/g;
is(scalar(@joins), 4, 'open reservations meet their wallets on the nodes');
my $node_log = slurp_file($node{north}->logfile, $offset);
like($node_log, qr/SELECT user_id, sum\(delta\), count\(\*\).* FROM public\.wallet_ledger_0 GROUP BY 1/,
    'the aggregate reached the node');
unlike($node_log, qr/SELECT (?:NULL|user_id|user_id, delta) FROM public\.wallet_ledger_0\s*$/m,
    'and nothing asked it for its rows');

# The settings that docs/scaling.md recommends; without statistics of the foreign tables, which the
# nodes have.
$front->safe_psql('app', "ALTER SERVER $_ OPTIONS (ADD use_remote_estimate 'true', ADD fetch_size '10000')")
  for qw(north south);
$front->safe_psql('app', q{DELETE FROM pg_statistic WHERE starelid IN (SELECT oid FROM pg_class
    WHERE relname ~ '^(wallet|wallet_ledger|reservations)(_\d)?$');
    UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relkind IN ('f', 'p')});
sums_on_the_nodes(plans_of_a_reconciliation(), 'with use_remote_estimate');

# Faults of every kind, in foreign partitions and in the coordinator's own.
$front->safe_psql('app', <<'SQL');
UPDATE wallet SET token_balance = token_balance + 7 WHERE user_id % 40 = 0;
UPDATE wallet SET token_balance = -5 WHERE user_id % 50 = 1;
UPDATE wallet SET token_balance = NULL WHERE user_id % 60 = 2;
DELETE FROM wallet WHERE user_id % 45 = 3;
INSERT INTO wallet SELECT n, 5 FROM generate_series(501, 520) n;
INSERT INTO wallet_ledger SELECT n, NULL, 'x' FROM generate_series(10, 400, 30) n;
INSERT INTO wallet_ledger SELECT n, 9, 'x' FROM generate_series(601, 610) n;
INSERT INTO wallet_ledger SELECT NULL, 3, 'nobody';
UPDATE reservations SET amount = 0 WHERE id BETWEEN 2001 AND 2010;
UPDATE reservations SET expires_at = now() - interval '1 hour' WHERE id BETWEEN 1011 AND 1030;
UPDATE reservations SET status = 'expired', updated_at = now() + interval '1 minute'
  WHERE id BETWEEN 3031 AND 3060;
INSERT INTO wallet_ledger SELECT n, n, 'reservation_expired', 3000 + n FROM generate_series(31, 50) n;
INSERT INTO wallet_ledger SELECT n + 1, n, 'reservation_expired', 3000 + n FROM generate_series(31, 35) n;
CREATE TABLE truth_wallet AS TABLE wallet;
CREATE TABLE truth_ledger AS TABLE wallet_ledger;
CREATE TABLE truth_reservations AS TABLE reservations;
ALTER TABLE truth_wallet ADD PRIMARY KEY (user_id);
ALTER TABLE truth_reservations ADD PRIMARY KEY (id);
SQL
my $totals = 'wallets_checked, ledger_rows, discrepancies, drift';
my $found = $front->safe_psql('app', "SET client_min_messages = error; SELECT $totals FROM bacmr_reconcile()");
my $since = $front->safe_psql('app', q{SELECT attached_at FROM bacmr_source WHERE source = 'reservations'});
$front->safe_psql('app', "SELECT bacmr_attach('wallet', 'truth_wallet');"
      . " SELECT bacmr_attach('wallet_ledger', 'truth_ledger');"
      . qq{ SELECT bacmr_attach('reservations', 'truth_reservations', '{}', '{"since": "$since"}')});
is($found,
    $front->safe_psql('app', "SET client_min_messages = error; SELECT $totals FROM bacmr_reconcile()"),
    'the totals are those of local tables with the same rows');
is($front->safe_psql('app', q{SELECT detail->>'method' FROM bacmr_job_run ORDER BY run_id DESC LIMIT 1}),
    'scan', 'which the scan has read');
my $rows = q{SELECT kind, user_id, current_balance, ledger_sum, discrepancy, detail FROM bacmr_discrepancy}
  . q{ WHERE run_id = (SELECT max(run_id) FROM bacmr_job_run) };
is($front->safe_psql('app', qq{
    SELECT count(*) FROM ((($rows - 1) EXCEPT ALL ($rows)) UNION ALL (($rows) EXCEPT ALL ($rows - 1))) d}),
    0, 'so are the findings, row by row');
is($front->safe_psql('app', q{SELECT string_agg(DISTINCT kind, ' ' ORDER BY kind) FROM bacmr_discrepancy}),
    'balance_mismatch duplicate_refund invalid_reservation missing_wallet negative_balance null_amount'
      . ' orphan_reservation stale_reservation unrefunded_expiry',
    'of every kind');
$front->safe_psql('app', "SELECT bacmr_attach('wallet', 'wallet'), bacmr_attach('wallet_ledger', 'wallet_ledger'),"
      . " bacmr_attach('reservations', 'reservations')");

# A second look: a node shows one transaction the same rows twice, so it needs another one.
my $error = error_of($front, 'app', q{SELECT bacmr_reconcile('1 millisecond')});
like($error, qr/ERROR:  0A000: recheck_after needs a transaction of its own/, 'within one transaction it is refused');
like($error, qr/HINT:.*bacmr_run_job/, 'with a hint');
my $look = in_background($front, 'app', q{CALL bacmr_run_job('reconcile', '{"recheck_after": "6 seconds"}')});
await_sql($front, 'app',
    q{SELECT count(*) > 100 FROM bacmr_discrepancy WHERE run_id = (SELECT max(run_id) FROM bacmr_job_run WHERE status = 'running')},
    'the first look has been committed');
$front->safe_psql('app', <<'SQL');
UPDATE wallet w SET token_balance = l.total FROM (SELECT user_id, sum(delta) AS total
  FROM wallet_ledger GROUP BY 1) l WHERE l.user_id = w.user_id AND w.user_id % 40 = 0;
SQL
my (undef, $said) = wait_for_end($look);
like($said, qr/ERROR:  P0001: reconciliation found \d+ discrepancies/, 'the second look ends the run');
is($front->safe_psql('app', qq{SELECT count(*) FROM ($rows) d WHERE kind = 'balance_mismatch' AND user_id::int % 40 = 0
       AND user_id::int <= 400}),
    0, 'what was mended meanwhile, on the nodes too, is taken back');
is($front->safe_psql('app', qq{SELECT count(*) FROM ($rows) d WHERE kind = 'missing_wallet' AND user_id::int > 600}),
    10, 'what was not stands');

# ------------------------------------------------------------------------------------------------
# Export
# ------------------------------------------------------------------------------------------------

my ($path, $exported) = split /\|/, $front->safe_psql('app', q{SELECT path, chunks FROM bacmr_export('wallet_ledger')});
my %lines;
$lines{$_}++ for split /\n/, slurp_file($path);
my %table;
$table{$_}++ for split /\n/, $front->safe_psql('app', 'SELECT row_to_json(l) FROM wallet_ledger l');
is_deeply(\%lines, \%table, 'an export on the coordinator holds every row of every server once');
is($exported, $front->safe_psql('app', 'SELECT count(*) FROM truth_ledger'), 'as many as there are');

# And back: COPY sends each row to the server that its user lies on.
$front->safe_psql('app', 'TRUNCATE wallet_ledger');
is($node{north}->safe_psql('app', 'SELECT count(*) FROM wallet_ledger_0'), 0, 'the ledger is empty, on the nodes too');
is($front->safe_psql('app', "SELECT inserted, skipped FROM bacmr_import('wallet_ledger', '$path')"), "$exported|0",
    'an import on the coordinator');
my %back;
$back{$_}++ for split /\n/, $front->safe_psql('app', 'SELECT row_to_json(l) FROM wallet_ledger l');
is_deeply(\%back, \%table, 'puts every row back');
is($front->safe_psql('app', 'SELECT count(DISTINCT tableoid) FROM wallet_ledger'), 5, 'into every partition');

# ------------------------------------------------------------------------------------------------
# Expiry
# ------------------------------------------------------------------------------------------------

# The books as they should be: what was broken above is mended on the way.
$front->safe_psql('app', <<'SQL');
DELETE FROM wallet; DELETE FROM wallet_ledger; DELETE FROM reservations;
INSERT INTO wallet SELECT n, 1000 - n FROM generate_series(1, 400) n;
INSERT INTO wallet_ledger (user_id, delta, reason) SELECT n, 1000, 'purchase' FROM generate_series(1, 400) n;
INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id) SELECT n, -n, 'reserve', n FROM generate_series(1, 400) n;
INSERT INTO reservations SELECT n, n, n, 'reserved', now() - interval '10 minutes', now() FROM generate_series(1, 400) n;
SQL
$error = error_of($front, 'app', 'SELECT bacmr_expire_reservations()');
like($error, qr/ERROR:  55000: .*reservations_0 is a foreign table/, 'expiry on the coordinator is refused');
like($error, qr/HINT:.*bacmr_expire_in\(reservations, wallet, wallet_ledger\) on each node/,
    'with a hint that names bacmr_expire_in');
like(error_of($front, 'app', q{CALL bacmr_run_job('expire')}), qr/HINT:.*bacmr_expire_in/, 'by the job as well');
like(error_of($front, 'app', q{SELECT bacmr_expire_in('reservations', 'wallet', 'wallet_ledger')}),
    qr/ERROR:  55000: .*foreign table/, 'nor can bacmr_expire_in lock rows of other servers');
is($front->safe_psql('app', q{SELECT count(*) FROM reservations WHERE status = 'reserved'}), 400, 'nothing was done');

# Each node its shards, both of a node at the same time.
my @running;
for my $part (0 .. $#where) {
    my $shards = join ', ', map { "'$_'" } shard_names($part);
    push @running, in_background($node{ $where[$part] }, 'app', "SELECT expired, tokens_refunded FROM bacmr_expire_in($shards)");
}
my ($expired, $refunded) = (0, 0);
for my $part (0 .. $#where) {
    my ($out, $err) = wait_for_end($running[$part]);
    is($err, '', "shard $part on $where[$part]");
    my ($n, $tokens) = split /\|/, $out;
    ok($n > 0, "expires what is due in it");
    $expired += $n;
    $refunded += $tokens;
}
is("$expired|$refunded", '400|' . 400 * 401 / 2, 'together all of them, to the last token');
is($node{north}->safe_psql('app', q{SELECT count(*), min(status), max(status) FROM bacmr_job_run WHERE job = 'expire'}),
    '2|succeeded|succeeded', 'each shard has a run of its own');
is($node{north}->safe_psql('app', q{SELECT string_agg(detail->>'relation', ' ' ORDER BY 1) FROM
       (SELECT detail FROM bacmr_job_run WHERE job = 'expire' ORDER BY detail->>'relation') r}),
    'public.reservations_0 public.reservations_1', 'which names it');
is($front->safe_psql('app', 'SELECT wallets_checked, discrepancies, drift FROM bacmr_reconcile()'),
    '400|0|0', q{the coordinator's reconciliation finds nothing});
is($front->safe_psql('app', q{SELECT count(*) FROM reservations r JOIN wallet_ledger l
       ON l.reservation_id = r.id AND l.user_id = r.user_id AND l.delta = r.amount
       WHERE status = 'expired' AND reason = 'reservation_expired'}),
    400, 'each reservation has its refund');
is($node{south}->safe_psql('app', q{SELECT expired FROM bacmr_expire_in('reservations_2', 'wallet_2', 'wallet_ledger_2')}),
    0, 'once more: nothing');

# A node that is down: an error that says so, and no wrong answer.
$node{south}->stop('immediate');
like(error_of($front, 'app', 'SELECT bacmr_reconcile()'), qr/ERROR:  08/, 'without a node there is no reconciliation');
like(error_of($front, 'app', q{CALL bacmr_run_job('reconcile')}), qr/ERROR:  08/, 'nor a scheduled one');
is($front->safe_psql('app', q{SELECT status FROM bacmr_job_run ORDER BY run_id DESC LIMIT 1}), 'failed',
    'whose run says that it failed');

$_->stop for @node{qw(north front)};
done_testing();
