# An upgraded extension is the same as a fresh one: every object, definition, default, index, privilege,
# comment and mark for dumps. Which upgrades there are is read from what is installed. A pair of
# versions made here shows that the comparison finds what an upgrade script forgets.
use strict;
use warnings;
use BacmrTest;
use Catalogue;
use Installation;
use Test::More;

sub default_version {
    my ($node) = @_;
    return $node->safe_psql('postgres',
        q{SELECT default_version FROM pg_available_extensions WHERE name = 'bacmr_ops'});
}

# The versions that can be installed and are not the default one, with their way to it or ''.
sub older_versions {
    my ($node) = @_;
    my $list = $node->safe_psql('postgres', <<'SQL');
SELECT v.version, coalesce(p.path, '')
FROM pg_available_extension_versions v
JOIN pg_available_extensions e USING (name)
LEFT JOIN pg_extension_update_paths('bacmr_ops') p ON p.source = v.version AND p.target = e.default_version
WHERE v.name = 'bacmr_ops' AND v.version <> e.default_version
ORDER BY 1
SQL
    return map { [ split /\|/, $_, 2 ] } split /\n/, $list;
}

# A database in which that version was installed and then upgraded; returns its catalogue.
sub upgraded {
    my ($node, $version, $path) = @_;
    my $database = "from $version";
    $node->safe_psql('postgres', qq{DROP DATABASE IF EXISTS "$database"});
    $node->safe_psql('postgres', qq{CREATE DATABASE "$database"});
    is(error_of($node, $database, qq{CREATE EXTENSION bacmr_ops VERSION "$version"}),
        '', "$version can be installed");
    is(error_of($node, $database, 'ALTER EXTENSION bacmr_ops UPDATE'), '', "and upgraded: $path");
    return [ extension_catalogue($node, $database) ];
}

sub fresh {
    my ($node) = @_;
    $node->safe_psql('postgres', 'CREATE DATABASE fresh');
    $node->safe_psql('fresh', 'CREATE EXTENSION bacmr_ops');
    return [ extension_catalogue($node, 'fresh') ];
}

# --- what is installed ---------------------------------------------------------------------------

my $node = new_server('main');
my $fresh = fresh($node);
my @older = older_versions($node);
note('versions before ' . default_version($node) . ': ' . (@older ? join ', ', map { $_->[0] } @older : 'none'));
is($node->safe_psql('fresh', 'SELECT bacmr_library_version()'),
    default_version($node), 'the default version is that of the library');
for my $each (@older) {
    my ($version, $path) = @$each;
    next unless isnt($path, '', "$version has a way to " . default_version($node));
    same_catalogue($fresh, upgraded($node, $version, $path), "$version upgraded is the same as fresh");
    is($node->safe_psql("from $version",
            q{SELECT count(*) FROM bacmr_doctor() WHERE check_name = 'versions'}),
        0, 'and the doctor is content');
}

# --- what the comparison sees --------------------------------------------------------------------

cmp_ok(scalar @$fresh, '>', 400, 'a catalogue of ' . @$fresh . ' lines');
for my $kind (qw(extension dumped member comment function relation column constraint index rule sequence
    wrapper server), 'privileges given by the script')
{
    ok((grep { /^\Q$kind\E: / } @$fresh), "it has lines of the kind: $kind");
}
same_catalogue($fresh, [ extension_catalogue($node, 'fresh') ], 'it is the same when it is read again');

# Each of these is what a script may forget, or do otherwise.
my @changes = (
    [ 'a function that is gone', 'ALTER EXTENSION bacmr_ops DROP FUNCTION bacmr_unpause(text)' ],
    [ 'a comment', q{COMMENT ON FUNCTION bacmr_unpause(text) IS 'another'} ],
    [ 'a missing comment', 'COMMENT ON VIEW bacmr_status IS NULL' ],
    [ 'volatility', 'ALTER FUNCTION bacmr_unpause(text) STABLE' ],
    [ 'parallel safety', 'ALTER FUNCTION bacmr_library_version() PARALLEL UNSAFE' ],
    [ 'a setting of a function', 'ALTER FUNCTION bacmr_reconcile_report(bigint) RESET search_path' ],
    [ 'a privilege of a function', 'GRANT EXECUTE ON FUNCTION bacmr_unpause(text) TO PUBLIC' ],
    [ 'a privilege on a view', 'REVOKE SELECT ON bacmr_status FROM pg_monitor' ],
    [ 'a default of a column', 'ALTER TABLE bacmr_source ALTER options DROP DEFAULT' ],
    [ 'NOT NULL', 'ALTER TABLE bacmr_source ALTER options DROP NOT NULL' ],
    [ 'a type', 'ALTER TABLE bacmr_source ALTER owner_name TYPE text' ],
    [ 'a column more', 'ALTER TABLE bacmr_source ADD note text' ],
    [ 'a column that comes at another place',
        'ALTER TABLE bacmr_source DROP owner_name, ADD owner_name name NOT NULL' ],
    [ 'a constraint', 'ALTER TABLE bacmr_job_run DROP CONSTRAINT bacmr_job_run_status_check' ],
    [ 'an index', 'DROP INDEX bacmr_discrepancy_run_idx' ],
    [ 'another index', 'CREATE INDEX ON bacmr_discrepancy (first_seen)' ],
    [ 'a mark for dumps', q{UPDATE pg_extension SET extconfig = extconfig[2:], extcondition = extcondition[2:]
        WHERE extname = 'bacmr_ops'} ],
    [ 'which rows are dumped', q{UPDATE pg_extension SET extcondition[1] = 'WHERE false'
        WHERE extname = 'bacmr_ops'} ],
    [ 'a view', 'CREATE OR REPLACE VIEW bacmr_metrics AS SELECT s.name, s.type, s.labels, s.value + 0 AS value'
          . ' FROM bacmr_metric_samples() s' ],
    [ 'an identity column', 'ALTER TABLE bacmr_job_run ALTER run_id SET GENERATED ALWAYS' ],
    [ 'a sequence', 'ALTER SEQUENCE bacmr_job_run_run_id_seq CYCLE' ],
    [ 'a wrapper\'s validator', 'ALTER FOREIGN DATA WRAPPER bacmr_blob_store NO VALIDATOR' ],
    [ 'a server\'s type', q{ALTER SERVER bacmr_artifacts VERSION '2'} ],
    [ 'a trigger', 'CREATE TRIGGER t BEFORE UPDATE ON bacmr_source FOR EACH ROW'
          . ' EXECUTE FUNCTION suppress_redundant_updates_trigger()' ],
    [ 'row-level security', 'ALTER TABLE bacmr_source ENABLE ROW LEVEL SECURITY' ],
    [ 'an owner', 'ALTER TABLE bacmr_source OWNER TO pg_monitor' ],
);
$node->append_conf('postgresql.conf', 'allow_system_table_mods = on');
$node->restart;
for my $change (@changes) {
    my ($what, $sql) = @$change;
    my @changed = extension_catalogue($node, 'fresh', "SET LOCAL search_path = public; $sql; SET LOCAL search_path = pg_catalog");
    my @seen = difference($fresh, \@changed);
    cmp_ok(scalar @seen, '>', 0, "it sees $what");
}
same_catalogue($fresh, [ extension_catalogue($node, 'fresh') ], 'all of these were rolled back');
$node->stop;

# --- a pair of versions --------------------------------------------------------------------------

# 0.0.9 lacks a function and a column.
my $installation = Installation->new('pair');
my $now = $installation->default_version;
my $script = $installation->script($now);
my $function = qr/^CREATE FUNCTION bacmr_unpause\(.*?;\nCOMMENT ON FUNCTION bacmr_unpause\(text\) IS .*?;\n/ms;
my ($definition) = $script =~ /($function)/ or die 'the script has no bacmr_unpause';
my $old = $script =~ s/$function//r;
$old =~ s/\s*bacmr_unpause\(text\),// or die 'the script has no privileges of bacmr_unpause';
my $lacking = qr/  chunk_id   text,[^\n]*\n  changed_at timestamptz NOT NULL DEFAULT pg_catalog\.clock_timestamp\(\)\n\);/;
$old =~ s/$lacking/  chunk_id   text\n);/ or die 'bacmr_chunk_change does not end with changed_at';
$installation->script('0.0.9', $old);
my $column = 'ALTER TABLE bacmr_chunk_change ADD COLUMN changed_at timestamptz NOT NULL DEFAULT clock_timestamp();';
my $revoke = 'REVOKE ALL ON FUNCTION bacmr_unpause(text) FROM PUBLIC;';
my $guard = qq{\\echo Use "ALTER EXTENSION bacmr_ops UPDATE" to load this file. \\quit\n};

my $other = new_server('other', install_path => $installation->path);
my $there = fresh($other);
same_catalogue($fresh, $there, 'a second installation makes the same objects');
is_deeply([ older_versions($other) ], [ [ '0.0.9', '' ] ], 'a version without a way to the default one is noticed');

# What the upgrade script does => what is found.
my @scripts = (
    [ 'as it should', "$column\n$definition\n$revoke", undef ],
    [ 'with another comment', "$column\n" . ($definition =~ s/ IS '/ IS 'not /r) . "\n$revoke",
        qr/\+ comment: public\.bacmr_unpause/ ],
    [ 'without REVOKE', "$column\n$definition", qr/\+ function: public\.bacmr_unpause\(pg_catalog\.text\).*privileges =X/ ],
    [ 'without the function', $column, qr/- member: function public\.bacmr_unpause\(pg_catalog\.text\)/ ],
    [ 'without the column', "$definition\n$revoke", qr/- column: public\.bacmr_chunk_change\.changed_at is number 4/ ],
    [ 'with a table that no dump contains',
        "$column\n$definition\n$revoke\nCREATE TABLE bacmr_extra (a int);", qr/\+ member: table public\.bacmr_extra/ ],
);
for my $each (@scripts) {
    my ($how, $sql, $finding) = @$each;
    $installation->script("0.0.9--$now", $guard . $sql);
    my ($older) = older_versions($other);
    is($older->[1], "0.0.9--$now", "an upgrade $how: its way is found");
    my $upgraded = upgraded($other, @$older);
    if ($finding) {
        like(join("\n", difference($there, $upgraded)), $finding, "and the comparison finds what is wrong");
    } else {
        same_catalogue($there, $upgraded, 'and the comparison finds nothing');
    }
}

# In two steps.
$installation->remove_script("0.0.9--$now");
$installation->script('0.0.9--0.0.10', $guard . $column);
$installation->script("0.0.10--$now", "$guard$definition\n$revoke");
my ($older) = grep { $_->[0] eq '0.0.9' } older_versions($other);
is($older->[1], "0.0.9--0.0.10--$now", 'a way of two steps');
same_catalogue($there, upgraded($other, @$older), 'leads to the same');

$other->stop;
done_testing();
