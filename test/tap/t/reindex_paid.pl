# What a reindex job has paid for is neither lost nor paid again when something else fails: storing,
# recording, a single text. And what it may have paid for counts.
use strict;
use warnings;
use BacmrTest;
use ReindexJobs;
use Services;
use Test::More;

use constant DIMENSIONS => 64;

my $openai = start_openai();
my $pinecone = start_pinecone(dimension => DIMENSIONS);
my $node = new_server('main', conf => [
    'bacmr.worker_enabled = off', 'bacmr.http_max_retries = 0', q{bacmr.breaker_cooldown = '1s'},
    q{bacmr.http_timeout = '30s'} ]);
app_database($node, 'app');
declare_services($node, 'app', $openai, $pinecone);
my %chunks = (trigger => 200, conflict => 60, dimensions => 60, poison => 120, cut => 30, probe => 5,
    listed => 40);
make_chunks($node, 'app', $_, $chunks{$_}) for sort keys %chunks;

sub begin {
    my ($title) = @_;
    note("--- $title");
    $_->rules, $_->reset_counts for $openai, $pinecone;
    return;
}

sub failed_texts {
    my ($job) = @_;
    return $node->safe_psql('app', q{SELECT coalesce(string_agg(left(content, 18), ',' ORDER BY content), '')}
          . " FROM bacmr_reindex_failure JOIN chunks ON id::text = chunk_id WHERE job_id = $job");
}

# --- storing fails --------------------------------------------------------------------------------

begin('a trigger of the store');
# Made by the first job; the trigger is the application's.
my $job = queue_job($node, 'app', q{'probe', vector_store => 'bacmr_postgres', target_namespace => 'first'});
is(call_job($node, 'app', $job), '', 'a job into the table');
$node->safe_psql('app', <<'SQL');
CREATE TABLE plan_of_failures (code text, left_over int);
CREATE SEQUENCE stored;
CREATE SEQUENCE refused;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
DECLARE code text := (SELECT p.code FROM plan_of_failures p WHERE nextval('stored') > 15 LIMIT 1);
BEGIN
  IF code IS NOT NULL AND nextval('refused') <= (SELECT left_over FROM plan_of_failures) THEN
    RAISE EXCEPTION 'the store is full' USING ERRCODE = code;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON bacmr_vector FOR EACH ROW EXECUTE FUNCTION refuse();
INSERT INTO plan_of_failures VALUES ('53100', 1000000);
SQL
begin('53100');
$job = queue_job($node, 'app', q{'trigger', vector_store => 'bacmr_postgres', batch_size => 10});
like(call_job($node, 'app', $job), qr/53100.*the store is full/s, 'what fails in the store is raised');
is(job_status($node, 'app', $job), 'failed', 'the job has failed');
my $paid = $openai->counts->{texts};
cmp_ok($paid, '>=', 20, 'more than what was stored had been paid for');
is(job_value($node, 'app', $job, 'tokens_used'), $openai->counts->{tokens}, 'and counts');
is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_embedding_cache c WHERE EXISTS (SELECT FROM chunks
       WHERE namespace = 'trigger' AND sha256(convert_to(content, 'UTF8')) = c.text_hash)}),
    $paid, 'all of it is in the cache');
$node->safe_psql('app', 'TRUNCATE plan_of_failures');
$node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
is(call_job($node, 'app', $job), '', 'resumed, the job comes to its end');
is($openai->counts->{texts}, 200, 'each text was paid for');
is(paid_twice($openai), 0, 'none twice');
is(job_value($node, 'app', $job, 'tokens_used'), $openai->counts->{tokens}, 'as the job says');

begin('conflicts');
$node->safe_psql('app', <<'SQL');
INSERT INTO plan_of_failures VALUES ('40P01', 1);
SELECT setval('stored', 1), setval('refused', 1, false);
SQL
$job = queue_job($node, 'app', q{'conflict', vector_store => 'bacmr_postgres', batch_size => 10});
my $offset = log_size($node);
is(call_job($node, 'app', $job), '', 'a deadlock does not end a job');
is(job_value($node, 'app', $job, q{status || ' ' || processed_chunks}), 'completed 60', 'which is done');
ok(scalar(grep { $_->{message} =~ /^reindexing rests for a while: the store is full/ }
          log_entries($node, $offset)), 'though there was one');
is(paid_twice($openai), 0, 'and nothing was paid twice for it');
is(job_value($node, 'app', $job, 'tokens_used'), $openai->counts->{tokens}, 'as the job says');
$node->safe_psql('app', 'TRUNCATE plan_of_failures');
$node->safe_psql('app', 'DROP TRIGGER refuse ON bacmr_vector');

begin('dimensions');
declare_services($node, 'app', $openai, $pinecone, embedder => 'unknown', store => 'unused_a',
    embedder_options => { model => 'a-model-of-their-own', dimensions => undef });
$openai->settings(models => { 'a-model-of-their-own' => 32 });
$job = queue_job($node, 'app', q{'dimensions', embedder => 'unknown', vector_store => 'bacmr_postgres',
    batch_size => 10});
is(call_job($node, 'app', $job, ', 1'), '', 'the model tells its dimensions');
is(job_value($node, 'app', $job, 'dimensions'), 32, 'which the job notes');
$openai->settings(models => { 'a-model-of-their-own' => 48 });
like(call_job($node, 'app', $job), qr/55000.*48 dimensions instead of 32/s, 'another number is refused');
is(job_value($node, 'app', $job, 'tokens_used'), $openai->counts->{tokens}, 'what that cost counts');

# --- a text that the service cannot answer for ------------------------------------------------------

for my $how ('garbage', 'changed') {
    begin("a text that spoils each answer: $how");
    if ($how eq 'garbage') {
        $job = queue_job($node, 'app', q{'poison', batch_size => 20, concurrency => 2});
    } else {
        $node->safe_psql('app', q{UPDATE chunks SET content = 'again ' || content WHERE namespace = 'poison'});
    }
    $openai->rules({ match => { kind => 'embeddings', text => 'chunk 77 of poison' }, action => 'garbage',
            times => 0 });
    is(call_job($node, 'app', $job), '', 'it does not end the job');
    is(job_status($node, 'app', $job), 'completed', 'which is completed');
    is(failed_texts($job), $how eq 'garbage' ? 'chunk 77 of poison' : 'again chunk 77 of ',
        'that chunk alone has failed');
    like($node->safe_psql('app', "SELECT reason FROM bacmr_reindex_failure WHERE job_id = $job"),
        qr/"openai" gave an answer that cannot be used/, 'and it says of what');
    cmp_ok($openai->counts->{faults}{garbage}, '<=', 16, 'it was sent a few times only');
    is(paid_twice($openai), 0, 'no other text was paid twice');
    is($pinecone->counts->{vectors}, 119, 'the others are stored');
}
store_agrees($node, 'app', 'poison', $openai, $pinecone, 'poison-v2', 'and nothing else is',
    without => [ $node->safe_psql('app', "SELECT chunk_id FROM bacmr_reindex_failure WHERE job_id = $job") ]);
$openai->rules;
$node->safe_psql('app', "SELECT bacmr_reindex_retry_failed($job)");
is(call_job($node, 'app', $job), '', 'when it is well, it is tried again');
store_agrees($node, 'app', 'poison', $openai, $pinecone, 'poison-v2', 'and the store is complete');
# The other tests' jobs must not be asked to follow its changes.
$node->safe_psql('app', "SELECT bacmr_reindex_cancel($job)");

# --- answers that were lost --------------------------------------------------------------------------

begin('answers that are lost');
$node->safe_psql('app', q{ALTER SERVER openai OPTIONS (ADD price_per_million_tokens '1000')});
$job = queue_job($node, 'app', q{'cut', batch_size => 10, concurrency => 1, max_cost => 1000});
# The first one: over a connection that was used before, libcurl sends such a request again by itself.
$openai->rules({ match => { kind => 'embeddings' }, action => 'drop_reply', times => 1 });
is(call_job($node, 'app', $job), '', 'an answer that is lost is asked for again');
is(paid_twice($openai), 10, 'and paid for again');
my ($used, $bill) = (job_value($node, 'app', $job, 'tokens_used'), $openai->counts->{tokens});
cmp_ok($used, '>=', 0.8 * $bill, 'which counts, as far as it can be known');
cmp_ok($used, '<=', 1.2 * $bill, 'and not for more');

begin('no budget');
declare_services($node, 'app', $openai, $pinecone, embedder => 'priced', store => 'unused_b',
    embedder_options =>
      { model => 'a-model-of-their-own', dimensions => undef, price_per_million_tokens => 1000 });
$openai->settings(models => { 'a-model-of-their-own' => 64 });
$job = queue_job($node, 'app',
    q{'probe', embedder => 'priced', vector_store => 'bacmr_postgres', max_cost => 0});
is(call_job($node, 'app', $job), '', 'a job without a budget');
is(job_value($node, 'app', $job, q{status || ' ' || tokens_used}), 'paused 0', 'is paused');
is($openai->counts->{texts_seen}, 0, 'before a single text is paid for');

# --- verification ------------------------------------------------------------------------------------

begin('a store that lists what it does not have');
my $careless = start_pinecone(dimension => DIMENSIONS, lsn => 'request');
declare_services($node, 'app', $openai, $careless, embedder => 'unused_c', store => 'careless');
$careless->rules({ match => { kind => 'fetch' }, action => 'lose', times => 0 },
    { match => { kind => 'list' }, action => 'slow', delay => 5 });
$job = queue_job($node, 'app', q{'listed', embedder => 'openai', vector_store => 'careless'});
my $call = in_background($node, 'app', "CALL bacmr_reindex_run($job)");
await('the store is being listed', sub { ($careless->counts->{by_kind}{list} // 0) > 0 });
is($node->safe_psql('app', q{SELECT state, backend_xid IS NULL, backend_xmin IS NULL FROM pg_stat_activity
       WHERE query LIKE 'CALL bacmr_reindex_run%' AND pid <> pg_backend_pid()}), 'active|t|t',
    'meanwhile its session holds no transaction and no snapshot that VACUUM has to wait for');
my (undef, $error) = wait_for_end($call);
like($error, qr/is not complete: 0 vectors missing, 0 too many, 20 of 20 sampled ones wrong/,
    'vectors that are listed, and not to be had, are found out');
is($node->safe_psql('app', q{SELECT count(*) FROM pg_class WHERE relname = 'bacmr_listed'}), 0,
    'nothing is left of the listing');
$careless->rules;
$node->safe_psql('app', "SELECT bacmr_reindex_resume($job)");
is(call_job($node, 'app', $job), '', 'when they are there, the job is completed');

# --- two jobs with the same texts ---------------------------------------------------------------------

begin('the same texts');
# In another order: of each other's, each has the last first.
$node->safe_psql('app', <<'SQL');
INSERT INTO chunks (id, namespace, content)
SELECT ('00000000-0000-0000-0000-' || lpad((100 * k + CASE k WHEN 1 THEN n ELSE 50 - n END)::text, 12, '0'))::uuid,
       'same ' || k, 'one of the same texts, number ' || n
FROM generate_series(1, 40) n, generate_series(1, 2) k;
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.pg_sleep(0.02); RETURN NEW; END';
CREATE TRIGGER slowly BEFORE INSERT ON bacmr_embedding_cache FOR EACH ROW EXECUTE FUNCTION slowly();
SQL
my @jobs = map { queue_job($node, 'app', "'same $_', batch_size => 40") } 1, 2;
$offset = log_size($node);
my @calls = map { in_background($node, 'app', "CALL bacmr_reindex_run($_)") } @jobs;
is((wait_for_end($_))[1], '', 'two jobs that keep the same texts') for @calls;
is(scalar(grep { $_->{message} =~ /deadlock/ } log_entries($node, $offset)), 0, 'wait for each other in turn');
is($node->safe_psql('app', q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'app'}), 0,
    'and do not deadlock');

# --- one text in two spellings ---------------------------------------------------------------------

begin('composed and decomposed');
$node->safe_psql('app', q{INSERT INTO chunks (id, namespace, content) VALUES
    ('00000000-0000-0000-0000-000000000001', 'forms', U&'l\00E9l\00E8ve \0622'),
    ('00000000-0000-0000-0000-000000000002', 'forms', U&'le\0301le\0300ve \0627\0653')});
is($node->safe_psql('app', q{SELECT count(DISTINCT content) FROM chunks WHERE namespace = 'forms'}), 2,
    'two spellings of one text');
$job = queue_job($node, 'app', q{'forms', batch_size => 1, concurrency => 1});
is(call_job($node, 'app', $job), '', 'both are embedded');
is($openai->counts->{texts}, 1, 'and one is paid for');

$node->stop;
done_testing();
