# docs/tutorial.md: every command of the page, on its schema with names and types of its own, beside what
# an application and the old scripts would do meanwhile. What the page promises after each chapter is
# looked at here.
use strict;
use warnings;
use BacmrTest;
use DocBlocks;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', preload => ['pg_cron'],
    conf => [ q{bacmr.expire_interval = '1s'}, q{cron.database_name = 'bacmr'}, q{cron.use_background_workers = on} ]);
my $base = $node->basedir;
mkdir "$base/store", 0700 or die $!;
$node->safe_psql('postgres', 'CREATE DATABASE bacmr');
my $docs = DocBlocks->new('bacmr', 'tutorial.md');
$docs->fill_in(database => 'bacmr', artifacts => "$base/artifacts", store => "$base/store");

sub step { my ($name, %options) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return $docs->step($node, $name, %options);
}

# As everybody after chapter 1: with the extension's schema in the path.
sub sql { my ($statement) = @_; return $node->safe_psql('bacmr', "SET search_path = public, ops; $statement"); }

my $rows_of_all = q{SELECT md5(string_agg(r, ',' ORDER BY r)) FROM (
    SELECT t::text FROM edu."Account" t UNION ALL SELECT t::text FROM edu."Movement" t
    UNION ALL SELECT t::text FROM edu."Hold" t UNION ALL SELECT t::text FROM edu.passage t) x(r)};

# --- what the reader has ---------------------------------------------------------------------------

step('tutorial-schema');
sql(<<'SQL');
INSERT INTO edu."Account" SELECT n, 100 FROM generate_series(1, 20) n;
INSERT INTO edu."Movement" ("userId", change, why) SELECT n, 100, 'top_up' FROM generate_series(1, 20) n;
-- A fault of old, and a hold that the old service has not come to.
UPDATE edu."Account" SET credits = 99.5 WHERE "userId" = 7;
UPDATE edu."Account" SET credits = credits - 12.25 WHERE "userId" = 3;
INSERT INTO edu."Movement" ("userId", change, why) VALUES (3, -12.25, 'hold');
INSERT INTO edu."Hold" ("userId", amount, until) VALUES (3, 12.25, now() - interval '1 minute');
INSERT INTO edu.passage (subject, body, about)
  SELECT 'maths', CASE n % 2 WHEN 0 THEN 'Le théorème numéro ' || n || ' parle de la dérivée.'
                  ELSE 'النظرية رقم ' || n || ' تتحدث عن المشتقة.' END,
         jsonb_build_object('lang', CASE n % 2 WHEN 0 THEN 'fr' ELSE 'ar' END)
  FROM generate_series(1, 60) n;
SQL
my $before = sql($rows_of_all);

# --- chapters 1 to 3 -------------------------------------------------------------------------------

step('tutorial-install');
like(step('tutorial-doctor'), qr/^sources\|/m, 'the doctor says that nothing is attached');
is(step('tutorial-attach') =~ s/^\n+//r, join("\n",
        'chunks|edu.passage|attached', 'reservations|edu."Hold"|attached',
        'wallet|edu."Account"|attached', 'wallet_ledger|edu."Movement"|attached'),
    'the four tables are attached under their names');
like(step('tutorial-doctor'), qr/^indexes\|.*CREATE.*INDEX/m, 'the doctor asks for the indexes');
step('tutorial-indexes');
unlike(step('tutorial-doctor'), qr/^indexes\|/m, 'and is content with those of the page');
is(sql($rows_of_all), $before, 'no row was touched');

step('tutorial-role');
like(step('tutorial-reconcile', user => 'night_watch'),
    qr/^\d+\|20\|21\|1\|0\.50\nbalance_mismatch\|7\|99\.50\|100\.00\|-0\.50$/m, 'the fault of old is found');
is(sql($rows_of_all), $before, 'and nothing was changed');
isnt($node->psql('bacmr', 'UPDATE edu."Account" SET credits = 0', extra_params => [ '-U', 'night_watch' ]), 0,
    'the role that reconciles cannot change a balance');

# --- chapter 4 ---------------------------------------------------------------------------------------

is(sql(q{SELECT state FROM edu."Hold"}), 'reserved', 'while the expiry is paused the hold stays');
like(step('tutorial-expire'), qr/^expire\|/m, 'the status shows the job');
await_sql($node, 'bacmr', q{SELECT state = 'expired' FROM edu."Hold"}, 'the worker expires the hold');
is(sql(q{SELECT credits FROM edu."Account" WHERE "userId" = 3}), '100.00', 'to the last cent');
await_sql($node, 'bacmr', q{SELECT count(*) = 1 FROM ops.bacmr_job_run WHERE job = 'expire'}, 'its run is in the history');
like(step('tutorial-expired'), qr/^\d+\|succeeded\|1\|12\.25$/m, 'and says what it did');

# --- chapters 5 to 7 -------------------------------------------------------------------------------

step('tutorial-store');
like(step('tutorial-export', user => 'night_watch'), qr{^succeeded\|60\|file://\Q$base/store\E/\S+\.ndjson\|true$}m,
    'exported, restored, uploaded');
step('tutorial-cron');
my @schedule = split /\n/, step('tutorial-schedule', user => 'night_watch');
is(scalar(grep { /^bacmr-(?:reconcile|export)\@bacmr\|/ } @schedule), 2, 'both nightly runs are scheduled');
like(step('tutorial-metrics'), qr/^openai_tokens_used_total\|\{"model": "gpt-4o"\}\|350$/m, 'a metric is there');
is($node->safe_psql('bacmr', 'SELECT value FROM ops.bacmr_metrics WHERE name = \'openai_tokens_used_total\'',
        extra_params => [ '-U', 'exporter' ]), '350', 'also for the exporter');

# --- chapters 8 to 10 -----------------------------------------------------------------------------

my $reindex = step('tutorial-reindex');
like($reindex, qr/^60\|60\|0\|t$/m, 'every chunk is in the new namespace');
like($reindex, qr/^maths-v2$/m, 'which becomes active');
like(step('tutorial-rollback'), qr/^maths-v2\z/m, 'another comes, and goes again');
my $left = step('tutorial-look');
is_deeply([ $left =~ /^([^|]*\|(?:error|warning)\|[^|]*)/mg ],
    ['runs|error|the last run of reconcile (1) ended as discrepancies'], 'one thing is left to do');
note($left);
sql(q{UPDATE edu."Account" SET credits = 100 WHERE "userId" = 7});
is(sql('SELECT discrepancies FROM bacmr_reconcile()'), 0, 'when that is done the books are in order');
is(sql('SELECT count(*) FROM bacmr_doctor()'), 0, 'and the doctor is content');

my $tables = sql($rows_of_all);
step('tutorial-back');
is($node->safe_psql('bacmr', $rows_of_all), $tables, 'going back leaves every row');
is($node->safe_psql('bacmr', 'SELECT count(*) FROM cron.job'), 0, 'and no schedule');
is($node->safe_psql('bacmr', q{SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'edu'::regnamespace)}), 0, 'and no trigger');

$docs->all_were_run;
$node->stop;
done_testing();
