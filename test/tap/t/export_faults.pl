# A blob store that misbehaves: a real one behind a proxy that cuts, refuses, delays and loses. What
# can be mended by trying again is, with as little sent twice as possible; what cannot leaves nothing
# behind, neither in the store nor on disk; and nothing is waited for once the query is cancelled.
use strict;
use warnings;
use BacmrTest;
use Digest::SHA qw(sha256_hex);
use Exports;
use JSON::PP ();
use List::Util qw(sum);
use Services;
use Test::More;
use Time::HiRes qw(time);

use constant PART => 5 * 1024 * 1024;
use constant MB => 1024;    # in kB

my $s3 = start_s3('swift');
my $node = new_server('main', conf => [ 'bacmr.breaker_threshold = 1000' ]);
app_database($node, 'app');
load_handbook($node, 'app', 3);
make_bucket($s3, 'bacmr-dr');
my $proxy = start_faults($s3->{endpoint});
my $through = { %$s3, endpoint => $proxy->endpoint };
declare_store($node, 'app', 'dr', $through,
    part_size => '5MB', parallel => 3, max_retries => 2, timeout => 2);
$node->safe_psql('app', q{CREATE TABLE few AS SELECT * FROM chunks LIMIT 100});
my $folder = artifact_folder($node, 'app');

sub reset_proxy {
    $proxy->rules(@_);
    $proxy->reset_counts;
    return;
}

sub seen { return grep { $_->{kind} eq $_[0] } @{ $proxy->requests }; }
sub part_of { return $_[0]{query} =~ /partNumber=(\d+)/ ? $1 : 0; }

sub set {
    my (%settings) = @_;
    for my $name (sort keys %settings) {
        $node->safe_psql('postgres', "ALTER SYSTEM SET $name = '$settings{$name}'");
    }
    $node->reload;
    for my $name (sort keys %settings) {
        await_sql($node, 'postgres', "SELECT current_setting('$name') = '$settings{$name}'",
            "$name is $settings{$name}");
    }
    return;
}

# --- what trying again mends ---------------------------------------------------------------------

# Exports under the rules: the object has to be right, and the parts that were sent more than once
# have to be those that failed, $again of them.
sub survives {
    my ($what, $again, @rules) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    reset_proxy(@rules);
    my $start = time;
    my ($file, undef, undef, undef, $bytes, $sha256) =
      eval { export_to($node, 'app', 'dr') } or return fail("$what: the export succeeds: $@");
    my $seconds = time - $start;
    my $counts = $proxy->counts;
    my %sent;
    push @{ $sent{ part_of($_) } }, $_ for seen('upload_part');
    is(scalar keys %sent, int(($bytes + PART - 1) / PART), "$what: every part is sent");
    # Two faults may meet the same part: the next one may not be there yet when the first is sent again.
    is(sum(0, map { @$_ - 1 } values %sent), $again, "$what: only what failed is sent again");
    cmp_ok($counts->{max_in_flight}, '<=', 3, "$what: at most three requests at once");
    my $left = 0;
    $left += $_->{left} // 0 for @{ $proxy->left };
    is($left, 0, "$what: all that was to go wrong did");
    is(sha256_hex(object_of($s3, 'bacmr-dr', "app/$file") // ''), $sha256,
        "$what: the object is the file");
    is(pending_uploads($s3, 'bacmr-dr'), 0, "$what: no unfinished upload stays");
    abort_uploads($s3, 'bacmr-dr');
    return $seconds;
}

my %part = (kind => 'upload_part');
survives('no fault', 0);
survives('a part is cut off', 1,
    { match => \%part, action => 'cut', after => 1_000_000, skip => 1 });
survives('two parts are cut off at once', 2,
    { match => \%part, action => 'cut', after => 0, times => 2 });
survives('500', 1, { match => \%part, action => 'status', status => 500, skip => 2 });
survives('500 before the body is read', 1,
    { match => \%part, action => 'status', status => 500, early => JSON::PP::true });
my $seconds = survives('503 with Retry-After', 1,
    { match => \%part, action => 'status', status => 503, retry_after => 2 });
cmp_ok($seconds, '>=', 2, '503 with Retry-After: which is waited for');
survives('the answer to a part is lost', 1, { match => \%part, action => 'drop_reply', skip => 1 });
survives('a part hangs', 1, { match => \%part, action => 'hang' });
survives('slow parts', 0,
    { match => \%part, action => 'slow', delay => 0.01, chunk => 65536, times => 2 });
survives('the beginning fails', 0, { match => { kind => 'create_multipart' }, action => 'status' });
survives('the answer to the beginning is lost', 0,
    { match => { kind => 'create_multipart' }, action => 'drop_reply' });
survives('200 with an error for Complete', 0, { action => 'complete_error' });
is(scalar seen('complete_multipart'), 2, 'it is asked for again');
survives('Complete fails', 0, { match => { kind => 'complete_multipart' }, action => 'status' });
survives('the answer to Complete is lost', 0,
    { match => { kind => 'complete_multipart' }, action => 'drop_reply' });
survives('HEAD fails', 0, { match => { kind => 'head_object' }, action => 'status', status => 500 });
survives('the manifest is cut off', 0, { match => { kind => 'put_object' }, action => 'cut' });
survives('the answer to the manifest is lost', 0,
    { match => { kind => 'put_object' }, action => 'drop_reply' });

# --- what it does not ----------------------------------------------------------------------------

my @before = names_in($folder);
my @keys_before = s3_keys($s3, 'bacmr-dr');

# $hidden: whether a hidden file may stay on disk, which the next export sweeps.
sub nothing_left {
    my ($what, $hidden) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(pending_uploads($s3, 'bacmr-dr'), 0, "$what: no unfinished upload stays in the store");
    my %known = map { $_ => 1 } @keys_before;
    my @new = grep { !$known{$_} } s3_keys($s3, 'bacmr-dr');
    is("@new", '', "$what: and no object");
    is_deeply([ grep { !($hidden && /^\./) } names_in($folder) ], \@before,
        "$what: nor a file on disk");
    abort_uploads($s3, 'bacmr-dr');
    s3_request($s3, 'DELETE', "/bacmr-dr/$_") for @new;
    return;
}

sub fails {
    my ($what, $error, @rules) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    reset_proxy(@rules);
    my $message = error_of($node, 'app', q{SELECT bacmr_export_chunks('dr')});
    like($message, $error, "$what: the export fails");
    nothing_left($what);
    return $message;
}

my $message = fails('a part always fails',
    qr/ERROR:  08006: could not upload .* InternalError: Injected by the test.*HTTP 500/,
    { match => { %part, query => 'partNumber=3' }, action => 'status', status => 500, times => 0 });
like($message, qr/DETAIL: .*tried 3 times/, 'a part always fails: after three attempts');
# An upload that fails while the file is still being written is begun once more afterwards.
is(scalar(grep { part_of($_) == 3 } seen('upload_part')) % 3, 0, 'which the store has seen');
fails('a part is refused', qr/ERROR:  28000: .*AccessDenied/,
    { match => { %part, query => 'partNumber=2' }, action => 'status', status => 403 });
fails('Complete never succeeds', qr/ERROR:  (?:08006|58030): could not upload .*InternalError/,
    { action => 'complete_error', times => 0 });
fails('the manifest is refused', qr/ERROR:  28000: .*AccessDenied/,
    { match => { kind => 'put_object' }, action => 'status', status => 403, times => 0 });
fails('the object is not there afterwards', qr/ERROR:  58P01: could not check/,
    { match => { kind => 'head_object' }, action => 'status', status => 404 });

# --- cancel --------------------------------------------------------------------------------------

# Ends an export while parts of it hang. Returns how long it took to react, and the error.
sub struck {
    my ($what, $strike, %options) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    reset_proxy({ match => $options{match} // \%part, action => 'hang', times => 0 });
    my $session = open_session($node, 'app');
    run_in($session, "SET statement_timeout = '$options{timeout}'") if $options{timeout};
    my $start = time;
    send_sql($session, q{SELECT bacmr_export_chunks('dr')});
    await("$what: requests hang",
        sub { ($proxy->counts->{faults}{hang} // 0) >= ($options{hanging} // 3) });
    is(pending_uploads($s3, 'bacmr-dr'), 1, "$what: an upload is under way")
      unless $options{match};
    $start = time unless $options{timeout};
    $strike->(backend_of($session)) if $strike;
    answer_of($session);
    my $seconds = time - $start;
    my $error = $session->{err};
    # What hangs in the proxy must not stand in the way of what is looked at now.
    $proxy->rules;
    close_session($session);
    return ($seconds, $error);
}

my ($took, $error) = struck('pg_cancel_backend',
    sub { $node->safe_psql('postgres', "SELECT pg_cancel_backend($_[0])") });
like($error, qr/ERROR:  57014: canceling statement due to user request/, 'cancelled');
cmp_ok($took, '<', 1.5, 'within a second or so');
nothing_left('pg_cancel_backend');

($took, $error) = struck('statement_timeout', undef, timeout => '2s');
like($error, qr/ERROR:  57014: canceling statement due to statement timeout/, 'timed out');
cmp_ok($took, '>=', 2, 'not before its time');
cmp_ok($took, '<', 3.5, 'and within a second or so');
nothing_left('statement_timeout');

($took, $error) = struck('pg_terminate_backend',
    sub { $node->safe_psql('postgres', "SELECT pg_terminate_backend($_[0])") });
like($error, qr/FATAL:  57P01: /, 'terminated');
await('pg_terminate_backend: the session is gone', sub {
    $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
        WHERE query LIKE '%bacmr_export_chunks(''dr%' AND pid <> pg_backend_pid()}) == 0;
});
nothing_left('pg_terminate_backend', 1);

# The store says nothing at all any more, not even to the attempt to clean up.
($took, $error) = struck('a store that has fallen silent',
    sub { $node->safe_psql('postgres', "SELECT pg_cancel_backend($_[0])") },
    match => { path => '/bacmr-dr/app/' }, hanging => 1);
like($error, qr/ERROR:  57014: /, 'cancelled there too');
cmp_ok($took, '<', 2, 'within a second or so: it never answered');
nothing_left('a store that has fallen silent');

# --- downloads -----------------------------------------------------------------------------------

reset_proxy();
my ($file, undef, undef, undef, $bytes) = export_to($node, 'app', 'dr');
my %get = (kind => 'get_object', path => 'ndjson$');

sub verified {
    my ($what, $wanted, @rules) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    reset_proxy(@rules);
    my $got = $node->safe_psql('app', "SELECT ok, problem FROM bacmr_verify_export('dr/app/$file')");
    like($got, $wanted, $what);
    return grep { $_->{path} =~ /ndjson$/ } seen('get_object');
}

my @gets = verified('a download that is cut off twice goes on', qr/^t\|$/,
    { match => \%get, action => 'cut_response', after => 3_000_000 },
    { match => \%get, action => 'cut_response', after => 2_000_000 });
is(scalar @gets, 3, 'in three requests');
is(join(' ', map { $_->{headers}{range} // 'whole' } @gets), 'whole bytes=3000000- bytes=5000000-',
    'each begins where the one before ended');
ok($gets[1]{headers}{'if-match'}, 'if the object is still the same');
my $arrived = 0;
$arrived += $_->{bytes_out} for @gets;
is($arrived, $bytes, 'nothing is sent twice');
verified('a download that fails, is refused for a while and hangs', qr/^t\|$/,
    { match => \%get, action => 'status', status => 500 },
    { match => \%get, action => 'status', status => 503, retry_after => 1, skip => 0 });
verified('a download that hangs', qr/^t\|$/, { match => \%get, action => 'hang' });
verified('a bit that flips on the way is noticed', qr/^f\|its SHA-256 is /,
    { match => \%get, action => 'corrupt', offset => 5_000_000 });
reset_proxy({ match => \%get, action => 'corrupt', offset => 5_000_000 });
like(error_of($node, 'app', "BEGIN; TRUNCATE chunks; SELECT bacmr_import_chunks('dr/app/$file'); COMMIT"),
    qr/ERROR:  22P04: .*damaged/, 'and an import refuses it');
cmp_ok($node->safe_psql('app', 'SELECT count(*) FROM chunks'), '>', 0, 'with nothing done');

# A cancel while it hangs; the copy that was begun goes with it.
@before = names_in($folder);
reset_proxy({ match => \%get, action => 'cut_response', after => 3_000_000 },
    { match => \%get, action => 'hang' });
my $importer = open_session($node, 'app');
send_sql($importer, "SELECT bacmr_import_chunks('dr/app/$file', 'skip')");
await('an import hangs half-way', sub { $proxy->counts->{faults}{hang} });
is(scalar hidden_files($folder), 1, 'with a hidden copy on disk');
my $cancelled_at = time;
$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . backend_of($importer) . ')');
answer_of($importer);
like($importer->{err}, qr/ERROR:  57014: /, 'it is cancelled');
cmp_ok(time - $cancelled_at, '<', 1.5, 'within a second or so');
is_deeply([ names_in($folder) ], \@before, 'and the copy is gone');
close_session($importer);

# Replaced while it is read: the two halves must not be put together.
reset_proxy({ match => \%get, action => 'cut_response', after => 3_000_000 },
    { match => \%get, action => 'hang', seconds => 1 });
my $reading = in_background($node, 'app', "SELECT bacmr_verify_export('dr/app/$file')");
await('the download waits for its second half', sub { $proxy->counts->{faults}{hang} });
s3_request($s3, 'PUT', "/bacmr-dr/app/$file", content => 'x' x 6_000_000)->{success} or die 'PUT';
(undef, $error) = wait_for_end($reading);
like($error, qr/ERROR:  58030: .*changed while it was read/, 'an object that is replaced meanwhile');
s3_request($s3, 'DELETE', "/bacmr-dr/app/$file");
s3_request($s3, 'DELETE', "/bacmr-dr/app/$file.manifest.json");

# --- the breaker ---------------------------------------------------------------------------------

set('bacmr.breaker_threshold' => 3, 'bacmr.breaker_cooldown' => '1s');
declare_store($node, 'app', 'brittle', $through, max_retries => 0);
my $open = q{SELECT bacmr_export('few', 'brittle')};
my $state = sub { metric($node, 'app', 'circuit_breaker_state', '{"service": "brittle"}') };
$node->safe_psql('app', $open);
is($state->() || 0, 0, 'closed while all is well');
reset_proxy({ action => 'status', status => 500, times => 0 });
for (1 .. 3) {
    last if $state->() == 1;
    like(error_of($node, 'app', $open), qr/ERROR:  08006: /, 'the store fails');
}
is($state->(), 1, 'after three failures in a row the breaker is open');
set('bacmr.breaker_cooldown' => '1min');
$proxy->reset_counts;
my $start = time;
$error = error_of($node, 'app', $open);
cmp_ok(time - $start, '<', 1, 'the next call fails at once');
like($error, qr/ERROR:  08006: could not upload .*failed repeatedly/, 'and says why');
like($error, qr/DETAIL: .*circuit breaker is open/, 'and for how long');
like($error, qr/HINT: .*bacmr\.breaker_cooldown/, 'and what decides that');
is($proxy->counts->{requests}, 0, 'the store is not asked');
declare_store($node, 'app', 'other', $s3);
is(error_of($node, 'app', q{SELECT bacmr_export('few', 'other')}), '',
    'another store has a breaker of its own');
set('bacmr.breaker_cooldown' => '1s');
# Still failing: one request looks, and it stays open.
await('one request looks whether it is well again', sub {
    error_of($node, 'app', $open);
    return $proxy->counts->{faults}{status};
});
is($state->(), 1, 'it is not');
$proxy->rules;
await('it is', sub { error_of($node, 'app', $open) eq '' });
is($state->(), 0, 'the breaker is closed');
set('bacmr.breaker_threshold' => 1000);

# --- metrics -------------------------------------------------------------------------------------

my $value = sub {
    my ($name, %labels) = @_;
    return metric($node, 'app', $name, JSON::PP::encode_json({ service => 'dr', %labels })) || 0;
};
reset_proxy();
my %was = (
    good => $value->('bacmr_http_requests_total', outcome => '200'),
    retries => $value->('bacmr_http_retries_total'),
    count => $value->('bacmr_http_request_duration_seconds_count'));
cmp_ok($was{good}, '>', 50, 'requests are counted') or diag $node->safe_psql('app',
    q{SELECT name, labels, value FROM bacmr_metrics WHERE name LIKE 'bacmr_http%total'});
cmp_ok($was{retries}, '>', 10, 'retries too');
reset_proxy({ match => { kind => 'put_object' }, action => 'status', status => 500 });
$node->safe_psql('app', q{SELECT bacmr_export('few', 'dr')});
my $counts = $proxy->counts;
is($value->('bacmr_http_requests_total', outcome => '200') - $was{good},
    $counts->{requests} - 1, 'as many as the store has answered well');
is($value->('bacmr_http_retries_total') - $was{retries}, 1, 'and one was repeated');
is($value->('bacmr_http_request_duration_seconds_count') - $was{count},
    $counts->{requests}, 'each has its time');

# --- memory --------------------------------------------------------------------------------------

# Three parts in flight would be 15 MB, were they held in memory. They are read from the file as they
# are sent, so there is no need of a margin on top of that.
$node->safe_psql('app', q{
    CREATE TABLE mb10 AS SELECT * FROM chunks LIMIT 6500;
    CREATE TABLE mb100 AS SELECT c.* FROM generate_series(1, 7) n, chunks c});
my %peak;
for my $table ('mb10', 'mb100') {
    my $session = open_session($node, 'app');
    run_in($session, q{SELECT bacmr_export('few', 'dr')});    # what is loaded once
    reset_proxy();
    my ($answer, $kb) = peak_while($session, "SELECT bytes FROM bacmr_export('$table', 'dr')");
    $peak{$table} = $kb;
    cmp_ok($answer || 0, '>', $table eq 'mb10' ? 10_000_000 : 100_000_000, "$table: its size");
    cmp_ok(scalar seen('upload_part'), '>', 1, "$table: in parts");
    close_session($session);
}
note "peaks: $peak{mb10} kB, $peak{mb100} kB";
cmp_ok($peak{mb10}, '>', 0, 'the memory is measured');
cmp_ok($peak{mb100} - $peak{mb10}, '<', 3 * 5 * MB,
    'the memory of an upload does not grow with the object');

$node->stop;
done_testing();
