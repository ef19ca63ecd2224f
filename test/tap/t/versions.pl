# Library and SQL objects of different versions: between the install of a library and ALTER EXTENSION,
# after going back to an older package, on a standby with another one. Nothing is done to anybody's
# money, each refusal says what to do, nothing crashes or spins, and the work goes on once it is mended.
use strict;
use warnings;
use BacmrTest;
use Installation;
use PostgreSQL::Test::Utils;
use Test::More;

my $installation = Installation->new('versions');
my $now = $installation->default_version;
my $script = $installation->script($now);

# SQL objects of an older version: a table lacks two columns, a function is not there yet, one takes
# fewer arguments.
my $old = $script;
for my $change (
    [ qr/  relation_oid  oid NOT NULL,\n/, '' ],
    [ qr/  owner_name    name NOT NULL,\n/, '' ],
    [ qr/^CREATE FUNCTION bacmr_cosine.*?;\n/ms, '' ],
    [ qr/^COMMENT ON FUNCTION bacmr_cosine.*?;\n/ms, '' ],
    [ qr/^REVOKE ALL ON FUNCTION bacmr_cosine.*?;\n/ms, '' ],
    [ qr/bacmr_log\(level text, message text, fields jsonb DEFAULT '\{\}'\)/, 'bacmr_log(level text)' ],
    [ qr/bacmr_log\(text, text, jsonb\)/, 'bacmr_log(text)' ],
) {
    my ($from, $to) = @$change;
    $old =~ s/$from/$to/g or die "the script has no $from";
}
$installation->script('0.0.9', $old);
# The rows there know neither: that is what the way to the present version would add.
$installation->script("0.0.9--$now", <<'SQL');
ALTER TABLE bacmr_source ADD COLUMN relation_oid oid NOT NULL DEFAULT 0, ADD COLUMN owner_name name NOT NULL DEFAULT '';
UPDATE bacmr_source s SET relation_oid = c.oid, owner_name = pg_get_userbyid(c.relowner)
  FROM pg_class c WHERE c.oid = to_regclass(format('%I.%I', s.schema_name, s.relation_name));
DROP FUNCTION bacmr_log(text);
CREATE FUNCTION bacmr_log(level text, message text, fields jsonb DEFAULT '{}')
  RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'bacmr_log';
SQL
# SQL objects of a version to come: a column more.
$installation->script('9.0.0', $script . "ALTER TABLE bacmr_job_run ADD COLUMN note text;\n");
$installation->script("$now--9.0.0", "ALTER TABLE bacmr_job_run ADD COLUMN note text;\n");
# And one whose script names a function that this library does not have.
$installation->script("$now--9.1.0", <<'SQL');
CREATE TABLE bacmr_new (a int);
CREATE FUNCTION bacmr_new() RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'bacmr_new';
SQL

my $node = new_server('main', install_path => $installation->path,
    conf => [ q{bacmr.expire_interval = '1s'}, 'allow_system_table_mods = on' ]);

# As app_database() makes it, and something that is due.
app_database($node, 'app');
give_wallets($node, 'app', 3);
$node->safe_psql('postgres', q{ALTER SYSTEM SET bacmr.worker_enabled = off});
$node->reload;
await('the worker is off', sub { !worker_pid($node, 'app') });
$node->safe_psql('app', q{SELECT bacmr_metric_define('mine', 'counter'), bacmr_reconcile()});
reserve($node, 'app', 1, 10, '-1 second');

sub state_of_worker {
    my ($database) = @_;
    return $node->safe_psql($database, q{SELECT state || ': ' || next_step FROM bacmr_status WHERE job = 'worker'});
}

# What holds wherever the versions differ.
sub nothing_is_done {
    my ($database, $versions, $hint) = @_;
    for my $call ('SELECT bacmr_reconcile()', 'SELECT bacmr_expire_reservations()',
        q{CALL bacmr_run_job('expire')}, q{CALL bacmr_run_job('reconcile')}, q{CALL bacmr_run_job('export')},
        q{CALL bacmr_run_job('reindex')}, 'SELECT bacmr_export_chunks()', q{SELECT bacmr_attach('public')},
        q{SELECT bacmr_reindex('n')}, 'CALL bacmr_reindex_run()', q{SELECT bacmr_pause('expire')},
        'SELECT bacmr_restore_drill()', 'TABLE bacmr_sources', q{SELECT bacmr_grant('app', 'pg_monitor')})
    {
        like(error_of($node, $database, $call), qr/ERROR:  55000: .*$versions.*HINT:  .*$hint/s,
            "$call is refused, and says what to do");
    }
    my @findings = split /\n/, $node->safe_psql($database,
        q{SELECT check_name || ' ' || severity || ' ' || finding || ' ' || fix FROM bacmr_doctor()});
    is(scalar @findings, 1, 'the doctor finds nothing else');
    like($findings[0] // '', qr/^versions error .*$versions.*$hint/, 'and says the same');
    # What applications call all day goes on.
    is(error_of($node, $database, q{SELECT bacmr_active_namespace('n'), bacmr_metric_inc('mine'),
            bacmr_record_wallet_reservation('reserved'), count(*) FROM bacmr_metrics}),
        '', 'metrics and the active namespace go on');
    is(error_of($node, $database, 'SELECT count(*) FROM bacmr_status'), '', 'the view of the states can be read');
    return;
}

# With the worker on: it rests, says why, once, and is no process that comes and goes.
sub worker_rests {
    my ($database, $versions, $hint) = @_;
    my $offset = log_size($node);
    $node->safe_psql('postgres', q{ALTER SYSTEM SET bacmr.worker_enabled = on});
    $node->reload;
    await_sql($node, $database, q{SELECT state = 'cannot expire' FROM bacmr_status WHERE job = 'worker'},
        'the worker expires nothing');
    like(state_of_worker($database), qr/$versions.*$hint/, 'and says why, and what to do');
    my $pid = worker_pid($node, $database);
    my $last = $node->safe_psql($database, q{SELECT last_tick_at FROM bacmr_worker_status() WHERE worker = 'worker'});
    await_sql($node, $database,
        qq{SELECT last_tick_at > '$last'::timestamptz + interval '2 seconds' FROM bacmr_worker_status() WHERE worker = 'worker'},
        'it looks again');
    is(worker_pid($node, $database), $pid, 'in the same process');
    is(scalar(grep { $_->{message} =~ /$versions/ } log_entries($node, $offset)), 1, 'and has logged it once');
    is(scalar(grep { $_->{level} eq 'ERROR' } log_entries($node, $offset)), 0, 'without an error a tick');
    is($node->safe_psql($database, q{SELECT count(*) FROM reservations WHERE status = 'reserved' AND expires_at < now()}),
        1, 'what is due is as it was');
    return $pid;
}

# --- the library is newer ------------------------------------------------------------------------

# A database whose objects are older than the library, as after the install of a new package.
$node->safe_psql('postgres', 'CREATE DATABASE old');
$node->safe_psql('old', q{CREATE EXTENSION bacmr_ops VERSION '0.0.9'});
my $dump = "${PostgreSQL::Test::Utils::tmp_check}/app.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, '-e', 'plpgsql', 'app' ], 'the tables of an application');
$node->command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', '-f', $dump, 'old' ], 'in a database of an older version');
$node->safe_psql('old', <<'SQL');
INSERT INTO bacmr_source (source, schema_name, relation_name, system_identifier, database_oid, database_name)
SELECT t, 'public', t, (SELECT system_identifier FROM pg_control_system()), d.oid, d.datname
FROM unnest('{wallet,wallet_ledger,reservations,chunks}'::text[]) t, pg_database d WHERE d.datname = current_database();
INSERT INTO bacmr_metric_definition VALUES ('mine', 'counter', '', '{}', '{}');
SQL

my $newer = qr/objects .* are of version 0\.0\.9, its library of version \Q$now\E/;
my $update = qr/ALTER EXTENSION bacmr_ops UPDATE/;
nothing_is_done('old', $newer, $update);
my $misfit = qr/ERROR:  42P13: the SQL definition of the function does not fit the library .*HINT:  .*$update/s;
like(error_of($node, 'old', q{SELECT bacmr_log('info')}), $misfit, 'a function that is given fewer arguments says so');
$node->safe_psql('old', <<'SQL');
CREATE FUNCTION fewer_rows() RETURNS TABLE (worker text, pid int) LANGUAGE c AS '$libdir/bacmr_ops', 'bacmr_worker_status';
SQL
like(error_of($node, 'old', 'SELECT * FROM fewer_rows()'), $misfit, 'one that returns other columns too');
my $pid = worker_rests('old', $newer, $update);
is(error_of($node, 'old', 'ALTER EXTENSION bacmr_ops UPDATE'), '', 'ALTER EXTENSION UPDATE');
await_sql($node, 'old', q{SELECT status = 'expired' FROM reservations}, 'and the worker expires what is due');
is(worker_pid($node, 'old'), $pid, 'it is the same process');
balances_agree($node, 'old');
is(refunded_twice($node, 'old'), 0, 'nothing was refunded twice');
is($node->safe_psql('old', q{SELECT count(*) FROM bacmr_doctor() WHERE check_name = 'versions'}), 0, 'the doctor is content');
$node->safe_psql('postgres', 'ALTER SYSTEM SET bacmr.worker_enabled = off');
$node->reload;
await('the worker is off', sub { !worker_pid($node, 'app') });

# --- the library is older ------------------------------------------------------------------------

reserve($node, 'app', 2, 10, '-1 second');

# The script of a newer version, while the server has the older library.
my $error = error_of($node, 'app', q{ALTER EXTENSION bacmr_ops UPDATE TO '9.1.0'});
like($error, qr/ERROR:  42883: could not find function "bacmr_new"/, 'an upgrade for which the library is too old fails');
like($error, qr/CONTEXT:  .*loaded is of version \Q$now\E.*restart the server/s, 'says why, and what to do');
is($node->safe_psql('app', q{SELECT extversion, to_regclass('bacmr_new') IS NULL FROM pg_extension WHERE extname = 'bacmr_ops'}),
    "$now|t", 'and leaves nothing');

is(error_of($node, 'app', q{ALTER EXTENSION bacmr_ops UPDATE TO '9.0.0'}), '', 'objects of a version to come');
my $older = qr/objects .* are of version 9\.0\.0, its library of version \Q$now\E/;
my $install = qr/Install the library of version 9\.0\.0, and restart the server/;
nothing_is_done('app', $older, $install);
$node->safe_psql('app', q{UPDATE pg_proc SET prosrc = 'bacmr_not_yet' WHERE proname = 'bacmr_cosine'});
like(error_of($node, 'app', q{SELECT bacmr_cosine('{1}', '{1}')}),
    qr/ERROR:  42883: could not find function "bacmr_not_yet" in file/, 'a function that the library lacks says so');
worker_rests('app', $older, $install);
# The newer library is there: here, by going back.
$node->safe_psql('app', qq{ALTER TABLE bacmr_job_run DROP COLUMN note;
    UPDATE pg_extension SET extversion = '$now' WHERE extname = 'bacmr_ops'});
await_sql($node, 'app', q{SELECT bool_and(status = 'expired') FROM reservations}, 'once they agree, the worker goes on');
balances_agree($node, 'app');
is(refunded_twice($node, 'app'), 0, 'nothing was refunded twice');

unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal|exited with exit code [2-9]/, 'nothing crashed');
$node->stop;
done_testing();
