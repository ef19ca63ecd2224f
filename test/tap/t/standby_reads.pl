# What a hot standby can do, since it needs no write into the database: reconcile, with the report in
# the log, and export, with the file on its own disk. Everything else is refused in clear words.
use strict;
use warnings;
use BacmrTest;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', streaming => 1, conf => [ 'bacmr.worker_enabled = off' ]);
app_database($primary, 'app');
give_wallets($primary, 'app', 50);
$primary->safe_psql('app', <<'SQL');
INSERT INTO chunks (namespace, content) SELECT 'ns', 'نص ' || n FROM generate_series(1, 300) n;
UPDATE wallet SET token_balance = token_balance + 3 WHERE user_id IN (u(1), u(2));
UPDATE wallet SET token_balance = -1 WHERE user_id = u(3);
DELETE FROM wallet WHERE user_id = u(4);
SQL
reserve($primary, 'app', 5, 10, '-1 hour');
my $totals = 'wallets_checked, ledger_rows, discrepancies, drift';
my $truth = $primary->safe_psql('app',
    "SET client_min_messages = error; SELECT $totals FROM bacmr_reconcile()");
is($truth, '49|51|5|2007', 'the primary finds three balances, one of them negative, and one user without a wallet');
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay');

# ------------------------------------------------------------------------------------------------
# Reconciliation
# ------------------------------------------------------------------------------------------------

my $count_runs = q{SELECT count(*), max(run_id) FROM bacmr_job_run WHERE job <> 'verify'};
my $runs = $standby->safe_psql('app', $count_runs);
my $offset = log_size($standby);
my ($out, $err) = ('', '');
$standby->psql('app', "SET bacmr.request_id = 'from the standby'; SELECT run_id IS NULL, $totals FROM bacmr_reconcile()",
    stdout => \$out, stderr => \$err);
is($out, "t|$truth", 'the standby finds the same, without a run');
like($err, qr/WARNING:  reconciliation found 5 discrepancies, drift 2007 tokens/, 'and warns');
like($err, qr/HINT:.*server's log.*from the standby/, 'with a hint where the findings are');
my @lines = grep { $_->{request_id} eq 'from the standby' } log_entries($standby, $offset);
my @found = map { $_->{fields} } grep { $_->{message} eq 'wallet discrepancy' } @lines;
is_deeply(
    [ sort map { join ' ', $_->{kind}, $_->{user_id}, $_->{discrepancy} // 'NULL' } @found ],
    [ 'balance_mismatch ' . user_id(1) . ' 3',     'balance_mismatch ' . user_id(2) . ' 3',
      'balance_mismatch ' . user_id(3) . ' -1001', 'missing_wallet ' . user_id(4) . ' -1000',
      'negative_balance ' . user_id(3) . ' -1001', 'stale_reservation ' . user_id(5) . ' NULL' ],
    'the log holds every finding')
  or diag(JSON::PP::encode_json(\@lines));
my ($summary) = grep { $_->{message} eq 'wallets reconciled on a standby' } @lines;
is($summary->{level}, 'WARNING', 'and a line for all of them');
is($summary->{fields}{report}{discrepancies}, 5, 'with the number');
is($summary->{fields}{report}{kinds}{balance_mismatch}, 3, 'by kind');
is($summary->{fields}{findings_logged}, 6, 'of lines as well');

# By SQL, in parallel with nothing, and in a repeatable snapshot: the same.
is($standby->safe_psql('app', "SET client_min_messages = error; SET bacmr.reconcile_memory = '64kB';"
      . " SELECT $totals FROM bacmr_reconcile()"), $truth, 'by SQL, too');
is($standby->safe_psql('app', 'SET client_min_messages = error; SET min_parallel_table_scan_size = 0;'
      . " SELECT $totals FROM bacmr_reconcile()"), $truth, 'in parallel');

# A second look takes back what was mended on the primary meanwhile.
my $look = in_background($standby, 'app',
    "SET client_min_messages = error; SELECT $totals FROM bacmr_reconcile('8 seconds')");
await_sql($standby, 'app',
    q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%bacmr_reconcile(''8 seconds'')%'
      AND wait_event_type = 'Extension' AND pid <> pg_backend_pid()},
    'the first look is over');
$primary->safe_psql('app', 'UPDATE wallet SET token_balance = 1000 WHERE user_id IN (u(1), u(3))');
$primary->wait_for_catchup($standby, 'replay');
($out, $err) = wait_for_end($look);
is($out, "49|51|2|1003\n", 'with recheck_after, what was mended meanwhile is taken back');
is($err, '', 'without an error');

# The job, for a scheduler beside the standby: its error tells what it found.
like(error_of($standby, 'app', q{CALL bacmr_run_job('reconcile')}),
    qr/ERROR:  P0001: reconciliation found 2 discrepancies.*HINT:.*log/s, 'bacmr_run_job raises in the end');
$primary->safe_psql('app', q{UPDATE wallet SET token_balance = 1000; DELETE FROM wallet_ledger WHERE user_id = u(4);
  UPDATE wallet SET token_balance = 990 WHERE user_id = u(5)});
$primary->wait_for_catchup($standby, 'replay');
is(error_of($standby, 'app', q{CALL bacmr_run_job('reconcile', '{"recheck_after": "1 millisecond"}')}), '',
    'and raises nothing where all is well');
$primary->safe_psql('app', q{SELECT bacmr_pause('reconcile', 'a test')});
$primary->wait_for_catchup($standby, 'replay');
$standby->psql('app', q{CALL bacmr_run_job('reconcile')}, stderr => \$err);
like($err, qr/NOTICE:.*skipped.*a test/, 'a pause on the primary holds here');

# ------------------------------------------------------------------------------------------------
# Export
# ------------------------------------------------------------------------------------------------

my ($run, $path, $chunks) = split /\|/,
  $standby->safe_psql('app', q{SELECT run_id IS NULL, path, chunks FROM bacmr_export_chunks(compression => 'none')});
is("$run|$chunks", 't|300', 'an export on the standby has every row, and no run');
my $data = $standby->data_dir;
like($path, qr/^\Q$data\E\//, q{and lies on the standby's disk});
my %lines;
$lines{$_}++ for split /\n/, slurp_file($path);
my %table;
$table{$_}++ for split /\n/, $primary->safe_psql('app', q{SET timezone = 'UTC'; SELECT row_to_json(c) FROM chunks c});
is_deeply(\%lines, \%table, 'it is what the primary holds');
my $manifest = JSON::PP::decode_json(slurp_file("$path.manifest.json"));
like($manifest->{lsn}, qr/^[0-9A-F]+\/[0-9A-F]+$/, 'the manifest has the position of the replay');
# To be read where things can be recorded: the primary.
is($primary->safe_psql('app', "SELECT count(*) FROM bacmr_verify_export('$path') WHERE ok"), 1,
    'the primary verifies it');

# ------------------------------------------------------------------------------------------------
# All else
# ------------------------------------------------------------------------------------------------

like(error_of($standby, 'app', "SELECT bacmr_expire_in('reservations', 'wallet', 'wallet_ledger')"),
    qr/ERROR:  25006: /, 'expiry is refused');
for my $job (qw(expire export verify drill reindex)) {
    my $arguments = $job eq 'verify' ? q{, '{"source": "x"}'} : '';
    like(error_of($standby, 'app', "CALL bacmr_run_job('$job'$arguments)"),
        qr/ERROR:  25006: the job "$job" cannot run on a standby.*HINT:.*primary/s, "so is the job $job");
}
$primary->wait_for_catchup($standby, 'replay');
is($standby->safe_psql('app', $count_runs), $runs,
    'nothing was written');

$standby->stop;
$primary->stop;
done_testing();
