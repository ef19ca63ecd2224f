# What the tests of exports share: chunks of real text, the folder of artifacts, blob stores and what
# lies in them, and sessions whose memory is watched.
package Exports;

use strict;
use warnings;
use BacmrTest;
use Cwd ();
use Digest::SHA ();
use Exporter 'import';
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Services;
use Test::More;
use Time::HiRes qw(sleep);

our @EXPORT = qw(
  load_handbook secret_file declare_store artifact_folder names_in hidden_files lonely_files
  file_sha256 object_of pending_uploads abort_uploads export_to differing_rows metric
  open_session backend_of send_sql is_done answer_of run_in close_session anonymous_kb peak_while
);

my $SERVICES = dirname(Cwd::realpath(__FILE__)) . '/../../services';

# --- rows ----------------------------------------------------------------------------------------

# The chunks of debian-handbook, in French, Arabic and English, $copies times: about 3,000 rows and
# 5 MB of NDJSON each time. Copies lie far apart, so that no compressor finds them. Skips the test
# where the package is not installed, so it is to be called before the first test.
sub load_handbook {
    my ($node, $database, $copies) = @_;
    my ($text, $err) = run_command([ 'python3', "$SERVICES/handbook.py", '--copy' ]);
    plan skip_all => "no text: $err" unless $text ne '';
    my $file = "${PostgreSQL::Test::Utils::tmp_check}/handbook.copy";
    append_to_file($file, "$text\n") unless -e $file;
    $node->safe_psql($database, <<"SQL");
CREATE TABLE book (id uuid, namespace text, document_id uuid, chunk_index int, content text,
                   metadata jsonb, token_count int);
COPY book FROM '$file';
SQL
    more_chunks($node, $database, 1, $copies);
    return;
}

sub more_chunks {
    my ($node, $database, $from, $to) = @_;
    $node->safe_psql($database, <<"SQL");
INSERT INTO chunks (id, namespace, document_id, chunk_index, content, metadata, token_count)
SELECT md5(copy || id::text)::uuid, namespace, document_id, chunk_index, copy || ' ' || content,
       metadata, token_count
FROM generate_series($from, $to) copy, book ORDER BY copy;
SQL
    return;
}

# How many rows of the two tables differ, or are in one of them only. The tables have a column id.
sub differing_rows {
    my ($node, $database, $one, $other) = @_;
    return $node->safe_psql($database,
        "SELECT count(*) FROM $one a FULL JOIN $other b USING (id) WHERE a IS DISTINCT FROM b");
}

# A sample of bacmr_metrics; '' when there is none. $labels: jsonb.
sub metric {
    my ($node, $database, $name, $labels) = @_;
    return $node->safe_psql($database,
        "SELECT value FROM bacmr_metrics WHERE name = '$name' AND labels @> '$labels'");
}

# --- files ---------------------------------------------------------------------------------------

sub artifact_folder {
    my ($node, $database) = @_;
    return $node->data_dir . "/bacmr_artifacts/$database";
}

# All names in a folder, in order; none when it is not there.
sub names_in {
    my ($folder) = @_;
    opendir my $handle, $folder or return;
    my @names = sort grep { !/^\.\.?$/ } readdir $handle;
    closedir $handle;
    return @names;
}

sub hidden_files { return grep { /^\./ } names_in($_[0]); }

# Visible files that lack their manifest, and manifests that lack their file.
sub lonely_files {
    my ($folder) = @_;
    my @visible = grep { !/^\./ } names_in($folder);
    my %there = map { $_ => 1 } @visible;
    return grep { !$there{ /^(.*)\.manifest\.json$/ ? $1 : "$_.manifest.json" } } @visible;
}

sub file_sha256 { return Digest::SHA->new(256)->addfile($_[0], 'b')->hexdigest; }

# --- blob stores ---------------------------------------------------------------------------------

# A file that the server may read.
sub secret_file {
    my ($name, $content) = @_;
    my $path = "${PostgreSQL::Test::Utils::tmp_check}/$name";
    open my $file, '>', $path or die "$path: $!";
    print {$file} $content;
    close $file or die "$path: $!";
    chmod 0600, $path;
    return $path;
}

# A server of bacmr_blob_store before $s3, and PUBLIC's user mapping. %options: of the server, but
# for secret_key, access_key and session_token, which are the mapping's.
sub declare_store {
    my ($node, $database, $name, $s3, %options) = @_;
    my $secret = secret_file("secret_$name", ($options{secret_key} // $s3->{secret_key}) . "\n");
    my %mapping = (
        access_key_id => $options{access_key} // $s3->{access_key},
        secret_access_key_file => $secret,
        (defined $options{session_token} ? (session_token => $options{session_token}) : ()));
    delete @options{qw(secret_key access_key session_token)};
    my %server = (
        type => 's3',
        bucket => 'bacmr-dr',
        region => $s3->{region},
        endpoint => $s3->{endpoint},
        addressing => 'path',
        %options);
    my $list = sub {
        my %of = @_;
        return join ', ', map { "$_ '$of{$_}'" } sort keys %of;
    };
    $node->safe_psql($database,
            "CREATE SERVER $name FOREIGN DATA WRAPPER bacmr_blob_store OPTIONS ("
          . $list->(%server) . '); '
          . "CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS ("
          . $list->(%mapping) . ')');
    return;
}

# Exports the chunks: (name of the file, its path, url, rows, bytes, sha256). $more: further arguments.
sub export_to {
    my ($node, $database, $store, $more) = @_;
    my $arguments = (defined $store ? "'$store'" : 'NULL') . ($more ? ", $more" : '');
    my $row = $node->safe_psql($database,
        "SELECT path, url, chunks, bytes, sha256 FROM bacmr_export_chunks($arguments)");
    my @fields = split /\|/, $row;
    return ($fields[0] =~ s{.*/}{}r, @fields);
}

# An object's bytes; undef when it is not there.
sub object_of {
    my ($s3, $bucket, $key) = @_;
    my $answer = s3_request($s3, 'GET', "/$bucket/$key");
    return if $answer->{status} == 404;
    $answer->{success} or die "cannot read $key: $answer->{status} $answer->{content}";
    return $answer->{content};
}

# The multipart uploads that were begun and neither completed nor aborted.
sub pending_uploads {
    my ($s3, $bucket) = @_;
    my $answer = s3_request($s3, 'GET', "/$bucket", query => { uploads => '' });
    $answer->{success} or die "cannot list uploads: $answer->{status} $answer->{content}";
    return scalar(() = $answer->{content} =~ /<UploadId>/g);
}

# So that what one test leaves is not held against the next.
sub abort_uploads {
    my ($s3, $bucket) = @_;
    my $answer = s3_request($s3, 'GET', "/$bucket", query => { uploads => '' });
    while ($answer->{content} =~ m{<Upload>(.*?)</Upload>}gs) {
        my ($key, $id) = map { $1 =~ m{<$_>(.*?)</$_>}s } 'Key', 'UploadId';
        s3_request($s3, 'DELETE', "/$bucket/$key", query => { uploadId => $id });
    }
    return;
}

# --- sessions ------------------------------------------------------------------------------------

my $mark = 0;

# A session that goes on between statements.
sub open_session {
    my ($node, $database) = @_;
    my %session = (in => '', out => '', err => '');
    $session{run} = IPC::Run::start(
        [ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr($database), '-f', '-' ],
        '<', \$session{in}, '>', \$session{out}, '2>', \$session{err}, IPC::Run::timeout(170));
    $session{pid} = run_in(\%session, 'SELECT pg_backend_pid()');
    return \%session;
}

sub backend_of { return $_[0]{pid}; }

# Sends a statement and returns at once.
sub send_sql {
    my ($session, $sql) = @_;
    $session->{mark} = 'done-' . ++$mark;
    $session->{out} = $session->{err} = '';
    $session->{in} .= "$sql;\n\\echo $session->{mark}\n";
    $session->{run}->pump_nb;
    return;
}

sub is_done {
    my ($session) = @_;
    $session->{run}->pump_nb if $session->{run}->pumpable;
    return $session->{out} =~ /^\Q$session->{mark}\E$/m || !$session->{run}->pumpable;
}

# What the statement returned, or '' when it failed: its error is $session->{err}.
sub answer_of {
    my ($session) = @_;
    until (is_done($session)) { sleep 0.01; }
    return $session->{out} =~ s/^\Q$session->{mark}\E\n//mr =~ s/\n\z//r;
}

sub run_in {
    my ($session, $sql) = @_;
    send_sql($session, $sql);
    return answer_of($session);
}

sub close_session {
    my ($session) = @_;
    $session->{in} .= "\\q\n";
    eval { $session->{run}->finish };
    return;
}

# A process' memory that it shares with nobody, in kB: the heap, not shared_buffers.
sub anonymous_kb {
    my ($pid) = @_;
    open my $status, '<', "/proc/$pid/status" or return 0;
    my ($kb) = map { /^RssAnon:\s+(\d+) kB/ ? $1 : () } <$status>;
    return $kb // 0;
}

# Runs a statement: its answer, and the most that the backend held while it ran, in kB.
sub peak_while {
    my ($session, $sql) = @_;
    my $peak = 0;
    send_sql($session, $sql);
    do {
        my $now = anonymous_kb($session->{pid});
        $peak = $now if $now > $peak;
        sleep 0.005;
    } until is_done($session);
    return (answer_of($session), $peak);
}

1;
