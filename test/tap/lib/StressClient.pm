# A connection for the stress test: statements one by one over the server's own protocol, what became
# of each, and no end of the test where the server ends the connection.
package StressClient;

use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;
use Time::HiRes qw(time);

# %where: host (the socket's folder), port, database, name (application_name).
sub new {
    my ($class, %where) = @_;
    return bless {%where}, $class;
}

# True once the server has said that it is ready for a query.
sub connect {
    my ($self) = @_;
    $self->close;
    my $socket = IO::Socket::UNIX->new(Peer => "$self->{host}/.s.PGSQL.$self->{port}") or return 0;
    binmode $socket;
    $self->{socket} = $socket;
    $self->{buffer} = '';
    my $startup = pack 'N', 196608;
    $startup .= join "\0", user => 'postgres', database => $self->{database},
      application_name => $self->{name}, client_encoding => 'UTF8', '', '';
    syswrite $socket, pack('N', 4 + length $startup) . $startup;
    return $self->answer(60)->{state} eq 'ready';
}

sub close {
    my ($self) = @_;
    CORE::close(delete $self->{socket}) if $self->{socket};
    return;
}

sub connected { return defined $_[0]{socket}; }

# Whether the session is in a transaction, good or failed, as of the last answer.
sub in_transaction { return ($_[0]{transaction} // 'I') ne 'I'; }

# Sends one statement and waits for its end, $limit_s seconds at the most. Returns {state, sqlstate,
# message}; state: ready, lost (the server has closed the connection), stuck.
sub query {
    my ($self, $sql, $limit_s) = @_;
    return { state => 'lost', sqlstate => '08003', message => 'not connected' }
      unless $self->{socket};
    utf8::encode($sql) if utf8::is_utf8($sql);
    local $SIG{PIPE} = 'IGNORE';
    my $message = 'Q' . pack('N', 5 + length $sql) . $sql . "\0";
    while (length $message) {
        my $sent = syswrite $self->{socket}, $message;
        last unless defined $sent;    # the answer tells why
        substr $message, 0, $sent, '';
    }
    return $self->answer($limit_s);
}

# Reads until the server is ready for the next query.
sub answer {
    my ($self, $limit_s) = @_;
    my %answer = (state => '', sqlstate => '', message => '');
    my $end = time + $limit_s;
    my $select = IO::Select->new($self->{socket});
    while (1) {
        while (my ($type, $body) = $self->take_message) {
            if ($type eq 'E') {
                my %field = map { substr($_, 0, 1) => substr $_, 1 } grep { length } split /\0/, $body;
                @answer{qw(sqlstate message)} = @field{qw(C M)};
            } elsif ($type eq 'Z') {
                $self->{transaction} = $body;
                return { %answer, state => 'ready' };
            }
        }
        my $left = $end - time;
        return { %answer, state => 'stuck' } if $left <= 0;
        next unless $select->can_read($left);
        my $got = sysread $self->{socket}, $self->{buffer}, 65536, length $self->{buffer};
        if (!$got) {
            $self->close;
            $self->{transaction} = 'I';
            return { %answer, state => 'lost', sqlstate => $answer{sqlstate} || '08006' };
        }
    }
}

# (type, body) of the next whole message, nothing if it has not arrived yet.
sub take_message {
    my ($self) = @_;
    return if length $self->{buffer} < 5;
    my ($type, $length) = unpack 'aN', $self->{buffer};
    return if length $self->{buffer} < 1 + $length;
    my $body = substr $self->{buffer}, 5, $length - 4;
    substr $self->{buffer}, 0, 1 + $length, '';
    return ($type, $body);
}

1;
