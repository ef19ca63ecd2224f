# What the extension sends to OpenAI and Pinecone, and what the stand-ins answer, against the official
# descriptions: Prism stands between them, and turns whatever departs from those into an error. (The
# services' own clients go the same way in test/contract.)
#
# Needs BACMR_CONTRACTS, the folder of the descriptions, which are no part of the project, and Prism from npm.
use strict;
use warnings;
use utf8;
use BacmrTest;
use Encode qw(encode);
use PostgreSQL::Test::Utils;
use ReindexJobs;
use Services;
use Test::More;

my $openai = start_openai();
my $pinecone = start_pinecone(dimension => 64);
my ($reason, %url);
$url{openai} = start_prism('openai-embeddings.json', $openai->endpoint . '/v1', \$reason);
$url{pinecone} = start_prism('pinecone-data-2025-10.yaml', $pinecone->endpoint, \$reason) if $url{openai};
plan skip_all => $reason unless $url{pinecone};

my $node = new_server('main', conf => [ 'bacmr.http_max_retries = 0' ]);
app_database($node, 'app');
declare_services($node, 'app', $openai, $pinecone,
    embedder_options => { base_url => $url{openai} }, store_options => { host => $url{pinecone} });

# What could fall foul of a description: names, nested and empty metadata, long texts, Arabic.
my $space = encode('UTF-8', q{grade 12/"maths" الرياضيات});
$node->safe_psql('app', encode('UTF-8', <<'SQL'));
INSERT INTO chunks (namespace, content, metadata)
SELECT 'grade 12/"maths" الرياضيات', CASE n % 3 WHEN 0 THEN repeat('théorème de la dérivée ' || n, 40)
    WHEN 1 THEN 'النظرية رقم ' || n ELSE 'line' || E'\n' || 'and "quote" ' || n END,
  CASE n % 4 WHEN 0 THEN '{}' WHEN 1 THEN '{"lang": "ar", "page": 7, "none": null, "tags": ["a", "b"]}'
    WHEN 2 THEN '{"nested": {"deep": [1, {"x": true}]}, "share": 0.25, "mixed": [1, "a", null]}'
    ELSE '{"lang": "fr", "ok": false}' END::jsonb
FROM generate_series(1, 230) n
SQL

# Statements that ask a service run here, and must succeed.
sub works {
    my ($statement, $expected, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($status, $out, $err) = $node->psql('app', $statement);
    is($out, $expected, $what) or diag($err);
    return;
}

my $job = queue_job($node, 'app', "'$space'");
call_job($node, 'app', $job);
is(job_status($node, 'app', $job), 'completed', 'a job goes through Prism from end to end')
  or diag(job_value($node, 'app', $job, 'error'));
works("SELECT * FROM bacmr_reindex_verify($job)", '230|230|0|t', 'the listing and the sample too');
$node->safe_psql('app', "SELECT bacmr_reindex_swap($job)");

# Changes: upserts and deletions of single vectors.
$node->safe_psql('app', "UPDATE chunks SET content = 'changed' WHERE content LIKE '% 17'; DELETE FROM chunks WHERE content LIKE '% 18'");
call_job($node, 'app', $job);
works(qq{SELECT expected = actual, missing, ok, extra FROM bacmr_vectors_verify('$space')}, 't|0|t|0',
    'changes reach the namespace');

# The next one: compared by queries, swapped, rolled back, and both deletions of a namespace.
$openai->reset_counts;
my $next = queue_job($node, 'app', "'$space'");
call_job($node, 'app', $next);
works("SELECT sum(queries) > 0, min(self_hit_rate) >= 0 FROM bacmr_reindex_compare($next, sample => 10, k => 3)", 't|t',
    'queries');
works("SELECT bacmr_reindex_swap($next)", "$space-v3", 'a swap');
works("SELECT bacmr_reindex_rollback('$space')", "$space-v2", 'a rollback asks for a count');
works("SELECT bacmr_reindex_discard($next)", '', 'the deletion of a namespace');

cmp_ok($pinecone->counts->{vectors}, '>=', 230, 'the stand-in was really asked');
$node->stop;
done_testing();
