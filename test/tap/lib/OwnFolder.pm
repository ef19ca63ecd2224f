# For `perl -MOwnFolder TEST`: a folder of its own for each test file, so that several can run at once
# whatever they call their files. (Clusters are named after the test, but scripts, secrets and logs are
# not.) Ports are shared out among all: PG_TEST_PORT_DIR.
package OwnFolder;

use strict;
use warnings;
use File::Basename qw(basename);
use File::Path qw(make_path);

# Before PostgreSQL::Test::Utils is loaded, which reads them.
my $folder = "$ENV{TESTDIR}/" . basename($0, '.pl');
@ENV{qw(TESTDIR TESTDATADIR TESTLOGDIR)} = ($folder, "$folder/tmp_check", "$folder/tmp_check/log");
make_path($ENV{TESTLOGDIR}, $ENV{PG_TEST_PORT_DIR});

1;
