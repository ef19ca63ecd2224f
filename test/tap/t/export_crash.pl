# Exports and imports that are struck down at some moment: nothing that looks complete is left of
# them, the data are as they were, and the next run cleans up and works.
use strict;
use warnings;
use BacmrTest;
use Exports;
use Test::More;
use Time::HiRes qw(sleep time);

# 200 MB of NDJSON and more.
use constant COPIES => 44;

my $node = new_server('main');
app_database($node, 'app');
load_handbook($node, 'app', COPIES);
$node->safe_psql('app', 'CREATE TABLE few AS SELECT * FROM chunks LIMIT 100; VACUUM ANALYZE chunks');
my $folder = artifact_folder($node, 'app');
my $rows = $node->safe_psql('app', 'SELECT count(*) FROM chunks');
my ($whole, undef, undef, undef, $bytes, $sha256) = export_to($node, 'app');
cmp_ok($bytes, '>', 200_000_000, 'an export that takes a while');

# How an export may be ended: from outside, given the session. What it leaves hidden on disk (by a
# process that has no time for anything), and whether the server has to be waited for.
my %strike = (
    SIGKILL => { hidden => 1, do => sub { kill 'KILL', backend_of($_[0]) or die "kill: $!" } },
    SIGTERM => { hidden => 1, do => sub { kill 'TERM', backend_of($_[0]) or die "kill: $!" } },
    cancel => { do => sub { kill 'INT', backend_of($_[0]) or die "kill: $!" } },
    statement_timeout => { timeout => 1 },
    'immediate shutdown' => { hidden => 1, do => sub { $node->stop('immediate'); $node->start } });

# Waits for a condition without the pauses of await(): the moment passes quickly.
sub until_true {
    my ($condition) = @_;
    my $end = time + 30;
    until ($condition->()) {
        return 0 if time > $end;
        sleep 0.001;
    }
    return 1;
}

sub server_is_back {
    my ($what) = @_;
    return await_sql($node, 'app', 'SELECT true', "$what: the server is there");
}

# --- exports -------------------------------------------------------------------------------------

sub hidden_size {
    my ($file) = hidden_files($folder);
    return defined $file ? (-s "$folder/$file" // 0) : -1;
}

# $from: the size of the hidden file from which on it is struck.
sub strike_export {
    my ($how, $from) = @_;
    my $strike = $strike{$how};
    my $what = sprintf '%s at %d MB', $how, $from / 1_000_000;
    my @before = names_in($folder);
    my $session = open_session($node, 'app');
    run_in($session, q{SET statement_timeout = '150ms'}) if $strike->{timeout};
    send_sql($session, 'SELECT bacmr_export_chunks()');
    if ($strike->{do}) {
        ok(until_true(sub { hidden_size() >= $from }), "$what: in the midst of it");
        $strike->{do}->($session);
    }
    answer_of($session);
    isnt($session->{err}, '', "$what: the export has failed");
    like($session->{err}, qr/ERROR:  57014: /, "$what: as cancelled") unless $strike->{hidden};
    close_session($session);
    server_is_back($what);
    # A backend that was terminated may take a moment.
    await("$what: nobody exports any more", sub {
        $node->safe_psql('app', q{SELECT count(*) FROM pg_stat_activity
            WHERE query = 'SELECT bacmr_export_chunks();'}) == 0;
    });
    my @left = grep { my $name = $_; !grep { $_ eq $name } @before } names_in($folder);
    is(join(' ', grep { !/^\./ } @left), '', "$what: no visible file is left");
    is(join(' ', grep { /^\./ } @left), '', "$what: nor a hidden one") unless $strike->{hidden};
    is($node->safe_psql('app', 'SELECT count(*) FROM chunks'), $rows, "$what: the data are there");
    $node->safe_psql('app', q{SELECT bacmr_export('few', file_name => 'next.ndjson')});
    is(join(' ', hidden_files($folder), lonely_files($folder)), '',
        "$what: the next export works, and has swept what was hidden");
    is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run WHERE status = 'running'}),
        0, "$what: no run is left running");
    unlink map { "$folder/next.ndjson$_" } '', '.manifest.json';
    return;
}

strike_export($_, 0) for sort grep { $strike{$_}{do} } keys %strike;
strike_export($_, $bytes / 2) for 'SIGKILL', 'SIGTERM', 'cancel', 'immediate shutdown';
strike_export('statement_timeout', 0);

# While it is published, in which there are two names to give: whatever the moment, a manifest stands
# beside a whole file, and after the next export a file never stands alone.
for my $how ('SIGKILL', 'SIGTERM', 'cancel', 'SIGKILL') {
    my $session = open_session($node, 'app');
    send_sql($session, q{SELECT bacmr_export_chunks(file_name => 'late.ndjson')});
    until_true(sub { -e "$folder/.late.ndjson.manifest.json." . backend_of($session) . '.tmp' });
    $strike{$how}{do}->($session);
    answer_of($session);
    close_session($session);
    server_is_back("$how at the end");
    is(join(' ', grep { /\.manifest\.json$/ } lonely_files($folder)), '',
        "$how at the end: no manifest stands alone");
    $node->safe_psql('app', q{SELECT bacmr_export('few', file_name => 'next.ndjson')});
    is(join(' ', hidden_files($folder), lonely_files($folder)), '',
        "$how at the end: nor does a file, once it has been swept");
    if (-e "$folder/late.ndjson") {
        is($node->safe_psql('app', q{SELECT ok FROM bacmr_verify_export('late.ndjson')}), 't',
            "$how at the end: the file that is there is whole");
    }
    unlink map { ("$folder/$_", "$folder/$_.manifest.json") } 'late.ndjson', 'next.ndjson';
}

# --- the scheduled run ---------------------------------------------------------------------------

{
    my $session = open_session($node, 'app');
    send_sql($session, q{CALL bacmr_run_job('export')});
    ok(until_true(sub { hidden_size() > 50_000_000 }), 'a scheduled run is in the midst of it');
    is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run WHERE status = 'running'}),
        1, 'and says so');
    kill 'KILL', backend_of($session) or die "kill: $!";
    answer_of($session);
    close_session($session);
    server_is_back('after the kill');
    $node->safe_psql('app', q{CALL bacmr_run_job('export', '{"relation": "public.few"}')});
    is($node->safe_psql('app', q{SELECT string_agg(status || coalesce(': ' || error, ''), ', '
           ORDER BY run_id) FROM (SELECT * FROM bacmr_job_run WHERE job = 'export'
           ORDER BY run_id DESC LIMIT 2) r}),
        'failed: the process that ran this job is gone (crash, restart or kill), succeeded',
        'the dead run is failed, and the next one works');
    is(join(' ', hidden_files($folder), lonely_files($folder)), '', 'with nothing left behind');
}

# --- imports -------------------------------------------------------------------------------------

is(file_sha256("$folder/$whole"), $sha256, 'the first export has stood through it all');
$node->safe_psql('app', 'TRUNCATE chunks; CHECKPOINT');
my $heap = $node->data_dir . '/'
  . $node->safe_psql('app', q{SELECT pg_relation_filepath('chunks')});

sub strike_import {
    my ($how) = @_;
    my $strike = $strike{$how};
    my $session = open_session($node, 'app');
    run_in($session, q{SET statement_timeout = '1s'}) if $strike->{timeout};
    my $before = -s $heap;
    send_sql($session, "SELECT bacmr_import_chunks('$whole')");
    if ($strike->{do}) {
        ok(until_true(sub { -s $heap > $before + 20_000_000 }), "$how: in the midst of an import");
        $strike->{do}->($session);
    }
    answer_of($session);
    isnt($session->{err}, '', "$how: the import has failed");
    close_session($session);
    server_is_back($how);
    is($node->safe_psql('app', 'SELECT count(*) FROM chunks'), 0, "$how: not a row is there");
    is($node->safe_psql('app', q{SELECT count(*) FROM bacmr_job_run WHERE status = 'running'}),
        0, "$how: no run is left running");
    return;
}

strike_import($_) for sort keys %strike;
$node->safe_psql('app', 'VACUUM chunks');
is($node->safe_psql('app', "SELECT inserted FROM bacmr_import_chunks('$whole')"), $rows,
    'and in the end it is imported');
is($node->safe_psql('app', "SELECT ok FROM bacmr_restore_drill('$whole')"), 't', 'row for row');

$node->stop;
done_testing();
