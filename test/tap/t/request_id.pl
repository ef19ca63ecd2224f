# One request id through everything that the extension writes: job run, findings, ledger rows, log
# lines, the report's file.
use strict;
use warnings;
use BacmrTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');
app_database($node, 'app');
give_wallets($node, 'app', 2);
$node->safe_psql('app', q{SELECT bacmr_pause('expire', 'test')});
reserve($node, 'app', 1, 10, '-1 second');
$node->safe_psql('app', 'UPDATE wallet SET token_balance = 1 WHERE user_id = u(2)');
my $offset = log_size($node);
my $id = 'req-42-طلب';
$node->safe_psql('app', <<"SQL");
SET bacmr.request_id = '$id';
SELECT bacmr_expire_reservations();
SELECT bacmr_reconcile();
SELECT bacmr_log('info', 'from the application', '{"step": 1}');
SQL
is($node->safe_psql('app', "SELECT string_agg(job, ',' ORDER BY job) FROM bacmr_job_run
      WHERE request_id = '$id'"), 'expire,reconcile', 'in the job runs');
is($node->safe_psql('app', "SELECT count(*) FROM bacmr_discrepancy WHERE request_id = '$id'"), 1,
    'in the findings');
is($node->safe_psql('app', "SELECT count(*) FROM wallet_ledger
      WHERE reason = 'reservation_expired' AND request_id = '$id'"), 1, 'in the ledger');
my @lines = log_entries($node, $offset);
is_deeply([ map { utf8::encode(my $copy = $_->{request_id}); $copy } @lines ], [ ($id) x @lines ],
    'in every line of the log');
ok((grep { $_->{message} eq 'from the application' && $_->{fields}{step} == 1 } @lines),
    'the application\'s own among them');
is_deeply([ sort keys %{ $lines[0] } ],
    [qw(fields level logger message request_id timestamp)], 'each with the same parts');
is($node->safe_psql('app', q{SELECT pg_read_file(detail->>'report')::jsonb->>'request_id'
      FROM bacmr_job_run WHERE job = 'reconcile'}), $id, 'in the report\'s file');

$node->safe_psql('postgres', q{ALTER SYSTEM SET bacmr.log_format = 'text'});
$node->reload;
await('as text, where that is wanted', sub {
    my $start = log_size($node);
    $node->safe_psql('app', "SET bacmr.request_id = '$id'; SELECT bacmr_log('info', 'plain')");
    slurp_file($node->logfile, $start) =~ /LOG:  bacmr_ops: plain.*request_id="\Q$id\E"/;
});
$node->stop;
done_testing();
