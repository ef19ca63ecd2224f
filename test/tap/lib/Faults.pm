# What the tests of faults share: a load of all jobs that goes on whatever becomes of the server, ways to
# strike it, and the question whether the money is right.
package Faults;

use strict;
use warnings;
use BacmrTest;
use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  seeded pick in_loop psql_once end_loops ask backend_running kill_pid kill_postmaster server_is_back
  money_is_right history_is_right dead_run running_runs
  small_disks in_disks start_on_disks fill_disk free_disk
);

# --- chance --------------------------------------------------------------------------------------

sub seeded {
    my $seed = $ENV{BACMR_TEST_SEED} // time % 1_000_000_000;
    srand $seed;
    note "seed $seed (BACMR_TEST_SEED=$seed repeats its choices)";
    return;
}

sub pick { return $_[ int rand @_ ]; }

# --- loops ---------------------------------------------------------------------------------------

sub halt_file { return "${PostgreSQL::Test::Utils::tmp_check}/halt"; }

my $owner = $$;
my %loops;    # process id => 1
my $holder;   # of the small disks

# Does it again and again in a process of its own, until end_loops() or the end of the test.
sub in_loop {
    my ($code) = @_;
    my $seed = int rand 1e9;
    my $pid = fork // die "fork: $!";
    if ($pid) {
        $loops{$pid} = 1;
        return;
    }
    srand $seed;
    open STDOUT, '>', '/dev/null' or POSIX::_exit(1);
    open STDERR, '>&', \*STDOUT or POSIX::_exit(1);
    my $halt = halt_file();
    until (-e $halt || getppid != $owner) {
        eval { $code->() };
        sleep 0.02;
    }
    POSIX::_exit(0);
}

# For loops: one command in a session of that name, whatever becomes of it. Returns what it prints.
sub psql_once {
    my ($node, $database, $name, $sql) = @_;
    local $ENV{PGAPPNAME} = $name;
    my ($out, $err) = ('', '');
    IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr($database), '-c', $sql ],
        '<', \'', '>', \$out, '2>', \$err);
    return $out =~ s/\n\z//r;
}

sub end_loops {
    append_to_file(halt_file(), '');
    waitpid $_, 0 for keys %loops;
    %loops = ();
    return;
}

END {
    local $?;
    if ($$ == $owner && $holder) {
        kill 'KILL', $holder;
        waitpid $holder, 0;
    }
    if ($$ == $owner && %loops) {
        append_to_file(halt_file(), '');
        waitpid $_, 0 for keys %loops;
    }
}

# --- strikes -------------------------------------------------------------------------------------

# A query that may fail, since the server may be away: '' then.
sub ask {
    my ($node, $database, $sql) = @_;
    my ($out, $err);
    $node->psql($database, $sql, stdout => \$out, stderr => \$err, on_error_stop => 0);
    return $out // '';
}

# The process id of a session that runs a command LIKE that, or 0.
sub backend_running {
    my ($node, $database, $like) = @_;
    return ask($node, $database, "SELECT pid FROM pg_stat_activity WHERE query LIKE \$q\$$like\$q\$"
          . q{ AND state = 'active' AND pid <> pg_backend_pid() LIMIT 1}) || 0;
}

# Never process 0, which would be this test itself.
sub kill_pid {
    my ($pid, $signal) = @_;
    return $pid && $pid > 1 && kill $signal // 'KILL', $pid;
}

# The postmaster first: nobody puts things in order for it.
sub kill_postmaster {
    my ($node, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $node->kill9;
    start_again($node, "$what: the server starts again");
    return;
}

sub server_is_back {
    my ($node, $database, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return await_sql($node, $database, 'SELECT true', "$what: the server is back");
}

# --- small disks ---------------------------------------------------------------------------------

# Where an ordinary user may make name spaces, a process holds one with small file systems in it, and
# the server is started there.

# Mounts a small file system for each folder (folder => size). False where that cannot be.
sub small_disks {
    my (%sizes) = @_;
    pipe my $lines, my $write or die "pipe: $!";
    my $mounts = join ' && ', map { "mount -t tmpfs -o size=$sizes{$_} none '$_'" } sort keys %sizes;
    $holder = fork // die "fork: $!";
    if ($holder == 0) {
        open STDOUT, '>&', $write or POSIX::_exit(1);
        open STDERR, '>', '/dev/null' or POSIX::_exit(1);
        # It ends with the test, however that ends.
        exec { 'setpriv' } 'setpriv', '--pdeathsig', 'KILL', 'unshare', '--user', '--map-current-user',
          '--mount', '--keep-caps', 'bash', '-c', "$mounts && echo ready && exec sleep 3600"
          or POSIX::_exit(1);
    }
    close $write;
    my $good = defined(my $line = <$lines>);
    if (!$good) {
        waitpid $holder, 0;
        undef $holder;
    }
    return $good;
}

# Runs a command where the disks are; dies when it fails.
sub in_disks {
    my @command = @_;
    return system_or_bail('nsenter', '--preserve-credentials', '--user', '--mount', '-t', $holder,
        @command);
}

sub start_on_disks {
    my ($node) = @_;
    in_disks('pg_ctl', '-w', '-s', '-t', 60, '-D', $node->data_dir, '-l', $node->logfile, 'start');
    $node->_update_pid(1);
    return;
}

# Takes all the space that is left.
sub fill_disk {
    my ($folder) = @_;
    in_disks('bash', '-c', 'dd if=/dev/zero of="$0/filler" bs=4k 2>/dev/null; test -s "$0/filler"',
        $folder);
    return;
}

sub free_disk {
    my ($folder) = @_;
    in_disks('rm', "$folder/filler");
    return;
}

# --- what must hold ------------------------------------------------------------------------------

# Holds in each snapshot, also while the application is at work.
sub money_is_right {
    my ($node, $database, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is($node->safe_psql($database, <<'SQL'), '0 0 0 0', "$what: the money is right");
SELECT concat_ws(' ',
  -- wallets that are not the sum of their ledger
  (SELECT count(*) FROM wallet FULL JOIN
     (SELECT user_id, sum(delta) AS s FROM wallet_ledger GROUP BY user_id) l USING (user_id)
   WHERE token_balance IS DISTINCT FROM s),
  -- reservations that were refunded twice
  (SELECT count(*) FROM (SELECT FROM wallet_ledger WHERE reason = 'reservation_expired'
     GROUP BY reservation_id HAVING count(*) > 1) twice),
  -- expired without their refund, or refunded without having expired
  (SELECT count(*) FROM reservations r FULL JOIN
     (SELECT * FROM wallet_ledger WHERE reason = 'reservation_expired') l ON l.reservation_id = r.id
   WHERE (r.status = 'expired' OR l.id IS NOT NULL)
     AND (r.status = 'expired' AND l.delta = r.amount) IS NOT TRUE),
  -- reservations that are lost
  (SELECT count(*) FILTER (WHERE reason = 'reserved') FROM wallet_ledger)
    - (SELECT count(*) FROM reservations))
SQL
}

# The ids of the runs that are under way.
sub running_runs {
    my ($node, $database) = @_;
    return split /\n/, ask($node, $database,
        q{SELECT run_id FROM bacmr_job_run WHERE status = 'running' ORDER BY run_id});
}

use constant GONE => 'the process that ran this job is gone (crash, restart or kill)';

# The runs that were under way when the server was struck have an end, and say which.
sub history_is_right {
    my ($node, $database, $what, @runs) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return pass("$what: no run was under way") unless @runs;
    my $list = join ', ', @runs;
    return await_sql($node, $database, <<"SQL", "$what: runs that were under way ($list) say how they ended");
SELECT count(*) = @{[ scalar @runs ]} AND bool_and(finished_at IS NOT NULL AND (status IN
    ('succeeded', 'discrepancies') OR status = 'failed' AND length(error) > 10))
FROM bacmr_job_run WHERE run_id IN ($list)
SQL
}

# The run is recorded as failed because its process has gone.
sub dead_run {
    my ($node, $database, $run, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $gone = GONE;
    return await_sql($node, $database, <<"SQL", "$what: its run is failed, and says that its process is gone");
SELECT status = 'failed' AND finished_at IS NOT NULL AND error = '$gone'
FROM bacmr_job_run WHERE run_id = $run
SQL
}

1;
