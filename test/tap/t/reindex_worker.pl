# The worker of reindex jobs: it comes by itself, goes when it is asked to, never does what another does
# already, and is in nobody's way, however slow the services are.
use strict;
use warnings;
use BacmrTest;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use ReindexJobs;
use Services;
use Test::More;
use Time::HiRes qw(sleep time);

# What a command that needs the database for itself may have to wait.
use constant FEW_SECONDS => 5;

my $openai = start_openai();
my $pinecone = start_pinecone(dimension => 64);
my $node = new_server('main', conf => [
    q{bacmr.expire_interval = '1s'}, 'bacmr.http_max_retries = 1', q{bacmr.breaker_cooldown = '1s'},
    'max_worker_processes = 20' ]);

sub prepare {
    my ($database, %chunks) = @_;
    app_database($node, $database);
    declare_services($node, $database, $openai, $pinecone);
    make_chunks($node, $database, $_, $chunks{$_}) for sort keys %chunks;
    return;
}

sub begin {
    my ($title) = @_;
    note("--- $title");
    behave();
    $_->reset_counts for $openai, $pinecone;
    return;
}

sub behave {
    $_->rules, $_->settings(latency_ms => 0) for $openai, $pinecone;
    $pinecone->settings(lag_ms => 0);
    return;
}

# The connections are closed after so many seconds, when given.
sub hang {
    my ($seconds) = @_;
    $openai->rules({ match => { kind => 'embeddings' }, action => 'hang', times => 0,
            $seconds ? (seconds => $seconds) : () });
    return;
}

sub hanging { return ($openai->counts->{faults}{hang} // 0) > 0; }

sub metric {
    my ($database, $name, %labels) = @_;
    my $json = JSON::PP->new->encode(\%labels);
    return $node->safe_psql($database,
        "SELECT value FROM bacmr_metrics WHERE name = '$name' AND labels = '$json'::jsonb");
}

# Runs it; passes when it succeeds within that time.
sub is_quick {
    my ($database, $sql, $what, $seconds) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $start = time;
    is(error_of($node, $database, $sql), '', $what);
    cmp_ok(time - $start, '<', $seconds // FEW_SECONDS, "$what: soon");
    return;
}

prepare('app', taken => 150, hung => 60, one => 200, two => 200, restarted => 400, cloned => 60, spare => 20);
give_wallets($node, 'app', 5);

# --- it comes by itself ---------------------------------------------------------------------------

begin('taken');
my $start = time;
my $job = queue_job($node, 'app', q{'taken', batch_size => 10});
await_job($node, 'app', $job, 'completed', 'a queued job is done without anybody calling');
cmp_ok(time - $start, '<', 10, 'at once');
store_agrees($node, 'app', 'taken', $openai, $pinecone, 'taken-v2', 'the store is complete');
is($node->safe_psql('app', "SELECT status, detail->>'job_id', detail->>'processed_chunks'
       FROM bacmr_job_run WHERE job = 'reindex'"), "succeeded|$job|150", 'there is a run of it');
is($openai->counts->{texts} - 150, 150, 'each text was embedded once (and once more by this test)');
await('then the worker goes', sub { !reindexer_pid($node, 'app') });
is(metric('app', 'bacmr_reindex_progress_ratio', namespace => 'taken'), 1, 'the metrics say that it is done');
is(metric('app', 'bacmr_reindex_failed_chunks', namespace => 'taken'), 0, 'and that nothing has failed');
cmp_ok(metric('app', 'bacmr_http_requests_total', service => 'openai', outcome => '200'), '>=', 15,
    'and count the requests');
cmp_ok(metric('app', 'bacmr_http_request_duration_seconds_count', service => 'pinecone'), '>=', 15,
    'of both services, with their durations');
$node->safe_psql('app', q{UPDATE chunks SET content = content || ' anew' WHERE namespace = 'taken'
    AND content LIKE 'chunk 1 %'});
$openai->reset_counts;
await('a chunk that changes before the swap brings it back', sub { $openai->counts->{texts} == 1 });
await_sql($node, 'app', 'SELECT count(*) = 0 FROM bacmr_chunk_change', 'the change is dealt with');
await('and it goes again', sub { !reindexer_pid($node, 'app') });

# --- services that hang ---------------------------------------------------------------------------

begin('hung');
hang();
$job = queue_job($node, 'app', q{'hung', batch_size => 10});
await('the services hang', \&hanging);
for my $n (1 .. 3) {
    my $id = reserve($node, 'app', $n, 10, '-1 second');
    await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'},
        "expiry goes on meanwhile: $n", FEW_SECONDS);
}
is(job_status($node, 'app', $job), 'running', 'while the job is at it');
like($node->safe_psql('postgres', q{SELECT query FROM pg_stat_activity
       WHERE backend_type = 'bacmr_ops reindex'}), qr/\Areindex job $job: 0 of 60 chunks/,
    'pg_stat_activity says how far it is');
is(metric('app', 'bacmr_reindex_progress_ratio', namespace => 'hung'), 0, 'the metrics too');
$node->safe_psql('app', q{SELECT bacmr_pause('reindex', 'the budget is being discussed')});
await('bacmr_pause ends the worker, hang as they may', sub { !reindexer_pid($node, 'app') }, FEW_SECONDS);
like(job_value($node, 'app', $job, 'error'), qr/budget is being discussed/, 'the job says why it rests');
behave();
$openai->reset_counts;
my $id = reserve($node, 'app', 4, 10, '-1 second');
await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'},
    'the other worker looks around meanwhile');
is($openai->counts->{requests}, 0, 'and starts nothing that is paused');
is(error_of($node, 'app', "CALL bacmr_reindex_run($job)"), '', 'nor does a call do any work');
is($openai->counts->{requests}, 0, 'which asks no service either');
$node->safe_psql('app', q{SELECT bacmr_unpause('reindex')});
await_job($node, 'app', $job, 'completed', 'after bacmr_unpause it goes on by itself', 15);
is($openai->counts->{texts}, 60, 'each text was paid for once');

# --- several at once ------------------------------------------------------------------------------

begin('at once');
$_->settings(latency_ms => 40) for $openai, $pinecone;
my @jobs = map { queue_job($node, 'app', "'$_', batch_size => 5, concurrency => 2") } qw(one two);
my @calls = map { in_background($node, 'app', "CALL bacmr_reindex_run($_)") } $jobs[0], @jobs, 'NULL';
for my $n (0, 1) {
    await_job($node, 'app', $jobs[$n], 'completed', "job $n of two, with a worker and four calls at once");
}
my @said = map { (wait_for_end($_))[1] } @calls;
is(scalar(grep { /ERROR/ } @said), 0, 'none of the calls fails') or diag("@said");
# The second of the same job at the latest.
ok(scalar(grep { /another session works on|has nothing to do|no reindex job/ } @said),
    'and who comes too late is told so');
is($openai->counts->{texts}, 400, 'each text was embedded');
is(paid_twice($openai), 0, 'once, though all wanted to');
is($pinecone->counts->{max_upserts}, 1, 'and stored once');
for my $space (qw(one two)) {
    store_agrees($node, 'app', $space, $openai, $pinecone, "$space-v2", "$space: the store is complete");
}

# --- a restart ------------------------------------------------------------------------------------

begin('restart');
$openai->settings(latency_ms => 150);
$job = queue_job($node, 'app', q{'restarted', batch_size => 10, concurrency => 2});
await('a job is half-way', sub { (job_value($node, 'app', $job, 'processed_chunks') || 0) >= 100 });
my $ratio = metric('app', 'bacmr_reindex_progress_ratio', namespace => 'restarted');
cmp_ok($ratio, '>', 0, 'the metrics say so');
cmp_ok($ratio, '<', 1, 'as well as that it is not done');
$start = time;
$node->restart;
cmp_ok(time - $start, '<', 10, 'a restart does not wait for it');
await_job($node, 'app', $job, 'completed', 'and the job goes on by itself afterwards');
cmp_ok(paid_twice($openai), '<=', 20, 'at most the batches in flight were paid twice');
store_agrees($node, 'app', 'restarted', $openai, $pinecone, 'restarted-v2', 'the store is complete');

# --- copies ---------------------------------------------------------------------------------------

begin('copies');
hang(2);
$job = queue_job($node, 'app', q{'cloned', batch_size => 10});
await('a job is at work', \&hanging);
my $dump = "${PostgreSQL::Test::Utils::tmp_check}/app.sql";
$node->command_ok([ 'pg_dump', '--file', $dump, 'app' ], 'pg_dump meanwhile');
is_quick('postgres', 'CREATE DATABASE clone TEMPLATE app', 'CREATE DATABASE … TEMPLATE meanwhile');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'restored' ],
    'the dump can be restored');
behave();
await_job($node, 'app', $job, 'completed', 'in the original it goes on by itself');
store_agrees($node, 'app', 'cloned', $openai, $pinecone, 'cloned-v2', 'to its end');
for my $copy (qw(clone restored)) {
    $node->safe_psql('postgres', qq{ALTER DATABASE $copy SET bacmr.embedder = 'openai'});
    $node->safe_psql('postgres', qq{ALTER DATABASE $copy SET bacmr.vector_store = 'pinecone'});
    await_sql($node, $copy, q{SELECT last_run_at IS NOT NULL FROM bacmr_status WHERE job = 'worker'},
        "$copy: its worker has looked around");
    $_->reset_counts for $openai, $pinecone;
    isnt(job_status($node, $copy, $job), 'completed', "$copy: the job is there, unfinished");
    is(error_of($node, $copy, 'CALL bacmr_reindex_run()'), '', "$copy: who calls is told of a pause");
    # Whoever wants to reindex in the copy has not said that the original's job is to be done twice.
    $node->safe_psql($copy, q{SELECT bacmr_unpause('reindex'), bacmr_unpause('expire')});
    my $id = reserve($node, $copy, 5, 10, '-1 second');
    await_sql($node, $copy, qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'},
        "$copy: its worker has looked around without the pause");
    is(error_of($node, $copy, "CALL bacmr_reindex_run($job)"), '', "$copy: somebody calls for it by name");
    like(error_of($node, $copy, "SELECT bacmr_reindex_resume($job)"), qr/55000.*a copy of/s,
        "$copy: or resumes it, which is refused");
    like(job_value($node, $copy, $job, 'error'), qr/a copy of.*cancel it/, "$copy: the job says so as well");
    is(job_status($node, $copy, $job), 'paused', "$copy: it rests");
    is($openai->counts->{texts_seen}, 0, "$copy: not even then does it pay for the original's job");
    is($pinecone->counts->{by_kind}{upsert} // 0, 0, "$copy: nor write to the original's target");
    is($node->safe_psql($copy, q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'bacmr_capture%'}), 0,
        "$copy: nor note the changes of its chunks");
    my $own = queue_job($node, $copy, q{'spare', target_namespace => '} . "spare of $copy'");
    await_job($node, $copy, $own, 'completed', "$copy: a job of its own is done");
    is(error_of($node, 'postgres', "DROP DATABASE $copy"), '', "$copy: dropped");
}

# --- commands that need the database for themselves -----------------------------------------------

# The embedder hangs; or the store lags, so that a job is verified for long.
for my $how ('embedding', 'verifying') {
    for my $command ('DROP EXTENSION', 'DROP DATABASE') {
        begin("$command, $how");
        my $database = lc "$command $how" =~ s/ /_/gr;
        prepare($database, $database => 40);
        $how eq 'embedding' ? hang() : $pinecone->settings(lag_ms => 20_000);
        my $job = queue_job($node, $database, "'$database', batch_size => 10");
        await("$command: a job is $how", sub {
            $how eq 'embedding' ? hanging() : job_status($node, $database, $job) eq 'verifying';
        });
        if ($command eq 'DROP DATABASE') {
            is_quick('postgres', "DROP DATABASE $database", "DROP DATABASE while a job is $how");
        } else {
            is_quick($database, 'DROP EXTENSION bacmr_ops CASCADE', "DROP EXTENSION while a job is $how");
            is(error_of($node, $database, q{UPDATE chunks SET content = 'x'; TRUNCATE chunks}), '',
                'the chunks can be written to without it');
            await('its worker is gone', sub { !reindexer_pid($node, $database) });
        }
    }
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal|exited with exit code [2-9]/,
    'nothing in the log looks like a crash');
done_testing();
