# kill -9 of each kind of process in turn, at a moment of chance, while an application reserves,
# finalizes, releases and transfers and every job runs in a loop. After each the server comes back,
# the workers with it; nothing is lost, nothing done twice, and the job runs say what happened.
use strict;
use warnings;
use BacmrTest;
use Exports;
use Faults;
use HTTP::Tiny;
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

seeded();
use constant { USERS => 40, CHUNKS => 12_000, INDEXED => 600 };

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $node = new_server('main', conf => [
    q{bacmr.expire_interval = '1s'},
    'bacmr.expire_batch_size = 20',
    'bacmr.export_keep = 2',
    q{bacmr.export_keep_age = '0'},
    q{bacmr.embedder = 'bacmr_local'},
    q{bacmr.vector_store = 'bacmr_postgres'},
    "bacmr.metrics_listen = '127.0.0.1:$port'",
    'max_worker_processes = 16' ]);
app_database($node, 'app');
give_wallets($node, 'app', USERS);
$node->safe_psql('app', <<"SQL");
INSERT INTO chunks (namespace, content)
SELECT CASE WHEN n <= @{[INDEXED]} THEN 'n' ELSE 'bulk' END, repeat(md5(n::text) || ' ', 30)
FROM generate_series(1, @{[CHUNKS]}) n;
CREATE TABLE copied (LIKE chunks INCLUDING ALL);

CREATE FUNCTION app_finalize(n int) RETURNS void LANGUAGE sql BEGIN ATOMIC
  UPDATE reservations SET status = 'finalized' WHERE id = (SELECT id FROM reservations
    WHERE user_id = u(n) AND status = 'reserved' LIMIT 1 FOR UPDATE SKIP LOCKED);
END;
CREATE FUNCTION app_release(n int) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
  picked reservations;
BEGIN
  PERFORM FROM wallet WHERE user_id = u(n) FOR UPDATE;
  SELECT * INTO picked FROM reservations WHERE user_id = u(n) AND status = 'reserved' LIMIT 1
    FOR UPDATE SKIP LOCKED;
  IF FOUND THEN
    UPDATE reservations SET status = 'released' WHERE id = picked.id;
    INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
      VALUES (u(n), picked.amount, 'released', picked.id);
    UPDATE wallet SET token_balance = token_balance + picked.amount WHERE user_id = u(n);
  END IF;
END \$\$;
CREATE FUNCTION app_transfer(a int, b int, tokens bigint) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
  IF a <> b THEN
    PERFORM FROM wallet WHERE user_id IN (u(a), u(b)) ORDER BY user_id FOR UPDATE;
    UPDATE wallet SET token_balance = token_balance
      + CASE user_id WHEN u(a) THEN -tokens ELSE tokens END WHERE user_id IN (u(a), u(b));
    INSERT INTO wallet_ledger (user_id, delta, reason)
      VALUES (u(a), -tokens, 'transfer'), (u(b), tokens, 'transfer');
  END IF;
END \$\$;
SQL
my $folder = artifact_folder($node, 'app');

# --- the load ------------------------------------------------------------------------------------

my $script = "${PostgreSQL::Test::Utils::tmp_check}/load.sql";
append_to_file($script, <<"SQL");
\\set n random(1, @{[USERS]})
\\set m random(1, @{[USERS]})
\\set due random(1, 2500)
\\set what random(1, 10)
\\if :what <= 6
SELECT reserve(:n, 3, :due * interval '1 millisecond');
\\elif :what <= 7
SELECT app_finalize(:n);
\\elif :what <= 8
SELECT app_release(:n);
\\else
SELECT app_transfer(:n, :m, 2);
\\endif
SQL
in_loop(sub {
    local $ENV{PGAPPNAME} = 'fault application';
    system('pgbench', '-n', '-c', 2, '-R', 150, '-T', 5, '-f', $script, $node->connstr('app'));
});
my %job = (
    reconcile => q{CALL bacmr_run_job('reconcile', '{"recheck_after": "200 ms"}')},
    expire => q{CALL bacmr_run_job('expire')},
    export => q{CALL bacmr_run_job('export')});
for my $job (sort keys %job) {
    in_loop(sub {
        psql_once($node, 'app', "fault $job", $job{$job});
        sleep rand 0.2;
    });
}
in_loop(sub {
    my $file = psql_once($node, 'app', 'fault import', q{TRUNCATE copied; SELECT detail->>'file'
        FROM bacmr_job_run WHERE job = 'export' AND status = 'succeeded' ORDER BY run_id DESC LIMIT 1});
    psql_once($node, 'app', 'fault import', q{CALL bacmr_run_job('import', }
          . qq{'{"relation": "copied", "source": "$file"}')}) if $file;
});
# By turns the session works on the job, and the process that the worker starts for it.
my $turn = 0;
in_loop(sub {
    my $job = psql_once($node, 'app', 'fault reindex',
        q{SELECT bacmr_reindex('n', batch_size => 10)
          WHERE NOT EXISTS (SELECT FROM bacmr_reindex_job WHERE status IN ('queued', 'running'))});
    psql_once($node, 'app', 'fault reindex', 'CALL bacmr_reindex_run()') if ++$turn % 2;
    sleep rand 0.5;
});

# --- strikes -------------------------------------------------------------------------------------

sub of_type { return "backend_type = '$_[0]'"; }

# What there is to kill: conditions on pg_stat_activity.
my %victim = (
    (map { $_ => of_type("bacmr_ops $_") } qw(launcher worker reindex endpoint)),
    checkpointer => of_type('checkpointer'),
    (map { ("a session that ${_}s" => "application_name = 'fault $_' AND state = 'active'"
          . " AND query LIKE 'CALL %'") } qw(reconcile expire export import)),
    'a session that reindexes' => q{application_name = 'fault reindex' AND query LIKE 'CALL %'},
    'a session of the application' => q{application_name = 'fault application' AND state = 'active'},
    postmaster => undef);

await('an export has succeeded', sub {
    ask($node, 'app', q{SELECT count(*) FROM bacmr_job_run WHERE job = 'import'
        AND status = 'succeeded'}) > 0;
});

sub endpoint_answers {
    my $answer = HTTP::Tiny->new(timeout => 10)->get("http://127.0.0.1:$port/healthz");
    return $answer->{status} == 200;
}

sub there_are {
    my (@types) = @_;
    my $list = join ', ', map { "'bacmr_ops $_'" } @types;
    return ask($node, 'app', "SELECT count(DISTINCT backend_type) FROM pg_stat_activity
        WHERE backend_type IN ($list)") == @types;
}

for my $who (shuffle(sort keys %victim)) {
    my $what = "kill -9 of the $who" =~ s/the a /a /r;
    my @running;
    if ($who eq 'postmaster') {
        sleep rand 1;
        @running = running_runs($node, 'app');
        kill_postmaster($node, $what);
    } else {
        # A moment later than it was seen; gone by then, it is another one's turn.
        await($what, sub {
            my $pid = ask($node, 'app', "SELECT pid FROM pg_stat_activity WHERE $victim{$who} LIMIT 1")
              or return 0;
            @running = running_runs($node, 'app');
            sleep rand 0.05;
            my $offset = log_size($node);
            kill_pid($pid) or return 0;
            $node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
            return 1;
        });
    }
    server_is_back($node, 'app', $what);
    await("$what: launcher, worker and endpoint are there again",
        sub { there_are('launcher', 'worker', 'endpoint') && endpoint_answers() });
    money_is_right($node, 'app', $what);
    history_is_right($node, 'app', $what, @running);
    like($node->safe_psql('app', 'SELECT count(*) FROM copied'), qr/^(?:0|@{[CHUNKS]})$/,
        "$what: an import is there as a whole or not at all");
    is(join(' ', grep { /\.manifest\.json$/ } lonely_files($folder)), '',
        "$what: no manifest stands without its file");
}

# --- afterwards ----------------------------------------------------------------------------------

end_loops();
await_sql($node, 'app', q{SELECT count(*) = 0 FROM reservations WHERE status = 'reserved'},
    'no reservation is forgotten');
money_is_right($node, 'app', 'in the end');
is($node->safe_psql('app', 'SELECT sum(token_balance) FROM wallet'),
    $node->safe_psql('app', 'SELECT 1000 * ' . USERS
          . q{ - coalesce(sum(amount), 0) FROM reservations WHERE status = 'finalized'}),
    'only what was finalized is gone');
cmp_ok($node->safe_psql('app', "SELECT count(*) FROM reservations WHERE status = '$_'"), '>', 0,
    "some were $_") for qw(expired finalized released);
is($node->safe_psql('app', 'SELECT discrepancies FROM bacmr_reconcile()'), 0,
    'reconciliation finds nothing');
await_sql($node, 'app', q{SELECT bool_and(status = 'completed') AND count(*) > 0
    FROM bacmr_reindex_job}, 'each reindex job has ended in success');
is($node->safe_psql('app', q{SELECT string_agg(target_namespace || ': ' || n, ', ') FROM
       (SELECT target_namespace, (SELECT count(*) FROM bacmr_vector v
          WHERE v.namespace = target_namespace) AS n FROM bacmr_reindex_job) j WHERE n <> } . INDEXED),
    '', 'with a vector for each chunk');
$node->safe_psql('app', q{CALL bacmr_run_job('export')});
is(join(' ', hidden_files($folder), grep { /\.manifest\.json$/ } lonely_files($folder)), '',
    'the next export has swept what was left hidden');
my @manifests = map { /^(.*)\.manifest\.json$/ ? $1 : () } names_in($folder);
is($node->safe_psql('app', "SELECT ok FROM bacmr_verify_export('$_')"), 't', "$_ is whole")
  for @manifests;
is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run WHERE status = 'running'}), 0,
    'no run is left running');
is($node->safe_psql('app', q{SELECT string_agg(DISTINCT error, '; ') FROM bacmr_job_run
       WHERE status = 'failed' AND error NOT LIKE 'the process that ran this job is gone%'}), '',
    'and no run has failed for another reason');
note($node->safe_psql('app', q{SELECT string_agg(job || ' ' || status || ' ' || n, ', ')
    FROM (SELECT job, status, count(*) AS n FROM bacmr_job_run GROUP BY 1, 2 ORDER BY 1, 2) r}));

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|signal 11|signal 6|deadlock detected/,
    'and nothing has crashed by itself');
done_testing();
