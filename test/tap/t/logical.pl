# Logical replication of the application's tables, with the extension at both ends: the publisher
# expires; the subscriber reconciles, exports and reindexes what it is sent, and refuses to expire it.
use strict;
use warnings;
use BacmrTest;
use PostgreSQL::Test::Utils;
use ReindexJobs;
use Test::More;

my @conf = (q{bacmr.expire_interval = '1s'}, 'wal_level = logical', 'max_worker_processes = 20');
my $publisher = new_server('publisher', streaming => 'logical', conf => [@conf]);
my $subscriber = new_server('subscriber', conf => [@conf]);
app_database($_, 'app') for $publisher, $subscriber;
give_wallets($publisher, 'app', 10);
make_chunks($publisher, 'app', 'n', 50);
$publisher->safe_psql('app', <<'SQL');
CREATE PUBLICATION app FOR TABLE wallet, wallet_ledger, reservations, chunks;
SQL
my $source = $publisher->connstr('app') =~ s/'/''/gr;
$subscriber->safe_psql('app', "CREATE SUBSCRIPTION app CONNECTION '$source' PUBLICATION app");
$subscriber->wait_for_subscription_sync($publisher, 'app', 'app');

sub caught_up { $publisher->wait_for_catchup('app'); return; }

# --- expiry belongs to the publisher -------------------------------------------------------------

my $id = reserve($publisher, 'app', 1, 10, '1 hour');
caught_up();
await_sql($subscriber, 'app', q{SELECT state = 'cannot expire' AND next_step LIKE '%subscription%' FROM bacmr_status
    WHERE job = 'worker'}, 'the subscriber\'s worker expires nothing, and says why');
# Due there only.
$subscriber->safe_psql('app', qq{UPDATE reservations SET expires_at = now() - interval '1 hour' WHERE id = '$id'});
like(error_of($subscriber, 'app', 'SELECT bacmr_expire_reservations()'), qr/ERROR:  55000: .*subscription/s,
    'expiry by hand is refused');
like(error_of($subscriber, 'app', q{CALL bacmr_run_job('expire')}), qr/subscription/, 'a scheduled one as well');
is($subscriber->safe_psql('app', qq{SELECT status FROM reservations WHERE id = '$id'}), 'reserved', 'nothing expired');

$publisher->safe_psql('app', qq{UPDATE reservations SET expires_at = now() - interval '1 second' WHERE id = '$id'});
await_sql($publisher, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'}, 'the publisher expires');
caught_up();
is($subscriber->safe_psql('app', qq{SELECT status FROM reservations WHERE id = '$id'}), 'expired', 'and the subscriber is told');
balances_agree($_, 'app', $_->name . ': the balances agree') for $publisher, $subscriber;
is($subscriber->safe_psql('app', 'SELECT wallets_checked, discrepancies FROM bacmr_reconcile()'), '10|0',
    'the subscriber reconciles what it was sent');
is($subscriber->safe_psql('app', 'SELECT count(*) FROM bacmr_job_pause'), 0, 'the subscriber is no copy: nothing is paused');

# --- chunks that are replicated ------------------------------------------------------------------

like($subscriber->safe_psql('app', q{SELECT chunks FROM bacmr_export_chunks()}), qr/^50$/, 'the subscriber exports');
$subscriber->safe_psql('app', q{SELECT bacmr_pause('reindex', 'for this test')});
my $job = queue_job($subscriber, 'app', q{'n', embedder => 'bacmr_local', vector_store => 'bacmr_postgres', batch_size => 10});
is($subscriber->safe_psql('app', q{SELECT string_agg(tgenabled::text, '') FROM pg_trigger WHERE tgname LIKE 'bacmr%'}), 'AA',
    'the triggers on its chunks fire always');
my ($updated, $deleted) = split /\n/, $publisher->safe_psql('app', 'SELECT id FROM chunks ORDER BY id LIMIT 2');
$publisher->safe_psql('app', <<"SQL");
UPDATE chunks SET content = 'changed by the publisher' WHERE id = '$updated';
DELETE FROM chunks WHERE id = '$deleted';
INSERT INTO chunks (namespace, content) VALUES ('n', 'new from the publisher');
SQL
my $inserted = $publisher->safe_psql('app', q{SELECT id FROM chunks WHERE content LIKE 'new from%'});
caught_up();
is($subscriber->safe_psql('app', q{SELECT string_agg(DISTINCT chunk_id, ' ' ORDER BY chunk_id) FROM bacmr_chunk_change}),
    join(' ', sort $updated, $deleted, $inserted), 'what the publisher changes is noted by the subscriber');
$subscriber->safe_psql('app', q{SELECT bacmr_unpause('reindex')});
await_job($subscriber, 'app', $job, 'completed', 'the job is done');
# It notes changes until the swap; more of them arrive.
$publisher->safe_psql('app', "UPDATE chunks SET content = 'changed once more' WHERE id = '$updated'");
caught_up();
# One of them has the same text.
$publisher->safe_psql('app', q{INSERT INTO chunks (namespace, content) SELECT 'n', n::text FROM generate_series(1, 19) n;
    INSERT INTO chunks (namespace, content) VALUES ('n', 'changed once more')});
caught_up();
await_sql($subscriber, 'app', q{SELECT NOT EXISTS (SELECT FROM bacmr_chunk_change)}, 'changes after that are dealt with');
is($subscriber->safe_psql('app', "SELECT bacmr_reindex_swap($job)"), 'n-v2', 'the swap');
is($subscriber->safe_psql('app', q{SELECT expected, missing, extra, ok FROM bacmr_vectors_verify('n', 'bacmr_postgres')}),
    '70|0|0|t', 'no chunk is missing');
is($subscriber->safe_psql('app', q{SELECT count(*), count(DISTINCT v.embedding) FROM bacmr_vector v
        JOIN chunks c ON c.id::text = v.id AND v.namespace = 'n-v2' WHERE c.content = 'changed once more'}), '2|1',
    'and what was embedded of a changed one is its last text');

# TRUNCATE is replicated, too.
$subscriber->safe_psql('app', q{SELECT bacmr_pause('reindex', 'for this test')});
$job = queue_job($subscriber, 'app', q{'n', embedder => 'bacmr_local', vector_store => 'bacmr_postgres'});
$publisher->safe_psql('app', 'TRUNCATE chunks');
caught_up();
is($subscriber->safe_psql('app', 'SELECT count(*) FROM bacmr_chunk_change WHERE chunk_id IS NULL'), 1, 'TRUNCATE is noted');
$subscriber->safe_psql('app', q{SELECT bacmr_unpause('reindex')});
await_job($subscriber, 'app', $job, 'completed', 'and dealt with');
$subscriber->safe_psql('app', "SELECT bacmr_reindex_swap($job, force => true)");
is($subscriber->safe_psql('app', q{SELECT expected, actual, ok FROM bacmr_vectors_verify('n', 'bacmr_postgres')}), '0|0|t',
    'nothing is left');

# --- what is published that should not be --------------------------------------------------------

is($subscriber->safe_psql('app', q{SELECT count(*) FROM bacmr_doctor() WHERE check_name = 'replication'}), 0,
    'so far the doctor finds nothing');
$publisher->safe_psql('app', 'CREATE PUBLICATION everything FOR ALL TABLES');
$subscriber->safe_psql('app', "CREATE SUBSCRIPTION everything CONNECTION '$source' PUBLICATION everything WITH (copy_data = false)");
like($subscriber->safe_psql('app', q{SELECT string_agg(finding || ': ' || fix, ' ') FROM bacmr_doctor() WHERE check_name = 'replication'}),
    qr/subscription everything feeds (?:public\.)?bacmr_source, .*ALTER SUBSCRIPTION everything REFRESH PUBLICATION/,
    'the book-keeping of another database: the doctor says so');
$subscriber->safe_psql('app', 'DROP SUBSCRIPTION everything');

# --- the subscriber becomes the database ---------------------------------------------------------

my $due = reserve($publisher, 'app', 2, 10, '1 hour');
caught_up();
$publisher->stop('fast');
$subscriber->safe_psql('app', 'ALTER SUBSCRIPTION app DISABLE; ALTER SUBSCRIPTION app SET (slot_name = NONE); DROP SUBSCRIPTION app');
# As a move by logical replication does: sequences are not replicated.
$subscriber->safe_psql('app', q{SELECT setval(pg_get_serial_sequence('wallet_ledger', 'id'), (SELECT max(id) FROM wallet_ledger))});
$subscriber->safe_psql('app', qq{UPDATE reservations SET expires_at = now() - interval '1 second' WHERE id = '$due'});
await_sql($subscriber, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$due'},
    'without the subscription it expires');
balances_agree($subscriber, 'app');
is(refunded_twice($subscriber, 'app'), 0, 'nothing was refunded twice');

$subscriber->stop;
done_testing();
