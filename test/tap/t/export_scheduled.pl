# The scheduled export, with the real pg_cron and a real S3 server: export, drill, upload,
# verification, retention; what is recorded of it; and how it says that it failed.
use strict;
use warnings;
use BacmrTest;
use Exports;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use Services;
use Test::More;

plan skip_all => 'pg_cron is not installed'
  unless -e `pg_config --pkglibdir` =~ s/\n//r . '/pg_cron.so';

my $s3 = start_s3('swift');
make_bucket($s3, 'bacmr-dr');
my $node = new_server(
    'main',
    preload => ['pg_cron'],
    streaming => 1,
    conf => [ q{cron.database_name = 'postgres'}, 'bacmr.http_max_retries = 0',
        'bacmr.breaker_threshold = 1000' ]);
# It connects through libpq, and the test's server has no TCP.
$node->append_conf('postgresql.conf', q{cron.host = '} . $node->host . q{'});
$node->restart;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_cron');
# app: all is well. away: its store cannot be reached. torn: it has two to choose from.
app_database($node, $_) for 'app', 'away', 'torn';
load_handbook($node, 'app', 1);
declare_store($node, 'app', 'dr', $s3);
declare_store($node, 'away', 'dr', { %$s3, endpoint => 'http://127.0.0.1:1' });
declare_store($node, 'torn', 'dr', $s3);
$node->safe_psql('postgres', "ALTER DATABASE $_ SET bacmr.blob_store = 'dr'") for 'app', 'away';
$node->safe_psql('away', q{INSERT INTO chunks (namespace, content) VALUES ('n', 'one')});

my $last = sub {
    my ($database, $columns, $job) = @_;
    $job //= 'export';
    return $node->safe_psql($database,
        "SELECT $columns FROM bacmr_job_run WHERE job = '$job' ORDER BY run_id DESC LIMIT 1");
};

# --- the schedule --------------------------------------------------------------------------------

# Every minute, for this test.
for my $database ('app', 'away') {
    my ($out, $err) = wait_for_end(in_background($node, $database,
            q{SELECT jobname, command FROM bacmr_schedule(export => '* * * * *') ORDER BY jobname}));
    like($out, qr/^bacmr-export\@$database\|CALL public\.bacmr_run_job\('export'\)$/m,
        "$database: the export is scheduled, as one CALL");
    is($err, '', "$database: with nothing to remark");
}
like($node->safe_psql('torn', q{SELECT schedule FROM bacmr_schedule()
       WHERE jobname = 'bacmr-export@torn'}),
    qr/^0 3 \* \* 0$/, 'by default on Sundays, at three');
is($node->safe_psql('torn', 'SELECT bacmr_unschedule()'), 2, 'and it is taken back');
my $listener = open_session($node, 'away');
run_in($listener, 'LISTEN bacmr_alert');

# --- a run that fails at once, meanwhile ---------------------------------------------------------

my $error = error_of($node, 'torn', q{CALL bacmr_run_job('export')});
like($error, qr/ERROR:  55000: which blob store\?/, 'two stores and none chosen: 55000');
like($error, qr/HINT: .*bacmr\.blob_store = 'dr'/, 'with a hint');
like($last->('torn', 'status, error'), qr/^failed\|.*which blob store\?/, 'which is recorded');
is($node->safe_psql('torn', q{CALL bacmr_run_job('export', '{"destination": null}');
       SELECT count(*) FROM bacmr_job_run WHERE job = 'export' AND status = 'succeeded'}),
    1, 'a NULL destination means the disk alone');

# An array that does not begin at 1 comes back from JSON as one that does.
my $torn = artifact_folder($node, 'torn');
my @before = names_in($torn);
$node->safe_psql('torn', q{CREATE TABLE bounds (id int PRIMARY KEY, a int[]);
    INSERT INTO bounds VALUES (1, '{1,2}'), (2, '[2:3]={1,2}')});
my $bounds = q{CALL bacmr_run_job('export', '{"relation": "public.bounds", "destination": null}')};
$error = error_of($node, 'torn', $bounds);
like($error, qr/ERROR:  \w{5}: the restored export differs .*0 rows missing, 1 different, 0 extra/,
    'a drill that finds a difference fails the run');
like($error, qr/DETAIL: .*kept and verified all the same/, 'and says what becomes of the file');
like($last->('torn', 'status, error'), qr/^discrepancies\|the restored export differs/,
    'it is recorded');
is(scalar(my @after = names_in($torn)), @before + 2, 'the file and its manifest stay: better than no export');
is($node->safe_psql('torn', 'SELECT count(*) FROM bounds'), 2, 'the table is as it was');
$node->safe_psql('torn', 'DELETE FROM bounds WHERE id = 2');
is(error_of($node, 'torn', $bounds), '', 'without that row the run succeeds');
is(error_of($node, 'torn', q{SET search_path = public;
       CALL bacmr_run_job('export', '{"relation": "bounds", "destination": null}')}),
    '', 'and the table is found by the search_path, as it is by the function');
like(error_of($node, 'torn', q{CALL bacmr_run_job('export', '{"relation": "nix"}')}),
    qr/ERROR:  42P01: /, 'one that is not there is an error');

# --- paused --------------------------------------------------------------------------------------

$node->safe_psql('torn', q{SELECT bacmr_pause('export', 'the disk is being replaced')});
is(error_of($node, 'torn', q{CALL bacmr_run_job('export')}), '', 'a paused run does nothing');
like($last->('torn', 'status, error, detail'), qr/^skipped\|.*the disk is being replaced/,
    'and is recorded as skipped, with the reason');
$node->safe_psql('torn', q{SELECT bacmr_unpause('export')});

# --- the store that cannot be reached ------------------------------------------------------------

await_sql($node, 'away', q{SELECT count(*) > 0 FROM bacmr_job_run WHERE job = 'export'},
    'pg_cron begins the run of the store that is away', 75);
is($last->('away', 'status'), 'running', 'it goes on trying');
is(error_of($node, 'away', q{CALL bacmr_run_job('export')}), '', 'a second run at the same time');
like($last->('away', 'status, error, detail'), qr/^skipped\|.*running/, 'is skipped');

# --- the run that works --------------------------------------------------------------------------

# Taken back while it runs, a job is cancelled by pg_cron.
my $ended = sub {
    my ($database, $status, $what) = @_;
    await_sql($node, 'postgres', qq{SELECT count(*) = 1 FROM cron.job_run_details d
        WHERE database = '$database' AND command LIKE '%export%' AND d.status = '$status'}, $what);
    return $node->safe_psql($database, 'SELECT bacmr_unschedule()');
};
$ended->('app', 'succeeded', 'pg_cron has made an export');
is($node->safe_psql('app', q{SELECT string_agg(job || ' ' || status, ', ' ORDER BY job)
       FROM bacmr_job_run WHERE job IN ('export', 'drill', 'verify')}),
    'drill succeeded, export succeeded, verify succeeded',
    'it has one row, as have its drill and its verification');
is($node->safe_psql('app', q{SELECT count(DISTINCT request_id) FROM bacmr_job_run
       WHERE job IN ('export', 'drill', 'verify')}), 1, 'with one request id');
my $detail = JSON::PP::decode_json($last->('app', 'detail'));
my $steps = $detail->{steps};
is(join(' ', sort keys %$steps), 'drill export retention upload verify', 'each step has its figures');
is(scalar(grep { !($_->{seconds} >= 0) } @$steps{qw(export drill upload verify)}), 0,
    'with the seconds that it took');
my $rows = $node->safe_psql('app', 'SELECT count(*) FROM chunks');
my $folder = artifact_folder($node, 'app');
is(join('|', $steps->{export}{rows}, $steps->{drill}{rows}, $detail->{rows}), "$rows|$rows|$rows",
    'all rows were exported, and drilled');
is(join('|', map { $steps->{drill}{$_} } qw(missing different extra)), '0|0|0', 'without a difference');
is($steps->{export}{bytes}, -s "$folder/$detail->{file}", 'the bytes are those of the file');
is($steps->{upload}{url}, "s3://bacmr-dr/app/$detail->{file}", 'the upload says where to');
ok($steps->{verify}{ok}, 'what was verified was good');
is($steps->{verify}{source}, "dr/app/$detail->{file}", 'and it was the copy in the store');
is($detail->{retries}, 0, 'nothing had to be tried again');
is(join(' ', s3_keys($s3, 'bacmr-dr')),
    "app/$detail->{file} app/$detail->{file}.manifest.json", 'both objects are there');
is($last->('app', 'detail->>$$source$$', 'verify'), "dr/app/$detail->{file}",
    q{the verification's row says so too});
is($node->safe_psql('app', q{SELECT state, last_status, age < interval '5 minutes', next_step
       FROM bacmr_status WHERE job = 'export'}) =~ /\|succeeded\|t\|/, 1, 'bacmr_status shows it');

# --- metrics -------------------------------------------------------------------------------------

my $gauges = sub {
    return join '|', map { metric($node, 'app', $_, '{"relation": "public.chunks"}') } qw(bacmr_export_rows
      bacmr_export_bytes bacmr_export_last_verified_timestamp_seconds
      bacmr_restore_last_proven_timestamp_seconds);
};
my $expected = $node->safe_psql('app', q{SELECT concat_ws('|', e.detail->>'rows', e.detail->>'bytes',
    extract(epoch FROM (e.detail->>'snapshot_at')::timestamptz)::float8,
    extract(epoch FROM d.finished_at)::float8)
    FROM bacmr_job_run e, bacmr_job_run d WHERE e.job = 'export' AND d.job = 'drill'});
is($gauges->(), $expected, 'rows, bytes, and the times of what was verified and of what was proven');
is(metric($node, 'app', 'bacmr_job_runs_total', qq({"job": "$_", "status": "succeeded"})), 1,
    "a run of $_ is counted")
  for 'export', 'drill', 'verify';

# --- the other one has given up ------------------------------------------------------------------

$ended->('away', 'failed', 'the run of the store that is away has failed for pg_cron too');
is($node->safe_psql('away', q{SELECT status FROM bacmr_job_run WHERE job = 'export'
       ORDER BY run_id LIMIT 1}), 'failed', 'it has given up');
like($node->safe_psql('postgres', q{SELECT return_message FROM cron.job_run_details d
       WHERE database = 'away' AND d.status = 'failed'}),
    qr/could not upload/, q{pg_cron's message says why});
like($node->safe_psql('away', q{SELECT detail->>'retries', error FROM bacmr_job_run
       WHERE job = 'export' ORDER BY run_id LIMIT 1}),
    qr/^2\|step (?:export|upload): could not upload .*blob store "dr"/, 'after three attempts');
my $alert = run_in($listener, 'SELECT 1');
my ($payload) = $alert =~ /notification "bacmr_alert" with payload "(.*)" received/;
my $told = eval { JSON::PP::decode_json($payload // '') } // {};
is($told->{alert}, 'export_failed', 'NOTIFY bacmr_alert says so') or diag $alert;
is($told->{run_id}, $node->safe_psql('away', q{SELECT min(run_id) FROM bacmr_job_run
       WHERE job = 'export'}), 'which run it was');
like($told->{error} // '', qr/could not upload/, 'and why');
close_session($listener);
is(metric($node, 'away', 'bacmr_job_runs_total', '{"job": "export", "status": "failed"}'), 1,
    'the failure is counted');
is(join(' ', hidden_files(artifact_folder($node, 'away')),
        lonely_files(artifact_folder($node, 'away'))), '', 'nothing half-done is left of it');

# --- after a crash -------------------------------------------------------------------------------

my $victim = open_session($node, 'app');
kill 'KILL', backend_of($victim) or die "kill: $!";
answer_of($victim);
close_session($victim);
await('after a crash the worker publishes the same again', sub {
    my $now = eval { $gauges->() } // '';
    return $now eq $expected;
}) or diag $gauges->() . " instead of $expected";

# --- a standby -----------------------------------------------------------------------------------

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
my $there = artifact_folder($standby, 'app');
@before = names_in($there);
# Exports by hand work there: standby_reads.pl.
for my $statement (q{SELECT bacmr_import('bacmr_source', 'x')}, q{SELECT bacmr_verify_export('x')},
    q{CALL bacmr_run_job('export')}, q{SELECT bacmr_restore_drill()})
{
    like(error_of($standby, 'app', $statement), qr/ERROR:  25006: /, "on a standby: $statement");
}
is_deeply([ names_in($there) ], \@before, 'nothing is written there');
$standby->stop;
$node->stop;
done_testing();
