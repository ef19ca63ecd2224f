# A reindex job that is struck down ten times, while the chunks change throughout: in the end the
# store holds exactly what the table says, and little was paid for twice.
use strict;
use warnings;
use BacmrTest;
use ReindexJobs;
use Services;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use constant CHUNKS => 3000;
use constant BATCH => 10;
use constant CONCURRENCY => 4;

my $openai = start_openai(latency_ms => 150);
my $pinecone = start_pinecone(dimension => 64, latency_ms => 60);
my $node = new_server('main',
    conf => [ q{bacmr.expire_interval = '1s'}, q{bacmr.worker_enabled = off} ]);
app_database($node, 'app');
declare_services($node, 'app', $openai, $pinecone);
make_chunks($node, 'app', 'book', CHUNKS);
make_chunks($node, 'app', 'other', 50);
$node->safe_psql('app', 'CREATE TABLE written (kind text, n int); VACUUM ANALYZE chunks');

# Writes to the chunks until a file is there, however often the server goes away. Every text is new,
# so that each may be paid for once.
my $halt = "${PostgreSQL::Test::Utils::tmp_check}/halt";
my $writer = fork // die "fork: $!";
if ($writer == 0) {
    open STDERR, '>', '/dev/null';
    my $sql = <<'SQL';
DO $$
DECLARE chosen uuid; n int;
BEGIN
  FOR i IN 1 .. 12 LOOP
    INSERT INTO chunks (namespace, content) VALUES ('book', 'inserted ' || gen_random_uuid());
    INSERT INTO written VALUES ('insert', 1);
    COMMIT;
    SELECT id INTO chosen FROM chunks WHERE namespace = 'book' AND id > gen_random_uuid()
      ORDER BY id LIMIT 1;
    UPDATE chunks SET content = 'updated ' || gen_random_uuid() WHERE id = chosen;
    GET DIAGNOSTICS n = ROW_COUNT;
    INSERT INTO written VALUES ('update', n);
    COMMIT;
    SELECT id INTO chosen FROM chunks WHERE namespace = 'book' AND id > gen_random_uuid()
      ORDER BY id LIMIT 1;
    DELETE FROM chunks WHERE id = chosen;
    GET DIAGNOSTICS n = ROW_COUNT;
    INSERT INTO written VALUES ('delete', n);
    COMMIT;
    IF i % 4 = 0 THEN
      -- One leaves the namespace, one comes in.
      UPDATE chunks SET namespace = 'other', content = 'moved ' || gen_random_uuid()
        WHERE id = (SELECT id FROM chunks WHERE namespace = 'book' AND id > gen_random_uuid()
                    ORDER BY id LIMIT 1);
      UPDATE chunks SET namespace = 'book', content = 'moved ' || gen_random_uuid()
        WHERE id = (SELECT id FROM chunks WHERE namespace = 'other' AND id > gen_random_uuid()
                    ORDER BY id LIMIT 1);
      INSERT INTO written VALUES ('move', 2);
      COMMIT;
    END IF;
    PERFORM pg_sleep(0.05);
  END LOOP;
END $$;
SQL
    until (-e $halt) {
        my $status = eval { $node->psql('app', $sql, on_error_stop => 0) } // 1;
        sleep 0.1 if $status != 0;
    }
    POSIX::_exit(0);
}

END {
    if ($writer) {
        local $?;
        kill 'TERM', $writer;
        waitpid $writer, 0;
    }
}

my $job = queue_job($node, 'app',
    q{'book', batch_size => } . BATCH . ', concurrency => ' . CONCURRENCY);
my $target = job_value($node, 'app', $job, 'target_namespace');
my $kills = 0;

# Whatever the moment is: the job has moved on since it was resumed, and goes on moving.
sub await_progress {
    my ($what) = @_;
    my $before = job_value($node, 'app', $job, 'processed_chunks');
    await("$what: the job moves on", sub {
        (job_value($node, 'app', $job, 'processed_chunks') || 0) > $before;
    });
    sleep rand 0.6;
    is(job_status($node, 'app', $job), 'running', "$what: it is in the midst of it");
    return;
}

# Never process 0, which would be this test itself.
sub strike {
    my ($pid) = @_;
    $pid or BAIL_OUT('there is nobody to kill');
    kill 'KILL', $pid or die "kill: $!";
    return;
}

sub server_is_back {
    my ($what) = @_;
    await_sql($node, 'app', 'SELECT true', "$what: the server is there again");
    ++$kills;
    return;
}

sub kill_server {
    my ($what) = @_;
    $node->stop('immediate');
    $node->start;
    return server_is_back($what);
}

# The postmaster first: nobody puts things in order for it.
sub kill_postmaster {
    my ($what) = @_;
    my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
    my @children = split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity');
    $node->kill9;
    # They notice by themselves, a moment later; until then no server starts here. One that worked on
    # to the end of its job would keep the database away for hours.
    my $gone = await("$what: all its processes are gone soon", sub {
        !grep { kill 0, $_ } $postmaster, @children;
    }, 5);
    $gone or await("$what: or at least later", sub {
        !grep { kill 0, $_ } $postmaster, @children;
    });
    $node->start;
    return server_is_back($what);
}

# --- in a session ----------------------------------------------------------------------------------

for my $how ('backend', 'server', 'backend', 'postmaster') {
    my $what = 'kill ' . ($kills + 1) . " ($how, in CALL)";
    my $call = in_background($node, 'app', "CALL bacmr_reindex_run($job)");
    await_progress($what);
    if ($how eq 'backend') {
        my $pid = $node->safe_psql('app',
            q{SELECT pid FROM pg_stat_activity WHERE query LIKE 'CALL bacmr_reindex_run%'});
        strike($pid);
        wait_for_end($call);
        server_is_back($what);
    } else {
        $how eq 'server' ? kill_server($what) : kill_postmaster($what);
        eval { wait_for_end($call) };
    }
    is(job_status($node, 'app', $job), 'running', "$what: its row says nothing of that");
}

# --- in the worker ---------------------------------------------------------------------------------

$node->append_conf('postgresql.conf', 'bacmr.worker_enabled = on');
$node->reload;
for my $how ('worker', 'server', 'worker', 'postmaster', 'worker', 'server') {
    my $what = 'kill ' . ($kills + 1) . " ($how)";
    await_progress($what);
    if ($how eq 'worker') {
        my $pid = reindexer_pid($node, 'app');
        ok($pid, "$what: there is a worker for it");
        strike($pid);
        await("$what: it is gone", sub { !kill 0, $pid });
        server_is_back($what);
    } else {
        $how eq 'server' ? kill_server($what) : kill_postmaster($what);
    }
}

# --- the end ---------------------------------------------------------------------------------------

is($kills, 10, 'ten kills');
await('the walk is over, with the writer still at work', sub {
    job_value($node, 'app', $job, 'walked') eq 't';
});
append_to_file($halt, '');
waitpid $writer, 0;
$writer = 0;
await_job($node, 'app', $job, 'completed', 'resumed each time, the job ends by itself');
is(job_value($node, 'app', $job, 'verified_at IS NOT NULL AND expected = actual AND error IS NULL'),
    't', 'and is verified');
is($node->safe_psql('app', 'SELECT count(*) FROM bacmr_reindex_failure'), 0, 'no chunk has failed');
await_sql($node, 'app', 'SELECT count(*) = 0 FROM bacmr_chunk_change WHERE namespace = $$book$$',
    'nothing that changed is left');
my %written = map { split /\|/ } split /\n/,
  $node->safe_psql('app', 'SELECT kind, sum(n) FROM written GROUP BY kind');
note(join ', ', map { "$written{$_} ${_}s" } sort keys %written);
cmp_ok($written{$_} // 0, '>=', 10, "the writer did its part: $_") for qw(insert update delete move);

my $bound = $kills * CONCURRENCY * BATCH;
my $counts = $openai->counts;
note("$counts->{texts} texts paid for, $counts->{distinct_texts} different ones");
cmp_ok(paid_twice($openai), '<=', $bound, "at most the batches in flight ($bound) were paid twice");
cmp_ok($counts->{max_repeats}, '<=', $kills + 1, 'and a text at most once more for each kill');
cmp_ok($counts->{distinct_texts}, '>=', CHUNKS / 2, 'the counts are of this job');
store_agrees($node, 'app', 'book', $openai, $pinecone, $target,
    'the store holds the vectors of the present texts, and nothing else');

# Once more, into another namespace: all of it has been paid for.
$openai->reset_counts;
$openai->settings(latency_ms => 0);
$pinecone->settings(latency_ms => 0);
my $again = queue_job($node, 'app', q{'book', target_namespace => 'book-again'});
await_job($node, 'app', $again, 'completed', 'a second run of all');
is($openai->counts->{texts_seen}, 0, 'sends not one text to the embedder');
is(job_value($node, 'app', $again, 'tokens_used'), 0, 'and is not billed for any');
store_agrees($node, 'app', 'book', $openai, $pinecone, 'book-again', 'yet has the same vectors');

$node->stop;
done_testing();
