# A scheduled export whose upload fails goes on with the upload alone: what has been written, and
# drilled in its snapshot, is not written again.
use strict;
use warnings;
use BacmrTest;
use Digest::SHA qw(sha256_hex);
use Exports;
use PostgreSQL::Test::Utils;
use Services;
use Test::More;

my $s3 = start_s3('swift');
my $node = new_server('main',
    conf => [ 'bacmr.breaker_threshold = 1000', 'bacmr.http_max_retries = 0' ]);
app_database($node, 'app');
load_handbook($node, 'app', 3);
make_bucket($s3, 'bacmr-dr');
my $proxy = start_faults($s3->{endpoint});
declare_store($node, 'app', 'dr', { %$s3, endpoint => $proxy->endpoint }, part_size => '5MB');
my $run = q{CALL bacmr_run_job('export', '{"destination": "dr"}')};
my $latest = q{FROM bacmr_job_run WHERE job = 'export' ORDER BY run_id DESC LIMIT 1};

# The pause before the second attempt is up to 10 seconds, in each of the two.
my %fault = (
    'a part fails' =>
      { match => { kind => 'upload_part', query => 'partNumber=3' }, action => 'status', status => 500 },
    'the manifest fails' => { match => { kind => 'put_object', path => 'manifest' }, action => 'cut' });
for my $what (sort keys %fault) {
    my $offset = log_size($node);
    $proxy->rules($fault{$what});
    $proxy->reset_counts;
    is(error_of($node, 'app', $run), '', "$what: the run succeeds");
    is(scalar(() = slurp_file($node->logfile, $offset) =~ /was terminated by signal/g), 0,
        "$what: no process crashed");
    $node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
    is($node->safe_psql('app', "SELECT status, detail->>'retries' $latest"), 'succeeded|1',
        "$what: it says that it was tried again once");
    is(scalar(keys %{ $proxy->counts->{faults} }), 1, "$what: as was wanted");
    my $file = $node->safe_psql('app', "SELECT detail->>'file' $latest");
    my $folder = artifact_folder($node, 'app');
    is(join(' ', names_in($folder)), "$file $file.manifest.json", "$what: one file is written");
    is(sha256_hex(object_of($s3, 'bacmr-dr', "app/$file") // ''), file_sha256("$folder/$file"),
        "$what: which is the object");
    is(join(' ', s3_keys($s3, 'bacmr-dr')), "app/$file app/$file.manifest.json",
        "$what: with its manifest, and nothing else is in the store");
    is(pending_uploads($s3, 'bacmr-dr'), 0, "$what: no unfinished upload either");

    unlink map { "$folder/$_" } names_in($folder);
    s3_request($s3, 'DELETE', "/bacmr-dr/$_") for s3_keys($s3, 'bacmr-dr');
    abort_uploads($s3, 'bacmr-dr');
}

$node->stop;
done_testing();
