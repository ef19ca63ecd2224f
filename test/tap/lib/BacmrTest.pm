# What the whole-server tests share: a server that preloads bacmr_ops, a small application with
# wallets, and ways to wait for a condition instead of a time.
package BacmrTest;

use strict;
use warnings;
use Exporter 'import';
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  new_server app_database give_wallets reserve await await_sql error_of log_entries log_size
  start_again worker_pid balances_agree refunded_twice user_id in_background wait_for_end
);

# Generous: it only decides how long a failure takes to show.
use constant DEADLINE_S => 45;

# A server that preloads bacmr_ops; %options: preload (other libraries), streaming, conf (lines),
# install_path (of another installation).
sub new_server {
    my ($name, %options) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name,
        $options{install_path} ? (install_path => $options{install_path}) : ());
    $node->init(
        allows_streaming => $options{streaming} // 0,
        extra => [ '--locale=C', '--encoding=UTF8' ]);
    my $libraries = join ', ', 'bacmr_ops', @{ $options{preload} // [] };
    $node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = '$libraries'
restart_after_crash = on
log_statement = none
log_min_duration_statement = -1
shared_buffers = '16MB'
max_connections = 30
timezone = 'UTC'
CONF
    $node->append_conf('postgresql.conf', $_) for @{ $options{conf} // [] };
    $node->start;
    return $node;
}

# After the postmaster was killed. Its other processes notice by themselves; until they have, no server
# starts here.
sub start_again {
    my ($node, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    await($what, sub {
        return 1 if $node->start(fail_ok => 1);
        # It has found the old server's pid file, and takes that for a server.
        $node->{_pid} = undef;
        return 0;
    });
    return;
}

# A database with the extension, the reference tables, and an application that reserves tokens.
sub app_database {
    my ($node, $database) = @_;
    my $quoted = $database =~ s/"/""/gr;
    $node->safe_psql('postgres', qq{CREATE DATABASE "$quoted"});
    $node->safe_psql($database, <<'SQL');
CREATE EXTENSION bacmr_ops;
SELECT bacmr_create_tables();
-- It would hide a second refund behind an error.
DROP INDEX wallet_ledger_reservation_expired_key;

CREATE FUNCTION u(n int) RETURNS uuid LANGUAGE sql IMMUTABLE
RETURN ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid;

CREATE FUNCTION deposit(n int, tokens bigint) RETURNS void LANGUAGE sql
BEGIN ATOMIC
  INSERT INTO wallet AS w (user_id, token_balance) VALUES (u(n), tokens)
    ON CONFLICT (user_id) DO UPDATE SET token_balance = w.token_balance + excluded.token_balance;
  INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(n), tokens, 'deposit');
END;

-- The tokens leave the wallet, and enter the ledger, as they are reserved.
CREATE FUNCTION reserve(n int, tokens bigint, due interval) RETURNS uuid LANGUAGE sql
BEGIN ATOMIC
  UPDATE wallet SET token_balance = token_balance - tokens WHERE user_id = u(n);
  INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(n), -tokens, 'reserved');
  INSERT INTO reservations (user_id, amount, expires_at)
    VALUES (u(n), tokens, clock_timestamp() + due) RETURNING id;
END;
SQL
    return;
}

# Wallets of users 1 … $count with 1000 tokens each.
sub give_wallets {
    my ($node, $database, $count) = @_;
    $node->safe_psql($database, "SELECT deposit(n, 1000) FROM generate_series(1, $count) n");
    return;
}

# User $n reserves $tokens tokens, due $due from now (an interval, negative: already due).
sub reserve {
    my ($node, $database, $n, $tokens, $due) = @_;
    return $node->safe_psql($database, "SELECT reserve($n, $tokens, '$due')");
}

sub user_id { return sprintf '00000000-0000-0000-0000-%012d', $_[0]; }

# Passes as soon as the code returns something true, fails when it has not by the deadline.
sub await {
    my ($what, $code, $deadline_s) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $end = time + ($deadline_s // DEADLINE_S);
    my $result;
    while (!($result = $code->()) && time < $end) { sleep 0.1; }
    return ok($result, $what) ? $result : undef;
}

# The same for a query that must return t. A server that is restarting counts as "not yet".
sub await_sql {
    my ($node, $database, $sql, $what, $deadline_s) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($out, $err);
    my $good = await(
        $what,
        sub {
            $node->psql($database, $sql, stdout => \$out, stderr => \$err, on_error_stop => 0);
            return ($out // '') eq 't';
        },
        $deadline_s);
    diag("the last answer was: $out$err") unless $good;
    return $good;
}

# What psql says about the error of a statement, with its SQLSTATE; '' when there was none.
sub error_of {
    my ($node, $database, $sql, @psql_options) = @_;
    my ($out, $err);
    my $status = $node->psql(
        $database, $sql,
        stdout => \$out,
        stderr => \$err,
        on_error_stop => 1,
        extra_params => [ '-v', 'VERBOSITY=verbose', @psql_options ]);
    return $status == 0 ? '' : $err;
}

sub log_size { return -s $_[0]->logfile; }

# The JSON lines that bacmr_ops has logged since $offset, decoded.
sub log_entries {
    my ($node, $offset) = @_;
    my @entries;
    for my $line (split /\n/, slurp_file($node->logfile, $offset // 0)) {
        next unless $line =~ /LOG:  (\{"timestamp".*\})\s*$/;
        push @entries, JSON::PP::decode_json($1);
    }
    return @entries;
}

# The worker's process id once it has looked around; 0 when there is none.
sub worker_pid {
    my ($node, $database) = @_;
    my $out;
    $node->psql(
        'postgres',
        "SELECT pid FROM pg_stat_activity WHERE datname = '$database'"
          . " AND backend_type = 'bacmr_ops worker'",
        stdout => \$out,
        on_error_stop => 0);
    return $out || 0;
}

# Whether every wallet equals the sum of its ledger.
sub balances_agree {
    my ($node, $database, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(
        $node->safe_psql(
            $database,
            'SELECT count(*) FROM wallet FULL JOIN'
              . ' (SELECT user_id, sum(delta) AS s FROM wallet_ledger GROUP BY user_id) l'
              . ' USING (user_id) WHERE token_balance IS DISTINCT FROM s'),
        0,
        $what // 'every balance is the sum of its ledger');
}

sub refunded_twice {
    my ($node, $database) = @_;
    return $node->safe_psql($database,
        q{SELECT count(*) FROM (SELECT 1 FROM wallet_ledger WHERE reason = 'reservation_expired'}
          . q{ GROUP BY reservation_id HAVING count(*) > 1) twice});
}

# Runs one statement in a session of its own, which need not end well. Returns a handle for
# wait_for_end().
sub in_background {
    my ($node, $database, $sql) = @_;
    my %child = (out => '', err => '');
    $child{run} = IPC::Run::start(
        [ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr($database), '-c', $sql ],
        '<', \'', '>', \$child{out}, '2>', \$child{err}, IPC::Run::timeout(120));
    return \%child;
}

# What the statement's session printed: (stdout, stderr).
sub wait_for_end {
    my ($child) = @_;
    $child->{run}->finish;
    return ($child->{out}, $child->{err});
}

1;
