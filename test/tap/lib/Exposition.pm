# A strict reader of Prometheus' text format 0.0.4. What others let pass (promtool: buckets that
# decrease, a count that is not the last bucket, a series given twice) is an error here.
package Exposition;

use strict;
use warnings;
use Encode ();
use Exporter 'import';

our @EXPORT = qw(parse_exposition series_name);

my $METRIC = qr/[a-zA-Z_:][a-zA-Z0-9_:]*/;
my $LABEL = qr/[a-zA-Z_][a-zA-Z0-9_]*/;
my $NUMBER = qr/[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?Inf|NaN/;
# The samples of a family beside those of its own name.
my %SUFFIXES = (
    counter => [],
    gauge => [],
    untyped => [],
    histogram => [qw(_bucket _sum _count)],
    summary => [qw(_sum _count)]);

# A series' name with its labels sorted by name: the same for the same series wherever it comes from.
sub series_name {
    my ($name, $labels) = @_;
    my @pairs;
    for my $label (sort keys %$labels) {
        my $value = $labels->{$label} =~ s/([\\"])/\\$1/gr =~ s/\n/\\n/gr;
        push @pairs, qq{$label="$value"};
    }
    return @pairs ? "$name\{" . join(',', @pairs) . '}' : $name;
}

# Takes the text's bytes, and the name of a label to leave out of the series' names (one that an
# exporter adds to all). Returns (series => value, family => type, family => help), or dies with a
# reason. Names and values are characters, values as they were written.
sub parse_exposition {
    my ($bytes, $left_out) = @_;
    my $text = eval { Encode::decode('UTF-8', $bytes, Encode::FB_CROAK | Encode::LEAVE_SRC) };
    die "invalid UTF-8\n" unless defined $text;
    die "no newline at the end\n" unless $text =~ /\n\z/;
    my %state = (values => {}, types => {}, help => {}, samples => {}, family => undef,
        left_out => $left_out // '');
    my $number = 0;
    for my $line (split /\n/, $text) {
        ++$number;
        eval { read_line(\%state, $line); 1 } or do {
            chomp(my $reason = $@);
            die "line $number: $reason: $line\n";
        };
    }
    end_family(\%state);
    return @state{qw(values types help)};
}

sub read_line {
    my ($state, $line) = @_;
    if ($line =~ /^# (HELP|TYPE)(?: |$)/) {
        my $what = $1;
        $line =~ /^# $what ($METRIC)(?: (.*))?$/ or die "invalid name\n";
        my ($name, $rest) = ($1, $2 // '');
        begin_family($state, $name);
        return $what eq 'HELP' ? read_help($state, $name, $rest) : read_type($state, $name, $rest);
    }
    return if $line eq '' || $line =~ /^#/;
    return read_sample($state, $line);
}

sub begin_family {
    my ($state, $name) = @_;
    return if defined $state->{family} && $state->{family} eq $name;
    end_family($state);
    die "the family comes a second time\n" if exists $state->{samples}{$name};
    $state->{family} = $name;
    $state->{samples}{$name} = [];
    return;
}

sub read_help {
    my ($state, $name, $help) = @_;
    die "a second HELP\n" if exists $state->{help}{$name};
    die "HELP after the samples\n" if @{ $state->{samples}{$name} };
    $state->{help}{$name} = unescape($help, 'n');
    return;
}

sub read_type {
    my ($state, $name, $type) = @_;
    die "a second TYPE\n" if exists $state->{types}{$name};
    die "unknown TYPE\n" unless $SUFFIXES{$type};
    $state->{types}{$name} = $type;
    return;
}

sub read_sample {
    my ($state, $line) = @_;
    $line =~ /\G($METRIC)(?=[\{ ])/gc or die "invalid name\n";
    my $name = $1;
    my %labels;
    if ($line =~ /\G\{/gc) {
        until (%labels ? $line =~ /\G,?\}/gc : $line =~ /\G\}/gc) {
            die "no comma between labels\n" if %labels && $line !~ /\G,/gc;
            $line =~ /\G($LABEL)="/gc or die "invalid label\n";
            my $label = $1;
            die "the label $label twice\n" if exists $labels{$label};
            $line =~ /\G((?:[^"\\]|\\.)*)"/gc or die "a label's value has no end\n";
            $labels{$label} = unescape($1, 'n"');
        }
    }
    delete $labels{ $state->{left_out} };
    # A time stamp may follow.
    $line =~ /\G ($NUMBER)(?: -?[0-9]+)?$/gc or die "invalid value\n";
    my $value = $1;

    my $family = $state->{family};
    my $suffix = defined $family && $name =~ /^\Q$family\E(.*)$/ ? $1 : undef;
    my $type = defined $family ? $state->{types}{$family} : undef;
    if (!defined $suffix
        || ($suffix ne '' && !grep { $_ eq $suffix } @{ $SUFFIXES{ $type // 'untyped' } })) {
        my ($of) = grep { exists $state->{samples}{$_} } $name, $name =~ s/_(?:bucket|sum|count)$//r;
        die defined $of ? "the samples of $of are not together\n" : "no TYPE before it\n";
    }
    die "no TYPE before it\n" unless defined $type;
    die "a $type has no such sample\n" if $type eq 'histogram' && $suffix eq '';
    die "a counter below 0\n" if $type eq 'counter' && $value =~ /^-|NaN/;

    my $series = series_name($name, \%labels);
    die "the series comes a second time\n" if exists $state->{values}{$series};
    $state->{values}{$series} = $value;
    push @{ $state->{samples}{$family} }, [ $suffix, \%labels, $value ];
    return;
}

sub unescape {
    my ($text, $allowed) = @_;
    $text =~ /^(?:[^\\]|\\[\\$allowed])*$/ or die "bad escape\n";
    return $text =~ s/\\(.)/$1 eq 'n' ? "\n" : $1/ger;
}

sub end_family {
    my ($state) = @_;
    my $family = $state->{family} // return;
    my $type = $state->{types}{$family};
    die "$family: no TYPE\n" unless defined $type;
    die "$family: no samples\n" unless @{ $state->{samples}{$family} };
    check_histogram($family, $state->{samples}{$family}) if $type eq 'histogram';
    return;
}

sub check_histogram {
    my ($family, $samples) = @_;
    my %parts;
    for my $sample (@$samples) {
        my ($suffix, $labels, $value) = @$sample;
        my %others = %$labels;
        my $bound = delete $others{le};
        my $part = $parts{ series_name($family, \%others) } //= { buckets => [] };
        if ($suffix eq '_bucket') {
            die "$family: a bucket without le\n" unless defined $bound;
            die "$family: invalid le \"$bound\"\n" unless $bound =~ /^(?:$NUMBER)$/ && $bound ne 'NaN';
            push @{ $part->{buckets} }, [ $bound, $value ];
        } else {
            die "$family$suffix: le where there is no bucket\n" if defined $bound;
            $part->{$suffix} = $value;
        }
    }
    for my $series (sort keys %parts) {
        my $part = $parts{$series};
        for my $suffix (qw(_sum _count)) {
            die "$series: no $suffix\n" unless defined $part->{$suffix};
        }
        check_buckets($series, $part);
    }
    return;
}

sub check_buckets {
    my ($series, $part) = @_;
    my @buckets = @{ $part->{buckets} };
    die "$series: no bucket +Inf\n" unless @buckets && $buckets[-1][0] eq '+Inf';
    my ($last_bound, $last_count) = ('-Inf', 0);
    for my $bucket (@buckets) {
        my ($bound, $count) = @$bucket;
        die "$series: le=\"$bound\" is not above the one before\n" unless $bound > $last_bound;
        die "$series: le=\"$bound\" is no whole number\n"
          unless $count =~ /^[0-9]/ && $count == int $count;
        die "$series: le=\"$bound\" is below the one before\n" if $count < $last_count;
        ($last_bound, $last_count) = ($bound, $count);
    }
    die "$series: +Inf is not _count\n" unless $last_count == $part->{_count};
    return;
}

1;
