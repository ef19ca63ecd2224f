# Stress: eight sessions call every function of the extension with arguments at random while an
# application moves tokens and chunks, a session changes tables, and another cancels and terminates
# what it finds. Afterwards the server must be whole, and so must the money, the exports and the
# books.
#
#   TESTS=stress scripts/test.sh tap                                    a minute, with seed 1
#   STRESS_SECONDS=600 STRESS_SEED=7 TESTS=stress scripts/test.sh tap   ten minutes (make stress)
#
# What each session says is a function of the seed and its number alone, and so can be said again;
# how the sessions meet is up to the machine. A run that fails prints the command. Each session's
# statements, with what became of them, are in the log folder: stress_session_<n>.log.
use strict;
use warnings;
use BacmrTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use StressClient;
use StressStatements qw(CATALOGUE SETUP new_sequence next_unit FUNCTION_SESSIONS DDL_SESSION
  CANCEL_SESSION);
use Test::More;
use Time::HiRes qw(sleep time);

my $seconds = $ENV{STRESS_SECONDS} || 60;
my $seed = $ENV{STRESS_SEED} || 1;
my $again = "STRESS_SEED=$seed STRESS_SECONDS=$seconds TESTS=stress scripts/test.sh tap";
note "again: $again";

# 0A000 to 22…: arguments at random. 23505: imports of what is there. 25…, 2D000: transactions of all
# kinds. 40001, 40P01, 55P03: who comes second. 42…: rights, and tables that come and go. 57…: cancels,
# timeouts and terminations. 58P0…: exports that
# retention has removed, or that are there. HV…: options of servers.
use constant EXPECTED_SQLSTATES => qw(
  00000 0A000 22000 2202E 22001 22003 22004 22008 2200G 22021 22023 22026 22P02 22P04 22P05 23502 23505 25001 25006 25P01 25P02
  2D000 3F000 40001 40P01 42501 42602 42622 42701 42703 42704 42710 42723 42804 42809 42830 42883 42P01 42P07
  42P13 42P16 42P17 53400 54000 54001 55000 55006 55P03 57014 57P01 57P03 58P01 58P02 P0001 HV002 HV00C HV00D HV024);

# Longer than any statement may take: statement_timeout ends it long before.
use constant { STATEMENT_TIMEOUT_S => 20, STUCK_S => 120 };

my @preload = -e `pg_config --pkglibdir` =~ s/\n//r . '/pg_cron.so' ? ('pg_cron') : ();
my $node = new_server(
    'main',
    preload => \@preload,
    conf => [
        q{bacmr.expire_interval = '1s'},
        'bacmr.export_keep = 5',
        q{bacmr.export_keep_age = '1s'},
        'max_worker_processes = 24',
        'max_connections = 40',
        'log_statement = none',
        # The SQLSTATE tells internal errors, the name whose they are.
        q{log_line_prefix = '%m [%p] %e %a '},
        q{deadlock_timeout = '500ms'} ]);
if (@preload) {
    $node->append_conf('postgresql.conf', $_)
      for q{cron.database_name = 'postgres'}, q{cron.host = '} . $node->host . q{'};
    $node->restart;
    $node->safe_psql('postgres', 'CREATE EXTENSION pg_cron');
}
$node->safe_psql('postgres', 'CREATE DATABASE stress');
$node->safe_psql('stress', SETUP);
$node->safe_psql('postgres', 'GRANT USAGE ON SCHEMA cron TO op, app') if @preload;
my $catalogue = $node->safe_psql('stress', CATALOGUE);
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

sub session_log { return "${PostgreSQL::Test::Utils::log_path}/stress_session_$_[0].log"; }

# --- the sessions --------------------------------------------------------------------------------

# Runs in a process of its own until the time is over; exits with 0 unless a statement never ended.
sub run_session {
    my ($session, $end) = @_;
    open my $log, '>', session_log($session) or return 3;
    $log->autoflush(1);
    new_sequence($seed, $session, $catalogue);
    my $client = StressClient->new(
        host => $node->host, port => $node->port, database => 'stress', name => "stress $session");
    my @on_connect = (
        'SET statement_timeout = ' . 1000 * STATEMENT_TIMEOUT_S,
        $session == DDL_SESSION ? q{SET lock_timeout = '3s'} : q{SET lock_timeout = 0},
        'SET client_min_messages = error');
    while (time < $end) {
        for my $statement (next_unit(), undef) {
            while (!$client->connected) {
                if ($client->connect) { $client->query($_, STUCK_S) for @on_connect; last; }
                return 4 if time > $end + STUCK_S;
                sleep 0.05;
            }
            # The unit's own end may have failed.
            my $sql = $statement // ($client->in_transaction ? 'ROLLBACK' : next);
            my $start = time;
            my $answer = $client->query($sql, STUCK_S);
            printf {$log} "%.3f\t%4d ms\t%s\t%s\t%s\n", $start, 1000 * (time - $start),
              $answer->{state} eq 'ready' ? $answer->{sqlstate} || 'ok' : "$answer->{state} $answer->{sqlstate}",
              $sql =~ s/\s*\n\s*/ /gr, $answer->{message} =~ s/\n/ /gr;
            return 2 if $answer->{state} eq 'stuck';
        }
    }
    $client->close;
    return 0;
}

my $end = time + $seconds;
my %session_of;
for my $session (1 .. FUNCTION_SESSIONS, DDL_SESSION, CANCEL_SESSION) {
    my $pid = fork // die "fork: $!";
    if ($pid == 0) { POSIX::_exit(run_session($session, $end)); }
    $session_of{$pid} = $session;
}
my @bad_ends;
for my $pid (keys %session_of) {
    waitpid $pid, 0;
    push @bad_ends, "session $session_of{$pid}: " . ($? >> 8) if $?;
}
is("@bad_ends", '', 'every statement of every session came to an end');

# --- the server ----------------------------------------------------------------------------------

my $log = slurp_file($node->logfile);
is(() = $log =~ /terminated by signal|PANIC:|TRAP:|reinitializing/g, 0, 'no process crashed');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'it is the same server');
unlike($log, qr/WARNING:.*(?:reference leak|still active|was not closed|leaked|still referenced|problem in alloc|buffer refcount)/,
    'nothing has leaked');

# Messages with their SQLSTATE, application and the statement that follows.
my @entries;
for my $line (split /\n/, $log) {
    if ($line =~ /^\S+ \S+ \S+ \[(\d+)\] (\w{5}) (.*?) ?(LOG|WARNING|ERROR|FATAL|DETAIL|HINT|CONTEXT|STATEMENT|NOTICE|QUERY|LOCATION):  (.*)$/) {
        push @entries, { pid => $1, sqlstate => $2, application => $3, kind => $4, text => $5 };
    } elsif (@entries) {
        $entries[-1]{text} .= "\n$line";
    }
}
my (@errors, %open);
for my $entry (@entries) {
    if ($entry->{kind} =~ /ERROR|FATAL|WARNING/) {
        push @errors, $open{ $entry->{pid} } = { %$entry, statement => '', detail => '' };
    } elsif ($entry->{kind} eq 'LOG') {
        delete $open{ $entry->{pid} };
    } elsif ($entry->{kind} =~ /^(?:STATEMENT|DETAIL|CONTEXT)$/ && $open{ $entry->{pid} }) {
        $open{ $entry->{pid} }{ lc $entry->{kind} } .= $entry->{text};
    }
}
cmp_ok(scalar(@errors), '>', 0, 'the log was understood');

sub told {
    return join "\n", map {
        substr("$_->{sqlstate} $_->{application}: $_->{text}\n  $_->{detail}\n  @{[ $_->{context} // '' ]}\n  $_->{statement}", 0, 1500)
    } @_;
}

# Two sessions that change the same object of the catalogue: the server's own words for it, and not
# ours to prevent where the statement is an application's.
my @internal = grep { $_->{sqlstate} =~ /^XX/ } @errors;
my @native = grep {
    $_->{statement} !~ /bacmr_/ && $_->{application} =~ /^stress/
      && $_->{text} =~ /^tuple concurrently (?:updated|deleted)|^could not open relation with OID|^cache lookup failed|^cannot reindex invalid index/
} @internal;
my %native = map { $_ => 1 } @native;
my @ours = grep { !$native{$_} } @internal;
is(told(@ours), '', 'no internal error');
note scalar(@native), ' internal errors of DDL against DDL' if @native;

# What this test does, and what any caller must reckon with. Anything else is a surprise.
my %expected = map { $_ => 1 } EXPECTED_SQLSTATES;
is(told(grep { $_->{kind} =~ /ERROR|FATAL/ && $_->{sqlstate} !~ /^XX/ && !$expected{ $_->{sqlstate} } } @errors),
    '', 'no error of an unexpected kind');
is(told(grep { $_->{kind} eq 'FATAL' && $_->{sqlstate} ne '57P01' } @errors), '',
    'no process has ended but those that were told to');

is(told(grep { $_->{sqlstate} eq '23505' && $_->{text} =~ /"bacmr_/ } @errors), '', 'no row of ours met another');

my @deadlocks = grep { $_->{sqlstate} eq '40P01' } @errors;
# The detail quotes the statement of each process.
my @ours_alone = grep {
    my @said = "$_->{detail}" =~ /^Process \d+: (.*)$/mg;
    # The workers' quote nothing of their own.
    @said && !grep { !m{^/\* s[1-8]\.\d+ alone \*/ (?:SELECT|CALL) (?:\* FROM )?bacmr_|^<|^\s*$} } @said;
} @deadlocks;
note scalar(@deadlocks), " deadlocks:\n", told(@deadlocks) if @deadlocks;
is(told(@ours_alone), '', 'no deadlock among functions of the extension alone');

# --- what was called -----------------------------------------------------------------------------

my (%called, %succeeded, %failed_with);
for my $session (1 .. FUNCTION_SESSIONS) {
    for my $line (split /\n/, slurp_file(session_log($session))) {
        my (undef, undef, $result, $sql) = split /\t/, $line;
        next unless $sql =~ m{\*/ (?:SELECT|CALL) (?:\* FROM )?(bacmr_\w+)\(};
        ++$called{$1};
        ++$succeeded{$1} if $result eq 'ok';
        ++$failed_with{$1}{$result} if $result ne 'ok';
    }
}
my %names = map { (split /\|/)[1] => 1 } split /\n/, $catalogue;
is(join(' ', grep { !$called{$_} } sort keys %names), '', 'every function was called');
# A trigger function cannot be called; a schedule needs pg_cron.
my @never = grep { !$succeeded{$_} && $_ ne 'bacmr_capture_change' && (@preload || !/schedule/) } sort keys %names;
if ($seconds >= 300) { is("@never", '', 'every function was called with success too'); }
else { note "without success yet: @never" if @never; }
my %codes;
for my $by_code (values %failed_with) { $codes{$_} += $by_code->{$_} for keys %$by_code; }
note sprintf '%d calls, %d good; %s', eval { my $n = 0; $n += $_ for values %called; $n },
  eval { my $n = 0; $n += $_ for values %succeeded; $n },
  join ' ', map { "$_:$codes{$_}" } sort { $codes{$b} <=> $codes{$a} } keys %codes;
for my $name (sort keys %called) {
    my $codes = $failed_with{$name} // {};
    note sprintf '%-36s %6d calls, %6d good; %s', $name, $called{$name}, $succeeded{$name} // 0,
      join ' ', map { "$_:$codes->{$_}" } sort { $codes->{$b} <=> $codes->{$a} } keys %$codes;
}

# --- afterwards ----------------------------------------------------------------------------------

# Whatever state the tables were left in, the application's own means bring them back.
$node->safe_psql('stress', 'ALTER SYSTEM RESET ALL');
$node->reload;
$node->safe_psql('stress', <<'SQL');
DO $$ BEGIN
  IF to_regclass('chunks_away') IS NOT NULL THEN
    -- bacmr_create_tables() may have made another meanwhile.
    DROP TABLE IF EXISTS chunks;
    ALTER TABLE chunks_away RENAME TO chunks;
  END IF;
END $$;
ALTER TABLE wallet ALTER token_balance TYPE bigint;
ALTER TABLE wallet_ledger ALTER delta TYPE bigint;
ALTER TABLE reservations ALTER amount TYPE bigint;
ALTER TABLE chunks OWNER TO app;
ALTER TABLE IF EXISTS bacmr_vector OWNER TO app;
ALTER TABLE chunks ENABLE TRIGGER USER;
ALTER TABLE wallet DISABLE ROW LEVEL SECURITY;
ALTER TABLE wallet_ledger DISABLE ROW LEVEL SECURITY;
ALTER TABLE reservations DISABLE ROW LEVEL SECURITY;
ALTER TABLE chunks DISABLE ROW LEVEL SECURITY;
SELECT bacmr_unpause(job) FROM (SELECT DISTINCT job FROM bacmr_job_pause) p;
SELECT * FROM bacmr_attach();
SQL
is($node->safe_psql('stress', q{SELECT string_agg(source || ': ' || status, ', ' ORDER BY source)
      FROM bacmr_sources WHERE status <> 'attached'}), '', 'every source is attached again');
await_sql($node, 'stress', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name ~ '^stress '},
    'every session is gone');
await_sql($node, 'stress', q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'},
    'the worker expires what is left', 120);
balances_agree($node, 'stress');
is(refunded_twice($node, 'stress'), 0, 'no reservation was refunded twice');
is($node->safe_psql('stress', q{SELECT count(*) FROM reservations r WHERE (status = 'expired') <> EXISTS
      (SELECT FROM wallet_ledger l WHERE l.reservation_id = r.id AND reason = 'reservation_expired'
       AND l.delta = r.amount)}), 0, 'what expired was refunded its amount, and nothing else was');
is($node->safe_psql('stress', 'SELECT sum(token_balance) FROM wallet'),
    $node->safe_psql('stress', q{SELECT (SELECT sum(delta) FROM wallet_ledger WHERE reason = 'deposit')
        - coalesce(sum(amount), 0) FROM reservations WHERE status = 'finalized'}),
    'only what was finalized is gone');
for my $status (qw(expired finalized released)) {
    cmp_ok($node->safe_psql('stress', "SELECT count(*) FROM reservations WHERE status = '$status'"),
        '>', 0, "some were $status");
}
await_sql($node, 'stress', q{SELECT discrepancies = 0 FROM bacmr_reconcile()}, 'reconciliation finds nothing');

await_sql($node, 'stress', q{SELECT count(*) = 0 FROM bacmr_job_run WHERE status = 'running'},
    'no run is left running', 120);
is($node->safe_psql('stress', <<'SQL'), '', 'the history of runs is consistent');
SELECT 'run ' || run_id || ' ' || status || ' ' || coalesce(error, '') FROM bacmr_job_run
  WHERE started_at IS NULL OR (finished_at < started_at) OR (status <> 'running') <> (finished_at IS NOT NULL)
     OR status NOT IN ('running', 'succeeded', 'discrepancies', 'failed', 'skipped')
     OR (status = 'failed' AND error IS NULL) OR (status IN ('running', 'succeeded') AND error IS NOT NULL)
UNION ALL
SELECT 'finding of run ' || run_id FROM bacmr_discrepancy d
  WHERE NOT EXISTS (SELECT FROM bacmr_job_run r WHERE r.run_id = d.run_id AND r.job = 'reconcile')
UNION ALL
SELECT 'job ' || job_id || ' ' || status FROM bacmr_reindex_job
  WHERE (status = 'failed' AND error IS NULL) OR finished_at < started_at
     OR (swapped_at IS NOT NULL AND verified_at IS NULL AND status = 'completed' AND error IS NULL)
UNION ALL
SELECT 'batch of job ' || job_id FROM bacmr_reindex_batch b
  WHERE NOT EXISTS (SELECT FROM bacmr_reindex_job j WHERE j.job_id = b.job_id)
SQL
await_sql($node, 'stress', q{SELECT count(*) = 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE nspname ~ '^pg_(toast_)?temp_'}, 'no temporary table is left', 120);
# Those of a worker at a tick come and go.
await_sql($node, 'stress', q{SELECT count(*) = 0 FROM pg_locks WHERE pid <> pg_backend_pid() AND locktype <> 'virtualxid'},
    'no lock is left', 120);
is($node->safe_psql('stress', 'SELECT count(*) FROM pg_prepared_xacts'), 0, 'nor a prepared transaction');

# The catalogue of exports is the folder itself.
my $folder = $node->safe_psql('stress', q{SELECT current_setting('data_directory') || '/' ||
    current_setting('bacmr.artifact_directory') || '/stress'});
my @manifests = glob "$folder/*.manifest.json";
cmp_ok(scalar(@manifests), '>', 0, 'there are exports');
my $names = join ', ', map { '$n$' . s{.*/}{}r =~ s/\.manifest\.json$//r . '$n$' } @manifests;
is($node->safe_psql('stress', "SELECT name, problem FROM unnest(ARRAY[$names]) name,
      LATERAL bacmr_verify_export(name) WHERE ok IS NOT TRUE"), '', 'every export that looks complete is whole');
$node->safe_psql('stress', 'SELECT * FROM bacmr_export_chunks()');
my @left = grep { !-e "$_.manifest.json" } grep { !/\.manifest\.json$/ } glob("$folder/*"), glob("$folder/.*.tmp");
is("@left", '', 'the next export has removed what killed ones left');

# --- vectors -------------------------------------------------------------------------------------

# The worker may end one, or deal with the last changes of another, at the same moment.
my $refused = '';
sub works_in_the_end {
    my ($what, $sql, $out) = @_;
    await($what, sub {
        return $node->psql('stress', $sql, stdout => $out, stderr => \$refused, on_error_stop => 1) == 0;
    }, 120) or diag $refused;
    return;
}
works_in_the_end('what is open is cancelled', q{SELECT bacmr_reindex_cancel(job_id) FROM bacmr_reindex_job
    WHERE status IN ('queued', 'running', 'paused', 'verifying', 'failed')}, \my $cancelled);
$node->safe_psql('stress', <<'SQL');
INSERT INTO chunks (namespace, content) SELECT 'ns' || n % 4, note(n) FROM generate_series(1, 40) n;
SQL
await_sql($node, 'stress', q{SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'}, 'nobody holds a job');
for my $namespace (map { "ns$_" } 0 .. 3) {
    works_in_the_end("$namespace: a job can be queued", "SELECT bacmr_reindex('$namespace', 'local-16')", \my $job);
    await_sql($node, 'stress', "SELECT status = 'completed' FROM bacmr_reindex_status WHERE job_id = $job",
        "$namespace: the worker does a job", 120);
    is($node->safe_psql('stress', "SELECT missing, ok FROM bacmr_reindex_verify($job)"), '0|t', "$namespace: it is right");
    $node->safe_psql('stress', "SELECT bacmr_reindex_swap($job, true)");
    is($node->safe_psql('stress', "SELECT missing, extra, ok FROM bacmr_vectors_verify('$namespace')"), '0|0|t',
        "$namespace: and active");
}
await_sql($node, 'stress', q{SELECT count(*) = 0 FROM pg_trigger WHERE tgname LIKE 'bacmr_capture%'},
    'no trigger is left where nothing is under way', 120);

$log = slurp_file($node->logfile);
is(() = $log =~ /terminated by signal|PANIC:|TRAP:|reinitializing/g, 0, 'no process has crashed since');
unless (Test::More->builder->is_passing) {
    diag "again: $again";
    for my $session (1 .. FUNCTION_SESSIONS, DDL_SESSION, CANCEL_SESSION) {
        my @lines = split /\n/, slurp_file(session_log($session));
        splice @lines, 0, -5 if @lines > 5;
        diag "session $session ended with:\n", join "\n", map { substr $_, 0, 300 } @lines;
    }
}
$node->stop;
done_testing();
