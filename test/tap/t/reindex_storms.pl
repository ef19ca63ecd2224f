# Reindex jobs and services that misbehave: what is paid for, what fails, what is said of it, and
# that in the end the store holds what the table says.
use strict;
use warnings;
use utf8;
use BacmrTest;
use Encode qw(encode_utf8);
use JSON::PP ();
use PostgreSQL::Test::Utils;
use ReindexJobs;
use Services;
use Test::More;
use Time::HiRes qw(sleep time);

use constant DIMENSIONS => 64;

my $openai = start_openai();
my $pinecone = start_pinecone(dimension => DIMENSIONS);
my $node = new_server('main', conf => [
    'bacmr.worker_enabled = off', 'bacmr.http_max_retries = 1', q{bacmr.breaker_cooldown = '1s'},
    'log_min_messages = debug1' ]);
app_database($node, 'app');
my $openai_key = key_file('openai.key', 'sk-test');
declare_services($node, 'app', $openai, $pinecone, openai_key => $openai_key);
# All of them before the first job, whose triggers note each chunk that is written.
my %chunks = (
    lost => 100, storm => 200, 'storm-store' => 100, quota => 100, revoked => 200, faults => 200,
    outage => 300, mismatch => 300, halfway => 12, mixed => 30, odd => 30, lag => 30,
    'long-lag' => 30, budget => 400, tight => 40, paused => 100, cancelled => 40, metadata => 4,
    secret => 40);
make_chunks($node, 'app', $_, $chunks{$_}) for sort keys %chunks;

# Everything behaves again, and is counted from here on.
sub begin {
    my ($title) = @_;
    note("--- $title");
    $_->rules, $_->reset_counts for $openai, $pinecone;
    return;
}

# In a session of its own, so that the test goes on meanwhile.
sub start_call {
    my ($job) = @_;
    return in_background($node, 'app', "CALL bacmr_reindex_run($job)");
}

# What the error of a call in the background says. (A long one also says how far it is.)
sub error_of_call {
    my ($call) = @_;
    return (wait_for_end($call))[1] =~ s/^NOTICE:  00000: reindex job .*\n(?:LOCATION: .*\n)?//mgr;
}

# A sample of a metric; '' where there is none. %labels: all of them.
sub metric {
    my ($name, %labels) = @_;
    my $json = JSON::PP->new->encode(\%labels);
    return $node->safe_psql('app', "SELECT value FROM bacmr_metrics WHERE name = '$name'"
          . " AND labels = '$json'::jsonb");
}

sub failures {
    my ($job) = @_;
    return $node->safe_psql('app', 'SELECT coalesce(string_agg(c.content, \',\' ORDER BY c.content),'
          . " '') FROM bacmr_reindex_failure f LEFT JOIN chunks c ON c.id::text = f.chunk_id"
          . " WHERE f.job_id = $job");
}

# --- a storm of 429, with Retry-After -------------------------------------------------------------

begin('storm');
my $job = queue_job($node, 'app', q{'storm', batch_size => 10});
$openai->rules(
    { match => { kind => 'embeddings' }, action => 'rate_limit', retry_after => 1, times => 9 });
my $start = time;
is(call_job($node, 'app', $job), '', 'a storm of 429 is no failure, though 9 is more than the retries');
cmp_ok(time - $start, '>=', 2, 'Retry-After was honoured: four at a time came back twice');
is(job_status($node, 'app', $job), 'completed', 'and the job is done');
is($openai->counts->{faults}{rate_limit}, 9, 'all of the storm came down');
is($openai->counts->{texts}, 200, 'each text was embedded');
is(paid_twice($openai), 0, 'none twice');
cmp_ok(metric('bacmr_http_requests_total', service => 'openai', outcome => '429'), '==', 9,
    'the metrics have counted them');
cmp_ok(metric('bacmr_http_retries_total', service => 'openai'), '>=', 9, 'and the repetitions');
is(metric('circuit_breaker_state', service => 'openai'), 0, 'the breaker stays closed');
my $request_id = job_value($node, 'app', $job, 'request_id');
like($request_id, qr/\A[0-9a-f-]{20,}\z/, 'the job has a request id');
for ([ $openai, 'embeddings' ], [ $pinecone, 'upsert' ]) {
    my ($service, $kind) = @$_;
    my @requests = grep { $_->{kind} eq $kind } @{ $service->requests };
    cmp_ok(scalar @requests, '>=', 20, "there were $kind requests");
    is(scalar(grep { ($_->{headers}{'x-request-id'} // '') ne $request_id } @requests), 0,
        "and each has told the service that id: $kind");
}
store_agrees($node, 'app', 'storm', $openai, $pinecone, 'storm-v2', 'the store is complete');

begin('storm of the store');
$job = queue_job($node, 'app', q{'storm-store', batch_size => 10});
$pinecone->rules(
    { match => { kind => 'upsert' }, action => 'rate_limit', retry_after => 1, times => 6 });
is(call_job($node, 'app', $job), '', 'nor is one of the store');
is(paid_twice($openai), 0, 'nothing is embedded again for that');
is($pinecone->counts->{max_upserts}, 1, 'nothing stored twice');
store_agrees($node, 'app', 'storm-store', $openai, $pinecone, 'storm-store-v2', 'it is complete');

# --- what cannot pass -----------------------------------------------------------------------------

begin('quota');
$job = queue_job($node, 'app', q{'quota', batch_size => 10, concurrency => 2});
$openai->rules({ match => { kind => 'embeddings' }, action => 'quota', skip => 4, times => 0 });
my $error = call_job($node, 'app', $job);
like($error, qr/53400.*"openai".*exceeded your current quota/s, 'insufficient_quota is raised');
like($error, qr/HINT:.*used up: raise its limit there/, 'with a hint');
is(job_status($node, 'app', $job), 'failed', 'the job has failed');
like(job_value($node, 'app', $job, 'error'), qr/current quota/, 'and says of what');
cmp_ok($openai->counts->{faults}{quota}, '<=', 2, 'it is not tried again');
is(paid_twice($openai), 0, 'nothing paid twice so far');
is(job_value($node, 'app', $job, 'tokens_used'), $openai->counts->{tokens},
    'the tokens of the bill are those of the job');
$openai->rules;
$node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
is(call_job($node, 'app', $job), '', 'raised there, and resumed, it comes to its end');
is($openai->counts->{texts}, 100, 'each text was paid for once');
is(paid_twice($openai), 0, 'and no more');
store_agrees($node, 'app', 'quota', $openai, $pinecone, 'quota-v2', 'the store is complete');

begin('revoked');
$job = queue_job($node, 'app', q{'revoked', batch_size => 10});
$openai->rules({ match => { kind => 'embeddings' }, action => 'revoke', skip => 8, times => 0 });
$error = call_job($node, 'app', $job);
like($error, qr/28000.*"openai".*Incorrect API key/s, 'a key that is revoked half-way is raised');
like($error, qr/HINT:.*api_key_file/, 'with a hint');
is(job_status($node, 'app', $job), 'failed', 'the job has failed');
cmp_ok(job_value($node, 'app', $job, 'processed_chunks'), '>=', 50, 'half-way');
my $paid = $openai->counts->{texts};
is($paid, 80, 'with what was embedded before paid for');
$openai->rules;
$openai->settings(api_key => 'sk-new');
# The file is read again: no statement is needed for a new key.
key_file('openai.key', 'sk-new');
$node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
is(call_job($node, 'app', $job), '', 'with a new key in the file it goes on');
is($openai->counts->{texts}, 200, 'and pays for the rest only');
is(paid_twice($openai), 0, 'of which nothing is paid twice');
$openai->settings(api_key => 'sk-test');
key_file('openai.key', 'sk-test');
store_agrees($node, 'app', 'revoked', $openai, $pinecone, 'revoked-v2', 'the store is complete');

# --- what passes ----------------------------------------------------------------------------------

begin('faults');
$job = queue_job($node, 'app', q{'faults', batch_size => 10});
$openai->rules(
    { match => { kind => 'embeddings' }, action => 'status', status => 500, skip => 2 },
    { match => { kind => 'embeddings' }, action => 'cut', skip => 5 },
    { match => { kind => 'embeddings' }, action => 'garbage', skip => 9 });
$pinecone->rules(
    { match => { kind => 'upsert' }, action => 'status', status => 503, skip => 1 },
    { match => { kind => 'upsert' }, action => 'drop_reply', skip => 6 });
is(call_job($node, 'app', $job), '', 'single faults of both services pass');
is($openai->counts->{faults}{$_}, 1, "the embedder's: $_") for qw(status cut garbage);
is($pinecone->counts->{faults}{$_}, 1, "the store's: $_") for qw(status drop_reply);
is(paid_twice($openai), 0, 'no text is embedded twice');
store_agrees($node, 'app', 'faults', $openai, $pinecone, 'faults-v2', 'the store is complete');

begin('outage');
$job = queue_job($node, 'app', q{'outage', batch_size => 10});
$openai->rules(
    { match => { kind => 'embeddings' }, action => 'status', status => 503, skip => 5, times => 0 });
my $offset = log_size($node);
my $call = start_call($job);
await('a job rests while its service is away', sub {
    grep { $_->{level} eq 'WARNING' && $_->{message} =~ /^reindexing rests for a while.*"openai"/ }
      log_entries($node, $offset);
});
await('the metrics say that the breaker is open',
    sub { metric('circuit_breaker_state', service => 'openai') == 1 }, 5);
is(job_status($node, 'app', $job), 'running', 'it is running all the same');
my $asked = $openai->counts->{requests};
$openai->rules;
unlike(error_of_call($call), qr/ERROR/, 'and goes on by itself when the service is back');
cmp_ok($asked, '<=', 5 + 4 * 2 + 4, 'meanwhile the service was left alone');
is(job_status($node, 'app', $job), 'completed', 'to its end');
is(metric('circuit_breaker_state', service => 'openai'), 0, 'the breaker is closed again');
is($openai->counts->{texts}, 300, 'each text was paid for once');
is(paid_twice($openai), 0, 'and no more');
store_agrees($node, 'app', 'outage', $openai, $pinecone, 'outage-v2', 'the store is complete');

# --- dimensions -----------------------------------------------------------------------------------

begin('dimensions');
declare_services($node, 'app', $openai, $pinecone, embedder => 'openai_32', store => 'unused_a',
    embedder_options => { dimensions => 32 });
declare_services($node, 'app', $openai, $pinecone, embedder => 'unknown', store => 'unused_b',
    embedder_options => { model => 'a-model-of-their-own', dimensions => undef });
$openai->settings(models => { 'a-model-of-their-own' => 1024 });
$error = error_of($node, 'app', q{SELECT bacmr_reindex('mismatch', embedder => 'openai_32')});
like($error, qr/55000.*"pinecone" takes 64 dimensions.*makes 32/s, 'a mismatch is refused');
is($openai->counts->{requests}, 0, 'before anything is paid');
is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_reindex_job WHERE namespace = 'mismatch'}), 0,
    'and no job is left of it');
$job = queue_job($node, 'app', q{'mismatch', embedder => 'unknown', batch_size => 50});
like(call_job($node, 'app', $job), qr/55000.*1024 dimensions instead of 64/s,
    'where only an answer of the model can tell, it is refused all the same');
cmp_ok($openai->counts->{texts}, '<=', 1, 'after one text, not after all batches in flight');
is($pinecone->counts->{vectors}, 0, 'and nothing is stored');

begin('wrong dimension half-way');
$job = queue_job($node, 'app', q{'halfway', batch_size => 1, concurrency => 1});
$openai->rules({ match => { kind => 'embeddings' }, action => 'wrong_dimension', skip => 5, times => 0 });
$error = call_job($node, 'app', $job);
like($error, qr/"openai" gave vectors of 63 dimensions, not 64/, 'vectors of another size are refused');
like($error, qr/HINT:.*model and dimensions/, 'with a hint');
is(job_value($node, 'app', $job, q{status || ' ' || processed_chunks}), 'failed 5', 'the job fails');
$openai->rules;
$node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
is(call_job($node, 'app', $job), '', 'resumed, it goes on');
is($openai->counts->{texts}, 12 + 1, 'and pays again for that one text only');
store_agrees($node, 'app', 'halfway', $openai, $pinecone, 'halfway-v2', 'the store is complete');

# --- single chunks --------------------------------------------------------------------------------

begin('NaN and zero');
$job = queue_job($node, 'app', q{'mixed', batch_size => 10});
$openai->rules(
    { match => { kind => 'embeddings', text => 'chunk 7 of mixed' }, action => 'nan', index => 3 },
    { match => { kind => 'embeddings', inputs_over => 9 }, action => 'zero', index => 5 });
is(call_job($node, 'app', $job), '', 'a NaN, and a vector of zeros, stop nothing');
my @failed = split /\n/, $node->safe_psql('app',
    "SELECT chunk_id || ' ' || reason FROM bacmr_reindex_failure WHERE job_id = $job ORDER BY reason");
is(scalar @failed, 2, 'their two chunks fail');
like("@failed", qr/(no number|NaN|not a number|finite)/, 'one since its vector is no number');
like("@failed", qr/zero/, 'the other since it is zero');
is(job_value($node, 'app', $job, q{status || ' ' || processed_chunks}), 'completed 30', 'the rest is done');
is($node->safe_psql('app', "SELECT failed_chunks FROM bacmr_reindex_status WHERE job_id = $job"), 2,
    'the view counts them');
is(metric('bacmr_reindex_failed_chunks', namespace => 'mixed'), 2, 'so do the metrics');
store_agrees($node, 'app', 'mixed', $openai, $pinecone, 'mixed-v2', 'the store holds the others',
    without => [ map { (split ' ')[0] } @failed ]);
$openai->rules;
$openai->reset_counts;
$node->safe_psql('app', "SELECT bacmr_reindex_retry_failed($job)");
is(call_job($node, 'app', $job), '', 'tried again');
is($openai->counts->{texts}, 2, 'those two alone are paid for');
is($node->safe_psql('app', "SELECT failed_chunks FROM bacmr_reindex_status WHERE job_id = $job"), 0,
    'and are well');
is(metric('bacmr_reindex_failed_chunks', namespace => 'mixed'), 0, 'in the metrics too');
store_agrees($node, 'app', 'mixed', $openai, $pinecone, 'mixed-v2', 'the store is complete');

begin('odd chunks');
$node->safe_psql('app', <<'SQL');
INSERT INTO chunks (namespace, content) VALUES
  ('odd', repeat('A very long text. ', 2500)), ('odd', ''), ('odd', E' \t\n\u00a0 ');
INSERT INTO chunks (namespace, content, metadata)
VALUES ('odd', 'too much about it', jsonb_build_object('note', repeat('x', 41000)));
SQL
$job = queue_job($node, 'app', q{'odd', batch_size => 50});
is(call_job($node, 'app', $job), '', 'a text too long, empty ones, and 41 KB of metadata stop nothing');
is($node->safe_psql('app', <<"SQL"), <<'TEXT' =~ s/\n\z//r, 'they are listed, each with its reason');
SELECT left(content, 11) || ': ' || substring(reason FROM 'maximum input length|41,[0-9]+ bytes')
FROM bacmr_reindex_failure JOIN chunks ON id::text = chunk_id WHERE job_id = $job
  AND btrim(content, E' \\t\\n\\u00a0') <> '' ORDER BY content
SQL
A very long: maximum input length
too much ab: 41,011 bytes
TEXT
is($node->safe_psql('app', "SELECT count(*), min(reason), max(reason) FROM bacmr_reindex_failure
       JOIN chunks ON id::text = chunk_id WHERE job_id = $job AND length(content) < 9"),
    '2|the text is empty|the text is empty', 'the empty ones too');
is($openai->counts->{texts}, 30, 'nothing is paid for them, and the others only once');
is(job_value($node, 'app', $job, q{status || ' ' || processed_chunks}), 'completed 34', 'the rest is done');
$openai->reset_counts;
$node->safe_psql('app', <<'SQL');
UPDATE chunks SET content = 'shorter', metadata = '{}'
WHERE namespace = 'odd' AND (length(content) > 9000 OR content LIKE 'too much%');
UPDATE chunks SET content = content || 'filled ' || id WHERE namespace = 'odd' AND length(content) < 6;
SQL
$node->safe_psql('app', "SELECT bacmr_reindex_retry_failed($job)");
is(call_job($node, 'app', $job), '', 'shortened and filled, they are tried again');
is(failures($job), '', 'and are well');
is($openai->counts->{distinct_texts}, 3, 'three texts were new');
store_agrees($node, 'app', 'odd', $openai, $pinecone, 'odd-v2', 'the store is complete');

begin('metadata');
$node->safe_psql('app', <<'SQL');
UPDATE chunks SET metadata = CASE n
  WHEN 1 THEN '{"a": {"b": {"c": 1}, "none": null}, "tags": ["x", 2, true, null], "null": null, "yes": true}'
  WHEN 2 THEN '{"big": 12345678901234567890, "exact": 9007199254740991, "$op": "v", "": "w", "text": "é\"\\\u0001عربي"}'
  WHEN 3 THEN 'null' ELSE '[1, 2]' END::jsonb
FROM (SELECT id AS i, row_number() OVER (ORDER BY content) AS n FROM chunks WHERE namespace = 'metadata') m
WHERE id = i;
SQL
$job = queue_job($node, 'app', q{'metadata'});
is(call_job($node, 'app', $job), '', 'metadata of all kinds is taken');
is(failures($job), '', 'none is refused');
my $held = $pinecone->vectors('metadata-v2');
my @ids = split /\n/, $node->safe_psql('app',
    q{SELECT id FROM chunks WHERE namespace = 'metadata' ORDER BY content});
is_deeply($held->{ $ids[0] }{metadata},
    { 'a.b.c' => 1, tags => [ 'x', '2', 'true' ], yes => JSON::PP::true }, 'flat, and without null');
is_deeply($held->{ $ids[1] }{metadata},
    { big => '12345678901234567890', exact => 9007199254740991, '_$op' => 'v', _ => 'w',
        text => "é\"\\\x01عربي" }, 'with all digits, no reserved key, and each character');
is_deeply($held->{$_}{metadata} // {}, {}, 'what is no object is left out') for @ids[ 2, 3 ];

# --- a store that lags ----------------------------------------------------------------------------

begin('lag');
$pinecone->settings(lag_ms => 2500);
$job = queue_job($node, 'app', q{'lag'});
$start = time;
is(call_job($node, 'app', $job), '', 'a store that shows what it took after a while is waited for');
cmp_ok(time - $start, '>=', 2.5, 'so long');
is(job_value($node, 'app', $job, q{status || ' ' || actual}), 'completed 30', 'and verified then');
$pinecone->settings(lag_ms => 0);

# --- money ----------------------------------------------------------------------------------------

begin('budget');
# One for a token.
declare_services($node, 'app', $openai, $pinecone, embedder => 'priced', store => 'unused_c',
    embedder_options => { price_per_million_tokens => 1_000_000 });
$error = error_of($node, 'app', q{SELECT bacmr_reindex('budget', embedder => 'priced')});
like($error, qr/55000.*bacmr\.reindex_cost_limit \(10/s, 'no job beyond the limit without max_cost');
like($error, qr/HINT:.*max_cost/, 'with a hint');
$job = queue_job($node, 'app', q{'budget', embedder => 'priced', batch_size => 10, max_cost => 1000});
is(call_job($node, 'app', $job), '', 'a budget that is used up is no error');
is(job_status($node, 'app', $job), 'paused', 'the job pauses');
like(job_value($node, 'app', $job, 'error'), qr/max_cost/, 'and says why');
my $bill = $openai->counts->{tokens};
cmp_ok($bill, '<=', 1000, 'before it has cost more');
cmp_ok($bill, '>', 600, 'not long before');
is(job_value($node, 'app', $job, 'tokens_used'), $bill, 'and knows what it has cost');
$node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
is(call_job($node, 'app', $job), '', 'resumed as it is');
is($openai->counts->{tokens}, $bill, 'it spends nothing more');
is(error_of($node, 'app', "SELECT bacmr_reindex_resume($job, max_cost => 100000)"), '',
    'resumed with a larger budget');
is(call_job($node, 'app', $job), '', 'it goes on');
is(job_status($node, 'app', $job), 'completed', 'to its end');
is(paid_twice($openai), 0, 'with nothing paid twice');
is(job_value($node, 'app', $job, 'tokens_used'), $openai->counts->{tokens}, 'and each token counted');

# The stand-in counts a quarter of the bytes, a fifth more than is estimated of such words; and all
# that is in flight is so far estimated only.
begin('tight budget');
$node->safe_psql('app', <<'SQL');
UPDATE chunks SET content = substring(content FROM 'chunk [0-9]+') || repeat('abcdefghij', 40)
WHERE namespace = 'tight';
SQL
my $plan = $node->safe_psql('app',
    q{SELECT estimated_tokens FROM bacmr_reindex_plan('tight', NULL, 'priced')});
$job = queue_job($node, 'app',
    "'tight', embedder => 'priced', batch_size => 10, max_cost => " . ($plan + 1));
is(call_job($node, 'app', $job), '', 'a budget of just what is estimated');
cmp_ok($openai->counts->{tokens}, '<=', $plan + 1, 'is not exceeded where the estimate was too low');
cmp_ok($openai->counts->{tokens}, '>=', $plan / 4, 'and is made use of');

# --- somebody stops it ----------------------------------------------------------------------------

# Until the call has come back.
sub seconds_to_end {
    my ($call) = @_;
    my $start = time;
    my $said = error_of_call($call);
    return (time - $start, $said);
}

begin('pause');
$job = queue_job($node, 'app', q{'paused', batch_size => 10});
$openai->rules({ match => { kind => 'embeddings' }, action => 'hang', skip => 3, times => 0 });
$call = start_call($job);
await('requests hang', sub { ($openai->counts->{faults}{hang} // 0) == 4 });
$node->safe_psql('app', "SELECT bacmr_reindex_pause($job)");
my ($seconds, $said) = seconds_to_end($call);
cmp_ok($seconds, '<', 2.5, 'a pause takes effect though they hang');
is($said, '', 'and is no error');
is(job_value($node, 'app', $job, q{status || ' ' || processed_chunks}), 'paused 30',
    'what had come in is kept');
$openai->rules;
$node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
is(call_job($node, 'app', $job), '', 'resumed, it goes on');
is($openai->counts->{texts}, 100, 'with the rest');
store_agrees($node, 'app', 'paused', $openai, $pinecone, 'paused-v2', 'the store is complete');

begin('cancel');
$job = queue_job($node, 'app', q{'cancelled', batch_size => 10});
$pinecone->rules({ match => { kind => 'upsert' }, action => 'hang', times => 0 });
$call = start_call($job);
await('the store hangs', sub { ($pinecone->counts->{faults}{hang} // 0) >= 4 });
$node->safe_psql('app', "SELECT bacmr_reindex_cancel($job)");
($seconds, $said) = seconds_to_end($call);
cmp_ok($seconds, '<', 2.5, 'so does a cancellation');
is($said, '', 'and is no error either');
is(job_status($node, 'app', $job), 'cancelled', 'the job is cancelled');
$pinecone->rules;
like(call_job($node, 'app', $job), qr/\A\z/, 'nobody works on it any more');
is($pinecone->counts->{vectors}, 0, 'nothing was stored');
$openai->reset_counts;
$job = queue_job($node, 'app', q{'cancelled'});
is(call_job($node, 'app', $job), '', 'a new job of the namespace');
is($openai->counts->{texts_seen}, 0, 'pays for nothing that the cancelled one has paid for');

begin('pause while it is verified');
$pinecone->settings(lag_ms => 8000);
$job = queue_job($node, 'app', q{'long-lag'});
$call = start_call($job);
await_job($node, 'app', $job, 'verifying', 'a job that is verified, and has to wait for the store');
$node->safe_psql('app', "SELECT bacmr_reindex_pause($job)");
($seconds, $said) = seconds_to_end($call);
cmp_ok($seconds, '<', 2.5, 'can be paused as well');
is($said, '', 'which is no error');
is(job_status($node, 'app', $job), 'paused', 'it is paused');
$pinecone->settings(lag_ms => 0);

# --- names ----------------------------------------------------------------------------------------

begin('names');
$pinecone->settings(lag_ms => 0);
app_database($node, 'names');
declare_services($node, 'names', $openai, $pinecone);
# Ids of any text, also such as a URL, a quotation or JSON would take for its own.
$node->safe_psql('names', <<'SQL');
SELECT bacmr_detach('chunks');
ALTER TABLE chunks ALTER COLUMN id DROP DEFAULT, ALTER COLUMN id TYPE text;
SELECT bacmr_attach('chunks', 'chunks');
SQL
my @names = ('plain', 'a/b', q{it's "so"}, 'فصل ١/الجبر', '50% & co?x=1#y', ' blank ', 'back\\slash',
    '{a,b}');
for my $space (@names) {
    my $ids = join ', ', map { "\$n\$$_\$n\$" } @names, map { "row $_" } 1 .. 12;
    # The id is the primary key of the table, whatever the namespace.
    $node->safe_psql('names', encode_utf8(<<"SQL"));
INSERT INTO chunks (id, namespace, content)
SELECT i || ' of ' || space, space, 'text ' || i || ' of ' || space
FROM unnest(ARRAY[$ids]) i, (VALUES (\$n\$$space\$n\$)) s(space)
SQL
}
my $jobs = $node->safe_psql('names', 'SELECT count(*) FROM bacmr_reindex_all()');
is($jobs, scalar @names, 'a job for each namespace, whatever its name');
is(error_of($node, 'names', 'CALL bacmr_reindex_run()'), '', 'all of them are worked on');
is($node->safe_psql('names', q{SELECT DISTINCT status, failed_chunks, processed_chunks
       FROM bacmr_reindex_status}), 'completed|0|20', 'and are completed');
for my $space (@names) {
    my $name = encode_utf8($space);
    my $target = $node->safe_psql('names',
        "SELECT target_namespace FROM bacmr_reindex_job WHERE namespace = \$n\$$name\$n\$");
    utf8::decode($target);
    store_agrees($node, 'names', $name, $openai, $pinecone, $target, encode_utf8("complete: $space"));
}
$node->safe_psql('names', encode_utf8(q{UPDATE chunks SET content = content || ' anew'
    WHERE id = 'a/b of it''s "so"'; DELETE FROM chunks WHERE id = 'back\slash of فصل ١/الجبر'}));
is(error_of($node, 'names', 'CALL bacmr_reindex_run()'), '', 'changes of such ids are dealt with');
for my $space (q{it's "so"}, 'فصل ١/الجبر') {
    my $name = encode_utf8($space);
    store_agrees($node, 'names', $name, $openai, $pinecone, "$space-v2",
        encode_utf8("still complete: $space"));
    is($node->safe_psql('names', "SELECT bacmr_reindex_swap(job_id) FROM bacmr_reindex_job
           WHERE namespace = \$n\$$name\$n\$"), "$name-v2", 'and can be swapped');
    is($node->safe_psql('names', "SELECT bacmr_active_namespace(\$n\$$name\$n\$)"), "$name-v2", 'is active');
    is($node->safe_psql('names', "SELECT ok, extra FROM bacmr_vectors_verify(\$n\$$name\$n\$)"), 't|0',
        'is verified');
}

# --- secrets --------------------------------------------------------------------------------------

begin('secrets');
my %secret = (openai => 'sk-S3cr3tOfTheEmbedder', pinecone => 'pc-S3cr3tOfTheStore');
declare_services($node, 'app', $openai, $pinecone, embedder => 'guarded', store => 'guarded_store',
    openai_key => key_file('guarded_openai.key', "$secret{openai}\n"),
    pinecone_key => key_file('guarded_pinecone.key', "$secret{pinecone}\n"));
$openai->settings(api_key => $secret{openai});
$pinecone->settings(api_key => $secret{pinecone});
$job = queue_job($node, 'app',
    q{'secret', embedder => 'guarded', vector_store => 'guarded_store', batch_size => 10});
# Some services repeat the key that they do not like.
my @said;
for my $status (401, 400, 500) {
    $openai->rules({ match => { kind => 'embeddings' }, action => 'status', status => $status, times => 0,
            message => "Incorrect API key provided: $secret{openai}.", code => $secret{openai} });
    my $call = start_call($job);
    if ($status == 500) {
        my $offset = log_size($node);
        await('it rests for a 500', sub {
            grep { $_->{message} =~ /^reindexing rests.*"guarded"/ } log_entries($node, $offset);
        });
        $node->safe_psql('app', "SELECT bacmr_reindex_pause($job)");
    }
    push @said, error_of_call($call), $node->safe_psql('app',
        'SELECT pid, query, application_name FROM pg_stat_activity');
    $node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
}
$openai->rules;
$pinecone->rules({ match => { kind => 'upsert' }, action => 'status', status => 403, times => 0,
        message => "This key is not allowed to: $secret{pinecone}" });
push @said, call_job($node, 'app', $job);
like($said[0], qr/28000.*Incorrect API key provided: (?!sk)/s, 'the key that a service repeats is hidden');
like($said[-1], qr/28000.*not allowed to: \*\*\*/s, "the store's as well");
$pinecone->rules;
$node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
push @said, call_job($node, 'app', $job);
is(job_status($node, 'app', $job), 'completed', 'with these keys the job is done');
push @said, map { $node->safe_psql('app', "SELECT r::text FROM $_ r") } split /\n/, $node->safe_psql('app',
    q{SELECT c.oid::regclass FROM pg_class c WHERE relkind IN ('r', 'v') AND (relname LIKE 'bacmr\_%'
          OR relname IN ('pg_user_mappings', 'pg_foreign_server')) AND relname <> 'bacmr_embedding_cache'});
push @said, $node->safe_psql('app', "SELECT bacmr_reindex_summary($job), bacmr_metrics_prometheus()");
cmp_ok(length "@said", '>', 10_000, 'there is something to look through');
for my $name (sort keys %secret) {
    is(index("@said", $secret{$name}), -1, "$name: the key is in no error, table or view");
    is(index(slurp_file($node->logfile), $secret{$name}), -1, "$name: nor in the log");
}
$openai->settings(api_key => 'sk-test');
$pinecone->settings(api_key => 'pc-test');

# --- a store that loses a batch ----------------------------------------------------------------------

begin('lost');
# It tells what it has indexed, as far as it knows: so it is not waited for.
my $careless = start_pinecone(dimension => DIMENSIONS, lsn => 'request');
declare_services($node, 'app', $openai, $careless, embedder => 'unused_d', store => 'careless');
my $lossy = queue_job($node, 'app', q{'lost', batch_size => 10, vector_store => 'careless'});
$careless->rules({ match => { kind => 'upsert' }, action => 'lose', skip => 3 });
$start = time;
$error = call_job($node, 'app', $lossy);
cmp_ok(time - $start, '<', 20, 'a store that says it has caught up is believed');
is($careless->counts->{lost}, 10, 'it has lost a batch, and acknowledged it');
like($error, qr/"lost-v2" of reindex job $lossy is not complete: 10 vectors missing, 0 too many/,
    'verification finds what the store has lost, and names the numbers');
like($error, qr/HINT:.*bacmr_reindex_resume\($lossy\)/, 'with a way out');
is(job_status($node, 'app', $lossy), 'failed', 'the job has failed');
like(job_value($node, 'app', $lossy, 'error'), qr/10 vectors missing/, 'and says of what');
is(job_value($node, 'app', $lossy, q{expected || ' ' || actual || ' ' || (verified_at IS NULL)}),
    '100 90 true', 'with the numbers');
like(error_of($node, 'app', "SELECT bacmr_reindex_swap($lossy)"), qr/55000/, 'nothing swaps it');
$node->safe_psql('app', "SELECT bacmr_reindex_resume($lossy)");
is(call_job($node, 'app', $lossy), '', 'resumed, it is repaired');
is(job_value($node, 'app', $lossy, q{status || ' ' || expected || ' ' || actual}),
    'completed 100 100', 'and verified');
is($openai->counts->{texts_seen}, 100, 'without paying again');
is($careless->counts->{vectors}, 100 + 10, 'and only what was missing was stored again');
store_agrees($node, 'app', 'lost', $openai, $careless, 'lost-v2', 'the store is complete');

$node->stop;
done_testing();
