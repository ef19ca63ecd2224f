# bacmr_schedule(export => NULL) with the real pg_cron, which keeps one table for the whole cluster in the
# database postgres.
use strict;
use warnings;
use BacmrTest;
use Test::More;

plan skip_all => 'pg_cron is not installed'
  unless -e `pg_config --pkglibdir` =~ s/\n//r . '/pg_cron.so';

my $node = new_server('main', preload => ['pg_cron'],
    conf => [ q{cron.database_name = 'postgres'} ]);
# It connects through libpq, and the test's server has no TCP.
$node->append_conf('postgresql.conf', q{cron.host = '} . $node->host . q{'});
$node->restart;
app_database($node, $_) for 'clean', 'wrong';

my $jobs = q{SELECT database, jobname, schedule FROM cron.job WHERE jobname LIKE 'bacmr-%'
    ORDER BY database, jobname};

# --- without pg_cron in its database -------------------------------------------------------------

for my $function ('bacmr_schedule(export => NULL)', 'bacmr_unschedule()') {
    my $error = error_of($node, 'clean', "SELECT $function");
    like($error, qr/ERROR:  55000: .*pg_cron.*"postgres"/, "$function: pg_cron is not created yet");
    like($error, qr/HINT: .*CREATE EXTENSION pg_cron/, "$function: the hint says what to do");
}

my $doctor = q{SELECT finding FROM bacmr_doctor() WHERE check_name = 'schedule'};
like($node->safe_psql('clean', $doctor), qr/pg_cron is not installed/, 'the doctor says so too');

$node->safe_psql('postgres', 'CREATE EXTENSION pg_cron');
like($node->safe_psql('clean', $doctor), qr/does not reconcile/, 'the doctor misses the schedule');

# --- two databases at once -----------------------------------------------------------------------

# The nightly job every minute, for this test.
my @sessions = map { in_background($node, $_, q{SELECT jobname FROM bacmr_schedule('* * * * *', NULL)}) }
  'clean', 'wrong';
for my $session (@sessions) {
    my (undef, $stderr) = wait_for_end($session);
    unlike($stderr, qr/ERROR/, 'two databases schedule at the same time');
}
is($node->safe_psql('postgres', $jobs),
    "clean|bacmr-reconcile\@clean|* * * * *\nwrong|bacmr-reconcile\@wrong|* * * * *",
    'each has its own job; with a worker, expiry needs none');
is($node->safe_psql('clean', $doctor), '', 'and the doctor is content');
give_wallets($node, $_, 5) for 'clean', 'wrong';
$node->safe_psql('wrong',
    'UPDATE wallet SET token_balance = token_balance - 4 WHERE user_id = u(2)');

# --- calling it again, taking it back ------------------------------------------------------------

# In a third database, while the minute of the first two goes by.
app_database($node, q{third "one" it's});
my $third = q{third "one" it's};
my $before = $node->safe_psql('postgres', $jobs);
is($node->safe_psql($third, q{SELECT jobname, schedule, command FROM bacmr_schedule('0 5 * * *', NULL)}),
    qq{bacmr-reconcile\@$third|0 5 * * *|CALL public.bacmr_run_job('reconcile')},
    'a database whose name needs quotes; the command is one CALL');
my $ids = q{SELECT jobid FROM cron.job WHERE database LIKE 'third%' ORDER BY jobid};
my $first_ids = $node->safe_psql('postgres', $ids);
is($node->safe_psql($third, q{SELECT jobname, schedule FROM
       bacmr_schedule('30 1 * * *', NULL, '*/5 * * * *') ORDER BY jobname}),
    qq{bacmr-expire\@$third|*/5 * * * *\nbacmr-reconcile\@$third|30 1 * * *},
    'calling it again changes the schedule and adds a job');
like($node->safe_psql('postgres', $ids), qr/^$first_ids\n\d+$/,
    'and the known job keeps its number');
is($node->safe_psql($third, q{SELECT string_agg(jobname, ' ') FROM bacmr_schedule('30 1 * * *', NULL)}),
    qq{bacmr-reconcile\@$third}, 'a job that is wanted no longer goes');
is($node->safe_psql('postgres', $ids), $first_ids, 'also in the table');

$node->safe_psql('postgres', q{SELECT
    cron.schedule_in_database('own', '0 0 1 1 *', 'SELECT 1', datname) FROM pg_database
    WHERE datname LIKE 'third%'});
like(error_of($node, $third, q{SELECT bacmr_schedule('every night')}),
    qr/ERROR:  \w{5}: .*invalid schedule: every night/, 'an invalid schedule is an error');
like(error_of($node, $third, q{SELECT bacmr_schedule('0 6 * * *', NULL, '61 * * * *')}),
    qr/ERROR:  \w{5}: .*invalid schedule/, 'so is one of two');
is($node->safe_psql('postgres', q{SELECT schedule FROM cron.job WHERE database LIKE 'third%'
       ORDER BY jobid}),
    "30 1 * * *\n0 0 1 1 *", 'and nothing of that call stays');

$node->append_conf('postgresql.conf', 'bacmr.worker_enabled = off');
$node->reload;
await_sql($node, $third, q{SELECT current_setting('bacmr.worker_enabled') = 'off'},
    'with the workers off');
is($node->safe_psql($third, q{SELECT jobname, schedule FROM bacmr_schedule('30 1 * * *', NULL)
       WHERE jobname LIKE 'bacmr-expire%'}),
    qq{bacmr-expire\@$third|* * * * *}, 'expiry is scheduled every minute');
is($node->safe_psql($third, 'SELECT bacmr_unschedule()'), 2, 'bacmr_unschedule takes back both');
is($node->safe_psql($third, 'SELECT bacmr_unschedule()'), 0, 'once');
is($node->safe_psql('postgres', $jobs), $before, q{other databases' jobs are untouched});
is($node->safe_psql('postgres', q{SELECT count(*) FROM cron.job WHERE jobname = 'own'}),
    1, q{so is a job of the user's});

# --- rights --------------------------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE ROLE nobody_special LOGIN; CREATE ROLE op LOGIN');
like(error_of($node, $third, 'SET ROLE nobody_special; SELECT bacmr_schedule(export => NULL)'),
    qr/ERROR:  42501: permission denied for function bacmr_schedule/,
    'a role without EXECUTE may not');
$node->safe_psql($third, q{SELECT bacmr_grant('operator', 'op')});
my $refused = error_of($node, $third, 'SET ROLE op; SELECT bacmr_schedule(export => NULL)');
like($refused, qr/ERROR:  42501: /, 'an operator without rights on pg_cron may not either');
like($refused, qr/HINT: .*USAGE ON SCHEMA cron.*cron\.schedule_in_database.*cron\.alter_job/,
    'and learns which rights are wanted');
is($node->safe_psql('postgres', $jobs), $before, 'and nothing was scheduled');
$node->safe_psql('postgres', 'GRANT USAGE ON SCHEMA cron TO op;'
      . ' GRANT EXECUTE ON FUNCTION cron.schedule_in_database, cron.alter_job TO op');
is($node->safe_psql($third, 'SET ROLE op; SELECT count(*) FROM bacmr_schedule(export => NULL)'),
    2, 'with these it may');
is($node->safe_psql('postgres', q{SELECT DISTINCT username FROM cron.job
       WHERE database LIKE 'third%' AND jobname LIKE 'bacmr-%'}),
    'op', 'and the jobs run as the operator');
is($node->safe_psql($third, 'SET ROLE op; SELECT bacmr_unschedule()'), 2, 'who takes them back');

# --- in pg_cron's own database -------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE EXTENSION bacmr_ops SCHEMA public');
is($node->safe_psql('postgres', q{SELECT string_agg(jobname, ' ' ORDER BY jobname)
       FROM bacmr_schedule(export => NULL)}),
    'bacmr-expire@postgres bacmr-reconcile@postgres', q{in pg_cron's own database it works too});
is($node->safe_psql('postgres', q{SELECT count(*) FROM bacmr_schedule('5 5 * * *', NULL)}),
    2, 'and again');
is($node->safe_psql('postgres', 'SELECT bacmr_unschedule()'), 2, 'and back');
is($node->safe_psql('postgres', $jobs), $before, 'with the others untouched');

# --- the runs ------------------------------------------------------------------------------------

# pg_cron acts at the full minute.
await_sql($node, 'postgres', q{SELECT count(DISTINCT database) = 2 FROM cron.job_run_details
    WHERE command LIKE '%bacmr_run_job%' AND status IN ('succeeded', 'failed')
      AND database IN ('clean', 'wrong')}, 'pg_cron has run both', 75);
is($node->safe_psql($_, 'SELECT bacmr_unschedule()'), 1, "$_: enough") for 'clean', 'wrong';
is($node->safe_psql('postgres', q{SELECT DISTINCT database, d.status FROM cron.job_run_details d
       WHERE database IN ('clean', 'wrong') AND d.status IN ('succeeded', 'failed') ORDER BY 1}),
    "clean|succeeded\nwrong|failed", 'the run with a discrepancy failed, the clean one succeeded');
like($node->safe_psql('postgres', q{SELECT return_message FROM cron.job_run_details
       WHERE database = 'wrong' AND status = 'failed' LIMIT 1}),
    qr/found 1 discrepancy, drift 4/, 'its message says what was found');
is($node->safe_psql('wrong', q{SELECT status, (bacmr_reconcile_report(run_id)->'drift')
       FROM bacmr_job_run WHERE job = 'reconcile' ORDER BY run_id LIMIT 1}),
    'discrepancies|4', 'and the report is kept');
is($node->safe_psql('clean', q{SELECT DISTINCT status FROM bacmr_job_run
       WHERE job = 'reconcile'}),
    'succeeded', 'the clean database has its run too');

# --- without pg_cron in the server ---------------------------------------------------------------

$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'bacmr_ops'});
$node->adjust_conf('postgresql.conf', 'cron.database_name', undef, 1);
$node->adjust_conf('postgresql.conf', 'cron.host', undef, 1);
$node->restart;
my $error = error_of($node, 'clean', 'SELECT bacmr_schedule(export => NULL)');
like($error, qr/ERROR:  55000: .*pg_cron/, 'a server without pg_cron: an error');
like($error, qr/HINT: .*shared_preload_libraries/, 'with a hint');

$node->stop;
done_testing();
