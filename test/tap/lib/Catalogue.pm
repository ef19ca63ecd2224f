# What the catalogues say of an extension, as lines without OIDs, so that two databases can be
# compared; and what a database contains beside it.
package Catalogue;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(extension_catalogue same_catalogue database_objects difference EXTENSION_CATALOGUE);

# Members are found through pg_depend; indexes, constraints, triggers and policies through the tables
# they belong to. The order of columns counts (SELECT *), their numbers do not (a dropped column).
# Privileges are printed as they apply, not as they are stored: NULL is the default. initprivs are
# those that a dump takes as given.
use constant EXTENSION_CATALOGUE => <<'SQL';
WITH extension AS (SELECT * FROM pg_extension WHERE extname = 'bacmr_ops'),
member AS (
  SELECT d.classid, d.objid, i.type, i.identity
  FROM extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    AND d.deptype = 'e'
  CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
),
relation AS (
  SELECT c.*, m.identity FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
),
line(text) AS (
  SELECT format('extension: schema %s, relocatable %s, version %s', extnamespace::regnamespace,
                extrelocatable, extversion) FROM extension
  UNION ALL
  SELECT format('dumped: %s, rows %s', pg_describe_object('pg_class'::regclass, c.oid, 0),
                quote_literal(coalesce(c.condition, '')))
  FROM extension e, unnest(e.extconfig, e.extcondition) c(oid, condition)
  UNION ALL
  SELECT format('member: %s %s', type, identity) FROM member
  UNION ALL
  SELECT format('comment: %s%s: %s', m.identity,
                (SELECT '.' || a.attname FROM pg_attribute a WHERE m.classid = 'pg_class'::regclass
                   AND a.attrelid = m.objid AND a.attnum = d.objsubid AND d.objsubid > 0), d.description)
  FROM member m JOIN pg_description d ON d.classoid = m.classid AND d.objoid = m.objid
  UNION ALL
  SELECT format('privileges given by the script: %s%s: %s', m.identity,
                CASE WHEN p.objsubid > 0 THEN '.' || (SELECT a.attname FROM pg_attribute a
                  WHERE a.attrelid = m.objid AND a.attnum = p.objsubid) END,
                (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM unnest(p.initprivs) x))
  FROM member m JOIN pg_init_privs p ON p.classoid = m.classid AND p.objoid = m.objid
  UNION ALL
  SELECT format('function: %s owned by %s: %s privileges %s', m.identity, p.proowner::regrole,
                pg_get_functiondef(p.oid),
                (SELECT string_agg(x::text, ' ' ORDER BY x::text)
                 FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) x))
  FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
  UNION ALL
  SELECT format('relation: %s kind %s, persistence %s, owned by %s, options %s, row security %s %s,'
                ' identity %s, privileges %s', r.identity, r.relkind, r.relpersistence,
                r.relowner::regrole, r.reloptions, r.relrowsecurity, r.relforcerowsecurity,
                r.relreplident,
                (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM unnest(coalesce(r.relacl,
                   acldefault(CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", r.relowner))) x))
  FROM relation r
  UNION ALL
  SELECT format('column: %s.%s is number %s, %s%s, collation %s, identity "%s", generated "%s", storage %s,'
                ' default %s, privileges %s', r.identity, a.attname,
                row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum),
                format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN ' NOT NULL' END,
                a.attcollation::regcollation, a.attidentity, a.attgenerated, a.attstorage,
                coalesce(pg_get_expr(d.adbin, d.adrelid), 'none'), a.attacl)
  FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  UNION ALL
  SELECT format('constraint: %s %s: %s, validated %s', r.identity, c.conname, pg_get_constraintdef(c.oid),
                c.convalidated)
  FROM relation r JOIN pg_constraint c ON c.conrelid = r.oid
  UNION ALL
  SELECT format('index: %s, valid %s, comment %s', pg_get_indexdef(x.indexrelid), x.indisvalid,
                obj_description(x.indexrelid, 'pg_class'))
  FROM relation r JOIN pg_index x ON x.indrelid = r.oid
  UNION ALL
  SELECT format('trigger: %s %s', t.tgenabled, pg_get_triggerdef(t.oid))
  FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
  UNION ALL
  SELECT format('policy: %s %s', r.identity, (to_jsonb(p) - '{oid,polrelid}'::text[])::text)
  FROM relation r JOIN pg_policy p ON p.polrelid = r.oid
  UNION ALL
  SELECT format('rule: %s %s', ru.ev_enabled, pg_get_ruledef(ru.oid))
  FROM relation r JOIN pg_rewrite ru ON ru.ev_class = r.oid
  UNION ALL
  SELECT format('sequence: %s of %s: %s', r.identity,
                (SELECT string_agg(pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid), ' ')
                 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid
                   AND d.deptype IN ('a', 'i')),
                (to_jsonb(s) - '{seqrelid}'::text[])::text)
  FROM relation r JOIN pg_sequence s ON s.seqrelid = r.oid
  UNION ALL
  SELECT format('wrapper: %s owned by %s, handler %s, validator %s, options %s, privileges %s', w.fdwname,
                w.fdwowner::regrole, w.fdwhandler::regproc, w.fdwvalidator::regproc, w.fdwoptions,
                (SELECT string_agg(x::text, ' ' ORDER BY x::text)
                 FROM unnest(coalesce(w.fdwacl, acldefault('F', w.fdwowner))) x))
  FROM member m JOIN pg_foreign_data_wrapper w
    ON m.classid = 'pg_foreign_data_wrapper'::regclass AND w.oid = m.objid
  UNION ALL
  SELECT format('server: %s of %s, owned by %s, type %s, version %s, options %s, privileges %s', s.srvname,
                (SELECT w.fdwname FROM pg_foreign_data_wrapper w WHERE w.oid = s.srvfdw),
                s.srvowner::regrole, s.srvtype, s.srvversion, s.srvoptions,
                (SELECT string_agg(x::text, ' ' ORDER BY x::text)
                 FROM unnest(coalesce(s.srvacl, acldefault('S', s.srvowner))) x))
  FROM member m JOIN pg_foreign_server s
    ON m.classid = 'pg_foreign_server'::regclass AND s.oid = m.objid
)
SELECT string_agg(replace(text, E'\n', ' '), E'\n' ORDER BY text COLLATE "C") FROM line
SQL

# The lines, in order. $before: statements that are rolled back afterwards.
sub extension_catalogue {
    my ($node, $database, $before) = @_;
    my $query = EXTENSION_CATALOGUE;
    # Whatever the database has in its path, names print the same.
    my $out = $node->safe_psql($database,
        "BEGIN; SET LOCAL search_path = pg_catalog; @{[ $before // '' ]}; $query; ROLLBACK");
    return split /\n/, $out;
}

# The lines that only one of them has: - of the first, + of the second.
sub difference {
    my ($first, $second) = @_;
    my (%first, %second);
    $first{$_}++ for @$first;
    $second{$_}++ for @$second;
    return ((map { "- $_" } grep { !$second{$_} } @$first), (map { "+ $_" } grep { !$first{$_} } @$second));
}

sub same_catalogue {
    my ($first, $second, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @difference = difference($first, $second);
    my $good = is(scalar @difference, 0, $what);
    diag(join "\n", grep { defined } @difference[ 0 .. 40 ]) unless $good;
    return $good;
}

# Every object of the database that is not the server's own, and every dependency and privilege that is
# noted: one line each. Also what all databases share.
sub database_objects {
    my ($node, $database) = @_;
    my @classes = split /\n/, $node->safe_psql($database, <<'SQL');
SELECT c.oid::regclass FROM pg_class c
WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r'
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'oid')
  AND c.relname <> 'pg_largeobject_metadata'
ORDER BY 1
SQL
    my @queries = map {
        "SELECT pg_describe_object('$_'::regclass, oid, 0) || ' ($_)' AS line FROM $_ WHERE oid >= 16384"
          # The server makes one for a session's temporary tables, and keeps it.
          . ($_ eq 'pg_namespace' ? q{ AND nspname !~ '^pg_(temp|toast_temp)_'} : '')
    } @classes;
    push @queries, (
        q{SELECT 'dependency of ' || pg_describe_object(classid, objid, objsubid) || ' on '
            || pg_describe_object(refclassid, refobjid, refobjsubid) || ' ' || deptype::text
          FROM pg_depend WHERE objid >= 16384 OR refobjid >= 16384},
        q{SELECT 'shared dependency of ' || classid::regclass || ' ' || objid || ' on ' || refobjid
          FROM pg_shdepend WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())},
        q{SELECT 'initial privileges of ' || pg_describe_object(classoid, objoid, objsubid)
          FROM pg_init_privs WHERE objoid >= 16384},
        q{SELECT 'description of ' || pg_describe_object(classoid, objoid, objsubid)
          FROM pg_description WHERE objoid >= 16384},
        q{SELECT 'privileges on schema ' || nspname || ': ' || coalesce(nspacl::text, '') FROM pg_namespace
          WHERE nspname !~ '^pg_(temp|toast_temp)_'},
        q{SELECT 'setting ' || coalesce(setdatabase::text, '') || coalesce(setrole::regrole::text, '') || ' '
            || setconfig::text FROM pg_db_role_setting});
    my $out = $node->safe_psql($database,
        'SELECT line FROM (' . join(' UNION ALL ', @queries) . ') x WHERE line IS NOT NULL ORDER BY line');
    return split /\n/, $out;
}

1;
