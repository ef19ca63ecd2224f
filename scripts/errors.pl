#!/usr/bin/env perl
# The list of the errors that the extension raises, read from the sources: docs/errors.md.
#
#   scripts/errors.pl            prints it
#   scripts/errors.pl --check    fails where docs/errors.md is another
#
# An error is `core::Error` with SQLSTATE, message, detail and hint, or `ereport` inside src/pg. What is
# put together at run time is shown as "…".
use strict;
use warnings;
use Text::Balanced qw(extract_bracketed);

my %code_of = slurp('src/core/error.hpp') =~ /\*\s*(k\w+)\s*=\s*"(\w{5})"/g;
my %meaning = (
    '08001' => 'unable to establish connection',
    '22008' => 'datetime field overflow',
    '2202E' => 'array subscript error',
    '42P13' => 'invalid function definition',
    '08006' => 'connection failure',                '0A000' => 'feature not supported',
    '22000' => 'data exception',                    '22003' => 'numeric value out of range',
    '22004' => 'null value not allowed',            '22021' => 'character not in repertoire',
    '22023' => 'invalid parameter value',           '22P04' => 'bad file format',
    '25001' => 'active SQL transaction',            '25006' => 'read-only SQL transaction',
    '2D000' => 'invalid transaction termination',   '42501' => 'insufficient privilege',
    '42701' => 'duplicate column',                  '42703' => 'undefined column',
    '42704' => 'undefined object',                  '42710' => 'duplicate object',
    '42804' => 'datatype mismatch',                 '42809' => 'wrong object type',
    '42939' => 'reserved name',                     '42P01' => 'undefined table',
    '42P16' => 'invalid table definition',          '53000' => 'insufficient resources',
    '53100' => 'disk full',                         '53200' => 'out of memory',
    '53400' => 'configuration limit exceeded',      '54000' => 'program limit exceeded',
    '55000' => 'object not in prerequisite state',  '55P03' => 'lock not available',
    '58000' => 'system error',                      '58030' => 'I/O error',
    '58P01' => 'undefined file',                    '58P02' => 'duplicate file',
    '3F000' => 'invalid schema name',               'HV00D' => 'invalid option name',
    'HV00N' => 'unable to establish connection',    'P0001' => 'raised exception',
    'XX000' => 'internal error',                    'XX001' => 'data corrupted',
    '27000' => 'triggered data change violation',   '23514' => 'check violation',
    '57P03' => 'cannot connect now',                '28000' => 'invalid authorization',
);

my @errors;
for my $path (sort map { glob } qw(src/*/*.cpp src/*/*.hpp)) {
    next if $path =~ m{^src/core/error\.hpp$};
    my $text = slurp($path);
    $text =~ s{//[^\n]*}{}g;
    while ($text =~ /(?:\bcore::Error(?:\s+\w+)?\s*(?=[({])|\breturn\s*(?=\{\s*(?:core::)?(?:sqlstate::\w+|k\w+|"\w{5}")\s*,))/g) {
        my ($inside) = extract_bracketed(substr($text, pos $text), '({")', '') or next;
        next unless defined $inside;
        my @arguments = split_top($inside, ',');
        my $code = code(shift @arguments // '');
        next unless defined $code && @arguments && @arguments <= 3;
        my ($message, $detail, $hint) = map { texts($_) } @arguments;
        next unless $message =~ /\w/;
        push @errors, { code => $code, message => $message, detail => $detail // '', hint => $hint // '', path => $path };
    }
    while ($text =~ /\bereport(?=\()/g) {
        my ($inside) = extract_bracketed(substr($text, pos $text), '()"', '');
        next unless defined $inside && $inside =~ /^\(\s*ERROR\b/;
        my ($errcode) = $inside =~ /errcode\((ERRCODE_\w+)\)/ or next;
        my %said;
        for my $part (qw(errmsg errdetail errhint)) {
            if ($inside =~ /\b$part(?=\()/g) {
                my ($call) = extract_bracketed(substr($inside, pos $inside), '()"', '');
                $said{$part} = texts((split_top($call, ','))[0]);
            }
        }
        next unless ($said{errmsg} // '') =~ /\w/;
        (my $name = lc $errcode) =~ s/^errcode_|_/ /g;
        my ($code) = grep { lc($meaning{$_}) eq substr($name, 1) } sort keys %meaning;
        push @errors, { code => $code // '?', message => $said{errmsg}, detail => $said{errdetail} // '', hint => $said{errhint} // '', path => $path };
    }
}
die "no errors found\n" unless @errors > 100;

my $list = <<'HEAD';
# Errors

Every error that the extension's own code raises: made from the sources by `scripts/errors.pl`, and checked by
`make lint`. "…" is what is put in at run time. What the server itself raises inside of a job (a lock timeout, a
missing privilege on your table, a constraint) keeps its SQLSTATE and text. Where to look first stands in the hint;
alerts have their runbooks in [runbooks.md](runbooks.md).
HEAD
my $last = '';
my %seen;
for my $e (sort { $a->{code} cmp $b->{code} || lc $a->{message} cmp lc $b->{message} || $a->{hint} cmp $b->{hint} } @errors) {
    next if $seen{"$e->{code}|$e->{message}|$e->{hint}"}++;
    if ($e->{code} ne $last) {
        $last = $e->{code};
        my $meaning = $meaning{$last} or die "$e->{path}: no meaning known for SQLSTATE $last\n";
        $list .= "\n## $last: $meaning\n\n";
    }
    $list .= "- $e->{message}\n";
    $list .= "  - Detail: $e->{detail}\n" if $e->{detail} =~ /\w/;
    $list .= "  - Hint: $e->{hint}\n" if $e->{hint} =~ /\w/;
}
if (@ARGV && $ARGV[0] eq '--check') {
    exit 0 if -e 'docs/errors.md' && slurp('docs/errors.md') eq $list;
    print "docs/errors.md is not what scripts/errors.pl prints: scripts/errors.pl >docs/errors.md\n";
    exit 1;
}
print $list;

# A SQLSTATE as the source says it.
sub code {
    my ($said) = @_;
    return $1 if $said =~ /^\s*"(\w{5})"\s*$/;
    return $code_of{$1} // ($said =~ /kConnectionFailure/ ? '08006' : undef) if $said =~ /(?:^|::|\s)(k\w+)\s*$/;
    return;
}

# The strings of an expression, in their order, what lies between as "…".
sub texts {
    my ($expression) = @_;
    return '' if $expression =~ /^\s*(?:\{\s*\}|)\s*$/;
    my $result = '';
    for my $part (split_top("($expression)", '+')) {
        my @strings = $part =~ /"((?:[^"\\]|\\.)*)"/g;
        (my $rest = $part) =~ s/"(?:[^"\\]|\\.)*"//g;
        if ($rest !~ /\S/) {
            $result .= join '', @strings;
        } elsif ($rest =~ /\?/ && @strings > 1) {
            $result .= join ' | ', grep { /\S/ } @strings;
        } elsif ($rest =~ /^\s*(?:std::string)?\s*[({]\s*[)}]\s*$/ && @strings) {
            $result .= join '', @strings;
        } elsif ($rest =~ /^\s*std::string\(\s*\)\s*$/) {
            $result .= join '', @strings;
        } else {
            $result .= '…';
        }
    }
    $result =~ s/\\"/"/g;
    $result =~ s/\\n/ /g;
    $result =~ s/%\w+|%%/…/g;
    $result =~ s/…(?:…)+/…/g;
    return $result;
}

# The parts of "(a, b)" between commas (or pluses) of its own level.
sub split_top {
    my ($bracketed, $separator) = @_;
    my ($depth, $current, @parts) = (0, '');
    while ($bracketed =~ /("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|.)/gs) {
        my $token = $1;
        if ($token =~ /^[([{]$/) { next if $depth++ == 0 }
        if ($token =~ /^[)\]}]$/) { last if --$depth == 0 }
        if ($token eq $separator && $depth == 1) { push @parts, $current; $current = ''; next }
        $current .= $token;
    }
    push @parts, $current if $current =~ /\S/;
    return @parts;
}

sub slurp {
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!\n";
    local $/;
    return scalar <$file>;
}
