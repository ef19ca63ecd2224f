# What the tests of reindex jobs share: servers for the stand-ins, chunks, and the question whether a
# store holds exactly what the table says.
package ReindexJobs;

use strict;
use warnings;
use BacmrTest;
use Digest::SHA qw(sha256_hex);
use Exporter 'import';
use HTTP::Tiny;
use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(key_file declare_services make_chunks queue_job job_status job_value await_job
  call_job store_agrees reindexer_pid works_on paid_twice);

use constant MODEL => 'text-embedding-3-small';

# A file that the server may read, with a key in it.
sub key_file {
    my ($name, $key) = @_;
    my $path = "${PostgreSQL::Test::Utils::tmp_check}/$name";
    open my $file, '>', $path or die "$path: $!";
    print {$file} $key;
    close $file or die "$path: $!";
    chmod 0600, $path;
    return $path;
}

# An embedder and a vector store for the stand-ins, with the keys in files. %options: embedder, store
# (their names: openai, pinecone), embedder_options, store_options, openai_key, pinecone_key (files).
sub declare_services {
    my ($node, $database, $openai, $pinecone, %options) = @_;
    my $embedder = $options{embedder} // 'openai';
    my $store = $options{store} // 'pinecone';
    my $openai_key = $options{openai_key} // key_file('openai.key', 'sk-test');
    my $pinecone_key = $options{pinecone_key} // key_file('pinecone.key', 'pc-test');
    my %of_embedder = (
        type => 'openai',
        base_url => $openai->endpoint . '/v1',
        model => MODEL,
        dimensions => 64,
        %{ $options{embedder_options} // {} });
    my %of_store =
      (type => 'pinecone', host => $pinecone->endpoint, %{ $options{store_options} // {} });
    my ($e, $s) = map { sql_options($_) } \%of_embedder, \%of_store;
    $node->safe_psql($database, <<"SQL");
CREATE SERVER $embedder FOREIGN DATA WRAPPER bacmr_embedder OPTIONS ($e);
CREATE SERVER $store FOREIGN DATA WRAPPER bacmr_vector_store OPTIONS ($s);
CREATE USER MAPPING FOR PUBLIC SERVER $embedder OPTIONS (api_key_file '$openai_key');
CREATE USER MAPPING FOR PUBLIC SERVER $store OPTIONS (api_key_file '$pinecone_key');
SQL
    # Beside the built-in ones they have to be named, in one way or another.
    $node->safe_psql($database, <<"SQL") unless $options{embedder} || $options{store};
ALTER DATABASE "$database" SET bacmr.embedder = '$embedder';
ALTER DATABASE "$database" SET bacmr.vector_store = '$store';
SQL
    return;
}

sub sql_options {
    my ($options) = @_;
    return join ', ', map { "$_ '$options->{$_}'" } grep { defined $options->{$_} } sort keys %$options;
}

# $count chunks with texts of their own: 'marker 17 of name …'.
sub make_chunks {
    my ($node, $database, $namespace, $count, $marker) = @_;
    $marker //= 'chunk';
    $node->safe_psql($database, <<"SQL");
INSERT INTO chunks (namespace, content, metadata)
SELECT \$n\$$namespace\$n\$, format('%s %s of %s: a text of no great length.', '$marker', n,
       \$n\$$namespace\$n\$), '{"lang": "en"}'
FROM generate_series(1, $count) n;
SQL
    return;
}

# The number of a job that $arguments (SQL, of bacmr_reindex) have queued.
sub queue_job {
    my ($node, $database, $arguments) = @_;
    return $node->safe_psql($database, "SELECT bacmr_reindex($arguments)");
}

sub job_value {
    my ($node, $database, $job, $expression) = @_;
    my $out;
    $node->psql($database, "SELECT $expression FROM bacmr_reindex_job WHERE job_id = $job",
        stdout => \$out, on_error_stop => 0);
    return $out // '';
}

sub job_status { return job_value(@_, 'status'); }

# Passes once the job has that status; says what it has otherwise.
sub await_job {
    my ($node, $database, $job, $status, $what, $deadline_s) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $good = await($what, sub { job_status($node, $database, $job) eq $status }, $deadline_s);
    diag(job_value($node, $database, $job, q{status || ': ' || coalesce(error, '')})) unless $good;
    return $good;
}

# Works on the job in a session; what psql says about its error, '' without one.
sub call_job {
    my ($node, $database, $job, $more) = @_;
    return error_of($node, $database, "CALL bacmr_reindex_run($job" . ($more // '') . ')');
}

sub reindexer_pid {
    my ($node, $database) = @_;
    my $out;
    $node->psql('postgres', "SELECT pid FROM pg_stat_activity WHERE datname = '$database'"
          . " AND backend_type = 'bacmr_ops reindex'", stdout => \$out, on_error_stop => 0);
    return $out || 0;
}

# Whether any process holds a job of the database: their locks are the only advisory ones here that a
# session keeps for long.
sub works_on {
    my ($node, $database) = @_;
    my $out;
    $node->psql('postgres', "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
          . " WHERE locktype = 'advisory' AND granted AND datname = '$database'",
        stdout => \$out, on_error_stop => 0);
    return $out // -1;
}

# How many texts were embedded more often than once, all repeats counted.
sub paid_twice {
    my ($openai) = @_;
    my $counts = $openai->counts;
    return $counts->{texts} - $counts->{distinct_texts};
}

# The target holds a vector for each chunk of the namespace, made of the text that it has now, and
# nothing else. Asks the stand-in for the vectors, so read its counts before. %options: dimensions,
# without (ids that are not to be there).
sub store_agrees {
    my ($node, $database, $namespace, $openai, $pinecone, $target, $what, %options) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my %without = map { $_ => 1 } @{ $options{without} // [] };
    my $json = $node->safe_psql($database, <<"SQL");
SELECT coalesce(json_agg(json_build_array(id, content)), '[]') FROM chunks
WHERE namespace = \$n\$$namespace\$n\$
SQL
    # psql printed UTF-8, which the harness does not decode.
    my @chunks = grep { !$without{ $_->[0] } } @{ JSON::PP->new->utf8->decode($json) };
    my %wanted;
    while (my @some = splice @chunks, 0, 1000) {
        my @hashes = hashes_of($openai, [ map { $_->[1] } @some ], $options{dimensions} // 64);
        $wanted{ $some[$_][0] } = $hashes[$_] for 0 .. $#some;
    }
    my $held = $pinecone->dump($target);
    my @missing = grep { !exists $held->{$_} } keys %wanted;
    my @extra = grep { !exists $wanted{$_} } keys %$held;
    my @other = grep { exists $held->{$_} && $held->{$_} ne $wanted{$_} } keys %wanted;
    return is(
        sprintf('%d held, %d missing, %d extra, %d of another text',
            scalar keys %$held, scalar @missing, scalar @extra, scalar @other),
        sprintf('%d held, 0 missing, 0 extra, 0 of another text', scalar keys %wanted),
        $what);
}

# The SHA-256 of each text's vector, as the vector store's stand-in prints it.
sub hashes_of {
    my ($openai, $texts, $dimensions) = @_;
    my $body = JSON::PP->new->utf8->encode(
        { model => MODEL, input => $texts, dimensions => $dimensions, encoding_format => 'base64' });
    my $answer = HTTP::Tiny->new(timeout => 30, no_proxy => '127.0.0.1')->post(
        $openai->endpoint . '/v1/embeddings',
        { content => $body,
            headers =>
              { 'Content-Type' => 'application/json', Authorization => 'Bearer sk-test' } });
    $answer->{success} or die "no vectors: $answer->{status} $answer->{content}";
    my @hashes;
    for my $item (@{ JSON::PP->new->utf8->decode($answer->{content})->{data} }) {
        $hashes[ $item->{index} ] = sha256_hex(decode_base64($item->{embedding}));
    }
    return @hashes;
}

1;
