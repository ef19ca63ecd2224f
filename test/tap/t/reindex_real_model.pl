# A real embedding model: an English one of npm's, behind the protocol of OpenAI, over real English text.
# The corpus moves from the local embedder to it; bacmr_reindex_compare says what that changes, and
# questions in other words than the text's show it.
use strict;
use warnings;
use BacmrTest;
use Cwd ();
use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Utils;
use ReindexJobs;
use Services;
use Test::More;

# Each fourth chunk of the book: all its subjects, a quarter of the time that the model takes.
use constant EVERY => 4;
use constant SAMPLE => 100;
use constant K => 10;
# The model rounds otherwise when texts come together in other numbers.
use constant ROUNDING => 1e-5;

# Questions, each with words that its answer alone has, and that the question avoids.
my @PROBES = (
    [ 'How can a server keep working when one of its hard drives breaks?',
        'RAID means Redundant Array of Independent Disks' ],
    [ 'Which offshoot refuses the newer program that starts all services?',
        'Devuan is a fork of Debian' ],
    [ 'Can a file be just a shortcut to a different one?',
        'A symbolic link is a pointer to another file' ],
    [ 'How do I stop a planned command from being executed later?',
        'To cancel a task scheduled by cron' ],
    [ 'Which software lets people type their password and log in to the desktop?',
        'which is why most installations use a display manager' ],
    [ 'Who has the say in a community where influence comes from good work?',
        'Meritocracy is a form of government' ],
    [ 'How can I slow down someone who keeps guessing passwords?',
        'artificially increase the login time' ],
    [ 'Why should I keep copies of my data, and how can I make them?',
        'Making backups is one of the main responsibilities' ],
);

my $missing;
my $real = start_real_embeddings(\$missing) or plan skip_all => $missing;
my ($text, $problem) = run_command([ 'python3',
    dirname(Cwd::realpath(__FILE__)) . '/../../services/handbook.py', '--lang', 'en-US', '--copy' ]);
plan skip_all => "no text: $problem" if $text eq '';
my $file = "${PostgreSQL::Test::Utils::tmp_check}/handbook.copy";
append_to_file($file, "$text\n");

my $node = new_server('main', conf => ['bacmr.worker_enabled = off']);
app_database($node, 'app');
my $probes = join ",\n", map {
    my ($question, $words) = @$_;
    "(\$q\$$question\$q\$, \$q\$$words\$q\$)";
} @PROBES;
# The questions are a namespace of their own: so their vectors come about as any others do. Those whose
# answer another edition of the book does not have, or has twice, are left out.
$node->safe_psql('app', <<"SQL");
CREATE TABLE book (id uuid, namespace text, document_id uuid, chunk_index int, content text,
                   metadata jsonb, token_count int, number int GENERATED ALWAYS AS IDENTITY);
COPY book (id, namespace, document_id, chunk_index, content, metadata, token_count) FROM '$file';
DELETE FROM book b USING book earlier WHERE earlier.content = b.content AND earlier.number < b.number;
CREATE TABLE probe (question uuid DEFAULT gen_random_uuid(), content text, words text);
INSERT INTO probe (content, words) VALUES $probes;
DELETE FROM probe WHERE (SELECT count(*) FROM book WHERE strpos(book.content, words) > 0) <> 1;
ALTER TABLE probe ADD answer uuid;
UPDATE probe SET answer = (SELECT id FROM book WHERE strpos(book.content, words) > 0);
INSERT INTO chunks (id, namespace, document_id, chunk_index, content, metadata, token_count)
SELECT id, 'book', document_id, chunk_index, content,
       jsonb_build_object('lang', 'en', 'title', metadata->>'title'), token_count
FROM book WHERE number % @{[ EVERY ]} = 0 OR id IN (SELECT answer FROM probe);
INSERT INTO chunks (id, namespace, content, metadata)
SELECT question, 'questions', content, '{"lang": "en"}' FROM probe;
SQL
my $chunks = $node->safe_psql('app', q{SELECT count(*) FROM chunks WHERE namespace = 'book'});
my $questions = $node->safe_psql('app', 'SELECT count(*) FROM probe');
note("$chunks chunks, $questions questions");
cmp_ok($chunks, '>=', 200, 'there is some text');
cmp_ok($questions, '>=', @PROBES / 2, 'and questions that it answers');

my $key = key_file('real.key', $real->api_key);
my ($base, $model) = ($real->endpoint . '/v1', $real->model);
$node->safe_psql('app', <<"SQL");
CREATE SERVER real_model FOREIGN DATA WRAPPER bacmr_embedder
  OPTIONS (type 'openai', base_url '$base', model '$model');
CREATE USER MAPPING FOR PUBLIC SERVER real_model OPTIONS (api_key_file '$key');
SQL

# Through one embedder, into the table: the verified job's id.
sub reindexed {
    my ($namespace, $embedder, $what) = @_;
    my $job = queue_job($node, 'app',
        "'$namespace', embedder => '$embedder', vector_store => 'bacmr_postgres',"
          . ' batch_size => 32, concurrency => 2');
    is(call_job($node, 'app', $job), '', "$what: it runs");
    is(job_value($node, 'app', $job,
        q{concat_ws(' ', status, verified_at IS NOT NULL, expected, actual)}),
        'completed t ' . ($namespace eq 'book' ? "$chunks $chunks" : "$questions $questions"),
        "$what: verified, each chunk has its vector");
    return $job;
}

my %local = map { $_ => reindexed($_, 'bacmr_local', "$_, local") } qw(book questions);
for my $namespace (sort keys %local) {
    is($node->safe_psql('app', "SELECT bacmr_reindex_swap($local{$namespace})"), "$namespace-v2",
        "$namespace: the local embedder's vectors are active");
}
is($real->control('GET', '/__counts')->{texts}, 0, 'the real model has not been asked yet');

my %real = map { $_ => reindexed($_, 'real_model', "$_, real model") } qw(book questions);
is($node->safe_psql('app', 'SELECT count(*) FROM bacmr_reindex_failure'), 0, 'no chunk has failed');
is(job_value($node, 'app', $real{book}, 'dimensions'), $real->dimensions,
    'the dimensions are those that the model answers with');
my $counts = $real->counts;
is($counts->{texts}, $chunks + $questions, 'each text was embedded');
is($counts->{distinct_texts}, $counts->{texts}, 'and none of them twice');
is(job_value($node, 'app', $real{book}, 'tokens_used')
      + job_value($node, 'app', $real{questions}, 'tokens_used'),
    $counts->{tokens}, 'the tokens are those that the service has counted');

# --- the vectors are the model's -------------------------------------------------------------------

# What the server answers to a text now.
sub asked {
    my @texts = @_;
    my $answer = HTTP::Tiny->new(timeout => 60, no_proxy => '127.0.0.1')->post(
        "$base/embeddings",
        { content => JSON::PP->new->utf8->encode({ model => $model, input => \@texts,
                encoding_format => 'base64' }),
            headers => { 'Content-Type' => 'application/json',
                Authorization => 'Bearer ' . $real->api_key } });
    $answer->{success} or die "no vectors: $answer->{status} $answer->{content}";
    my @vectors;
    $vectors[ $_->{index} ] = [ unpack 'f<*', decode_base64($_->{embedding}) ]
      for @{ JSON::PP->new->utf8->decode($answer->{content})->{data} };
    return @vectors;
}

# The largest difference of two numbers at one place.
sub apart {
    my ($one, $other) = @_;
    return 2 if @$one != @$other;
    my ($largest) = sort { $b <=> $a } map { abs $one->[$_] - $other->[$_] } 0 .. $#$one;
    return $largest;
}

my $some = JSON::PP->new->utf8->decode($node->safe_psql('app', <<'SQL'));
SELECT json_agg(json_build_array(c.content, v.embedding::real[]) ORDER BY c.id)
FROM (SELECT * FROM chunks WHERE namespace = 'book' ORDER BY id LIMIT 8) c
JOIN bacmr_vector v ON v.namespace = 'book-v3' AND v.id = c.id::text
SQL
is(scalar @$some, 8, 'eight chunks and their vectors');
my @vectors = asked(map { $_->[0] } @$some);
my @apart = map { apart($some->[$_][1], $vectors[$_]) } 0 .. $#$some;
is(scalar(grep { $_ > ROUNDING } @apart), 0, "stored is what the model makes of the chunk's text")
  or diag("apart: @apart");
my @others = map { apart($some->[$_][1], $vectors[ $_ - 1 ]) } 0 .. $#$some;
is(scalar(grep { $_ < 1000 * ROUNDING } @others), 0, "and not of another's") or diag("apart: @others");

# --- compared, and swapped -------------------------------------------------------------------------

my $compared = $node->safe_psql('app', "SELECT language, queries, overlap_at_k, self_hit_rate"
      . " FROM bacmr_reindex_compare($real{book}, @{[ SAMPLE ]}, @{[ K ]})");
note('bacmr_reindex_compare: language, queries, overlap_at_k, self_hit_rate');
note("  $_") for split /\n/, $compared;
my ($language, $queries, $overlap, $hits) = split /\|/, $compared;
is("$language|$queries", 'en|' . SAMPLE, 'one row, for English, of as many queries as asked for');
cmp_ok($hits, '>', 0.5, 'by its first sentence a chunk is found, mostly');
cmp_ok($hits, '<=', 1, 'and at most always');
cmp_ok($overlap, '>', 0, 'the two models agree on some neighbours');
cmp_ok($overlap, '<', 1, 'and not on all of them');

for my $namespace (sort keys %real) {
    is($node->safe_psql('app', "SELECT bacmr_reindex_swap($real{$namespace})"), "$namespace-v3",
        "$namespace: a real model takes the place of the local embedder without force");
}
is($node->safe_psql('app', q{SELECT concat_ws(' ', active_namespace, model, dimensions,
  previous_namespace, previous_model) FROM bacmr_namespace WHERE namespace = 'book'}),
    "book-v3 $model " . $real->dimensions . ' book-v2 local-256', 'which is recorded');
is($node->safe_psql('app', q{SELECT ok FROM bacmr_vectors_verify('book')}), 't',
    'chunks and active vectors are the same set');

# --- questions -------------------------------------------------------------------------------------

# The answer's place among all chunks, by either model.
my %places;
my $ranks = $node->safe_psql('app', <<'SQL');
SELECT p.content, v.version,
       (SELECT count(*) FROM bacmr_vector o WHERE o.namespace = a.namespace
        AND bacmr_cosine(o.embedding::real[], q.embedding::real[])
            >= bacmr_cosine(a.embedding::real[], q.embedding::real[]))
FROM probe p CROSS JOIN (VALUES ('v2'), ('v3')) v(version)
JOIN bacmr_vector q ON q.namespace = 'questions-' || v.version AND q.id = p.question::text
JOIN bacmr_vector a ON a.namespace = 'book-' || v.version AND a.id = p.answer::text
ORDER BY p.content, v.version
SQL
for my $line (split /\n/, $ranks) {
    my ($question, $version, $place) = split /\|/, $line;
    push @{ $places{$version} }, $place;
    note(sprintf '%-80s %s: the answer is number %d of %d', $question,
        $version eq 'v2' ? 'local' : 'real ', $place, $chunks);
}
is(scalar @{ $places{$_} }, $questions, "every question has an answer in $_") for qw(v2 v3);
# Of 1/place, which is what a reader notices.
my %score;
for my $version (qw(v2 v3)) {
    $score{$version} += 1 / $_ / $questions for @{ $places{$version} };
}
note(sprintf 'mean of 1/place: %.2f local, %.2f real', @score{qw(v2 v3)});
cmp_ok($score{v3}, '>', $score{v2}, 'in other words, the real model finds the answer sooner');

$node->stop;
done_testing();
