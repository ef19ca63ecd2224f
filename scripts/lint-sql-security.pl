#!/usr/bin/env perl
# What in an extension's script lets a stranger's object take the place of the one that is meant.
#
#   scripts/lint-sql-security.pl FILE …      one line a finding; status 1 when there is one
#   scripts/lint-sql-security.pl --self-test planted findings are found, and good code is not
#
# CREATE EXTENSION runs a script as a superuser, with the extension's schema in the search_path, in
# which others may have put functions and operators that match better than those of pg_catalog, or
# objects of our names. So:
#
#   - nothing is CREATEd OR REPLACE or IF NOT EXISTS: it could be somebody else's
#   - functions are called by qualified names, everywhere
#   - operators, relations and types of views, bodies, defaults, checks and predicates are qualified,
#     unless the search_path is pinned: by SET LOCAL search_path before the statement, or, for a body
#     that is a string, by a SET clause of the function
#   - a search_path names pg_catalog and then pg_temp, and nothing else (a script may set it back to
#     @extschema@, pg_temp)
#   - functions that are not in C have a SET search_path clause, those with SECURITY DEFINER above all
#   - nothing is granted to PUBLIC, and what PUBLIC has by default, EXECUTE, is revoked
#
# It makes the checks of pgspot (https://github.com/timescale/pgspot, which documents them as PS001 to
# PS017), and is stricter where that lets pass what an extension's own schema makes safe there. The
# self-test has an example of each.
use strict;
use warnings;

# Syntax that looks like a call.
my %not_a_call = map { $_ => 1 } qw(
  all and any array as between by case cast check coalesce conflict current_date default distinct do else elsif except
  execute exists extract filter for foreign from generated greatest grouping having if in inner insert intersect
  interval into is join key language lateral least left like limit not null nullif offset on operator options or
  order outer over partition perform primary references return returning returns right row select set some table then to trim
  union unique update using values view when where with within
  bigint bit boolean char character dec decimal float int integer interval national nchar numeric real smallint
  time timestamp varchar varying
);
# Types that the grammar itself takes from pg_catalog.
my %grammar_type = map { $_ => 1 } qw(bigint bit boolean char character dec decimal double float int integer
  interval national nchar numeric real smallint time timestamp varchar);

my (@findings, $where);

sub find {
    my ($line, $what) = @_;
    push @findings, "$where:$line: $what";
    return;
}

# [kind, text, line]: kinds word, quoted, string, dollar, number, operator, sign.
sub tokens {
    my ($sql, $line) = @_;
    my @tokens;
    my $add = sub { push @tokens, [ $_[0], $_[1], $line ] };
    while ((pos($sql) // 0) < length $sql) {
        if ($sql =~ /\G(\s+|--[^\n]*)/gc) { $line += () = $1 =~ /\n/g; }
        elsif ($sql =~ m{\G(/\*.*?\*/)}gcs) { $line += () = $1 =~ /\n/g; }
        elsif ($sql =~ /\G(\\[^\n]*)/gc) { }    # psql's
        elsif ($sql =~ /\G(\$(\w*)\$(.*?)\$\2\$)/gcs) {
            $add->('dollar', $3);
            $line += () = $1 =~ /\n/g;
        }
        elsif ($sql =~ /\G([eE]?'(?:[^']|'')*')/gc) {
            $add->('string', $1);
            $line += () = $1 =~ /\n/g;
        }
        elsif ($sql =~ /\G"((?:[^"]|"")*)"/gc) { $add->('quoted', $1); }
        elsif ($sql =~ /\G([\@]extschema(?::\w+)?[\@]|[A-Za-z_]\w*)/gc) { $add->('word', lc $1); }
        elsif ($sql =~ /\G(\$?\d[\w.]*)/gc) { $add->('number', $1); }
        elsif ($sql =~ /\G(::|:=|=>|\.\.)/gc) { $add->('sign', $1); }
        elsif ($sql =~ m{\G([-+*/<>=~!\@#%^&|`?]+)}gc) { $add->('operator', $1); }
        elsif ($sql =~ /\G(.)/gcs) { $add->('sign', $1); }
    }
    return @tokens;
}

# Splits at semicolons; a body BEGIN ATOMIC … END belongs to its statement.
sub statements {
    my @statements = ([]);
    my $depth = 0;
    for my $token (@_) {
        my $text = $token->[0] eq 'word' ? $token->[1] : '';
        my $last = $statements[-1];
        if ($text eq 'atomic' && @$last && $last->[-1][1] eq 'begin') { $depth = 1; }
        elsif ($depth && $text eq 'case') { $depth++; }
        elsif ($depth && $text eq 'end') { $depth--; }
        if ($token->[0] eq 'sign' && $token->[1] eq ';' && !$depth) { push @statements, []; }
        else { push @{ $statements[-1] }, $token; }
    }
    return grep { @$_ } @statements;
}

sub text_of {
    return join ' ', map { $_->[0] eq 'string' || $_->[0] eq 'dollar' ? "''" : $_->[1] } @_;
}

# A search_path, as text of tokens behind the = or TO.
sub check_path {
    my ($path, $line, $in_script) = @_;
    $path =~ s/\s//g;
    return 'pinned' if $path =~ /^pg_catalog,pg_temp$/;
    return 'open' if $in_script && $path =~ /^\@extschema\@,pg_temp$/;
    find($line, "search_path \"$path\": expected pg_catalog, pg_temp");
    return 'open';
}

# Names that WITH gives to queries, and aliases of functions and subqueries.
sub local_names {
    my @t = @_;
    my %local;
    for my $i (0 .. $#t - 1) {
        $local{ $t[$i][1] } = 1
          if $t[$i][0] eq 'word' && $t[$i + 1][1] eq 'as' && $i + 2 <= $#t && $t[$i + 2][1] =~ /^(\(|materialized|not)$/;
    }
    return %local;
}

sub is_sign { my ($token, $sign) = @_; return $token && $token->[0] eq 'sign' && $token->[1] eq $sign; }

# Calls, operators, relations and types that somebody else's could take the place of.
sub check_expressions {
    my ($pinned, $relations, @t) = @_;
    my %local = local_names(@t);
    for my $i (0 .. $#t) {
        my ($kind, $text, $line) = @{ $t[$i] };
        my $before = $i > 0 ? $t[$i - 1] : undef;
        my $after = $t[$i + 1];
        my $qualified = is_sign($before, '.');
        my $previous = $before ? $before->[1] : '';
        if ($kind eq 'word' && is_sign($after, '(') && !$qualified && !$not_a_call{$text} && !$local{$text}
            && $previous !~ /^(function|procedure|table|view|index|trigger|into|join|type|domain|references)$/
            && !(($previous eq ')' || ($before && $before->[0] eq 'word' && !$not_a_call{$previous})))) {
            find($line, "the call $text() is not qualified") unless $pinned;
        }
        if ($kind eq 'word' && !$pinned) { check_hidden_operator($relations, $i, @t); }
        if ($kind eq 'operator' && !$pinned) {
            my $star = $text eq '*'
              && ($previous =~ /^(select|\.|\(|,|distinct|returning)$/ || is_sign($after, ')'));
            my $named = is_sign($before, '.') && $i >= 4 && $t[$i - 4][1] eq 'operator';
            find($line, "the operator $text is not qualified") unless $star || $named;
        }
        if ($kind eq 'sign' && $text eq '::' && !$pinned && $after
            && !(is_sign($t[$i + 2], '.')) && !$grammar_type{ $after->[1] }) {
            find($line, "the type $after->[1] is not qualified");
        }
        # Not: FOR UPDATE, DO UPDATE, SELECT … INTO.
        if ($relations && !$pinned && $kind eq 'word'
            && ($text =~ /^(from|join|using)$/ || ($text eq 'into' && $previous eq 'insert')
                || ($text eq 'update' && $previous !~ /^(for|do|key|on)$/))
            && $after && $after->[0] =~ /^(word|quoted)$/ && !is_sign($t[$i + 2], '.') && !is_sign($t[$i + 2], '(')
            && $after->[1] !~ /^(lateral|only|select|values|unnest)$/ && !$local{ $after->[1] }
            && $previous ne 'distinct') {
            find($line, "the relation $after->[1] is not qualified");
        }
    }
    return;
}

# Syntax behind which an operator stands that cannot be qualified.
sub check_hidden_operator {
    my ($relations, $i, @t) = @_;
    my $text = $t[$i][1];
    my $line = $t[$i][2];
    my $next = $i < $#t ? $t[ $i + 1 ][1] : '';
    my $previous = $i > 0 ? $t[ $i - 1 ][1] : '';
    if ($text eq 'case' && $next ne 'when') {
        find($line, 'CASE compares with an operator that is not qualified: CASE WHEN … OPERATOR(…) …');
    }
    elsif ($text =~ /^(like|ilike|similar|between|nullif)$/ && $previous ne '(') {
        find($line, uc($text) . ' stands for an operator that is not qualified');
    }
    elsif ($text eq 'distinct' && $previous =~ /^(is|not)$/) {
        find($line, 'IS DISTINCT FROM stands for an operator that is not qualified');
    }
    # In a table's definition: literals take the column's type, whose operator is pg_catalog's.
    elsif ($text eq 'in' && $relations && !($i > 1 && $t[ $i - 2 ][1] eq 'for')) {
        find($line, 'IN stands for an operator that is not qualified');
    }
    elsif ($text eq 'using' && $next eq '(') {
        find($line, 'JOIN … USING stands for an operator that is not qualified');
    }
    return;
}

# REVOKE lists by their functions' names.
sub revoked {
    my %revoked;
    for my $statement (@_) {
        my $text = text_of(@$statement);
        next unless $text =~ /^revoke all .*from public$/;
        $revoked{$1} = 1 while $text =~ /(\w+) \(/g;
    }
    return %revoked;
}

sub check_function {
    my ($pinned, $revoked, @t) = @_;
    my $line = $t[0][2];
    my $text = text_of(@t);
    my ($name) = $text =~ /^create (?:or replace )?(?:function|procedure) (?:\S+ \. )?(\w+)/;
    find($line, "$name: EXECUTE is not revoked from PUBLIC") unless $revoked->{$name};
    my ($path) = $text =~ /\bset search_path (?:=|to) ((?:[\w\@]+ , )*[\w\@]+)/;
    my $own = defined $path ? check_path($path, $line, 0) eq 'pinned' : 0;
    if ($text =~ /\bsecurity definer\b/ && !$own) {
        find($line, "$name is SECURITY DEFINER without a pinned search_path");
    }
    return if $text =~ /\blanguage (?:c|internal)\b/;
    find($line, "$name has no SET search_path clause") unless defined $path;
    my $atomic = $text =~ /\bbegin atomic\b/;
    if ($atomic) {
        my ($begin) = grep { $t[$_][1] eq 'atomic' } 0 .. $#t;
        check_expressions($pinned, 1, @t[ $begin + 1 .. $#t ]);
    }
    for my $token (grep { $_->[0] eq 'dollar' || ($_->[0] eq 'string' && !$atomic) } @t) {
        my $body = $token->[1];
        if ($token->[0] eq 'string') { $body =~ s/^[eE]?'|'$//g; $body =~ s/''/'/g; }
        check_expressions($own, 1, tokens($body, $token->[2]));
    }
    return;
}

sub check_script {
    my ($sql) = @_;
    my @statements = statements(tokens($sql, 1));
    my %revoked = revoked(@statements);
    my $pinned = 0;
    for my $statement (@statements) {
        my $text = text_of(@$statement);
        my $line = $statement->[0][2];
        if ($text =~ /^set (?:local |session )?search_path (?:=|to) (.*)$/) {
            $pinned = check_path($1, $line, 1) eq 'pinned';
            find($line, 'search_path: SET LOCAL, or it outlives the script') unless $text =~ /^set local/;
            next;
        }
        find($line, 'CREATE OR REPLACE may replace somebody else\'s object') if $text =~ /^create or replace\b/;
        find($line, 'IF NOT EXISTS may take somebody else\'s object for ours') if $text =~ /\bif not exists\b/;
        find($line, 'a grant to PUBLIC') if $text =~ /^grant\b.* to (?:.* , )?public\b/;
        if ($text =~ /^create (?:or replace )?(?:function|procedure)\b/) {
            check_function($pinned, \%revoked, @$statement);
        }
        elsif ($text =~ /^create (?:or replace )?(?:materialized |recursive )?view\b/) {
            check_expressions($pinned, 1, @$statement);
        }
        elsif ($text =~ /^do\b/) {
            check_expressions(0, 1, map { tokens($_->[1] =~ s/^[eE]?'|'$//gr, $_->[2]) }
                  grep { $_->[0] eq 'dollar' || $_->[0] eq 'string' } @$statement);
        }
        elsif ($text =~ /^(?:create (?:unlogged |temporary )?table|create (?:unique )?index|alter table|create domain)\b/) {
            # Expressions stand where names and types of columns have ended.
            check_expressions($pinned, 0, expressions_of_table(@$statement));
        }
        elsif ($text =~ /^(?:select|insert|update|delete|with|call|create (?:policy|rule|trigger)|alter policy)\b/) {
            check_expressions($pinned, 1, @$statement);
        }
    }
    return;
}

# What follows DEFAULT, CHECK, AS and WHERE.
sub expressions_of_table {
    my @t = @_;
    my (@expressions, $inside);
    my ($depth, $began) = (0, 0);
    for my $token (@t) {
        $depth++ if is_sign($token, '(');
        if ($inside) {
            # The column's definition ends, or the list of columns.
            if ((is_sign($token, ',') && $depth <= $began) || (is_sign($token, ')') && $depth <= $began)) {
                $inside = 0;
                push @expressions, [ 'sign', ',', $token->[2] ];
            }
            else { push @expressions, $token; }
        }
        elsif ($token->[0] eq 'word' && $token->[1] =~ /^(default|check|where|as|using)$/) {
            ($inside, $began) = (1, $depth);
            push @expressions, [ 'word', 'select', $token->[2] ];
        }
        $depth-- if is_sign($token, ')');
    }
    return @expressions;
}

# --- self-test ---------------------------------------------------------------------------------

my $revoke = 'REVOKE ALL ON FUNCTION f(), g(int) FROM PUBLIC;';

# pgspot's number => [a script, what the one finding says]. PS008 is none.
my %pgspot = (
    PS001 => [ 'CREATE VIEW v AS SELECT a.x + a.y FROM s.t a;', 'operator \+' ],
    PS002 => [ "$revoke CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE c AS 'x';", 'OR REPLACE' ],
    PS003 => [ "$revoke CREATE FUNCTION f() RETURNS void LANGUAGE c SECURITY DEFINER AS 'x';", 'SECURITY DEFINER' ],
    PS004 => [ "$revoke CREATE FUNCTION f() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp, public AS 'SELECT';",
        'expected pg_catalog', 'SECURITY DEFINER' ],
    PS005 => [ "$revoke CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN END';", 'no SET search_path' ],
    PS006 => [ 'CREATE OR REPLACE TRANSFORM FOR t LANGUAGE l (FROM SQL WITH FUNCTION s.f(internal));', 'OR REPLACE' ],
    PS007 => [ 'CREATE OR REPLACE AGGREGATE g(int) (SFUNC = s.f, STYPE = int);', 'OR REPLACE' ],
    PS009 => [ 'CREATE VIEW v AS SELECT CASE a.x WHEN 1 THEN 2 END AS y FROM s.t a;', 'CASE compares' ],
    PS010 => [ 'CREATE SCHEMA IF NOT EXISTS s;', 'IF NOT EXISTS' ],
    PS011 => [ 'CREATE SEQUENCE IF NOT EXISTS s;', 'IF NOT EXISTS' ],
    PS012 => [ 'CREATE TABLE IF NOT EXISTS t (a int);', 'IF NOT EXISTS' ],
    PS013 => [ 'CREATE SERVER IF NOT EXISTS s FOREIGN DATA WRAPPER w;', 'IF NOT EXISTS' ],
    PS014 => [ 'CREATE INDEX IF NOT EXISTS i ON t (a);', 'IF NOT EXISTS' ],
    PS015 => [ 'CREATE OR REPLACE VIEW v AS SELECT 1;', 'OR REPLACE' ],
    PS016 => [ 'CREATE VIEW v AS SELECT f(a.x) FROM s.t a;', 'call f\(\)' ],
    PS017 => [ 'CREATE VIEW v AS SELECT 1 FROM t;', 'relation t' ],
);

# [a script, what the findings say, one each; nothing where there must be none]
my @cases = (
    map({ $pgspot{$_} } sort keys %pgspot),
    [ 'CREATE MATERIALIZED VIEW IF NOT EXISTS v AS SELECT 1;', 'IF NOT EXISTS' ],
    [ 'CREATE OR REPLACE PROCEDURE f() LANGUAGE c AS \'x\';', 'OR REPLACE', 'not revoked' ],
    [ 'CREATE OR REPLACE TRIGGER t AFTER INSERT ON s.t EXECUTE FUNCTION s.f();', 'OR REPLACE' ],
    [ 'CREATE VIEW v AS SELECT CASE WHEN a.x IS NULL THEN 2 END AS y FROM s.t a;', '' ],
    [ 'CREATE VIEW v AS SELECT 1 FROM s.t a WHERE a.x IN (1, 2);', 'IN stands' ],
    [ 'CREATE VIEW v AS SELECT 1 FROM s.t a WHERE a.x NOT BETWEEN 1 AND 2;', 'BETWEEN' ],
    [ "CREATE VIEW v AS SELECT 1 FROM s.t a WHERE a.x LIKE 'y';", 'LIKE' ],
    [ 'CREATE VIEW v AS SELECT 1 FROM s.t a WHERE a.x IS NOT DISTINCT FROM a.y;', 'DISTINCT' ],
    [ 'CREATE VIEW v AS SELECT DISTINCT a.x FROM s.t a;', '' ],
    [ 'CREATE VIEW v AS SELECT NULLIF(a.x, 1) AS y FROM s.t a;', 'NULLIF' ],
    [ 'CREATE VIEW v AS SELECT 1 FROM s.t a JOIN s.u b USING (x);', 'USING' ],
    [ 'INSERT INTO t VALUES (1);', 'relation t' ],
    [ 'UPDATE t SET a = 1;', 'relation t', 'operator =' ],
    [ 'DELETE FROM t;', 'relation t' ],
    [ 'INSERT INTO s.t VALUES (1) ON CONFLICT DO NOTHING;', '' ],
    [ 'SET LOCAL search_path = pg_catalog, pg_temp; CREATE VIEW s.v AS SELECT 1 FROM s.t a WHERE a.x IN (1, 2);', '' ],
    [ 'DO $$ DECLARE r record; BEGIN FOR r IN SELECT 1 FROM t LOOP NULL; END LOOP; END $$;', 'relation t' ],
    [ "$revoke CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS \$\$ BEGIN RETURN CASE 1 WHEN 1 THEN 2 END; END \$\$;", '' ],
    [ 'CREATE OR REPLACE VIEW v AS SELECT 1;', 'OR REPLACE' ],
    [ 'CREATE TABLE IF NOT EXISTS t (a int);', 'IF NOT EXISTS' ],
    [ 'CREATE INDEX IF NOT EXISTS i ON t (a);', 'IF NOT EXISTS' ],
    [ 'CREATE SCHEMA IF NOT EXISTS s;', 'IF NOT EXISTS' ],
    [ "COMMENT ON TABLE t IS 'CREATE OR REPLACE IF NOT EXISTS';", '' ],
    [ '-- CREATE OR REPLACE VIEW v AS SELECT now();', '' ],
    [ 'GRANT SELECT ON t TO PUBLIC;', 'PUBLIC' ],
    [ 'GRANT SELECT ON t TO a, PUBLIC;', 'PUBLIC' ],
    [ 'GRANT SELECT ON t TO pg_monitor;', '' ],
    [ "CREATE FUNCTION h() RETURNS void LANGUAGE c AS 'x';", 'not revoked' ],
    [ "$revoke CREATE FUNCTION f() RETURNS void LANGUAGE c AS 'x';", '' ],
    [ "$revoke CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT';", 'no SET search_path' ],
    [ "$revoke CREATE FUNCTION f() RETURNS void LANGUAGE c SECURITY DEFINER AS 'x';", 'SECURITY DEFINER' ],
    [ "$revoke CREATE FUNCTION f() RETURNS void LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'x';", '' ],
    [ "$revoke CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = public AS 'SELECT 1';", 'expected pg_catalog' ],
    [ "$revoke CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = pg_catalog AS 'SELECT 1';", 'expected pg_catalog' ],
    [ "$revoke CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = pg_temp, pg_catalog AS 'SELECT 1';", 'expected pg_catalog' ],
    [ "$revoke CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS \$\$ BEGIN RETURN now() + 1; END \$\$;", '' ],
    # The clause does not hold when a body BEGIN ATOMIC is parsed.
    [ "$revoke CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = pg_catalog, pg_temp BEGIN ATOMIC SELECT pg_catalog.abs(a.x) + 1 FROM s.t a; END;", 'operator \+' ],
    [ "$revoke SET LOCAL search_path = pg_catalog, pg_temp; CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = pg_catalog, pg_temp BEGIN ATOMIC SELECT abs(1) + 1; END;", '' ],
    [ "$revoke CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = pg_catalog, pg_temp BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT abs(1); END;", 'abs' ],
    [ 'SET LOCAL search_path = public;', 'expected pg_catalog' ],
    [ 'SET LOCAL search_path TO pg_catalog, public, pg_temp;', 'expected pg_catalog' ],
    [ 'SET search_path = pg_catalog, pg_temp;', 'SET LOCAL' ],
    [ 'SET LOCAL search_path = @extschema@, pg_temp;', '' ],
    [ 'CREATE VIEW v AS SELECT now();', 'now' ],
    [ 'CREATE VIEW v AS SELECT pg_catalog.now();', '' ],
    [ 'CREATE VIEW v AS SELECT coalesce(a.x, a.y) FROM s.t a WHERE a.z IS NULL;', '' ],
    [ 'CREATE VIEW v AS SELECT a.x || a.y FROM s.t a;', 'operator \|\|' ],
    [ 'CREATE VIEW v AS SELECT a.x OPERATOR(pg_catalog.||) a.y FROM s.t a;', '' ],
    [ 'CREATE VIEW v AS SELECT * FROM s.t a JOIN u b ON true;', 'relation u' ],
    [ 'CREATE VIEW v AS SELECT a.*, pg_catalog.count(*) FROM s.t a;', '' ],
    [ 'CREATE VIEW v AS WITH q AS (SELECT 1) SELECT * FROM q;', '' ],
    [ 'CREATE VIEW v AS SELECT a.x::text FROM s.t a;', 'type text' ],
    [ 'CREATE VIEW v AS SELECT a.x::pg_catalog.text, a.y::bigint FROM s.t a;', '' ],
    [ 'SET LOCAL search_path = pg_catalog, pg_temp; CREATE VIEW @extschema@.v AS SELECT now() + a.x::text FROM @extschema@.t a;', '' ],
    [ 'SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL search_path = @extschema@, pg_temp; CREATE VIEW v AS SELECT now();', 'now' ],
    [ 'DO $$ BEGIN PERFORM set_config(\'a\', \'b\', true); END $$;', 'set_config' ],
    [ "SELECT pg_extension_config_dump('t', '');", 'pg_extension_config_dump' ],
    [ "SELECT pg_catalog.pg_extension_config_dump('t', '');", '' ],
    [ 'CREATE TABLE t (a timestamptz DEFAULT now(), b int);', 'now' ],
    [ 'CREATE TABLE t (a timestamptz DEFAULT pg_catalog.now(), b numeric(3, 1), PRIMARY KEY (a, b));', '' ],
    [ "CREATE TABLE t (a text CHECK (a IN ('x', 'y')), b int NOT NULL);", '' ],
    [ 'CREATE TABLE t (a int CHECK (a > 1));', 'operator >' ],
    [ 'CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) STORED);', 'operator \*' ],
    [ "CREATE INDEX i ON t (a) WHERE b = 'x';", 'operator =' ],
    [ "CREATE INDEX i ON t (a) WHERE b OPERATOR(pg_catalog.=) 'x';", '' ],
);

sub self_test {
    my $bad = 0;
    for my $case (@cases) {
        my ($sql, @expected) = @$case;
        @expected = grep { $_ ne '' } @expected;
        @findings = ();
        $where = 'self-test';
        check_script($sql);
        my $good = @findings == @expected;
        for my $pattern (@expected) { $good &&= grep { /$pattern/ } @findings; }
        next if $good;
        $bad = 1;
        print 'expected ', @expected ? join(', ', map { "/$_/" } @expected) : 'nothing', " of: $sql\n",
          map({ "    got: $_\n" } @findings), @findings ? '' : "    got nothing\n";
    }
    for my $number (map { sprintf 'PS%03d', $_ } 1 .. 7, 9 .. 17) {
        next if $pgspot{$number};
        $bad = 1;
        print "no example of $number\n";
    }
    return $bad;
}

if (@ARGV && $ARGV[0] eq '--self-test') { exit self_test(); }
die "usage: lint-sql-security.pl --self-test | FILE …\n" unless @ARGV;
for my $file (@ARGV) {
    open my $handle, '<', $file or die "$file: $!\n";
    local $/;
    $where = $file;
    check_script(scalar <$handle>);
}
print "$_\n" for @findings;
exit(@findings ? 1 : 0);
