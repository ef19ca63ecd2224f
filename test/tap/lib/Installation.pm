# A copy of the server's installation whose extension scripts and library a test may change: what is
# installed under /usr is root's, and every test's.
#
#   my $installation = Installation->new('old');
#   my $node = new_server('old', install_path => $installation->path);
#   $installation->script('0.0.9', $sql);                   # bacmr_ops--0.0.9.sql
#   $installation->script('0.0.9--0.1.0', $sql);
#   $installation->default_version('0.1.0');
package Installation;

use strict;
use warnings;
use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use File::Path qw(make_path);
use PostgreSQL::Test::Utils;

# The server finds its other folders by their way from its own (make_relative_path), so the copy has
# the same shape. Links do for whatever is not changed; but a program looks where it really lies.
sub new {
    my ($class, $name) = @_;
    my $prefix = "${PostgreSQL::Test::Utils::tmp_check}/installation_$name";
    my %real = map { $_ => real_folder($_) } qw(bindir sharedir pkglibdir);
    my $common = common_folder(values %real);
    my %own = map { $_ => $prefix . substr $real{$_}, length $common } keys %real;
    make_path(values %own, "$own{sharedir}/extension");
    link_all($real{bindir}, $own{bindir}, qr/^(?:postgres|initdb|pg_ctl)$/);
    link_all($real{pkglibdir}, $own{pkglibdir}, qr/^bacmr_ops\.so$/);
    link_all($real{sharedir}, $own{sharedir}, qr/^extension$/, 1);
    link_all("$real{sharedir}/extension", "$own{sharedir}/extension", qr/^bacmr_ops[-.]/);
    return bless { %own, real => \%real }, $class;
}

# For PostgreSQL::Test::Cluster, which appends /bin.
sub path { return dirname($_[0]{bindir}) }

sub control_file { return "$_[0]{sharedir}/extension/bacmr_ops.control" }

sub default_version {
    my ($self, $version) = @_;
    my $control = slurp_file($self->control_file);
    if (defined $version) {
        $control =~ s/^default_version = '[^']*'/default_version = '$version'/m or die 'no default_version';
        write_file($self->control_file, $control);
    }
    return $control =~ /^default_version = '([^']*)'/m ? $1 : die 'no default_version';
}

# The text of a script ('0.1.0', '0.1.0--0.2.0'); writes it, where one is given.
sub script {
    my ($self, $versions, $sql) = @_;
    my $path = "$self->{sharedir}/extension/bacmr_ops--$versions.sql";
    write_file($path, $sql) if defined $sql;
    return slurp_file($path);
}

sub remove_script {
    my ($self, $versions) = @_;
    unlink "$self->{sharedir}/extension/bacmr_ops--$versions.sql" or die "$versions: $!";
    return;
}

sub write_file {
    my ($path, $text) = @_;
    open my $file, '>', $path or die "$path: $!";
    print {$file} $text;
    close $file or die "$path: $!";
    return;
}

sub real_folder {
    my ($which) = @_;
    my ($folder) = run_command([ 'pg_config', "--$which" ]);
    return $folder;
}

# The longest folder that all of them lie in, without its slash.
sub common_folder {
    my ($first, @others) = @_;
    my $common = $first;
    for my $other (@others) {
        $common = dirname($common) while index("$other/", "$common/") != 0;
    }
    return $common eq '/' ? '' : $common;
}

# Links for everything in a folder; copies of the files that the pattern names, or, where $omit is
# set, nothing for them.
sub link_all {
    my ($from, $to, $own, $omit) = @_;
    for my $path (glob "$from/*") {
        my $target = "$to/" . basename($path);
        if (basename($path) !~ $own) {
            symlink $path, $target or die "$target: $!" unless -e $target;
        } elsif (!$omit) {
            copy($path, $target) or die "$target: $!";
            chmod((stat $path)[2] & 07777, $target);
        }
    }
    return;
}

1;
