# Exports to a real S3 server and back: the same for each server there is one for.
package ExportS3;

use strict;
use warnings;
use BacmrTest;
use Digest::SHA qw(sha256_hex);
use Exporter 'import';
use Exports;
use JSON::PP ();
use Services;
use Test::More;

our @EXPORT = qw(test_exports_to);

use constant PART => 5 * 1024 * 1024;
use constant COPIES => 14;    # of the handbook: more than 60 MB of NDJSON

my ($kind, $s3, $proxy, $node);

sub test_exports_to {
    ($kind) = @_;
    $s3 = start_s3($kind);
    $node = new_server('main',
        conf => [ 'bacmr.export_keep = 1', 'bacmr.export_keep_age = 0',
            'bacmr.http_max_retries = 1', q{log_min_error_statement = panic} ]);
    app_database($node, 'app');
    load_handbook($node, 'app', COPIES);
    $node->safe_psql('app', 'CREATE TABLE exported AS SELECT * FROM chunks; ANALYZE');
    make_bucket($s3, 'bacmr-dr');
    $proxy = start_faults($s3->{endpoint});
    my $through = { %$s3, endpoint => $proxy->endpoint };
    declare_store($node, 'app', 'dr', $through, part_size => '5MB', parallel => 4);

    test_small();
    my $large = test_large();
    test_return($large);
    test_altered($large);
    test_refused($through);
    test_headers($through);
    test_virtual_hosts();
    test_retention();
    is(pending_uploads($s3, 'bacmr-dr'), 0, 'no unfinished upload is left in the store');
    $node->stop;
    done_testing();
    return;
}

# The requests of a kind since the last reset.
sub seen { return grep { $_->{kind} eq $_[0] } @{ $proxy->requests }; }

# The object is the file, and its manifest is the file's.
sub same_as_file {
    my ($file, $sha256, $what) = @_;
    my $folder = artifact_folder($node, 'app');
    my $object = object_of($s3, 'bacmr-dr', "app/$file") // '';
    is(sha256_hex($object), $sha256, "$what: the object has the sum that was returned");
    is(file_sha256("$folder/$file"), $sha256, "$what: so has the file");
    my $manifest = object_of($s3, 'bacmr-dr', "app/$file.manifest.json") // '';
    is(sha256_hex($manifest), file_sha256("$folder/$file.manifest.json"),
        "$what: the manifest is there too");
    my $stated = eval { JSON::PP::decode_json($manifest) } // {};
    is("$stated->{sha256} $stated->{bytes}", "$sha256 " . length $object, "$what: and states both");
    return;
}

my %SUFFIX = (none => '', gzip => '.gz', zstd => '.zst');

# Arabic alone: less than one part.
sub test_small {
    for my $compression ('none', 'gzip', 'zstd') {
        $node->safe_psql('app', q{CREATE TABLE IF NOT EXISTS few AS
            SELECT * FROM chunks WHERE namespace = 'debian-handbook-ar' LIMIT 500});
        $proxy->reset_counts;
        my ($path, $url, $rows, $bytes, $sha256) = split /\|/, $node->safe_psql('app',
            "SELECT path, url, chunks, bytes, sha256 FROM bacmr_export('few', 'dr', '$compression')");
        my $file = $path =~ s{.*/}{}r;
        my $what = "small, $compression";
        like($file, qr/^dr_export_few_\d{8}_\d{6}(_\d+)?\.ndjson\Q$SUFFIX{$compression}\E$/,
            "$what: the name");
        is($url, "s3://bacmr-dr/app/$file", "$what: the URL");
        is($rows, 500, "$what: all rows");
        cmp_ok($bytes, '<', PART, "$what: less than a part");
        is_deeply([ map { $_->{path} } seen('put_object') ],
            [ "/bacmr-dr/app/$file", "/bacmr-dr/app/$file.manifest.json" ],
            "$what: one PUT, and the manifest after it");
        is(scalar seen('create_multipart'), 0, "$what: no multipart upload");
        same_as_file($file, $sha256, $what);
    }
    return;
}

# Returns the name of an uncompressed export of all chunks.
sub test_large {
    my $large;
    for my $compression ('none', 'gzip', 'zstd') {
        $proxy->reset_counts;
        my ($file, undef, undef, $rows, $bytes, $sha256) =
          export_to($node, 'app', 'dr', "compression => '$compression'");
        $large //= $file;
        my $what = "large, $compression";
        is($rows, $node->safe_psql('app', 'SELECT count(*) FROM chunks'), "$what: all rows");
        cmp_ok($bytes, '>', $compression eq 'none' ? 60_000_000 : 2 * PART, "$what: its size");
        my @parts = seen('upload_part');
        is(scalar @parts, int(($bytes + PART - 1) / PART), "$what: as many parts as it takes");
        my @short = grep { $_->{bytes_in} != PART } @parts;
        is(join(' ', map { $_->{bytes_in} } @short), $bytes % PART, "$what: of 5 MiB, but the last");
        cmp_ok($proxy->counts->{max_in_flight}, '<=', 4, "$what: four at once at most");
        cmp_ok($proxy->counts->{max_in_flight}, '>', 1, "$what: and more than one")
          if $compression eq 'none';
        is_deeply(
            [ map { "$_->{kind} $_->{path}" }
                  grep { $_->{kind} =~ /^(?:complete_multipart|put_object)$/ } @{ $proxy->requests } ],
            [ "complete_multipart /bacmr-dr/app/$file",
                "put_object /bacmr-dr/app/$file.manifest.json" ],
            "$what: the manifest comes last");
        same_as_file($file, $sha256, $what);
    }
    return $large;
}

sub test_return {
    my ($file) = @_;
    # What comes back has to come out of the store.
    my $folder = artifact_folder($node, 'app');
    unlink map { "$folder/$_" } names_in($folder);
    my $rows = $node->safe_psql('app', 'SELECT count(*) FROM chunks');
    is($node->safe_psql('app', qq{SELECT ok, chunks, problem IS NULL
           FROM bacmr_verify_export('dr/app/$file')}),
        "t|$rows|t", 'the object is verified');
    is($node->safe_psql('app', qq{SELECT ok, chunks, missing, different, extra
           FROM bacmr_restore_drill('dr/app/$file')}),
        "t|$rows|0|0|0", 'and passes the drill');
    $node->safe_psql('app', 'UPDATE chunks SET content = content || $$.$$ WHERE chunk_index = 3;'
          . ' DELETE FROM chunks WHERE chunk_index = 4');
    my ($changed, $missing) = split /\|/, $node->safe_psql('app', q{SELECT
        count(*) FILTER (WHERE chunk_index = 3), count(*) FILTER (WHERE chunk_index = 4)
        FROM exported});
    is($node->safe_psql('app', qq{SELECT ok, missing, different, extra
           FROM bacmr_restore_drill('dr/app/$file')}),
        "f|$missing|$changed|0", 'the drill counts what has changed since');
    $node->safe_psql('app', 'TRUNCATE chunks');
    is($node->safe_psql('app', qq{SELECT read, inserted, updated, skipped
           FROM bacmr_import_chunks('dr/app/$file')}),
        "$rows|$rows|0|0", 'it is imported into the emptied table');
    is(differing_rows($node, 'app', 'exported', 'chunks'), 0, 'and every row is as it was');
    is(join(' ', names_in($folder)), '', 'nothing stays on disk of the copy that was fetched');
    return;
}

sub test_altered {
    my ($large) = @_;
    $node->safe_psql('app', q{TRUNCATE chunks;
        INSERT INTO chunks SELECT * FROM exported WHERE namespace = 'debian-handbook-fr' LIMIT 300});
    my ($file) = export_to($node, 'app', 'dr');
    my $key = "/bacmr-dr/app/$file";
    my $content = object_of($s3, 'bacmr-dr', "app/$file");
    $node->safe_psql('app', 'TRUNCATE chunks');
    my $put = sub {
        my $answer = s3_request($s3, 'PUT', $_[0], content => $_[1]);
        $answer->{success} or die "PUT $_[0]: $answer->{status} $answer->{content}";
    };
    my $refused = sub {
        my ($what, $error) = @_;
        like(error_of($node, 'app', "SELECT bacmr_import_chunks('dr/app/$file')"), $error,
            "$what: the import refuses it");
        is($node->safe_psql('app', 'SELECT count(*) FROM chunks'), 0, "$what: not a row is there");
    };

    # One letter within a text: still a JSON object.
    my $letter = index $content, 'e', index($content, '"content":"') + 20;
    my $altered = $content;
    substr $altered, $letter, 1, 'i';
    $put->($key, $altered);
    like($node->safe_psql('app', "SELECT ok, problem FROM bacmr_verify_export('dr/app/$file')"),
        qr/^f\|its SHA-256 is [0-9a-f]{64}, its manifest states [0-9a-f]{64}$/,
        'altered: verification says what differs');
    $refused->('altered', qr/ERROR:  22P04: .*damaged: its SHA-256/);
    like(error_of($node, 'app', "SELECT bacmr_restore_drill('dr/app/$file')"),
        qr/ERROR:  22P04: .*damaged/, 'altered: the drill refuses it too');

    $put->($key, substr $content, 0, rindex($content, "\n", length($content) - 2) + 1);
    like($node->safe_psql('app', "SELECT ok, problem FROM bacmr_verify_export('dr/app/$file')"),
        qr/^f\|it has \d+ bytes, its manifest states \d+$/, 'a line less: verification says so');
    $refused->('a line less', qr/ERROR:  22P04: .*damaged: it has \d+ bytes/);

    $put->($key, $content . "{}\n");
    $refused->('a line more', qr/ERROR:  54000: .*longer than the \d+ bytes/);

    $put->($key, $content);
    my $manifest = object_of($s3, 'bacmr-dr', "app/$file.manifest.json");
    (my $forged = $manifest) =~ s/"rows": ?\K300/299/ or die 'no rows in the manifest';
    $put->("$key.manifest.json", $forged);
    $refused->('a forged manifest', qr/ERROR:  22P04: /);
    s3_request($s3, 'DELETE', "$key.manifest.json")->{success} or die 'DELETE';
    my $error = error_of($node, 'app', "SELECT * FROM bacmr_verify_export('dr/app/$file')");
    like($error, qr/ERROR:  58P01: .*has no manifest/, 'without its manifest: verification');
    like($error, qr/HINT: .*\Q$file.manifest.json\E/, 'the hint names it');
    $refused->('without its manifest', qr/ERROR:  58P01: .*has no manifest/);
    like(error_of($node, 'app', q{SELECT bacmr_import_chunks('dr/app/nothing.ndjson')}),
        qr/ERROR:  58P01: .*nothing\.ndjson/, 'an object that is not there');

    $put->("$key.manifest.json", $manifest);
    is($node->safe_psql('app', "SELECT inserted FROM bacmr_import_chunks('dr/app/$file')"),
        300, 'put back as they were, both are good');
    return;
}

# What the store refuses.
sub test_refused {
    my ($through) = @_;
    my $folder = artifact_folder($node, 'app');
    my @before = names_in($folder);
    my $wrong = 'not-the-secret-' . int rand 1e9;
    declare_store($node, 'app', 'wrong', $through, secret_key => $wrong, part_size => '5MB');
    my $offset = log_size($node);
    my $error = error_of($node, 'app', q{SELECT bacmr_export_chunks('wrong')});
    like($error, qr/ERROR:  28000: could not upload .* SignatureDoesNotMatch.*HTTP 403/,
        'a wrong secret: 28000, with the code of the store');
    like($error, qr/HINT: .*secret_access_key/, 'the hint says where to look');
    my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset);
    for my $secret ($wrong, $s3->{secret_key}) {
        unlike($error . $log, qr/\Q$secret\E/, 'neither message nor log holds a secret');
    }
    like(error_of($node, 'app', q{SELECT bacmr_import_chunks('wrong/app/x.ndjson')}),
        qr/ERROR:  28000: /, 'reading likewise');

    declare_store($node, 'app', 'stranger', $through, access_key => 'nobody');
    like(error_of($node, 'app', q{SELECT bacmr_export_chunks('stranger')}),
        qr/ERROR:  28000: could not upload .*HINT: /s, 'an unknown access key');

    declare_store($node, 'app', 'nowhere', $through, bucket => 'no-such-bucket');
    $error = error_of($node, 'app', q{SELECT bacmr_export_chunks('nowhere')});
    like($error, qr/ERROR:  58P01: could not upload .*NoSuchBucket/, 'a bucket that is not there');
    like($error, qr/HINT: .*Create the bucket/, 'and what to do');
    is_deeply([ names_in($folder) ], \@before, 'of an export that failed no file is left');
    return;
}

# What the options put into the requests.
sub test_headers {
    my ($through) = @_;
    my $headers = sub {
        my ($store) = @_;
        $proxy->reset_counts;
        my $error = error_of($node, 'app', "SELECT bacmr_export_chunks('$store')");
        my ($put) = seen('put_object');
        return ($put->{headers}, $error);
    };
    declare_store($node, 'app', 'temporary', $through, session_token => 'a/session+token==');
    my ($sent, $error) = $headers->('temporary');
    is($sent->{'x-amz-security-token'}, 'a/session+token==', 'the session token is sent');
    like($sent->{authorization}, qr/SignedHeaders=[^,]*x-amz-security-token/, 'and signed');
    # Both take it without having given it out: that it arrives is all that can be shown here.
    is($error, '', 'and is no hindrance');

    declare_store($node, 'app', 'standard', $through, storage_class => 'STANDARD');
    ($sent, $error) = $headers->('standard');
    is($sent->{'x-amz-storage-class'}, 'STANDARD', 'the storage class is sent');
    is($error, '', 'and taken');

    declare_store($node, 'app', 'encrypted', $through,
        server_side_encryption => 'aws:kms', kms_key_id => 'a-key');
    ($sent, $error) = $headers->('encrypted');
    is($sent->{'x-amz-server-side-encryption'}, 'aws:kms', 'the encryption is sent');
    is($sent->{'x-amz-server-side-encryption-aws-kms-key-id'}, 'a-key', 'with its key');
    # Neither server was given keys to encrypt with.
    like($error, qr/ERROR:  \w{5}: could not upload .* (?:NotImplemented|InvalidRequest)/,
        'the store says that it cannot');
    unlike($error, qr/It was tried/, 'and is not asked again');

    # The same goes for a multipart upload, whose parts have none of them.
    declare_store($node, 'app', 'parts', $through,
        part_size => '5MB', storage_class => 'STANDARD');
    $proxy->reset_counts;
    $node->safe_psql('app', q{SELECT bacmr_export('exported', 'parts', 'zstd')});
    my ($begun) = seen('create_multipart');
    is($begun->{headers}{'x-amz-storage-class'}, 'STANDARD', 'a multipart upload begins with it');
    is(scalar(grep { exists $_->{headers}{'x-amz-storage-class'} } seen('upload_part')),
        0, 'and its parts go without');
    return;
}

sub test_virtual_hosts {
    my ($port) = $proxy->endpoint =~ /:(\d+)$/;
    declare_store($node, 'app', 'hosted', { %$s3, endpoint => "http://localhost:$port" },
        addressing => 'virtual', part_size => '5MB');
    $proxy->reset_counts;
    my ($path, $url, $bytes, $sha256) = split /\|/, $node->safe_psql('app',
        q{SELECT path, url, bytes, sha256 FROM bacmr_export('exported', 'hosted', 'gzip')});
    my $file = $path =~ s{.*/}{}r;
    is_deeply([ map { "$_->{headers}{host} $_->{path}" } seen('put_object'), (seen('upload_part'))[0] ],
        [ "bacmr-dr.localhost:$port /app/$file.manifest.json", "bacmr-dr.localhost:$port /app/$file" ],
        'with virtual hosts the bucket is in the name of the host');
    same_as_file($file, $sha256, 'virtual hosts');
    is($node->safe_psql('app', qq{SELECT ok FROM bacmr_verify_export('hosted/app/$file')}),
        't', 'and the object is found there again');
    return;
}

sub test_retention {
    my $run = sub {
        $node->safe_psql('app', q{CALL bacmr_run_job('export', '{"destination": "dr"}')});
        return $node->safe_psql('app', q{SELECT detail->>'file' FROM bacmr_job_run
            WHERE job = 'export' ORDER BY run_id DESC LIMIT 1});
    };
    my $stored = sub {
        return join ' ', map { s{^app/}{}r } s3_keys($s3, 'bacmr-dr', 'app/dr_export_chunks_');
    };
    my $on_disk = sub {
        return join ' ', grep { /^dr_export_chunks_/ } names_in(artifact_folder($node, 'app'));
    };
    my $with_manifests = sub { return join ' ', sort map { ($_, "$_.manifest.json") } @_; };
    # What earlier tests left goes first.
    s3_request($s3, 'DELETE', "/bacmr-dr/$_") for s3_keys($s3, 'bacmr-dr', 'app/dr_export_chunks_');
    my $folder = artifact_folder($node, 'app');
    unlink map { "$folder/$_" } grep { /^dr_export_chunks_/ } names_in($folder);

    my @old = map { "dr_export_chunks_2024010${_}_030000.ndjson.zst" } 1 .. 3;
    export_to($node, 'app', 'dr', "compression => 'zstd', file_name => '$_'") for @old;
    my @others = ('dr_export_chunks_20200101_000000.ndjson', 'dr_export_chunks_notes.ndjson');
    for my $other (@others) {
        s3_request($s3, 'PUT', "/bacmr-dr/app/$other", content => 'x')->{success} or die 'PUT';
    }
    is($node->safe_psql('app', "SELECT ok FROM bacmr_verify_export('dr/app/$old[1]')"),
        't', 'the second of three old exports is the one that was verified last');
    my $new = $run->();
    is($stored->(), join(' ', $others[0], $with_manifests->($old[1], $new), $others[1]),
        'a run keeps its own, the one verified last, and what is no export of ours');
    is($on_disk->(), $with_manifests->($old[1], $new), 'on disk likewise');
    cmp_ok(scalar(s3_keys($s3, 'bacmr-dr', 'app/dr_export_few_')), '==', 6,
        'exports of other tables are left alone');

    # As if the clock had been ahead when it was made.
    my $ahead = 'dr_export_chunks_20990101_030000.ndjson';
    export_to($node, 'app', 'dr', "file_name => '$ahead'");
    my $last = $run->();
    my $left = join ' ', $stored->(), $on_disk->();
    unlike($left, qr/\Q$old[1]/, 'the next run removes the second, since it has verified a later one');
    is(scalar(() = $left =~ /\Q$last\E\b/g), 4,
        'and never removes what it has made itself, whatever the clock said to others')
      or diag $left;
    return;
}

1;
