#!/usr/bin/env perl
# Whether the files that name a version agree, META.json is what PGXN asks for, and every released
# version can still be installed and has a way to this one.
#
#   scripts/check-release.pl              as part of make lint and make dist
#   scripts/check-release.pl --release    also: this version has its date, in both changelogs
use strict;
use warnings;
use JSON::PP ();

my $release = (shift // '') eq '--release';
my $bad = 0;
my $semver = qr/(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)/;

my ($version) = slurp('bacmr_ops.control') =~ /^default_version\s*=\s*'([^']*)'/m;
complain('bacmr_ops.control has no default_version') unless defined $version;
$version //= '';
complain("default_version $version is no semantic version") unless $version =~ /^$semver$/;

# --- META.json -----------------------------------------------------------------------------------

my $meta = eval { JSON::PP->new->utf8->decode(slurp('META.json')) };
if (!$meta) {
    complain("META.json is no JSON: $@");
} else {
    for my $member (qw(name version abstract maintainer license provides meta-spec)) {
        complain("META.json has no $member") unless $meta->{$member};
    }
    same('META.json: name', $meta->{name}, 'bacmr_ops');
    same('META.json: version', $meta->{version}, $version);
    same('META.json: meta-spec.version', $meta->{'meta-spec'}{version}, '1.0.0');
    complain('META.json: license is none of PGXN\'s')
      unless ($meta->{license} // '') =~ /^(?:postgresql|mit|bsd|apache_2_0|gpl_[123]|lgpl_2_1|lgpl_3_0)$/;
    my $provided = $meta->{provides}{bacmr_ops};
    if (!$provided) {
        complain('META.json provides no bacmr_ops');
    } else {
        same('META.json: provides.bacmr_ops.version', $provided->{version}, $version);
        same('META.json: provides.bacmr_ops.file', $provided->{file}, "sql/bacmr_ops--$version.sql");
        for my $file (@{$provided}{qw(file docfile)}) {
            complain('META.json names a file that is not there: ' . ($file // 'none'))
              unless defined $file && -e $file;
        }
    }
    for my $phase (values %{ $meta->{prereqs} // {} }) {
        for my $wanted (map { %$_ } values %$phase) {
            next if $wanted =~ /^\w+$/;    # a name; the next is its version
            complain("META.json: prereqs: $wanted is no semantic version") unless $wanted =~ /^$semver$/;
        }
    }
    my %tags;
    for my $tag (@{ $meta->{tags} // [] }) {
        complain("META.json: the tag $tag is there twice, too long, or has a slash")
          if $tags{ lc $tag }++ || length $tag > 255 || $tag =~ m{[/\\[:cntrl:]]};
    }
}

# --- changelogs ----------------------------------------------------------------------------------

my @headings = slurp('CHANGELOG.md') =~ /^## \[($semver)\] - (\S+)$/mg;
my (%date_of, $newest);
while (my ($each, $date) = splice @headings, 0, 2) {
    $newest //= $each;
    complain("CHANGELOG.md has $each twice") if exists $date_of{$each};
    $date_of{$each} = $date;
    complain("CHANGELOG.md: $each: '$date' is neither a date nor unreleased")
      unless $date =~ /^(?:\d{4}-\d\d-\d\d|unreleased)$/;
}
same('CHANGELOG.md: the newest version', $newest, $version);
my ($package, $suite) = slurp('debian/changelog') =~ /^bacmr-ops \(([^)]*)\) ([^;]+);/;
same('debian/changelog: the newest version', $package, $version);
if ($release) {
    complain("CHANGELOG.md: $version has no date") if ($date_of{$version} // 'unreleased') eq 'unreleased';
    complain("debian/changelog: $version is UNRELEASED") if ($suite // '') eq 'UNRELEASED';
}

# --- the SQL scripts -----------------------------------------------------------------------------

my (%full, %step);
for my $path (glob 'sql/*.sql') {
    if ($path =~ m{^sql/bacmr_ops--($semver)\.sql$}) {
        $full{$1} = $path;
    } elsif ($path =~ m{^sql/bacmr_ops--($semver)--($semver)\.sql$}) {
        $step{$1}{$2} = $path;
    } else {
        complain("$path: neither a version nor a step between two");
        next;
    }
    complain("$path lacks the line that keeps psql from running it")
      unless slurp($path) =~ /^\\echo .*\\quit$/m;
}
complain("there is no sql/bacmr_ops--$version.sql") unless $full{$version};
my %known = map { $_ => 1 } keys %full, keys %date_of;
for my $each (sort keys %known) {
    next if $each eq $version;
    complain("$each has no way to $version: sql/bacmr_ops--$each--....sql") unless reaches($each);
}
for my $each (sort keys %date_of) {
    complain("$each was released, and sql/bacmr_ops--$each.sql is gone: the test of upgrades needs it")
      unless $full{$each};
}

# What has been released stays as it was: upgrades are tested from what people have.
for my $each (sort keys %full) {
    next if system("git rev-parse -q --verify refs/tags/v$each >/dev/null 2>&1") != 0;
    my $released = `git show v$each:$full{$each} 2>/dev/null`;
    complain("$full{$each} is not what the tag v$each has") if $? != 0 || $released ne slurp($full{$each});
}

# --- debian/control ------------------------------------------------------------------------------

my $control = slurp('debian/control');
my @servers = $control =~ /^Package: postgresql-(\d+)-bacmr-ops$/mg;
my @wanted;
for my $paragraph (split /\n\n+/, slurp('debian/control.in')) {
    $paragraph =~ s/\s+\z//;
    if ($paragraph =~ /^Package: .*PGVERSION/m) {
        push @wanted, map { $paragraph =~ s/PGVERSION/$_/gr } @servers;
    } else {
        push @wanted, $paragraph =~ s/PGVERSION/$servers[-1]/gr;
    }
}
complain('debian/control is not what debian/control.in says: pg_buildext updatecontrol')
  unless @servers && join("\n\n", @wanted) . "\n" eq $control;

exit $bad;

# Whether upgrade steps lead from there to this version.
sub reaches {
    my ($from) = @_;
    my (%seen, @next);
    @next = ($from);
    while (defined(my $at = shift @next)) {
        return 1 if $at eq $version;
        push @next, keys %{ $step{$at} // {} } unless $seen{$at}++;
    }
    return 0;
}

sub same {
    my ($what, $got, $wanted) = @_;
    $got //= 'nothing';
    complain("$what is $got, not $wanted") if $got ne $wanted;
    return;
}

sub complain {
    print "$_[0]\n";
    $bad = 1;
    return;
}

sub slurp {
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!\n";
    local $/;
    return scalar <$file>;
}
