# The commands that stand in pages of docs/, run as the reader would, so that the pages cannot rot. A block
# is marked by a line "<!-- test: name -->" above it; it is sql, for psql, or sh.
package DocBlocks;

use strict;
use warnings;
use Cwd ();
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $DOCS = $ENV{BACMR_DOCS} // dirname(Cwd::realpath(__FILE__)) . '/../../../docs';

# The marked blocks of the pages; `database`: where psql runs them.
sub new {
    my ($class, $database, @pages) = @_;
    my $self = bless { database => $database, blocks => {}, used => {}, values => {} }, $class;
    $self->read_page($_) for @pages;
    return $self;
}

sub read_page {
    my ($self, $page) = @_;
    my $blocks = $self->{blocks};
    my $before = keys %$blocks;
    my $text = slurp_file("$DOCS/$page");
    my $marks = () = $text =~ /<!-- test:/g;
    # Blocks in lists are indented.
    while ($text =~ /^( *)<!-- test: ([\w-]+) -->\n\1```(sql|sh)\n(.*?\n)\1```$/msg) {
        my ($indent, $name, $language, $block) = ($1, $2, $3, $4);
        die "two blocks are named $name\n" if $blocks->{$name};
        $block =~ s/^$indent//mg;
        $blocks->{$name} = [ $language, $block ];
    }
    is(keys(%$blocks) - $before, $marks, "every mark of $page belongs to a block");
    cmp_ok($marks, '>', 0, 'and there are some');
    return;
}

# What the reader fills in, by the name in angle brackets.
sub fill_in {
    my ($self, %values) = @_;
    $self->{values}{$_} = $values{$_} for keys %values;
    return;
}

# These values, as a reference to a hash that follows fill_in().
sub values { my ($self) = @_; return $self->{values}; }

# Runs a block on the node, which need not be up for a shell block. %options: without (lines that match
# are left out), user (of psql). Returns what it prints; a failure fails the test.
sub step {
    my ($self, $node, $name, %options) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $block = $self->{blocks}{$name} or die "the page has no block $name\n";
    $self->{used}{$name} = 1;
    my ($language, $text) = @$block;
    $text = join '', grep { !/$options{without}/ } split /^/, $text if $options{without};
    $text =~ s{<([a-z]+)>}{$self->{values}{$1} // die "nothing to fill in for <$1> in $name\n"}ge;
    local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => $self->{database});
    local $ENV{PGUSER} = $options{user} if $options{user};
    my $file = "${PostgreSQL::Test::Utils::tmp_check}/step";
    unlink $file, "$file.out", "$file.err";
    append_to_file($file, $text);
    my $command = $language eq 'sql' ? 'psql -XAtq -v ON_ERROR_STOP=1 -f' : 'bash -euo pipefail';
    # Into files: a server that is started here would keep a pipe open.
    my $start = time;
    my $status = system("$command '$file' >'$file.out' 2>'$file.err' </dev/null");
    my $seconds = time - $start;
    my $out = slurp_file("$file.out");
    is($status, 0, "the commands of $name") or diag($out . slurp_file("$file.err"));
    note(sprintf 'seconds: %-16s %8.2f', $name, $seconds);
    chomp $out;
    return $out;
}

sub all_were_run {
    my ($self) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is_deeply([ grep { !$self->{used}{$_} } sort keys %{ $self->{blocks} } ], [],
        'every marked block of the pages was run');
}

1;
