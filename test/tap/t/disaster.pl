# The disasters of docs/runbooks.md: data is destroyed, and recovered with the very commands that stand
# there, so that the page cannot rot. What is recovered must equal what was lost row for row, and
# every block that is marked for this test must have been used. The checks of docs/exports.md too.
#
# The seconds of each step are notes; the page states those of a run with BACMR_DISASTER_CHUNKS=100000.
use strict;
use warnings;
use BacmrTest;
use DocBlocks;
use File::Path qw(remove_tree);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $CHUNKS = $ENV{BACMR_DISASTER_CHUNKS} || 10_000;
my $WALLETS = 10_000;

# --- the pages -----------------------------------------------------------------------------------

my $docs = DocBlocks->new('app', qw(runbooks.md exports.md));
my $values = $docs->values;

# step(NODE, BLOCK, WITHOUT): see DocBlocks.
sub step {
    my ($node, $name, $without) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return $docs->step($node, $name, without => $without);
}

sub fill_in { $docs->fill_in(@_); return; }

# --- the application -----------------------------------------------------------------------------

my @TABLES = qw(chunks wallet wallet_ledger reservations);

# Every row of a table, as a number and a checksum.
sub rows_of {
    my ($node, $table) = @_;
    return $node->safe_psql('app',
        "SELECT count(*), md5(coalesce(string_agg(md5(t::text), '' ORDER BY md5(t::text)), ''))"
          . " FROM $table t");
}

sub all_rows { my ($node) = @_; return { map { $_ => rows_of($node, $_) } @TABLES }; }

# Texts of about a kilobyte in French and Arabic, of three namespaces, in no order of their ids.
sub add_chunks {
    my ($node, $from, $to) = @_;
    $node->safe_psql('app', <<"SQL");
INSERT INTO chunks (id, namespace, document_id, chunk_index, content, metadata, token_count)
SELECT md5('chunk' || n)::uuid, 'grade-' || 10 + n % 3 || '-math', md5('document' || n / 20)::uuid, n % 20,
  (SELECT string_agg(CASE WHEN n % 2 = 0 THEN f[1 + (n * 7 + w * w) % 8] ELSE a[1 + (n * 5 + w * w) % 6] END
      || ' ' || substr(md5(n::text || w), 1, 4), ' ' ORDER BY w) FROM generate_series(1, 70) w),
  CASE n % 1000 WHEN 0 THEN 'null' ELSE jsonb_build_object('lang', CASE n % 2 WHEN 0 THEN 'fr' ELSE 'ar' END,
      'page', n % 300, 'title', E'L''élève\\n«exercice»') END, 200 + n % 50
FROM generate_series($from, $to) n,
  (SELECT '{théorème,dérivée,intégrale,«suite»,où,élève,"l''équation",continuité}'::text[] f,
      '{الدالة,المشتقة,التكامل,المتتالية,البرهان,المعادلة}'::text[] a) words
SQL
    return;
}

# What people do with wallets: deposits, open reservations, and one that has expired.
sub use_wallets {
    my ($node, $from, $to) = @_;
    $node->safe_psql('app', <<"SQL");
BEGIN;
INSERT INTO wallet SELECT md5('user' || n)::uuid, 1000 FROM generate_series($from, $to) n;
INSERT INTO wallet_ledger (user_id, delta, reason)
  SELECT md5('user' || n)::uuid, 1000, 'deposit' FROM generate_series($from, $to) n;
UPDATE wallet SET token_balance = token_balance - 30
  WHERE user_id IN (SELECT md5('user' || n)::uuid FROM generate_series($from, $to, 10) n);
INSERT INTO wallet_ledger (user_id, delta, reason)
  SELECT md5('user' || n)::uuid, -30, 'reserved' FROM generate_series($from, $to, 10) n;
INSERT INTO reservations (user_id, amount, expires_at)
  SELECT md5('user' || n)::uuid, 30, now() + CASE WHEN n = $from THEN '-1 s' ELSE '1 day' END::interval
  FROM generate_series($from, $to, 10) n;
COMMIT;
SQL
    await_sql($node, 'app', q{SELECT NOT EXISTS (SELECT FROM reservations
        WHERE status = 'reserved' AND expires_at < now())}, 'what is due has expired');
    return;
}

# The worker of the node refunds a reservation that falls due.
sub expires {
    my ($node, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $id = $node->safe_psql('app', q{UPDATE reservations SET expires_at = now() - interval '1 s'
        WHERE id = (SELECT min(id::text)::uuid FROM reservations WHERE status = 'reserved')
        RETURNING id});
    await_sql($node, 'app', "SELECT status = 'expired' FROM reservations WHERE id = '$id'", $what);
    return;
}

# As the functions take it: that of the latest export of chunks.
sub last_export_source {
    my ($node) = @_;
    return $node->safe_psql('app', q{SELECT detail->>'source' FROM bacmr_job_run
        WHERE job = 'export' AND status = 'succeeded' AND detail->>'relation' = 'public.chunks'
        ORDER BY run_id DESC LIMIT 1});
}

# Everything of the node's WAL until now is in the archive.
sub archived {
    my ($node, $wal) = @_;
    return await_sql($node, 'app',
        "SELECT coalesce(last_archived_wal >= '$wal', false) FROM pg_stat_archiver",
        'the WAL until now is in the archive');
}

my $main = new_server('main', streaming => 1, conf => [ q{bacmr.expire_interval = '1s'} ]);
my $base = $main->basedir;
for my $folder (qw(store newstore archive)) { mkdir "$base/$folder", 0700 or die $!; }
fill_in(
    store => "$base/store",
    newstore => "$base/newstore",
    archive => "$base/archive",
    backup => "$base/nightly",
    copy => "$base/copy",
    copyport => PostgreSQL::Test::Cluster::get_free_port(),
    data => $main->data_dir,
    log => $main->logfile);
$main->append_conf('postgresql.conf', "bacmr.artifact_directory = '$base/artifacts'");
$main->reload;
$main->safe_psql('postgres', 'CREATE DATABASE app');
$main->safe_psql('app', 'CREATE EXTENSION bacmr_ops; SELECT bacmr_create_tables()');
add_chunks($main, 1, $CHUNKS);
use_wallets($main, 1, $WALLETS);

# --- before a disaster ---------------------------------------------------------------------------

step($main, 'before-store');
step($main, 'before-archive');
$main->restart;
step($main, 'before-backup');
note('data directory: ' . (split ' ', `du -sm @{[ $main->data_dir ]}`)[0] . ' MB');
like(step($main, 'before-export'), qr/^succeeded\|.*"upload"/s, 'the first export is in the store');
note('NDJSON: ' . $main->safe_psql('app', q{SELECT (detail->>'bytes')::bigint / 1000000 || ' MB' FROM bacmr_job_run
    WHERE job = 'export' ORDER BY run_id DESC LIMIT 1}));

# The file that the run has left on disk, checked with nothing but coreutils and jq.
my $file = $main->safe_psql('app', q{SELECT detail->>'file' FROM bacmr_job_run
    WHERE job = 'export' ORDER BY run_id DESC LIMIT 1});
fill_in(folder => "$base/artifacts/app", name => $file);
like(step($main, 'check'), qr/^([0-9a-f]{64})\n\1\n\Q$file\E: OK$/, 'sha256sum and jq find it whole');
like(step($main, 'read'), qr/^$CHUNKS\n$CHUNKS\nvalid\n(\{"grade-10-math":\d+,.*\})\n\1$/,
    'and count what its manifest states');

# --- the vector store is lost --------------------------------------------------------------------

# The worker takes the jobs by itself. Notes how long it took.
sub jobs_done {
    my ($node, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $start = time;
    await_sql($node, 'app', q{SELECT NOT EXISTS (SELECT FROM bacmr_reindex_status
        WHERE status NOT IN ('completed', 'failed'))}, $what, 600);
    note(sprintf 'seconds: %-16s %8.2f', "($what)", time - $start);
    is($node->safe_psql('app', q{SELECT string_agg(error, '; ') FROM bacmr_reindex_status
        WHERE status = 'failed'}), '', "none failed: $what");
    return;
}

# What is active: each vector, bit for bit, under the name of the chunks' namespace.
sub vectors_of {
    my ($node) = @_;
    return $node->safe_psql('app', q{SELECT count(*),
        md5(string_agg(md5(concat_ws('/', n.namespace, v.id, v.embedding)), '' ORDER BY n.namespace, v.id))
        FROM bacmr_namespace n JOIN bacmr_vector v ON v.namespace = n.active_namespace});
}

# The sums over the namespaces, as the page's query shows them: missing, extra, all of them ok.
sub damage {
    my ($node) = @_;
    my ($missing, $extra, $ok) = (0, 0, 't');
    for my $line (split /\n/, step($node, 'vectors-verify')) {
        my @fields = split /\|/, $line;
        $missing += $fields[3];
        $extra += $fields[4];
        $ok = 'f' if $fields[5] ne 't';
    }
    return "$missing|$extra|$ok";
}

my $counted = step($main, 'vectors-export');
like($counted, qr/^grade-10-math\|\d+\ngrade-11-math\|\d+\ngrade-12-math\|\d+$/,
    'vector store lost: the texts are safe, and counted');
like(step($main, 'vectors-plan'), qr/^(?:grade-1\d-math\|\d+\|\d+\|0\.0+\n?){3}$/,
    'the plan says what is due');
is(damage($main), "$CHUNKS|0|f", 'before the first reindex all vectors are missing');
step($main, 'vectors-reindex');
jobs_done($main, 'the worker embeds all chunks');
step($main, 'vectors-swap');
is(damage($main), '0|0|t', 'after it, none is');
my $vectors = vectors_of($main);
like($vectors, qr/^$CHUNKS\|/, 'there is one for each chunk');

my $lost = $main->safe_psql('app', q{WITH gone AS (DELETE FROM bacmr_vector WHERE id < '4' RETURNING 1)
    SELECT count(*) FROM gone});
$main->safe_psql('app', q{INSERT INTO bacmr_vector SELECT namespace, 'x' || id, embedding, metadata
    FROM bacmr_vector WHERE id > 'f'});
my $alien = $main->safe_psql('app', q{SELECT count(*) FROM bacmr_vector WHERE id LIKE 'x%'});
cmp_ok($lost * $alien, '>', 0, 'some vectors are deleted, and some are there that no chunk has');
is(damage($main), "$lost|$alien|f", 'which the check shows');
step($main, 'vectors-repair');
jobs_done($main, 'the worker repairs what is damaged');
is(damage($main), '0|0|t', 'the repair has mended it');
is(vectors_of($main), $vectors, 'bit for bit');

$main->safe_psql('app', 'TRUNCATE bacmr_vector');
is(damage($main), "$CHUNKS|0|f", 'vectors truncated: the check says so');
step($main, 'vectors-repair');
jobs_done($main, 'the worker repairs everything');
is(damage($main), '0|0|t', 'the repair has made them again');
is(vectors_of($main), $vectors, 'bit for bit');

$main->safe_psql('app', 'DROP TABLE bacmr_vector');
is(damage($main), "$CHUNKS|0|f", 'table of vectors dropped: the check says so');
step($main, 'vectors-reindex');
jobs_done($main, 'the worker embeds all chunks anew');
like(step($main, 'vectors-watch'), qr/^(?:\d+\|grade-1\d-math\|completed\|[^\n]*\n?)+$/, 'and the view says so');
step($main, 'vectors-swap');
is(damage($main), '0|0|t', 'the new namespaces have what the old ones had');
is(vectors_of($main), $vectors, 'bit for bit');
await_sql($main, 'app', q{SELECT NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'chunks'::regclass
    AND NOT tgisinternal)}, 'changes of the chunks are not captured any longer');

# --- a table is dropped --------------------------------------------------------------------------

my $before = all_rows($main);
$main->safe_psql('app', 'DROP TABLE chunks');
is($main->safe_psql('app', q{SELECT status FROM bacmr_sources WHERE source = 'chunks'}),
    'missing', 'table dropped: bacmr_sources says so');
step($main, 'table-pause');
my ($newest) = split /\n/, step($main, 'table-choose');
my $source = last_export_source($main);
is($newest =~ s/.*\|//r, $source, 'the latest verified export is what the last run has uploaded');
like($newest, qr/^public\.chunks\|/, 'of the chunks');
fill_in(source => $source);
like(step($main, 'table-verify'), qr/^t\|$CHUNKS\|/, 'the export in the store is whole');
step($main, 'table-create');
like(step($main, 'table-import'), qr/^\d+\|$CHUNKS\|$CHUNKS\|0\|0$/, 'all rows are imported');
like(step($main, 'table-prove'), qr/^t\|$CHUNKS\|0\|0\|0\|.*\n$CHUNKS\n.*chunks\|public\.chunks.*\|attached/s,
    'the drill finds no difference');
is_deeply(all_rows($main), $before, 'table dropped: every row is back');
is($main->safe_psql('app', q{CALL bacmr_run_job('export');
    SELECT status FROM bacmr_job_run WHERE job = 'export' ORDER BY run_id DESC LIMIT 1}),
    'skipped', 'the scheduled export was paused meanwhile');
step($main, 'table-resume');
is($main->safe_psql('app', q{SELECT status FROM bacmr_job_run WHERE job = 'export' ORDER BY run_id DESC LIMIT 1}),
    'succeeded', 'and works again');

# --- a table is truncated, and one is damaged ----------------------------------------------------

fill_in(source => last_export_source($main));
$main->safe_psql('app', 'TRUNCATE chunks');
step($main, 'table-import');
is_deeply(all_rows($main), $before, 'table truncated: every row is back');
$main->safe_psql('app', q{DELETE FROM chunks WHERE namespace = 'grade-10-math';
    UPDATE chunks SET content = 'damaged' WHERE chunk_index = 3});
is($main->safe_psql('app',
        "SELECT read = updated + inserted FROM bacmr_import_chunks('$values->{source}', on_conflict => 'update')"),
    't', 'table damaged: rows are inserted and updated');
is_deeply(all_rows($main), $before, 'every row is as it was');

# --- nothing may be missing: a copy beside the cluster -------------------------------------------

add_chunks($main, $CHUNKS + 1, $CHUNKS + 500);
$main->safe_psql('app', q{UPDATE chunks SET content = content || ' (revised)' WHERE chunk_index = 5;
    DELETE FROM chunks WHERE chunk_index = 6});
$before = all_rows($main);
fill_in(time => $main->safe_psql('app', 'SELECT clock_timestamp()'));
$main->safe_psql('app', 'DROP TABLE chunks');
use_wallets($main, $WALLETS + 1, $WALLETS + 50);
my %later = map { $_ => rows_of($main, $_) } grep { $_ ne 'chunks' } @TABLES;
archived($main, (split /\n/, step($main, 'beside-switch'))[0]);
step($main, 'beside-recover');
is(`psql -XAtq -h @{[ $main->host ]} -p $values->{copyport} -d app -c "SELECT current_setting('archive_mode'),
        count(*) FROM pg_stat_activity WHERE backend_type = 'bacmr_ops worker'"`,
    "off|0\n", 'the copy archives nothing and expires nothing');
fill_in(path => step($main, 'beside-export'));
step($main, 'table-create');
like(step($main, 'beside-import'), qr/\nt\|\d+\|0\|0\|0\|/, 'the drill finds no difference');
step($main, 'beside-remove');
ok(!-e $values->{copy}, 'the copy is gone');
is(rows_of($main, 'chunks'), $before->{chunks}, 'nothing is missing: not even what no export had');
is_deeply({ map { $_ => rows_of($main, $_) } keys %later },
    \%later, 'and the other tables went on meanwhile');

# --- the cluster goes back in time, after its disk is gone ---------------------------------------

$main->safe_psql('app', q{CALL bacmr_run_job('export')});
fill_in(source => last_export_source($main));
add_chunks($main, $CHUNKS + 501, $CHUNKS + 600);
$main->safe_psql('app', q{DELETE FROM chunks WHERE id = md5('chunk1')::uuid;
    UPDATE chunks SET token_count = 0 WHERE id IN (md5('chunk2')::uuid, md5('chunk3')::uuid)});
use_wallets($main, $WALLETS + 51, $WALLETS + 100);
$before = all_rows($main);
fill_in(time => $main->safe_psql('app', 'SELECT clock_timestamp()'));
$main->safe_psql('app', q{DROP TABLE wallet_ledger; UPDATE wallet SET token_balance = 0; DELETE FROM chunks});
archived($main, (split /\n/, step($main, 'beside-switch'))[0]);
my $identity = $main->safe_psql('app', 'SELECT system_identifier FROM pg_control_system()');
$main->stop('immediate');
remove_tree($main->data_dir);
step($main, 'cluster-recover');
$main->_update_pid(1);
is_deeply(all_rows($main), $before, 'cluster lost: every row of that moment is back');
my $proof = step($main, 'cluster-prove');
like($proof, qr/^@{[ $WALLETS + 100 ]}\|\d+\|0\|0\n/, 'the wallets agree with their ledger');
is(() = $proof =~ /\|attached$/mg, 4, 'the four tables are attached');
unlike($proof, qr/\|error\|/, 'the doctor finds no error');
like(step($main, 'cluster-drill'), qr/^f\|\d+\|1\|2\|100\|/,
    'the drill finds just what was changed since the export');
is($main->safe_psql('app', 'SELECT system_identifier FROM pg_control_system()'),
    $identity, 'the recovered cluster has the identity of the lost one');
is($main->safe_psql('app', 'SELECT count(*) FROM bacmr_job_pause'), 0, 'so nothing is paused');
expires($main, 'and its worker expires what falls due');
step($main, 'cluster-finish');
is($main->safe_psql('app', q{SELECT status FROM bacmr_job_run WHERE job = 'export' ORDER BY run_id DESC LIMIT 1}),
    'succeeded', 'it exports');
fill_in(backup => "$base/after");
step($main, 'before-backup');
$main->restart;
is($main->safe_psql('app', 'SELECT pg_is_in_recovery()'), 'f', 'a restart does not recover again');

# --- the cluster is lost, and recovered as far as the WAL goes ---------------------------------------

use_wallets($main, $WALLETS + 101, $WALLETS + 120);
$before = all_rows($main);
archived($main, (split /\n/, step($main, 'beside-switch'))[0]);
$main->stop('immediate');
remove_tree($main->data_dir);
step($main, 'cluster-recover', qr/recovery_target_time/);
$main->_update_pid(1);
is_deeply(all_rows($main), $before, 'without a target, all that was archived is back');
like(step($main, 'cluster-prove'), qr/^@{[ $WALLETS + 120 ]}\|\d+\|0\|0\n/, 'and the wallets agree');

# --- only exports are left -----------------------------------------------------------------------

my @urls = map { (split /\|/)[1] } split /\n/, step($main, 'before-wallets');
is(scalar(grep { m{^file://\Q$values->{store}\E/app/dr_export_} && -s s{^file://}{}r } @urls),
    3, 'the wallets are in the store');
my @names = map { s{.*/}{}r } @urls;
fill_in(
    chunks => last_export_source($main) =~ s{^dr/app/}{}r,
    wallet => $names[0],
    ledger => $names[1],
    reservations => $names[2]);
$before = all_rows($main);
my $next_id = $main->safe_psql('app', 'SELECT max(id) + 1 FROM wallet_ledger');
$main->stop('immediate');
remove_tree($main->data_dir, "$base/artifacts", "$base/archive", "$base/nightly", "$base/after");

my $other = new_server('other', conf => [ q{bacmr.expire_interval = '1s'} ]);
$other->safe_psql('postgres', 'CREATE DATABASE app');
step($other, 'exports-create');
my $listing = step($other, 'exports-list');
like($listing, qr/^\{"file":"\Q$values->{wallet}\E","relation":"public.wallet","rows":\d+,/m,
    'manifests tell what is there');
like(step($other, 'exports-chunks'), qr/^t\|(\d+)\|.*\n\d+\|\1\|\1\|0\|0$/, 'the chunks are whole and imported');
step($other, 'exports-wallets');
is_deeply(all_rows($other), $before, 'only exports left: every row is back in a new cluster');
like(step($other, 'exports-prove'), qr/^t\|\d+\|0\|0\|0\|\S+\n@{[ $WALLETS + 120 ]}\|\d+\|0\|0$/,
    'drill and reconciliation agree');
expires($other, 'the new cluster expires what falls due: nothing is paused');
cmp_ok($other->safe_psql('app', 'SELECT max(id) FROM wallet_ledger'), '>=', $next_id,
    'and numbers its ledger rows on');

# --- the blob store is lost ----------------------------------------------------------------------

remove_tree($values->{store});
like(error_of($other, 'app', "SELECT bacmr_verify_export('dr/app/$values->{chunks}')"),
    qr/ERROR:  58P01: /, 'blob store lost: the export is not to be found');
like(error_of($other, 'app', q{CALL bacmr_run_job('export')}), qr/ERROR:  58P01: /,
    'the scheduled export fails');
like($other->safe_psql('app', q{SELECT status || ' ' || error FROM bacmr_job_run WHERE job = 'export'
    ORDER BY run_id DESC LIMIT 1}), qr/^failed step (?:export|upload): .*\Q$values->{store}\E/,
    'and its run says what is gone');
step($other, 'blob-local');
is($other->safe_psql('app', q{SELECT detail->>'url' IS NULL AND (pg_stat_file(detail->>'path')).size > 0
    FROM bacmr_job_run WHERE job = 'export' AND status = 'succeeded' ORDER BY run_id DESC LIMIT 1}),
    't', 'to disk it exports all the same');
step($other, 'blob-server');
step($other, 'blob-export');
fill_in(source => step($other, 'blob-choose'));
like($values->{source}, qr{^dr2/app/dr_export_chunks_}, 'the export is in the new store');
like(step($other, 'blob-prove'), qr/^t\|(\d+)\|.*\nt\|\1\|0\|0\|0\|/, 'whole, and restored without a difference');
is(rows_of($other, 'chunks'), $before->{chunks}, 'the chunks are what they were');
$other->stop;

$docs->all_were_run;
done_testing();
