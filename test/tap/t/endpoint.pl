# The HTTP endpoint: what it serves, to whom, and that slow, huge, malformed or many connections
# hurt nobody.
use strict;
use warnings;
use BacmrTest;
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $node = new_server('main', conf => [ q{bacmr.expire_interval = '1s'} ]);
app_database($node, 'app');
app_database($node, 'app "2"');
my $base = "http://127.0.0.1:$port";

sub get { return HTTP::Tiny->new(timeout => 10)->get($base . $_[0], $_[1] // {}); }
sub configure {
    my ($name, $value) = @_;
    $node->safe_psql('postgres', "ALTER SYSTEM SET $name = '$value'");
    $node->reload;
}
sub connection {
    return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 5);
}

# --- off, on -------------------------------------------------------------------------------------

ok(!connection(), 'off by default');
like(error_of($node, 'postgres', q{ALTER SYSTEM SET bacmr.metrics_listen = 'somewhere'}),
    qr/22023.*address and a port/s, 'an address without a port is refused');
configure('bacmr.metrics_listen', "127.0.0.1:$port");
await('a reload opens it', sub { get('/healthz')->{status} == 200 });
is(get('/healthz')->{content}, "ok\n", '/healthz');

# --- what it serves ------------------------------------------------------------------------------

$node->safe_psql('app', q{SELECT bacmr_record_openai_request('modèle "ع"', 'chat', 2.5, 350)});
$node->safe_psql('app "2"', q{SELECT bacmr_record_openai_request('m', 'chat', 0.5, 7);
    SELECT bacmr_metric_define('mine', 'gauge'), bacmr_metric_set('mine', '{}', 3)});
$node->safe_psql('app', q{SELECT bacmr_metric_define('mine', 'counter'), bacmr_metric_inc('mine')});
my $answer = get('/metrics/prometheus');
is($answer->{status}, 200, '/metrics/prometheus');
is($answer->{headers}{'content-type'}, 'text/plain; version=0.0.4; charset=utf-8', 'its type');
like($answer->{content}, qr/^openai_tokens_used_total\{datname="app",model="modèle \\"ع\\""\} 350$/m,
    'a series of one database, with its name');
like($answer->{content}, qr/^openai_tokens_used_total\{datname="app \\"2\\"",model="m"\} 7$/m,
    'and of the other');
like($answer->{content}, qr/^openai_request_duration_seconds_bucket\{datname="app",model="[^\n]*",endpoint="chat",le="\+Inf"\} 1$/m,
    'histograms');
is(() = $answer->{content} =~ /^# TYPE mine /mg, 1, 'a name that two databases define has one TYPE');
my @types = $answer->{content} =~ /^# TYPE (\S+)/mg;
my %once = map { $_ => 1 } @types;
is(scalar(@types), scalar(keys %once), 'so has every family');
await('the worker is up, by database', sub {
    get('/metrics/prometheus')->{content} =~ /^bacmr_worker_up\{datname="app"\} 1$/m;
});
$answer = get('/metrics/json');
is($answer->{headers}{'content-type'}, 'application/json', '/metrics/json');
my $json = JSON::PP::decode_json($answer->{content});
is($json->{counters}{'openai_tokens_used_total{datname="app \"2\"",model="m"}'}, 7, 'the same values');
is(get('/metrics/json?x=1')->{status}, 200, 'a query string changes nothing');
is(get('/')->{status}, 404, 'another path');
is(HTTP::Tiny->new->post("$base/metrics/json", { content => 'x' x 100 })->{status}, 405, 'POST');
is(HTTP::Tiny->new->head("$base/metrics/prometheus")->{status}, 200, 'HEAD');

# --- a bearer token ------------------------------------------------------------------------------

my $token_file = $node->basedir . '/token';
configure('bacmr.metrics_token_file', $token_file);
my $offset = log_size($node);
await('without the file it does not serve', sub { !connection() });
await('and says why', sub {
    slurp_file($node->logfile, $offset) =~ /could not read a token/;
});
append_to_file($token_file, "s3cret-token\n");
await('with it, it does', sub { get('/healthz')->{status} == 200 });
is(get('/metrics/prometheus')->{status}, 401, 'no token: 401');
is(get('/metrics/json', { headers => { Authorization => 'Bearer s3cret-tokem' } })->{status}, 401,
    'another token: 401');
is(get('/metrics/json', { headers => { Authorization => 'Bearer s3cret-token' } })->{status}, 200,
    'the token: 200');
unlike(slurp_file($node->logfile), qr/s3cret/, 'the token is in no log');
configure('bacmr.metrics_token_file', '');
await('no token again', sub { get('/metrics/json')->{status} == 200 });

# --- bad company ---------------------------------------------------------------------------------

my $endpoint_pid = $node->safe_psql('postgres',
    q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'bacmr_ops endpoint'});
for my $garbage ("\x00\xFF\x16\x03\x01garbage\r\n\r\n", "GET\r\n\r\n",
    'GET /' . 'x' x 100_000 . " HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\n" . join('', map { "X-$_: " . 'y' x 1000 . "\r\n" } 1 .. 200) . "\r\n",
    "POST /metrics/json HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n" . 'z' x 200_000) {
    local $SIG{PIPE} = 'IGNORE';
    my $socket = connection() or next;
    print $socket $garbage;
    $socket->shutdown(1);
    my $got = '';
    $socket->timeout(10);
    { local $SIG{ALRM} = sub { die }; eval { alarm 10; 1 while sysread($socket, $got, 65536, length $got); alarm 0; }; }
    unlike($got, qr{^HTTP/1\.\d 200}, 'malformed or huge: refused');
}
is(get('/healthz')->{status}, 200, 'and it still serves');

# More connections than it takes: the surplus waits or is closed, and leaves when they leave.
my @crowd = grep { defined } map { connection() } 1 .. 200;
print {$_} "GET /metrics/pro" for @crowd[ 0 .. 10 ];
my $start = time;
await('a crowd that says nothing is shown out', sub { get('/healthz')->{status} == 200 }, 20);
cmp_ok(time - $start, '<', 20, 'soon');
close $_ for @crowd;

# One that sends a byte now and then is never idle, and is ended all the same.
my $slow = connection();
$slow->autoflush(1);
my $ended;
{
    local $SIG{PIPE} = 'IGNORE';
    $start = time;
    my $request = 'GET /metrics/json HTTP/1.1' . "\r\nX-Slow: " . 'a' x 1000;
    for my $byte (split //, $request) {
        last if time - $start > 40;
        my $bits = '';
        vec($bits, fileno($slow), 1) = 1;
        if (select($bits, undef, undef, 0.5) && !sysread($slow, my $rest, 1024)) { $ended = 1; last; }
        last unless syswrite($slow, $byte);
    }
}
ok($ended, 'a slow one is ended');
cmp_ok(time - $start, '<', 30, 'within its time');
is(get('/metrics/prometheus')->{status}, 200, 'others are served meanwhile and after');
is($node->safe_psql('postgres',
        q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'bacmr_ops endpoint'}),
    $endpoint_pid, 'by the same process all the time');

# --- its life ------------------------------------------------------------------------------------

$node->safe_psql('postgres', "SELECT pg_terminate_backend($endpoint_pid)");
await('it comes back after it was ended', sub { get('/healthz')->{status} == 200 });
$start = time;
my $idle = connection();
$node->stop('fast');
cmp_ok(time - $start, '<', 10, 'a shutdown does not wait for its connections');
$node->start;
await('it is there after a restart', sub { get('/healthz')->{status} == 200 });
is(error_of($node, 'postgres', 'DROP DATABASE "app ""2"""'), '', 'it is in no DROP DATABASE\'s way');
configure('bacmr.metrics_listen', '');
await('a reload closes it', sub { !connection() });
configure('bacmr.metrics_listen', '203.0.113.1:9');
$offset = log_size($node);
await('an address that is not ours is reported', sub {
    slurp_file($node->logfile, 0) =~ /cannot serve metrics at \\?"203\.0\.113\.1:9/;
});
unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal/, 'nothing crashed');
$node->stop;
done_testing();
