# The network between the server and the services it uses is cut: a blob store (Swift), an embedder and a
# vector store (stand-ins), each behind a wire that knows no HTTP.
#
#   cut                   blip: back after a moment      away: until it is told to come back
#   refused               -                              connections are refused from the beginning
#   request               in the midst of a request; reset, then refused
#   response              in the midst of an answer; reset, then refused
#   silent                -                              accepted, and never answered
#   stall                 -                              in the midst of a request, nothing comes any more
#   name                  -                              the name of the service cannot be resolved
#
# After a blip the run succeeds by itself. While a service is away the run, or the job's row, says which
# service, what happened, and what comes next; the breaker is open; reservations expire all the same. When
# it is back the reindex job goes on by itself, the next export works. Then the store holds what it should
# hold, once; little was paid for twice; no piece is left, no run is running, the breakers are closed.
use strict;
use warnings;
use BacmrTest;
use Digest::SHA qw(sha256_hex);
use Exports;
use ReindexJobs;
use Services;
use Test::More;

use constant { TEXTS => 120, BATCH => 10, CONCURRENCY => 2 };

# Bytes that pass before it happens, of requests and answers; and the mode of the wire then.
my %cut = (
    refused => { mode => 'refuse' },
    request => { direction => 'request', mode => 'refuse' },
    response => { direction => 'response', mode => 'refuse' },
    silent => { mode => 'silent' },
    stall => { direction => 'request', mode => 'silent' },
    name => {});
my %after = (
    openai => { request => 6_000, response => 10_000 },
    pinecone => { request => 20_000, response => 400 },
    s3 => { request => 6_000_000, response => 900 });
my @BLIPS = ('request', 'response');

my $s3 = start_s3('swift');
my $openai = start_openai();
my $pinecone = start_pinecone(dimension => 64);
my $node = new_server('main', conf => [
    q{bacmr.expire_interval = '1s'},
    'bacmr.http_max_retries = 2',
    q{bacmr.http_timeout = '1s'},
    'bacmr.breaker_threshold = 3',
    q{bacmr.breaker_cooldown = '1s'},
    'max_connections = 80',
    'max_worker_processes = 24' ]);

# The cut itself: at once, or as soon as that much has passed.
sub cut_wire {
    my ($wire, $service, $cut, $seconds) = @_;
    my ($direction, $mode) = @{ $cut{$cut} }{qw(direction mode)};
    return unless $mode;
    return $wire->set(mode => $mode) unless $direction;
    return $wire->set(cut => { direction => $direction, mode => $mode,
        after => $after{$service}{$direction}, $seconds ? (seconds => $seconds) : () });
}

my $nowhere = 'http://no-such-host.invalid';

# The option that says where the service of a case is.
sub address {
    my ($case, $where) = @_;
    $where //= $case->{wire}->endpoint;
    return $case->{service} eq 'openai' ? "base_url '$where/v1'" : "host '$where'";
}

# --- all of it at once ---------------------------------------------------------------------------

# Case by case a database, since a database exports one at a time; all of them at once.
make_bucket($s3, 'bacmr-dr');
my @exports = map {
    my ($cut, $seconds) = @$_;
    my $database = join '_', 's3', $cut, $seconds ? 'blip' : 'away';
    { database => $database, cut => $cut, seconds => $seconds, wire => start_wire($s3->{endpoint}) }
} ((map { [ $_, 0.7 ] } @BLIPS), map { [ $_, 0 ] } sort keys %cut);
for my $case (@exports) {
    my $database = $case->{database};
    app_database($node, $database);
    $node->safe_psql($database, q{INSERT INTO chunks (namespace, content)
        SELECT 'n', repeat(md5(n::text), 100) FROM generate_series(1, 3000) n});
    my $endpoint = $case->{cut} eq 'name' ? $nowhere : $case->{wire}->endpoint;
    declare_store($node, $database, 'dr', { %$s3, endpoint => $endpoint },
        part_size => '5MB', parallel => 2, allow_http => 'true');
}
# Case by case a namespace, and servers of its own, so that all of them can fail at once.
app_database($node, 'app');
give_wallets($node, 'app', 5);
$node->safe_psql('app', q{SELECT bacmr_pause('reindex', 'not yet')});
my @cases;
for my $service ('openai', 'pinecone') {
    for my $kind ((map { [ $_, 0.7 ] } @BLIPS), map { [ $_, 0 ] } sort keys %cut) {
        my ($cut, $seconds) = @$kind;
        my $name = join '_', $service, $cut, $seconds ? 'blip' : 'away';
        my %case = (name => $name, service => $service, cut => $cut, seconds => $seconds,
            server => "s_$name", wire => start_wire($service eq 'openai' ? $openai->endpoint : $pinecone->endpoint));
        push @cases, \%case;
    }
}
declare_services($node, 'app', $openai, $pinecone, embedder => 'openai', store => 'pinecone');
my %key = (openai => key_file('openai.key', 'sk-test'), pinecone => key_file('pinecone.key', 'pc-test'));
for my $case (@cases) {
    my $wrapper = $case->{service} eq 'openai' ? 'bacmr_embedder' : 'bacmr_vector_store';
    my $options = $case->{service} eq 'openai'
      ? q{type 'openai', } . address($case) . q{, model 'text-embedding-3-small', dimensions '64'}
      : q{type 'pinecone', } . address($case);
    $node->safe_psql('app', <<"SQL");
CREATE SERVER $case->{server} FOREIGN DATA WRAPPER $wrapper OPTIONS ($options, allow_http 'true');
CREATE USER MAPPING FOR PUBLIC SERVER $case->{server} OPTIONS (api_key_file '$key{$case->{service}}');
SQL
    make_chunks($node, 'app', $case->{name}, TEXTS);
    my ($embedder, $store) = $case->{service} eq 'openai' ? ($case->{server}, 'pinecone')
      : ('openai', $case->{server});
    $case->{job} = queue_job($node, 'app', "'$case->{name}', embedder => '$embedder', "
          . "vector_store => '$store', target_namespace => '$case->{name}-v2', "
          . 'batch_size => ' . BATCH . ', concurrency => ' . CONCURRENCY);
    # What has been queued before.
    $node->safe_psql('app',
        "ALTER SERVER $case->{server} OPTIONS (SET " . address($case, $nowhere) . ')')
      if $case->{cut} eq 'name';
}
# One whose verification alone meets a store that is away, for longer than a request is repeated.
$node->safe_psql('app', "CREATE SERVER s_verify FOREIGN DATA WRAPPER bacmr_vector_store OPTIONS (type 'pinecone', host '"
      . $pinecone->endpoint . "'); CREATE USER MAPPING FOR PUBLIC SERVER s_verify OPTIONS (api_key_file"
      . " '$key{pinecone}')");
make_chunks($node, 'app', 'verify', TEXTS);
my $verify = queue_job($node, 'app', q{'verify', embedder => 'openai', vector_store => 's_verify',
    target_namespace => 'verify-v2', batch_size => 10});
$pinecone->rules({ match => { kind => 'list', query => 'namespace=verify-v2' },
    action => 'status', status => 503, times => 3 });
make_chunks($node, 'app', 'late', 1);
$node->safe_psql('app', qq{CREATE SERVER away FOREIGN DATA WRAPPER bacmr_vector_store
    OPTIONS (type 'pinecone', host '$nowhere', allow_http 'true')});
$node->safe_psql('app', qq{CREATE USER MAPPING FOR PUBLIC SERVER away
    OPTIONS (api_key_file '$key{pinecone}')});
like(error_of($node, 'app', q{SELECT bacmr_reindex('late', embedder => 'openai', vector_store => 'away')}),
    qr/ERROR:  08006: .*"away"/, 'a job for a store that is away is not even queued');
sub breaker { return metric($node, 'app', 'circuit_breaker_state', qq{{"service": "$_[0]"}}) || 0; }

cut_wire($_->{wire}, 's3', $_->{cut}, $_->{seconds}) for @exports;
my $export = q{CALL bacmr_run_job('export', '{"destination": "dr", "compression": "none"}')};
$_->{call} = in_background($node, $_->{database}, $export) for @exports;

cut_wire(@{$_}{qw(wire service cut seconds)}) for @cases;
$node->safe_psql('app', q{SELECT bacmr_unpause('reindex')});
$_->{call} = in_background($node, 'app', "CALL bacmr_reindex_run($_->{job})") for @cases;
my $verifying = in_background($node, 'app', "CALL bacmr_reindex_run($verify)");

# --- reindex jobs --------------------------------------------------------------------------------

# What the row says of the service that is away.
my %says = (
    refused => qr/(?:Couldn't|Failed to) connect|[Cc]onnection (?:refused|failed)/,
    request => qr/(?:Couldn't|Failed to) connect|refused|reset|broken|Send failure|Recv failure|breaker/i,
    response => qr/(?:Couldn't|Failed to) connect|refused|reset|Recv failure|transfer closed|breaker/i,
    silent => qr/timed out|too slow/i,
    stall => qr/timed out|too slow/i,
    name => qr/Could not resolve host|Resolving timed out|[Cc]onnection timed out/);
for my $case (grep { !$_->{seconds} } @cases) {
    my $name = $case->{name};
    my $error;
    await("$name: the job's row says that it stands still", sub {
        $error = job_value($node, 'app', $case->{job}, q{status || ': ' || error});
        return $error =~ /^running: /;
    });
    like($error, qr/\Q"$case->{server}"\E/, "$name: and which service is away");
    like($error, $says{ $case->{cut} }, "$name: what happened to it");
    like($error, qr/tried again by itself; attempt \d+ of 8 failed/, "$name: and what comes next");
    is(breaker($case->{server}), 1, "$name: its breaker is open") or diag $error;
}
is(breaker($_), 0, "the breaker of $_ itself is closed") for 'openai', 'pinecone';
my $reservation = reserve($node, 'app', 1, 10, '-1 second');
await_sql($node, 'app', "SELECT status = 'expired' FROM reservations WHERE id = '$reservation'",
    'meanwhile the worker expires reservations');

# Back again: the job that works on is told so by nobody.
for my $case (grep { !$_->{seconds} } @cases) {
    if ($case->{cut} eq 'name') {
        # What has been opened keeps its address: only the next one at work reads the new one.
        $node->safe_psql('app', "ALTER SERVER $case->{server} OPTIONS (SET " . address($case) . ');'
              . "SELECT bacmr_reindex_pause($case->{job})");
        wait_for_end($case->{call});
        $node->safe_psql('app', "SELECT bacmr_reindex_resume($case->{job})");
        $case->{call} = in_background($node, 'app', "CALL bacmr_reindex_run($case->{job})");
    } else {
        $case->{wire}->set(mode => 'pass');
    }
}
for my $case (@cases) {
    my $name = $case->{name};
    await_job($node, 'app', $case->{job}, 'completed', "$name: the job comes to its end by itself");
    is((wait_for_end($case->{call}))[1] =~ s/^(?:.*NOTICE:|LOCATION:).*\n//gmr, '',
        "$name: without an error");
    is(job_value($node, 'app', $case->{job}, 'error IS NULL AND verified_at IS NOT NULL'), 't',
        "$name: and its row says nothing more of it");
    cmp_ok($case->{wire}->state->{cuts}, '==', $cut{ $case->{cut} }{direction} ? 1 : 0,
        "$name: the wire was cut as was wanted");
    is(breaker($case->{server}), 0, "$name: the breaker is closed");
    is($node->safe_psql('app', qq{SELECT string_agg(status, ', ') FROM bacmr_job_run
        WHERE job = 'reindex' AND detail->>'job_id' = '$case->{job}'}), 'succeeded',
        "$name: one run is recorded");
}
is((wait_for_end($verifying))[1] =~ s/^(?:.*NOTICE:|LOCATION:).*\n//gmr, '',
    'a store that is away for the verification alone: the job waits for it');
is(job_value($node, 'app', $verify, q{status || coalesce(error, '')}), 'completed', 'and is verified');
cmp_ok($pinecone->counts->{faults}{status} // 0, '==', 3, 'though it was away');
my $counts = $openai->counts;
cmp_ok($counts->{distinct_texts}, '==', TEXTS * (@cases + 1), 'each text was embedded');
my $in_the_midst = grep { $_->{service} eq 'openai' && $cut{ $_->{cut} }{direction} } @cases;
cmp_ok(paid_twice($openai), '<=', $in_the_midst * CONCURRENCY * BATCH,
    'and only those whose answer was on its way when it was cut off, twice');
store_agrees($node, 'app', $_->{name}, $openai, $pinecone, "$_->{name}-v2",
    "$_->{name}: the store holds a vector for each chunk") for @cases;
$_->{wire}->stop for @cases;

# --- exports -------------------------------------------------------------------------------------

sub last_export {
    my ($case, $what) = @_;
    return $node->safe_psql($case->{database}, "SELECT $what FROM bacmr_job_run WHERE job = 'export'"
          . ' ORDER BY run_id DESC LIMIT 1');
}

# The export of the case's database is in the store, whole, and nothing beside it.
sub store_is_right {
    my ($case, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $database = $case->{database};
    my $file = last_export($case, q{detail->>'file'});
    my $folder = artifact_folder($node, $database);
    is(sha256_hex(object_of($s3, 'bacmr-dr', "$database/$file") // ''), file_sha256("$folder/$file"),
        "$what: the object is the file");
    is(join(' ', s3_keys($s3, 'bacmr-dr', "$database/")), "$database/$file $database/$file.manifest.json",
        "$what: with its manifest, and nothing else is in the store");
    is(join(' ', hidden_files($folder), lonely_files($folder)), '', "$what: nor a piece on disk");
    return;
}

sub nothing_runs {
    my ($case, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($node->safe_psql($case->{database}, q{SELECT count(*) FROM bacmr_job_run
        WHERE status = 'running'}), 0, "$what: no run is left running");
    return;
}

for my $case (@exports) {
    my ($database, $seconds) = @{$case}{qw(database seconds)};
    my (undef, $error) = wait_for_end($case->{call});
    nothing_runs($case, $database);
    if ($seconds) {
        is($error, '', "$database: the export succeeds by itself");
        is(last_export($case, 'status'), 'succeeded', "$database: as its run says");
        cmp_ok($case->{wire}->state->{cuts}, '==', 1, "$database: though the wire was cut");
        store_is_right($case, $database);
        next;
    }
    like($error, qr/ERROR:  08006: .*dr/, "$database: the export fails");
    my $said = last_export($case, q{status || ': ' || error});
    like($said, qr/^failed: step upload: .*(?:"dr"|s3:)/s, "$database: its run says in which step, and where");
    like($said, $says{ $case->{cut} }, "$database: and what happened") or diag $error;
    is(last_export($case, q{detail->>'retries'}), 2, "$database: after two repetitions");
    is($node->safe_psql($database, q{SELECT value FROM bacmr_metrics
        WHERE name = 'circuit_breaker_state' AND labels @> '{"service": "dr"}'}), 1,
        "$database: the breaker is open");
    # What was written, and drilled, stays: a copy on this disk is better than none.
    my $folder = artifact_folder($node, $database);
    is(join(' ', hidden_files($folder)), '', "$database: no hidden file is left on disk");
    is(join(' ', grep { /\.manifest\.json$/ } lonely_files($folder)), '',
        "$database: nor a manifest by itself");
    is(join(' ', grep { /manifest/ } s3_keys($s3, 'bacmr-dr', "$database/")), '',
        "$database: nothing in the store looks whole");
    if ($case->{cut} eq 'name') {
        my $endpoint = $case->{wire}->endpoint;
        $node->safe_psql($database, "ALTER SERVER dr OPTIONS (SET endpoint '$endpoint')");
    }
    $case->{wire}->set(mode => 'pass');
    s3_request($s3, 'DELETE', "/bacmr-dr/$_") for s3_keys($s3, 'bacmr-dr', "$database/");
}
for my $case (grep { !$_->{seconds} } @exports) {
    my $database = $case->{database};
    await("$database: with the network back the next run works",
        sub { error_of($node, $database, $export) eq '' });
    is(last_export($case, 'status'), 'succeeded', "$database: and says so");
    my $folder = artifact_folder($node, $database);
    is(join(' ', hidden_files($folder), lonely_files($folder)), '', "$database: with no piece left");
    is(metric($node, $database, 'circuit_breaker_state', '{"service": "dr"}'), 0,
        "$database: the breaker is closed");
    is($node->safe_psql($database, q{SELECT ok FROM bacmr_verify_export('dr/' || current_database()
        || '/' || (SELECT detail->>'file' FROM bacmr_job_run WHERE job = 'export'
        AND status = 'succeeded' ORDER BY run_id DESC LIMIT 1))}), 't', "$database: it is whole there");
    nothing_runs($case, $database);
}
my @pending = pending_uploads($s3, 'bacmr-dr');
note "unfinished uploads in the store: @pending";

balances_agree($node, 'app');
$node->stop;
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/PANIC|terminated by signal/,
    'nothing has crashed');
done_testing();
