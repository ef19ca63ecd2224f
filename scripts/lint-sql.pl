#!/usr/bin/env perl
# Every function, procedure, aggregate, view and table that the newest full script creates has a
# COMMENT ON and is mentioned in docs/reference.md. Overloads need a comment each.
use strict;
use warnings;

my ($script) = (sort { version_of($b) cmp version_of($a) }
      grep { !/--.*--/ } glob 'sql/bacmr_ops--*.sql');
exit 0 unless $script;    # nothing to check yet

my $sql = slurp($script);
# Bodies come first: a string or a comment mark inside one means nothing here.
$sql =~ s/(\$\w*\$).*?\1/''/gs;
$sql =~ s{--[^\n]*|/\*.*?\*/}{}gs;

my $kind = qr/FUNCTION|PROCEDURE|AGGREGATE|MATERIALIZED\s+VIEW|VIEW|TABLE/i;
my $name = qr/(?:[\w\@"]+\.)?"?(\w+)"?/;

my (%created, %commented);
while ($sql =~ /\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:UNLOGGED\s+)?($kind)\s+(?:IF\s+NOT\s+EXISTS\s+)?$name/gi) {
    $created{ normal($1) . " $2" }++;
}
while ($sql =~ /\bCOMMENT\s+ON\s+($kind)\s+$name/gi) {
    $commented{ normal($1) . " $2" }++;
}

my $reference = -e 'docs/reference.md' ? slurp('docs/reference.md') : '';
my $bad = 0;
for my $object (sort keys %created) {
    my ($bare) = $object =~ /(\w+)$/;
    if (($commented{$object} // 0) < $created{$object}) {
        print "$script: $object: ", $created{$object} > 1 ? 'an overload' : 'it', " has no COMMENT ON\n";
        $bad = 1;
    }
    if ($reference !~ /\b\Q$bare\E\b/) {
        print "docs/reference.md does not mention $object\n";
        $bad = 1;
    }
}
exit $bad;

sub slurp {
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!\n";
    local $/;
    return scalar <$file>;
}

sub normal { return join ' ', split ' ', lc $_[0] }

# 0.10.0 comes after 0.9.0.
sub version_of { return join '.', map { sprintf '%05d', $_ } $_[0] =~ /(\d+)/g }
