# A formatter for prove and pg_prove that also appends "<passed> <failed> <skipped>" to the file
# named by TAP_TOTALS: scripts/test.sh adds up what really ran, not what it meant to run.
# It prints each file's lines together when the file is through, however many run at once; of tests that
# were skipped, how many and why; and the summary of a run only when something failed.
package TapTotals;

use strict;
use warnings;
use parent 'TAP::Formatter::File';

sub open_test {
    my ($self, $test, $parser) = @_;
    return TapTotals::Session->new({ name => $test, formatter => $self, parser => $parser });
}

sub summary {
    my ($self, $aggregate, $interrupted) = @_;

    my ($passed, $failed, $skipped) =
      (scalar $aggregate->passed, scalar $aggregate->failed, scalar $aggregate->skipped);
    $passed -= $skipped;    # TAP counts a skipped test as passed
    for my $parser ($aggregate->parsers) {
        # A file that died, or ran another number of tests than it planned, with every test good.
        $failed++ if $parser->has_problems && !$parser->failed;
        $skipped++ if $parser->skip_all;
    }

    open my $totals, '>>', $ENV{TAP_TOTALS} or die "$ENV{TAP_TOTALS}: $!";
    print {$totals} "$passed $failed $skipped\n";
    close $totals or die "$ENV{TAP_TOTALS}: $!";

    $self->SUPER::summary($aggregate, $interrupted) if $failed || $interrupted;
    return;
}

package TapTotals::Session;

use strict;
use warnings;
use parent 'TAP::Formatter::File::Session';

sub result {
    my ($self, $result) = @_;
    $self->{skipped}{ $result->explanation }++ if $result->is_test && $result->has_skip;
    return $self->SUPER::result($result);
}

sub close_test {
    my ($self) = @_;
    my $skipped = $self->{skipped} // {};
    $self->{results} .= "skipped $skipped->{$_}: $_\n" for sort keys %$skipped;
    return $self->SUPER::close_test;
}

1;
