# Databases in other encodings than UTF-8: what is exported is UTF-8 all the same, the same as
# row_to_json() converted, and it comes back as it was.
use strict;
use warnings;
use BacmrTest;
use Encode qw(decode encode FB_CROAK LEAVE_SRC);
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

# Of psql: what goes in and comes out of it is UTF-8.
$ENV{PGCLIENTENCODING} = 'UTF8';

my $node = new_server('main', conf => ['bacmr.worker_enabled = off']);
my $artifacts = $node->data_dir . '/bacmr_artifacts';

sub database {
    my ($name, $encoding) = @_;
    $node->safe_psql('postgres',
        "CREATE DATABASE $name ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
    $node->safe_psql($name, 'CREATE EXTENSION bacmr_ops; SELECT bacmr_create_tables()');
    return;
}

# What a query answers, be it an error.
sub answer {
    my ($database, $sql) = @_;
    my ($out, $err);
    $node->psql($database, $sql, stdout => \$out, stderr => \$err);
    return $err eq '' ? $out : $err;
}

# The visible files of a database's folder.
sub files {
    my ($database) = @_;
    my @files = sort map { s{.*/}{}r } glob "$artifacts/$database/*";
    return @files;
}

# Dies where it is not UTF-8.
sub text_of {
    my ($database, $file) = @_;
    return decode('UTF-8', slurp_file("$artifacts/$database/$file"), FB_CROAK | LEAVE_SRC);
}

# The lines of a query that prints hex of UTF-8, decoded.
sub query_text {
    my ($database, $sql) = @_;
    return map { decode('UTF-8', pack('H*', $_), FB_CROAK | LEAVE_SRC) }
      split /\n/, $node->safe_psql($database, $sql);
}

my $manifest_reader = JSON::PP->new->utf8(0);
sub manifest_of { return $manifest_reader->decode(text_of($_[0], "$_[1].manifest.json")); }

# Characters of each, which the others do not all have; in UTF-8, as this file is.
my %sample = (
    LATIN1 => { database => 'latin', name => 'é ü', words => [ 'œuvre' =~ s/œ/oe/r, 'ÿþ«»', 'à "é" \\', '½' ] },
    EUC_JP => { database => 'japan', name => '表 名', words => [ '日本語', 'ソ能', '"表" \\', 'ｶﾅ' ] },
    UTF8 => { database => 'unicode', name => 'é 表 عربي', words => [ 'نص', '😀', '"é"\\', '日本語' ] });

for my $encoding (sort keys %sample) {
    my ($database, $name, $words) = @{ $sample{$encoding} }{qw(database name words)};
    my $values = join ', ', map { "('$_')" } @$words;
    database($database, $encoding);
    $node->safe_psql($database, <<"SQL");
CREATE TYPE "t $name" AS ("f $name" text, j json);
CREATE DOMAIN "d $name" AS text;
CREATE TYPE "e $name" AS ENUM ('$words->[0]', '$words->[1]');
CREATE TABLE "$name" (id int PRIMARY KEY, "c $name" text, j json, "jb $name" jsonb, a text[], c "t $name",
                      ca "t $name"[], d "d $name", e "e $name", v varchar(20), n name, x int);
INSERT INTO "$name"
SELECT row_number() OVER (), w, format(E'{%s:\\n[%s, null]}', to_json(w), to_json(w))::json,
  CASE WHEN w = '$words->[1]' THEN 'null' ELSE jsonb_build_object(w, w) END, ARRAY[w, NULL, w || ','],
  ROW(w, to_json(w))::"t $name", ARRAY[ROW(w, NULL)::"t $name"], w, '$words->[0]', w, w, 1
FROM (VALUES $values) v(w);
INSERT INTO "$name" (id) VALUES (100);
CREATE TABLE "copy of $name" (LIKE "$name" INCLUDING ALL);
SQL
    for my $compression (qw(none zstd)) {
        $node->safe_psql($database,
            qq{SELECT bacmr_export('"$name"', file_name => 'by_table_$compression', compression => '$compression')});
    }
    my $text = eval { text_of($database, 'by_table_none') };
    ok(defined $text, "$encoding: the export is UTF-8") or diag($@);
    is_deeply(
        [ split /\n/, $text // '' ],
        [ query_text($database, qq{SELECT encode(convert_to(translate(row_to_json(t)::text, E'\\n\\r', '  '), 'UTF8'), 'hex')
            FROM "$name" t}) ],
        "$encoding: each line is row_to_json(), converted");
    my @rows = map { $manifest_reader->decode($_) } split /\n/, $text // '';
    is_deeply(
        [ map { $_->{"c " . decode('UTF-8', $name)} } @rows[ 0 .. $#$words ] ],
        [ map { decode('UTF-8', $_) } @$words ],
        "$encoding: another parser reads the texts as they are");

    my $manifest = eval { manifest_of($database, 'by_table_none') };
    ok(defined $manifest, "$encoding: the manifest is JSON in UTF-8") or diag($@);
    is($manifest->{relation}, decode('UTF-8', qq{public."$name"}), "$encoding: it names the table");
    is($manifest->{server_encoding}, $encoding, "$encoding: and the encoding");
    is_deeply($manifest->{json_nulls}, { decode('UTF-8', "jb $name") => [ [ 2, 1 ] ] },
        "$encoding: and the JSON nulls");

    for my $file (qw(by_table_none by_table_zstd)) {
        is(answer($database, "SELECT ok, problem FROM bacmr_verify_export('$file')"),
            't|', "$encoding: $file is verified");
        is(answer($database,
                "SELECT ok, missing, different, extra FROM bacmr_restore_drill('$file')"),
            't|0|0|0', "$encoding: the drill finds it equal");
        $node->safe_psql($database, qq{TRUNCATE "copy of $name"});
        is(answer($database,
                qq{SELECT read, inserted FROM bacmr_import('"copy of $name"', '$file')}),
            (@$words + 1) . '|' . (@$words + 1), "$encoding: $file is imported");
        is(answer($database, qq{SELECT count(*) FROM "$name" was FULL JOIN "copy of $name" now USING (id)
            WHERE translate(was::text, E'\\n', ' ') IS DISTINCT FROM now::text}), '0', "$encoding: all as it was");
    }
    $node->safe_psql($database, qq{UPDATE "copy of $name" SET x = 7, "c $name" = NULL; DELETE FROM "copy of $name" WHERE id = 1});
    is(answer($database,
            qq{SELECT inserted, updated FROM bacmr_import('"copy of $name"', 'by_table_none', 'update')}),
        '1|' . scalar(@$words), "$encoding: updated by names of columns");
    is(answer($database, qq{SELECT count(*) FROM "$name" was FULL JOIN "copy of $name" now USING (id)
        WHERE translate(was::text, E'\\n', ' ') IS DISTINCT FROM now::text}), '0', "$encoding: all as it was");

    # The file's own name, made from the table's
    my %before = map { $_ => 1 } files($database);
    is(answer($database, qq{SELECT chunks FROM bacmr_export('"$name"')}),
        @$words + 1, "$encoding: an export named after the table");
    my ($new) = grep { !$before{$_} && !/manifest/ } files($database);
    my $own = eval { manifest_of($database, $new) };
    ok(defined $own, "$encoding: has a manifest in UTF-8") or diag($@);
    is($own->{file}, eval { decode('UTF-8', $new, FB_CROAK | LEAVE_SRC) }, "$encoding: that names the file as it is");
    is(answer($database, qq{SELECT detail->>'file' FROM bacmr_job_run WHERE job = 'export' ORDER BY run_id DESC LIMIT 1}),
        $new, "$encoding: so does the run");
    is(answer($database, 'SELECT ok FROM bacmr_restore_drill()'),
        't', "$encoding: and a drill finds it");

    # Chunks: a namespace in the encoding
    $node->safe_psql($database, <<"SQL");
INSERT INTO chunks (namespace, content) SELECT '$words->[0]', w FROM (VALUES $values) v(w);
INSERT INTO chunks (namespace, content) VALUES ('other', 'x');
SELECT bacmr_export_chunks(namespace => '$words->[0]', file_name => 'chunks_of_one');
SQL
    my $chunks = manifest_of($database, 'chunks_of_one');
    is_deeply($chunks->{namespaces}, { decode('UTF-8', $words->[0]) => scalar @$words },
        "$encoding: the manifest counts the namespace under its name");
    is($chunks->{namespace}, decode('UTF-8', $words->[0]), "$encoding: and says that it was the one");
    is(answer($database, q{SELECT ok, extra FROM bacmr_restore_drill('chunks_of_one')}),
        't|0', "$encoding: the drill compares it with that namespace");

    # Errors name things in the client's encoding.
    $node->safe_psql($database, qq{CREATE TABLE fewer (id int)});
    like(error_of($node, $database, q{SELECT bacmr_import('fewer', 'by_table_none')}),
        qr/42703: .*"c \Q$name\E"/, "$encoding: an error names a column as it is");
    is(answer($database, q{SELECT count(*) FROM bacmr_job_run WHERE job = 'export' AND detail->>'relation' = }
              . qq{'public."$name"'}), '3', "$encoding: the runs name the table");
}

# --- from one encoding into another --------------------------------------------------------------

sub copy_export {
    my ($from, $file, $to) = @_;
    for my $each ($file, "$file.manifest.json") {
        my $path = "$artifacts/$to/from_$from" . ($each =~ /(\.manifest\.json)$/ ? $1 : '');
        append_to_file($path, slurp_file("$artifacts/$from/$each"));
    }
    return "from_$from";
}

$node->safe_psql('unicode', q{CREATE TABLE common (id int PRIMARY KEY, t text, j jsonb);
    INSERT INTO common VALUES (1, 'é', '{"é":"ü"}'), (2, 'x', NULL);
    SELECT bacmr_export('common', file_name => 'common')});
$node->safe_psql('latin', 'CREATE TABLE common (id int PRIMARY KEY, t text, j jsonb)');
my $common = copy_export('unicode', 'common', 'latin');
is(answer('latin', "SELECT inserted FROM bacmr_import('common', '$common')"), '2', 'from UTF8 into LATIN1');
is(answer('latin', 'SELECT * FROM common ORDER BY id'), qq{1|é|{"é": "ü"}\n2|x|}, 'each character');
is(answer('latin', q{SELECT octet_length(t) FROM common WHERE id = 1}), '1', 'in its own encoding');

$node->safe_psql('unicode', q{INSERT INTO common VALUES (3, 'نص', NULL); SELECT bacmr_export('common', file_name => 'arabic')});
unlink "$artifacts/latin/from_unicode", "$artifacts/latin/from_unicode.manifest.json";
copy_export('unicode', 'arabic', 'latin');
$node->safe_psql('latin', 'DELETE FROM common');
like(error_of($node, 'latin', q{SELECT bacmr_import('common', 'from_unicode')}),
    qr/22P05: line 3 of "from_unicode" could not be imported: .*no equivalent in encoding "LATIN1"/,
    'what LATIN1 has no character for is an error, with its line');
is(answer('latin', 'SELECT count(*) FROM common'), '0', 'and not a row');
is(answer('latin', q{SELECT ok FROM bacmr_verify_export('from_unicode')}), 't',
    'which does not make the export a bad one');

# --- a database without an encoding --------------------------------------------------------------

database('ascii', 'SQL_ASCII');
$node->safe_psql('ascii', q{CREATE TABLE bytes (id int PRIMARY KEY, t text);
    INSERT INTO bytes VALUES (1, 'é نص 😀'); SELECT bacmr_export('bytes', file_name => 'good')});
is(text_of('ascii', 'good'), decode('UTF-8', qq({"id":1,"t":"é نص 😀"}\n)), 'SQL_ASCII: bytes that are UTF-8 are exported');
is(answer('ascii', q{SELECT ok FROM bacmr_restore_drill('good')}), 't', 'and restored');
for my $bad ('\xff', '\xc3', '\xed\xa0\x80') {
    my @before = files('ascii');
    $node->safe_psql('ascii', "DELETE FROM bytes WHERE id = 2; INSERT INTO bytes VALUES (2, E'$bad')");
    for my $compression (qw(none gzip)) {
        like(error_of($node, 'ascii', "SELECT bacmr_export('bytes', compression => '$compression')"),
            qr/ERROR:  (22021|22P05): /, "SQL_ASCII: $bad, which is not UTF-8, is an error ($compression)");
    }
    is_deeply([ files('ascii') ], \@before, 'and leaves no file');
    is_deeply([ glob "$artifacts/ascii/.*.tmp" ], [], 'hidden or not');
}

# --- what services take ---------------------------------------------------------------------------

for my $call ('bacmr_reindex_plan(%s)', 'bacmr_reindex(%s)', 'bacmr_vectors_repair(%s)', 'bacmr_vectors_verify(%s)') {
    like(error_of($node, 'latin', 'SELECT ' . sprintf $call, "'other'"),
        qr/ERROR:  0A000: chunks of a database in LATIN1 cannot be embedded/, "$call: only of databases in UTF-8");
}

$node->stop;
done_testing();
