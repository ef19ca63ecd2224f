# Exports to OpenStack Swift by its S3 interface, which is the strict one: it checks signature, region
# and the sum of the body.
use strict;
use warnings;
use ExportS3;

test_exports_to('swift');
