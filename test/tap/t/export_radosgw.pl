# Exports to Ceph's S3 server.
use strict;
use warnings;
use ExportS3;

test_exports_to('radosgw');
