# Real S3 servers for tests, and the proxy that makes them misbehave. They are the scripts of
# test/services; whatever a test starts ends with it, also when it fails or is killed.
#
#   my $s3 = start_s3('swift');               # or 'radosgw': endpoint, access_key, secret_key, region
#   make_bucket($s3, 'backups');
#   my $proxy = start_faults($s3->{endpoint});
#   my $through = { %$s3, endpoint => $proxy->endpoint };
#   $proxy->rules({ match => { kind => 'upload_part' }, action => 'cut', after => 100_000 });
#   is($proxy->counts->{faults}{cut}, 1);
#   my $answer = s3_request($s3, 'GET', '/backups', query => { 'list-type' => 2 });
#
# And stand-ins for embedders and vector stores, whose heads (openai.py, pinecone.py, standin.py)
# describe settings, rules and counts:
#
#   my $openai = start_openai(latency_ms => 300);
#   $openai->rules({ match => { text => 'Debian' }, action => 'rate_limit', retry_after => 1 });
#   is($openai->counts->{max_repeats}, 1, 'no text was paid for twice');
#   my $pinecone = start_pinecone(dimension => 256);
#   is_deeply([ sort keys %{ $pinecone->dump('my space') } ], \@ids);
package Services;

use strict;
use warnings;
use Cwd ();
use Digest::SHA qw(hmac_sha256 hmac_sha256_hex sha256_hex);
use Exporter 'import';
use File::Basename qw(dirname);
use File::Spec ();
use File::Temp ();
use HTTP::Tiny;
use IO::Socket::INET ();
use JSON::PP ();
use POSIX ();
use Test::More;

our @EXPORT = qw(start_s3 stop_s3 make_bucket s3_request s3_sign s3_keys start_faults start_wire
  start_openai start_pinecone start_real_embeddings start_prism);

my $FOLDER = dirname(Cwd::realpath(__FILE__)) . '/../../services';
# What test.sh removes in any case, when it is test.sh that runs the test.
my $WHERE = $ENV{TESTDIR} // File::Spec->tmpdir;
my $OWNER = $$;
# What has been started: a server's folder => its script, a proxy's process id => 1.
my (%servers, %proxies);

# Skips the whole test, with the reason, where the server's packages are not installed; so it is to
# be called before the first test.
sub start_s3 {
    my ($kind) = @_;
    my $script = "$FOLDER/$kind.sh";
    -e $script or die "no server of the kind $kind";
    my ($reason, $status) = run_script($script, 'check');
    plan skip_all => $reason =~ s/\s+\z//r if $status != 0;

    # No CLEANUP: the script removes it, or, when this process is killed, the server itself.
    my $folder = File::Temp::tempdir('s3.XXXXXX', DIR => $WHERE);
    $servers{$folder} = $script;
    local $ENV{SERVICE_PARENT} = $$;
    (my $printed, $status) = run_script($script, 'start', $folder);
    $status == 0 or die "$kind did not start:\n$printed";
    my %s3 = $printed =~ /^(\w+)=(.*)$/mg;
    return { %s3, folder => $folder };
}

sub stop_s3 {
    my ($s3) = @_;
    my $script = delete $servers{ $s3->{folder} } // return;
    my ($printed, $status) = run_script($script, 'stop', $s3->{folder});
    $status == 0 or die $printed;
    return;
}

# What it prints on both channels, and its exit status. Through a file: the daemons inherit a pipe,
# and would keep it open.
sub run_script {
    my @command = @_;
    my $output = File::Temp->new(TEMPLATE => 's3.XXXXXX', DIR => $WHERE);
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDIN, '<', '/dev/null' or POSIX::_exit(126);
        open STDOUT, '>&', $output or POSIX::_exit(126);
        open STDERR, '>&', $output or POSIX::_exit(126);
        exec { 'bash' } 'bash', @command or POSIX::_exit(127);
    }
    # Called from END, it must not change the test's exit status.
    local $?;
    waitpid $pid, 0;
    my $status = $?;
    seek $output, 0, 0;
    local $/;
    return (scalar(<$output>) // '', $status);
}

sub make_bucket {
    my ($s3, $bucket) = @_;
    my $answer = s3_request($s3, 'PUT', "/$bucket");
    $answer->{success} or die "cannot make the bucket $bucket: $answer->{status} $answer->{content}";
    return;
}

# All keys in a bucket, in order.
sub s3_keys {
    my ($s3, $bucket, $prefix) = @_;
    my (@keys, $token);
    do {
        my %query = ('list-type' => 2, prefix => $prefix // '');
        $query{'continuation-token'} = $token if defined $token;
        my $answer = s3_request($s3, 'GET', "/$bucket", query => \%query);
        $answer->{success} or die "cannot list $bucket: $answer->{status} $answer->{content}";
        push @keys, map { unescape_xml($_) } $answer->{content} =~ m{<Key>(.*?)</Key>}gs;
        $token = unescape_xml($1)
          if $answer->{content} =~ m{<NextContinuationToken>(.*?)</NextContinuationToken>}s;
        $token = undef if $answer->{content} !~ m{<IsTruncated>true</IsTruncated>};
    } while (defined $token);
    return @keys;
}

sub unescape_xml {
    my ($text) = @_;
    my %entity = (lt => '<', gt => '>', amp => '&', quot => '"', apos => "'");
    my $character = sub {
        my ($name) = @_;
        return $name =~ /^#x(.*)/ ? chr hex $1 : $name =~ /^#(.*)/ ? chr $1 : $entity{$name};
    };
    return $text =~ s/&(#x[0-9a-fA-F]+|#[0-9]+|lt|gt|amp|quot|apos);/$character->($1)/ger;
}

# A path-style request, signed, and sent once. The path as it is on the line, percent-encoded;
# %options: query (name => value), content, headers. Returns HTTP::Tiny's answer: its status is 599
# where there was none.
sub s3_request {
    my ($s3, $method, $path, %options) = @_;
    my ($url, %headers) = s3_sign($s3, $method, $path, %options);
    my %request = (headers => \%headers);
    $request{content} = $options{content} if defined $options{content};
    # No proxy of the environment's; no redirect, since its signature would not hold.
    return Services::Once->new(timeout => 60, no_proxy => '127.0.0.1', max_redirect => 0)
      ->request($method, $url, \%request);
}

# AWS Signature Version 4, written apart from the extension's own. Returns the URL and the headers;
# %options as above, and payload (UNSIGNED-PAYLOAD, for what is sent by other means).
sub s3_sign {
    my ($s3, $method, $path, %options) = @_;
    my ($host) = $s3->{endpoint} =~ m{^http://([^/]+)};
    my %given = %{ $options{headers} // {} };
    # HTTP::Tiny would add it without a signature, which a Ceph 20 refuses.
    $given{'content-type'} //= 'application/octet-stream' if defined $options{content};
    my $time = POSIX::strftime('%Y%m%dT%H%M%SZ', gmtime);
    my %headers = (
        (map { lc $_ => $given{$_} } keys %given),
        'x-amz-date' => $time,
        'x-amz-content-sha256' => $options{payload} // sha256_hex($options{content} // ''));
    my %query = %{ $options{query} // {} };
    my $query = join '&', sort map { encode($_) . '=' . encode($query{$_} // '') } keys %query;
    my %signed = (%headers, host => $host);
    my $names = join ';', sort keys %signed;
    my $request = join "\n", $method, $path, $query, (map { "$_:$signed{$_}" } sort keys %signed), '',
      $names, $headers{'x-amz-content-sha256'};
    my $scope = join '/', substr($time, 0, 8), $s3->{region}, 's3', 'aws4_request';
    my $key = "AWS4$s3->{secret_key}";
    $key = hmac_sha256($_, $key) for split m{/}, $scope;
    my $signature =
      hmac_sha256_hex(join("\n", 'AWS4-HMAC-SHA256', $time, $scope, sha256_hex($request)), $key);
    $headers{authorization} = "AWS4-HMAC-SHA256 Credential=$s3->{access_key}/$scope, "
      . "SignedHeaders=$names, Signature=$signature";
    return ($s3->{endpoint} . $path . ($query eq '' ? '' : "?$query"), %headers);
}

sub encode { return $_[0] =~ s/([^A-Za-z0-9_.~-])/sprintf '%%%02X', ord $1/ger; }

# --- the proxy ------------------------------------------------------------------------------------

# An object with the methods below; test/services/faults.py describes rules and counts.
sub start_faults {
    my ($upstream) = @_;
    # Not open '-|': the end of that handle would wait for the process, before END can end it.
    pipe my $lines, my $write or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDOUT, '>&', $write or POSIX::_exit(126);
        exec { 'python3' } 'python3', "$FOLDER/faults.py", '--upstream', $upstream, '--with-parent'
          or POSIX::_exit(127);
    }
    close $write;
    $proxies{$pid} = 1;
    my %self = (pid => $pid);
    while (defined(my $line = <$lines>)) {
        $self{$1} = $2 if $line =~ /^(\w+)=(.*)$/;
        last if exists $self{control};
    }
    exists $self{control} or die 'faults.py did not start';
    return bless \%self, 'Services::Faults';
}

# A wire to a service that can be cut, an object with endpoint, set, state and stop;
# test/services/wire.py describes what can be set.
#
#   my $wire = start_wire($openai->endpoint);
#   $wire->set(cut => { direction => 'response', after => 2000, mode => 'refuse' });
#   $wire->set(mode => 'pass');
sub start_wire {
    my ($upstream) = @_;
    my %self =
      start_program('python3', "$FOLDER/wire.py", '--upstream', $upstream, '--with-parent');
    return bless \%self, 'Services::Wire';
}

# --- stand-ins -------------------------------------------------------------------------------------

# Objects with the methods of the proxy and those below; %settings as their heads describe them.
sub start_openai { return start_stand_in('openai.py', @_); }

sub start_pinecone { return start_stand_in('pinecone.py', @_); }

sub start_stand_in {
    my ($script, %settings) = @_;
    my %self = start_program('python3', "$FOLDER/$script", '--with-parent', '--settings',
        JSON::PP::encode_json(\%settings));
    return bless \%self, 'Services::StandIn';
}

# A real embedding model behind the protocol of OpenAI, English, of 512 dimensions: an object with
# endpoint, model, api_key, dimensions, counts and stop. Nothing where its packages are not there; then
# $reason, when given, says why. BACMR_MODEL_MODULES: where scripts/npm-packages.sh put them;
# BACMR_MODEL_MISSING: why it could not.
sub start_real_embeddings {
    my ($reason) = @_;
    my $modules = $ENV{BACMR_MODEL_MODULES} // '';
    if (!-d "$modules/\@energetic-ai/embeddings") {
        $$reason = $ENV{BACMR_MODEL_MISSING}
          // 'BACMR_MODEL_MODULES names no folder with @energetic-ai/embeddings'
          if $reason;
        return;
    }
    my %self = start_program('node', "$FOLDER/real_embeddings.mjs", '--with-parent');
    return bless \%self, 'Services::StandIn';
}

# Prism before a stand-in: what departs from the official description, request or answer, becomes
# an error. The URL, or nothing where its packages (BACMR_NODE_MODULES: those of test/contract) or the
# descriptions (BACMR_CONTRACTS) are not there. A path of the description follows the URL itself: no /v1.
#
#   my $url = start_prism('openai-embeddings.json', $openai->endpoint . '/v1', \my $reason);
#   my $url = start_prism('pinecone-data-2025-10.yaml', $pinecone->endpoint, \my $reason);
sub start_prism {
    my ($name, $upstream, $reason) = @_;
    my $program = ($ENV{BACMR_NODE_MODULES} // '') . '/@stoplight/prism-cli/dist/index.js';
    my $description = ($ENV{BACMR_CONTRACTS} // '') . "/$name";
    for ([ $program, 'BACMR_NODE_MODULES' ], [ $description, 'BACMR_CONTRACTS' ]) {
        my ($file, $variable) = @$_;
        next if -e $file;
        $$reason = $ENV{BACMR_PRISM_MISSING} // "$variable names no folder with " . ($file =~ s{^.*/}{}r)
          if $reason;
        return;
    }
    # It chooses no port by itself; and what it logs has to go somewhere as long as it runs.
    my $port = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1)->sockport;
    my $log = File::Temp->new(TEMPLATE => 'prism.XXXXXX', DIR => $WHERE, UNLINK => 0);
    my @command = ('setpriv', '--pdeathsig', 'TERM', 'node', $program, 'proxy', '--errors', '-p', $port,
        $description, $upstream);
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDOUT, '>&', $log or POSIX::_exit(126);
        open STDERR, '>&', $log or POSIX::_exit(126);
        exec { $command[0] } @command or POSIX::_exit(127);
    }
    $proxies{$pid} = 1;
    for (1 .. 150) {
        return "http://127.0.0.1:$port"
          if IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
        select undef, undef, undef, 0.1;
    }
    die 'Prism did not start: ' . $log->filename;
}

# Starts a program that prints name=value lines, "control" the last of them; END ends it.
sub start_program {
    my @command = @_;
    pipe my $lines, my $write or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDOUT, '>&', $write or POSIX::_exit(126);
        exec { $command[0] } @command or POSIX::_exit(127);
    }
    close $write;
    $proxies{$pid} = 1;
    my %self = (pid => $pid);
    while (defined(my $line = <$lines>)) {
        $self{$1} = $2 if $line =~ /^(\w+)=(.*)$/;
        last if exists $self{control};
    }
    exists $self{control} or die "$command[1] did not start";
    return %self;
}

sub end_proxy {
    my ($pid) = @_;
    return unless delete $proxies{$pid};
    local $?;
    kill 'TERM', $pid;
    waitpid $pid, 0;
    return;
}

END {
    # A child that a test has forked ends here as well.
    if ($$ == $OWNER) {
        local $?;
        end_proxy($_) for keys %proxies;
        for my $folder (keys %servers) {
            my ($printed, $status) = run_script($servers{$folder}, 'stop', $folder);
            print STDERR $printed if $status != 0;
        }
    }
}

# HTTP::Tiny tries once more by itself when a connection breaks, by the words of the error: a fault
# that is to happen once would go unseen.
package Services::Once;

use parent -norequire, 'HTTP::Tiny';

sub _request {
    my ($self, @arguments) = @_;
    my $answer = eval { $self->SUPER::_request(@arguments) };
    die "no answer: $@" unless defined $answer;
    return $answer;
}

package Services::Faults;

sub endpoint { return $_[0]{endpoint}; }

# Replaces the rules; none: it behaves again.
sub rules {
    my ($self, @rules) = @_;
    return $self->control('PUT', '/__faults', JSON::PP::encode_json(\@rules));
}

# The rules as they stand, each with what is left of it.
sub left { return $_[0]->control('GET', '/__faults'); }

sub counts { return $_[0]->control('GET', '/__counts'); }

sub requests { return $_[0]->control('GET', '/__requests'); }

sub reset_counts { return $_[0]->control('DELETE', '/__counts'); }

sub stop { return Services::end_proxy($_[0]{pid}); }

sub control {
    my ($self, $method, $path, $content) = @_;
    my $answer = HTTP::Tiny->new(timeout => 10, no_proxy => '127.0.0.1')
      ->request($method, $self->{control} . $path, defined $content ? { content => $content } : {});
    $answer->{success} or die "faults.py: $answer->{status} $answer->{content}";
    return JSON::PP::decode_json($answer->{content});
}

package Services::Wire;

our @ISA = ('Services::Faults');

sub set {
    my ($self, %state) = @_;
    return $self->control('PUT', '/__wire', JSON::PP::encode_json({ mode => 'pass', %state }));
}

sub state { return $_[0]->control('GET', '/__wire'); }

package Services::StandIn;

our @ISA = ('Services::Faults');

# Of the real model's server.
sub model { return $_[0]{model}; }

sub api_key { return $_[0]{api_key}; }

sub dimensions { return $_[0]{dimensions}; }

# Changes the given ones; returns all.
sub settings {
    my ($self, %settings) = @_;
    return $self->control('GET', '/__settings') unless %settings;
    return $self->control('PUT', '/__settings', JSON::PP::encode_json(\%settings));
}

# openai.py: { SHA-256 in hex => how often }, those that were embedded more than $over times.
sub texts { return $_[0]->page('texts', over => $_[1] // 0); }

# pinecone.py, of a namespace: { id => how often it was stored }, those above $over times;
# { id => hash of its values }; { id => { values, metadata } }, of one id or all.
sub ids { return $_[0]->page('ids', namespace => $_[1], over => $_[2] // 0); }

sub dump { return $_[0]->page('dump', namespace => $_[1]); }

sub vectors {
    my ($self, $namespace, $id) = @_;
    return $self->page('vectors', namespace => $namespace, defined $id ? (id => $id) : ());
}

sub page {
    my ($self, $name, %query) = @_;
    my @pairs = map {
        utf8::encode(my $value = $query{$_} // '');
        "$_=" . Services::encode($value);
    } sort keys %query;
    return $self->control('GET', "/__$name?" . join '&', @pairs);
}

1;
