# The server is restarted, fast and immediately, in the midst of each job: held there by what the job
# waits for, so that the moment is the same each time.
#
#   job                          held by
#   reconcile                    its second look, an hour later
#   expire (session, worker)     a slow trigger of the application's, batch by batch
#   export: upload               a part that the store does not answer
#   export: wait for a retry     a store that fails, and the pause after it
#   export: retention            an old object whose deletion is not answered
#   import                       a slow trigger of the table's
#   verify, drill                an object that comes slowly
#   reindex: walk, verification  an embedder, a vector store that does not answer
#   reindex: swap                a transaction that is not committed yet
#   vectors repair               a vector store that does not answer
#
# After each: the run is failed and says that its process is gone, or goes on to its end (reindex); no
# piece of a file is left once the next run is over, no lock, no prepared transaction, no scratch table;
# the money is right, the counts are right, and the same job works.
#
# (kill -9 at random moments: fault_kill.pl; exports as they write: export_crash.pl; reindex jobs struck
# ten times: reindex_survives.pl; the worker: worker_survives.pl.)
use strict;
use warnings;
use BacmrTest;
use Digest::SHA qw(sha256_hex);
use Exports;
use Faults;
use ReindexJobs;
use Services;
use PostgreSQL::Test::Utils;
use Test::More;

use constant { WALLETS => 50, CHUNKS => 200, DUE => 60 };

my $s3 = start_s3('swift');
my $openai = start_openai();
my $pinecone = start_pinecone(dimension => 64);
my $node = new_server('main', conf => [
    q{bacmr.expire_interval = '1s'},
    'bacmr.expire_batch_size = 5',
    'bacmr.http_max_retries = 0',
    'bacmr.breaker_threshold = 1000',
    'bacmr.export_keep = 1',
    q{bacmr.export_keep_age = '0'},
    # Temporary tables of a session that a crash has ended are the server's to drop.
    q{autovacuum_naptime = '1s'} ]);
app_database($node, 'app');
give_wallets($node, 'app', WALLETS);
make_bucket($s3, 'bacmr-dr');
my $store = start_faults($s3->{endpoint});
declare_store($node, 'app', 'dr', { %$s3, endpoint => $store->endpoint }, part_size => '5MB');
declare_services($node, 'app', $openai, $pinecone);
make_chunks($node, 'app', 'n', CHUNKS);
$node->safe_psql('app', <<'SQL');
-- More than one part of an upload.
INSERT INTO chunks (namespace, content)
  SELECT 'bulk', repeat(md5(n::text), 100) FROM generate_series(1, 2000) n;
CREATE TABLE copied (LIKE chunks INCLUDING ALL);
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_sleep(0.05);
  RETURN NEW;
END $$;
CREATE TRIGGER slow BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION slow();
CREATE TRIGGER slow BEFORE INSERT ON wallet_ledger FOR EACH ROW
  WHEN (NEW.reason = 'reservation_expired') EXECUTE FUNCTION slow();
SQL
my $folder = artifact_folder($node, 'app');
my $chunks = CHUNKS + 2000;
await('a worker is there', sub { worker_pid($node, 'app') });

# --- what the cases share ------------------------------------------------------------------------

my %service = (store => $store, openai => $openai, pinecone => $pinecone);

# Rules for a service, and the question whether one of them has been met.
sub hold {
    my ($service, @rules) = @_;
    $service{$service}->reset_counts;
    $service{$service}->rules(@rules);
    return;
}

sub is_held {
    my ($service, $action) = @_;
    return $service{$service}->counts->{faults}{ $action // 'hang' };
}

sub let_go {
    $_->rules for values %service;
    return;
}

sub triggers {
    my ($on) = @_;
    my $what = $on ? 'ENABLE' : 'DISABLE';
    $node->safe_psql('app', "ALTER TABLE copied $what TRIGGER slow; ALTER TABLE wallet_ledger $what TRIGGER slow");
    return;
}

sub backlog {
    $node->safe_psql('app', 'SELECT count(reserve(n % ' . WALLETS . q{ + 1, 1, '-1 second'))
        FROM generate_series(1, } . DUE . q{) n});
    return;
}

my $left = q{(SELECT count(*) FROM reservations WHERE status = 'reserved')};

sub expiry_is_half_way {
    my $now = ask($node, 'app', "SELECT $left") || 0;
    return $now > 0 && $now < DUE;
}

sub job_call {
    my ($job, $arguments) = @_;
    return "CALL bacmr_run_job('$job', '" . ($arguments // '{}') . "')";
}

sub last_run {
    my ($job, $what) = @_;
    return $node->safe_psql('app',
        "SELECT $what FROM bacmr_job_run WHERE job = '$job' ORDER BY run_id DESC LIMIT 1");
}

# Of the jobs that bacmr_run_job() records: the run, as it is under way.
sub running {
    my ($job) = @_;
    return ask($node, 'app', "SELECT run_id FROM bacmr_job_run WHERE job = '$job' AND status = 'running'");
}

sub vectors_agree {
    my ($case, $what) = @_;
    return store_agrees($node, 'app', 'n', $openai, $pinecone, $case->{target}, $what);
}

my $round = 0;

sub queue_reindex {
    my ($case) = @_;
    # A repair queues its own.
    $case->{target} = 'n-' . ++$round;
    $case->{id} = queue_job($node, 'app', "'n', target_namespace => '$case->{target}', batch_size => 20");
    return;
}

sub reindex_ends {
    my ($case, $what) = @_;
    await_job($node, 'app', $case->{id}, 'completed', "$what: the job goes on by itself, to its end", 90);
    is(job_value($node, 'app', $case->{id}, 'verified_at IS NOT NULL AND error IS NULL'), 't',
        "$what: and is verified");
    is($node->safe_psql('app', qq{SELECT string_agg(status, ', ') FROM bacmr_job_run WHERE job = 'reindex'
        AND detail->>'job_id' = '$case->{id}'}), 'succeeded', "$what: one run says so");
    vectors_agree($case, "$what: with a vector for each chunk");
    return;
}

# --- the cases -----------------------------------------------------------------------------------

# Each: run (of whose job a row is under way, which dies with its process), begin, sql (for a session),
# midst (whether it is there), then (what holds afterwards), next (the same job, which now has to work).
my $remote = 'dr/app/WHOLE';    # of the chunks as they are in this round
my @cases = (
    { name => 'reconcile', run => 'reconcile', sql => job_call('reconcile', '{"recheck_after": "1 hour"}'),
        midst => sub { ask($node, 'app', q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE
            'CALL bacmr_run_job(''reconcile''%' AND state = 'active' AND wait_event_type = 'Extension'}) },
        next => job_call('reconcile') },

    { name => 'expire in a session',
        begin => sub {
            $node->append_conf('postgresql.conf', 'bacmr.worker_enabled = off');
            $node->reload;
            await('no worker takes part', sub { !worker_pid($node, 'app') });
            backlog();
        },
        sql => job_call('expire'), midst => \&expiry_is_half_way,
        then => sub { money_is_right($node, 'app', $_[1]); },
        next => job_call('expire'),
        finally => sub {
            my ($case, $what) = @_;
            is(last_run('expire', 'status'), 'succeeded', "$what: which says so");
            is($node->safe_psql('app', "SELECT $left"), 0, "$what: and leaves none");
            money_is_right($node, 'app', "$what, afterwards");
            $node->append_conf('postgresql.conf', 'bacmr.worker_enabled = on');
            $node->reload;
            await("$what: the worker is there again", sub { worker_pid($node, 'app') });
        } },

    { name => 'expire in the worker', begin => \&backlog, midst => \&expiry_is_half_way,
        then => sub {
            my ($case, $what) = @_;
            triggers(0);
            await_sql($node, 'app', "SELECT $left = 0", "$what: the worker works the rest off");
            await("$what: its run says so", sub { last_run('expire', 'status') eq 'succeeded' });
            money_is_right($node, 'app', $what);
        } },

    { name => 'export: upload', run => 'export',
        begin => sub { hold('store', { match => { kind => 'upload_part' }, action => 'hang', times => 0 }) },
        sql => job_call('export', '{"destination": "dr"}'), midst => sub { is_held('store') },
        then => \&export_left, next => job_call('export', '{"destination": "dr"}'),
        finally => \&export_is_right },

    { name => 'export: wait for a retry', run => 'export',
        begin => sub { hold('store', { match => { kind => 'upload_part' }, action => 'status', status => 500,
            times => 0 }) },
        sql => job_call('export', '{"destination": "dr"}'),
        midst => sub {
            return grep { $_->{message} =~ /^step upload of the export failed and is tried again/ }
              log_entries($node, $_[0]{offset});
        },
        then => \&export_left, next => job_call('export', '{"destination": "dr"}'),
        finally => \&export_is_right },

    { name => 'export: retention', run => 'export',
        begin => sub { hold('store', { match => { kind => 'delete_object' }, action => 'hang', times => 0 }) },
        sql => job_call('export', '{"destination": "dr"}'), midst => sub { is_held('store') },
        then => sub {}, next => job_call('export', '{"destination": "dr"}'),
        finally => \&export_is_right },

    { name => 'import', run => 'import',
        begin => sub { $node->safe_psql('app', 'TRUNCATE copied') },
        sql => job_call('import', qq{{"relation": "copied", "source": "$remote"}}),
        midst => sub { ask($node, 'app', q{SELECT count(*) FROM pg_stat_activity
            WHERE query LIKE 'CALL bacmr_run_job(''import''%' AND wait_event = 'PgSleep'}) },
        then => sub { is($node->safe_psql('app', 'SELECT count(*) FROM copied'), 0, "$_[1]: not a row is there") },
        next => job_call('import', qq{{"relation": "copied", "source": "$remote"}}),
        finally => sub { is($node->safe_psql('app', 'SELECT count(*) FROM copied'), $chunks,
            "$_[1]: and imports all") } },

    (map { {
        name => $_, run => $_,
        begin => sub { hold('store', { match => { kind => 'get_object', path => 'ndjson$' }, action => 'slow',
            delay => 1 }) },
        sql => job_call($_, qq{{"source": "$remote"}}), midst => sub { is_held('store', 'slow') },
        then => sub {}, next => job_call($_, qq{{"source": "$remote"}}) } } 'verify', 'drill'),

    { name => 'reindex: walk',
        begin => sub {
            hold('openai', { match => { kind => 'embeddings' }, action => 'hang', skip => 3, times => 0 });
            queue_reindex($_[0]);
        },
        # Only what has not been embedded before is asked for.
        fresh => 1, midst => sub { is_held('openai') }, then => \&reindex_ends },

    { name => 'reindex: verification',
        begin => sub {
            hold('pinecone', { match => { kind => 'list' }, action => 'hang', times => 0 });
            queue_reindex($_[0]);
        },
        midst => sub { is_held('pinecone') }, then => \&reindex_ends },

    { name => 'reindex: swap',
        begin => sub {
            queue_reindex($_[0]);
            await_job($node, 'app', $_[0]{id}, 'completed', 'a job to swap', 90);
            $_[0]{active} = $node->safe_psql('app', q{SELECT bacmr_active_namespace('n')});
            $_[0]{sql} = "BEGIN; SELECT bacmr_reindex_swap($_[0]{id}); SELECT pg_sleep(600)";
        },
        sql => '', midst => sub { ask($node, 'app', q{SELECT count(*) FROM pg_stat_activity
            WHERE query LIKE '%bacmr_reindex_swap(%' AND wait_event = 'PgSleep'}) },
        then => sub {
            my ($case, $what) = @_;
            is($node->safe_psql('app', q{SELECT bacmr_active_namespace('n')}), $case->{active},
                "$what: the active namespace is as it was");
            is($node->safe_psql('app', "SELECT bacmr_reindex_swap($case->{id})"), $case->{target},
                "$what: it can be swapped");
            is($node->safe_psql('app', q{SELECT bacmr_active_namespace('n')}), $case->{target},
                "$what: to what was verified");
            vectors_agree($case, "$what: with a vector for each chunk");
        } },

    { name => 'vectors repair',
        begin => sub {
            my ($case) = @_;
            $case->{target} = $node->safe_psql('app', q{SELECT bacmr_active_namespace('n')});
            my $one = $node->safe_psql('app', q{SELECT id FROM chunks WHERE namespace = 'n' LIMIT 1});
            delete_vector($case->{target}, $one);
            hold('pinecone', { match => { kind => 'upsert' }, action => 'hang', times => 0 });
            $case->{id} = $node->safe_psql('app', q{SELECT bacmr_vectors_repair('n')});
        },
        midst => sub { is_held('pinecone') },
        then => sub {
            my ($case, $what) = @_;
            await_job($node, 'app', $case->{id}, 'completed', "$what: the repair goes on, to its end", 90);
            vectors_agree($case, "$what: the vector that was missing is there");
        } });

sub delete_vector {
    my ($namespace, $id) = @_;
    my $answer = HTTP::Tiny->new(timeout => 10, no_proxy => '127.0.0.1')->post(
        $pinecone->endpoint . '/vectors/delete',
        { content => JSON::PP::encode_json({ ids => [$id], namespace => $namespace }),
            headers => { 'Content-Type' => 'application/json', 'Api-Key' => 'pc-test',
                'X-Pinecone-Api-Version' => '2025-10' } });
    $answer->{success} or die "no vector was deleted: $answer->{status} $answer->{content}";
    return;
}

# Of an export that was struck: nothing that looks whole is there, and not the one that was before gone.
sub export_left {
    my ($case, $what) = @_;
    is(join(' ', grep { /\.manifest\.json$/ } lonely_files($folder)), '',
        "$what: no manifest stands without its file");
    my @manifests = grep { /\.manifest\.json$/ } s3_keys($s3, 'bacmr-dr', 'app/');
    is(scalar(@manifests), $case->{stored}, "$what: the store has no more whole exports than before");
    # What a process that had no time left there; docs/exports.md tells of the rule that ends it.
    abort_uploads($s3, 'bacmr-dr');
    return;
}

sub export_is_right {
    my ($case, $what) = @_;
    my $file = last_run('export', q{detail->>'file'});
    is(sha256_hex(object_of($s3, 'bacmr-dr', "app/$file") // ''), file_sha256("$folder/$file"),
        "$what: the object is the file");
    is($node->safe_psql('app', "SELECT ok, chunks FROM bacmr_verify_export('dr/app/$file')"), "t|$chunks",
        "$what: with all chunks");
    my @whole = grep { /ndjson(?:\.zst)?$/ } s3_keys($s3, 'bacmr-dr', 'app/');
    is(scalar(grep { /\Q$file\E$/ } @whole), 1, "$what: once");
    is(pending_uploads($s3, 'bacmr-dr'), 0, "$what: no unfinished upload stays");
    return;
}

# --- one after the other -------------------------------------------------------------------------

for my $mode ('fast', 'immediate') {
    # Of a name that retention leaves alone.
    my $whole = "whole-$mode.ndjson";
    is((export_to($node, 'app', 'dr', "file_name => '$whole'"))[3], $chunks, "$mode: an export is in the store");
    unlink map { "$folder/$_" } $whole, "$whole.manifest.json";
    my $with_whole = sub { return ($_[0] // '') =~ s/WHOLE/$whole/r };
    for my $case (@cases) {
        my $what = "$case->{name}, $mode";
        my $run;
        triggers(1);
        $node->safe_psql('app', q{UPDATE chunks SET content = content || '.' WHERE namespace = 'n'})
          if $case->{fresh};
        $case->{offset} = log_size($node);
        $case->{stored} = grep { /\.manifest\.json$/ } s3_keys($s3, 'bacmr-dr', 'app/') if $case->{run};
        $case->{begin}->($case) if $case->{begin};
        my $session = $case->{sql} && in_background($node, 'app', $with_whole->($case->{sql}));
        await("$what: it is in the midst of it", sub { $case->{midst}->($case) });
        if ($case->{run}) {
            $run = running($case->{run});
            like($run, qr/^\d+$/, "$what: its run is under way");
        }
        $node->stop($mode);
        let_go();
        $node->start;
        eval { wait_for_end($session) } if $session;
        server_is_back($node, 'app', $what);
        await("$what: a worker is there", sub { worker_pid($node, 'app') })
          unless $case->{name} eq 'expire in a session';
        $case->{then}->($case, $what) if $case->{then};
        triggers(0);
        if ($case->{next}) {
            is(error_of($node, 'app', $with_whole->($case->{next})) =~ s/^(?:.*NOTICE:|LOCATION:|DETAIL:).*\n//gmr, '',
                "$what: the next one works");
        }
        dead_run($node, 'app', $run, $what) if $run;
        $case->{finally}->($case, $what) if $case->{finally};
        is(join(' ', hidden_files($folder), lonely_files($folder)), '', "$what: no piece of a file is left");
        is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run WHERE status = 'running'}), 0,
            "$what: no run is left running");
        await_sql($node, 'app', q{SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')
            + (SELECT count(*) FROM pg_prepared_xacts)
            + (SELECT count(*) FROM pg_class WHERE relpersistence = 't') = 0},
            "$what: no lock is held, nothing prepared, no scratch table left");
    }
}
money_is_right($node, 'app', 'in the end');
is($node->safe_psql('app', 'SELECT discrepancies FROM bacmr_reconcile()'), 0, 'reconciliation finds nothing');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'and nothing has crashed by itself');
done_testing();
