# An export beside an application at work: it blocks nobody who reads or writes, shows one moment of
# the table, and is the only one of its kind.
use strict;
use warnings;
use BacmrTest;
use Exports;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(sleep);

# Scans that begin at the beginning, and not where another one is just reading.
my $node = new_server('main', conf => ['synchronize_seqscans = off']);
app_database($node, 'app');
load_handbook($node, 'app', 12);
$node->safe_psql('app', 'CREATE TABLE few AS SELECT * FROM chunks LIMIT 100; VACUUM ANALYZE chunks');
$node->safe_psql('app', 'CREATE TABLE before AS SELECT * FROM chunks');
my $folder = artifact_folder($node, 'app');
my $store = $node->basedir . '/store';
mkdir $store or die "$store: $!";
$node->safe_psql('app', <<"SQL");
CREATE SERVER store FOREIGN DATA WRAPPER bacmr_blob_store OPTIONS (type 'file', directory '$store');
SET bacmr.blob_store = 'store';
SELECT bacmr_export('few', 'store', file_name => 'few.ndjson');
ALTER DATABASE app SET bacmr.blob_store = 'bacmr_artifacts';
SQL

# --- an export that has been stopped in the midst of it -------------------------------------------

# Runs the code while an export of the chunks stands still. Returns the export's answer.
sub beside {
    my ($probe, $code) = @_;
    my $session = open_session($node, 'app');
    my $pid = backend_of($session);
    send_sql($session, q{SELECT chunks FROM bacmr_export_chunks(file_name => 'beside.ndjson')});
    my $file = "$folder/.beside.ndjson.$pid.tmp";
    until ((-s $file // 0) > 0 || is_done($session)) { sleep 0.001; }
    # Stopped at some moment, a process may hold one of the server's inner locks, which in truth it
    # never holds for long. What it does hold for long stands in the way at every moment.
    my $error;
    for (1 .. 10) {
        kill 'STOP', $pid or die "kill: $!";
        $error = error_of($node, 'app', "SET statement_timeout = '2s'; $probe");
        last if $error eq '';
        kill 'CONT', $pid;
        sleep 0.002;
    }
    is($error, '', 'rows are inserted, updated and deleted beside an export');
    eval { $code->($pid); 1 } or fail("beside an export: $@");
    kill 'CONT', $pid;
    my $answer = answer_of($session);
    is($session->{err}, '', 'the export goes on to its end');
    close_session($session);
    return $answer;
}

my $rows = $node->safe_psql('app', 'SELECT count(*) FROM chunks');
my $writes = <<'SQL';
BEGIN;
INSERT INTO chunks (namespace, content) SELECT 'late', 'late ' || n FROM generate_series(1, 100) n;
UPDATE chunks SET content = 'changed' WHERE chunk_index = 5;
DELETE FROM chunks WHERE chunk_index = 6;
COMMIT;
SQL
my $exported = beside($writes, sub {
    my ($pid) = @_;
    ok(hidden_files($folder) > 0, 'an export stands still half-way');
    is($node->safe_psql('app', qq{SELECT DISTINCT mode FROM pg_locks
           WHERE pid = $pid AND locktype = 'relation' AND relation = 'chunks'::regclass}),
        'AccessShareLock', 'it holds no more than ACCESS SHARE on the table');

    my $error = error_of($node, 'app', q{SELECT bacmr_export('few')});
    like($error, qr/ERROR:  55P03: the job "export" is already running/, 'a second one: 55P03');
    like($error, qr/HINT: .*bacmr_status/, 'with a hint');
    is(error_of($node, 'app', q{CALL bacmr_run_job('export')}), '', 'a scheduled run meanwhile');
    is($node->safe_psql('app', q{SELECT status FROM bacmr_job_run WHERE job = 'export'
           ORDER BY run_id DESC LIMIT 1}), 'skipped', 'is skipped');

    is($node->safe_psql('app', q{SELECT count(*) FILTER (WHERE namespace = 'late') = 100,
           count(*) FILTER (WHERE content = 'changed') > 100 FROM chunks}),
        't|t', 'what was written is there');
    is(error_of($node, 'app', q{SET statement_timeout = '10s'; CREATE INDEX ON chunks (chunk_index)}),
        '', 'and an index is built');

    # Whoever fetches a file sweeps the folder first.
    is($node->safe_psql('app', q{SELECT ok FROM bacmr_verify_export('store/app/few.ndjson')}), 't',
        'another session fetches an export');
    is(scalar(grep { /^\.beside/ } hidden_files($folder)), 1, 'and leaves the file that is in use alone');

    for my $command ('DROP TABLE chunks', 'ALTER TABLE chunks ADD COLUMN x int', 'TRUNCATE chunks') {
        like(error_of($node, 'app', "SET lock_timeout = '200ms'; $command"),
            qr/ERROR:  55P03: canceling statement due to lock timeout/, "$command has to wait");
    }
});
is($exported, $rows, 'it holds as many rows as there were');
is($node->safe_psql('app', q{SELECT ok FROM bacmr_verify_export('beside.ndjson')}), 't', 'and is whole');
is($node->safe_psql('app', q{SELECT missing > 100, different > 100, extra
       FROM bacmr_restore_drill('beside.ndjson')}),
    't|t|100', 'what was written meanwhile is not in it');
$node->safe_psql('app', q{TRUNCATE chunks; SELECT bacmr_import_chunks('beside.ndjson')});
is(differing_rows($node, 'app', 'before', 'chunks'), 0, 'every row is as it was when it began');
is(error_of($node, 'app', q{ALTER TABLE chunks ADD COLUMN x int; ALTER TABLE chunks DROP COLUMN x}),
    '', 'and afterwards the table can be altered');

# One that waited for the export gets its turn, and an export that waits for a lock can be cancelled.
my $holder = open_session($node, 'app');
run_in($holder, $_) for 'BEGIN', 'LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE';
like(error_of($node, 'app', q{SET statement_timeout = '300ms'; SELECT bacmr_export_chunks()}),
    qr/ERROR:  57014: /, 'an export that has to wait for the table can be cancelled');
run_in($holder, 'ROLLBACK');
close_session($holder);
is(join(' ', hidden_files($folder)), '', 'and leaves nothing');

# --- a scheduled run while the application writes -------------------------------------------------

$node->safe_psql('app', <<'SQL');
CREATE TABLE stop ();
CREATE SEQUENCE written;
CREATE PROCEDURE write_on(worker int) LANGUAGE plpgsql AS $$
BEGIN
  WHILE NOT EXISTS (SELECT FROM pg_class WHERE relname = 'stopped') LOOP
    INSERT INTO chunks (namespace, content, chunk_index) VALUES ('writer', 'w' || worker, worker);
    UPDATE chunks SET content = content || '.', updated_at = clock_timestamp()
      WHERE id = (SELECT id FROM before OFFSET (random() * 5000)::int LIMIT 1);
    DELETE FROM chunks WHERE id = (SELECT id FROM before OFFSET 6000 + (random() * 5000)::int LIMIT 1);
    PERFORM nextval('written');
    COMMIT;
  END LOOP;
END $$;
SQL
my @writers = map { in_background($node, 'app', "CALL write_on($_)") } 1, 2;
await_sql($node, 'app', q{SELECT last_value > 20 FROM written}, 'two sessions write');
my $file;
for my $run (1 .. 3) {
    my $before = $node->safe_psql('app', 'SELECT last_value FROM written');
    is(error_of($node, 'app', q{CALL bacmr_run_job('export')}), '', "run $run succeeds");
    cmp_ok($node->safe_psql('app', 'SELECT last_value FROM written'), '>', $before + 5,
        "run $run: while they wrote");
    my $detail = JSON::PP::decode_json($node->safe_psql('app', q{SELECT detail FROM bacmr_job_run
        WHERE job = 'export' ORDER BY run_id DESC LIMIT 1}));
    my $drill = $detail->{steps}{drill};
    $file //= $detail->{file};
    is(join(' ', map { $drill->{$_} } qw(missing different extra)), '0 0 0',
        "run $run: the drill, in the export's snapshot, finds no difference");
    is($drill->{rows}, $detail->{rows}, "run $run: in as many rows as were written");
}
await_sql($node, 'app', qq{SELECT missing > 0 AND different > 0 AND extra > 0
    FROM bacmr_restore_drill('$file')}, 'one in a later snapshot does: it is the comparison that works');
$node->safe_psql('app', 'CREATE TABLE stopped ()');
for my $writer (@writers) {
    my (undef, $err) = wait_for_end($writer);
    is($err, '', 'a writer was never disturbed');
}

$node->stop;
done_testing();
