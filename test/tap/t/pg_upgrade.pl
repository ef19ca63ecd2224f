# pg_upgrade: from every older major version of the server that is installed with bacmr_ops, and from
# this version to itself, which takes the same way. Everything is there afterwards, no worker was awake
# meanwhile, and the new cluster, which has another identity, starts with everything paused.
#
#   BACMR_OLD_BINDIR=/usr/lib/postgresql/15/bin     another place of an older server
#   BACMR_OLD_LD_LIBRARY_PATH=…                     those of its libraries that the system lacks
use strict;
use warnings;
use BacmrTest;
use Catalogue;
use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReindexJobs;
use Test::More;

# run_command() is of no use where the program needs libraries of its own.
sub config_of {
    my ($bindir, $what) = @_;
    my $value = `'$bindir/pg_config' --$what 2>/dev/null`;
    chomp $value;
    return $value;
}

sub major { return `'$_[0]/postgres' --version` =~ /PostgreSQL\) (\d+)/ ? $1 : 0; }

my ($new_bindir) = run_command([ 'pg_config', '--bindir' ]);
my $new_major = major($new_bindir);
my @sources = ([ $new_bindir, $new_major ]);
# For both servers, and to the end: where one is stopped at last, the libraries must still be found.
if (my $libraries = $ENV{BACMR_OLD_LD_LIBRARY_PATH}) {
    $ENV{LD_LIBRARY_PATH} = join ':', grep { $_ } $ENV{LD_LIBRARY_PATH}, $libraries;
}
my @candidates = defined $ENV{BACMR_OLD_BINDIR} ? ($ENV{BACMR_OLD_BINDIR}) : glob dirname($new_bindir) =~ s{/[^/]*$}{/*/bin}r;
for my $bindir (@candidates) {
    next if $bindir eq $new_bindir || !-x "$bindir/postgres";
    my $major = major($bindir);
    next if $major >= $new_major;
    my $shared = config_of($bindir, 'sharedir') || "/usr/share/postgresql/$major";
    if (-e "$shared/extension/bacmr_ops.control") {
        push @sources, [ $bindir, $major ];
    } else {
        note("PostgreSQL $major is installed, but without bacmr_ops: not tested from there");
    }
}
if (defined $ENV{BACMR_OLD_BINDIR} && @sources < 2) {
    die "BACMR_OLD_BINDIR=$ENV{BACMR_OLD_BINDIR}: no PostgreSQL older than $new_major with bacmr_ops there";
}
note('from: ' . join ', ', map { "$_->[1] ($_->[0])" } @sources);
note('no older major version of PostgreSQL is installed with bacmr_ops: only from this version to itself') if @sources < 2;

my $folder = ${PostgreSQL::Test::Utils::tmp_check};
my $round = 0;
upgrade_from(@$_) for @sources;
done_testing();

sub upgrade_from {
    my ($old_bindir, $old_major) = @_;
    my $how = "from $old_major to $new_major";
    $round++;

    my @conf = (q{bacmr.expire_interval = '1s'}, 'max_worker_processes = 20');
    my $old = new_server("old$round", conf => [@conf], $old_bindir ne $new_bindir ? (install_path => dirname($old_bindir)) : ());
    app_database($old, 'app');
    give_wallets($old, 'app', 5);
    make_chunks($old, 'app', 'n', 30);
    make_chunks($old, 'app', 'm', 10);
    my $key_file = key_file('openai.key', 'sk-in-a-file');
    $old->safe_psql('app', <<"SQL");
CREATE SERVER openai FOREIGN DATA WRAPPER bacmr_embedder
  OPTIONS (type 'openai', base_url 'http://127.0.0.1:9/v1', model 'text-embedding-3-small', dimensions '64');
CREATE USER MAPPING FOR PUBLIC SERVER openai OPTIONS (api_key_file '$key_file');
ALTER DATABASE app SET bacmr.embedder = 'bacmr_local';
SELECT bacmr_metric_define('mine', 'counter', 'of my own', '{a}');
UPDATE wallet SET token_balance = token_balance + 7 WHERE user_id = u(1);
SELECT bacmr_reconcile(), bacmr_export_chunks();
UPDATE wallet SET token_balance = token_balance - 7 WHERE user_id = u(1);
SQL
    my $job = queue_job($old, 'app', q{'n', embedder => 'bacmr_local', vector_store => 'bacmr_postgres'});
    await_job($old, 'app', $job, 'completed', "$how: a reindex job is done");
    $old->safe_psql('app', "SELECT bacmr_reindex_swap($job)");
    $old->safe_psql('app', q{SELECT bacmr_pause('reindex', 'for this test');
        SELECT bacmr_reindex('m', embedder => 'bacmr_local', vector_store => 'bacmr_postgres');
        UPDATE chunks SET content = content || '!' WHERE namespace = 'm'});
    $old->safe_psql('postgres', 'ALTER SYSTEM SET bacmr.worker_enabled = off');
    $old->reload;
    await("$how: the worker is off", sub { !worker_pid($old, 'app') });
    my $due = reserve($old, 'app', 2, 10, '-1 second');

    my @tables = qw(bacmr_source bacmr_job_run bacmr_discrepancy bacmr_namespace bacmr_reindex_job bacmr_reindex_batch
        bacmr_chunk_change bacmr_metric_definition bacmr_vector bacmr_job_pause bacmr_embedding_cache wallet wallet_ledger
        reservations chunks);
    my %queries = (
        (map { $_ => "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM $_ t" } @tables),
        servers => q{SELECT srvname, (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(srvoptions) o), srvacl
            FROM pg_foreign_server ORDER BY 1},
        mappings => 'SELECT srvname, usename, umoptions FROM pg_user_mappings ORDER BY 1, 2',
        setting => q{SHOW bacmr.embedder});
    my %before = map { $_ => $old->safe_psql('app', $queries{$_}) } keys %queries;
    my $run = $old->safe_psql('app', 'SELECT max(run_id) FROM bacmr_job_run');
    # From here on a worker that wakes up would find it due.
    $old->safe_psql('postgres', 'ALTER SYSTEM RESET bacmr.worker_enabled');
    $old->stop;

    my $new = PostgreSQL::Test::Cluster->new("new$round");
    # The two must agree about checksums, which 18 turns on.
    $new->init(extra => [ '--locale=C', '--encoding=UTF8',
        $old_major < 18 && $new_major >= 18 ? '--no-data-checksums' : () ]);
    $new->append_conf('postgresql.conf', join "\n", "shared_preload_libraries = 'bacmr_ops'", "shared_buffers = '16MB'",
        "timezone = 'UTC'", @conf, '');
    # It leaves scripts where it is started.
    my $here = "$folder/upgrade$round";
    mkdir $here or die "$here: $!";
    chdir $here or die "$here: $!";
    my @command = ('pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $old_bindir, '-B', $new_bindir,
        '-s', $new->host, '-p', $old->port, '-P', $new->port);
    $new->command_ok([ @command, '--check' ], "$how: pg_upgrade --check");
    my $output = '';
    my $good = IPC::Run::run([@command], '>', \$output, '2>&1');
    ok($good, "$how: pg_upgrade") or diag($output);
    chdir $folder or die "$folder: $!";
    $new->append_conf('postgresql.conf', 'bacmr.worker_enabled = off');
    $new->start;

    is($new->safe_psql('app', $queries{$_}), $before{$_}, "$how: the same $_") for sort keys %queries;
    my $left = "$here/update_extensions.sql";
    note(-e $left ? slurp_file($left) : 'no script for extensions');
    is(error_of($new, 'app', 'ALTER EXTENSION bacmr_ops UPDATE'), '', "$how: ALTER EXTENSION UPDATE");
    $new->safe_psql('postgres', 'CREATE DATABASE fresh');
    $new->safe_psql('fresh', 'CREATE EXTENSION bacmr_ops');
    same_catalogue([ extension_catalogue($new, 'fresh') ], [ extension_catalogue($new, 'app') ], "$how: the same objects as a fresh install");

    $new->append_conf('postgresql.conf', 'bacmr.worker_enabled = on');
    $new->reload;
    await_sql($new, 'app', q{SELECT state = 'paused' FROM bacmr_status WHERE job = 'worker'}, "$how: the worker rests");
    is($new->safe_psql('app', q{SELECT string_agg(job, ' ' ORDER BY job) FROM bacmr_job_pause}), 'expire export reindex',
        "$how: expire, export and reindex are paused");
    is($new->safe_psql('app', "SELECT status FROM reservations WHERE id = '$due'"), 'reserved',
        "$how: nothing has expired, neither here nor while pg_upgrade ran");
    $new->safe_psql('app', q{SELECT bacmr_unpause('expire'), bacmr_unpause('export')});
    await_sql($new, 'app', "SELECT status = 'expired' FROM reservations WHERE id = '$due'", "$how: after bacmr_unpause it expires");
    cmp_ok($new->safe_psql('app', 'SELECT run_id FROM bacmr_reconcile()'), '>', $run, "$how: run ids go on");
    balances_agree($new, 'app', "$how: the balances agree");
    is($new->safe_psql('app', q{SELECT bacmr_active_namespace('n'), ok FROM bacmr_vectors_verify('n', 'bacmr_postgres')}), 'n-v2|t',
        "$how: the active namespace has its vectors");
    unlike(slurp_file($new->logfile), qr/PANIC|was terminated by signal/, "$how: nothing crashed");
    $new->stop;
    return;
}
