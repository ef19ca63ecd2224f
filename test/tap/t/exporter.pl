# What Prometheus gets, by every way: bacmr_metrics_prometheus(), postgres_exporter with
# monitoring/postgres_exporter/queries.yaml, and the queries for sql_exporter. Each must say exactly
# what the view bacmr_metrics says.
use strict;
use warnings;
use utf8;
use BacmrTest;
use Exposition;
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tools = $ENV{BACMR_MONITORING_TOOLS}
  or plan skip_all => 'BACMR_MONITORING_TOOLS does not name the folder of prometheus-postgres-exporter';
my $monitoring = $ENV{BACMR_MONITORING} or die 'BACMR_MONITORING has to name the folder monitoring/';

# What only exports, restore drills, reindexing and HTTP requests record: nothing here does any of it.
my @absent = qw(
  bacmr_export_rows bacmr_export_bytes bacmr_export_last_verified_timestamp_seconds
  bacmr_restore_last_proven_timestamp_seconds
  bacmr_reindex_progress_ratio bacmr_reindex_failed_chunks
  bacmr_http_requests_total bacmr_http_retries_total bacmr_http_request_duration_seconds
);

# --- the reader refuses what is wrong ------------------------------------------------------------

my $good = <<'TEXT';
# HELP h Say \\ or \n.
# TYPE h histogram
h_bucket{a="x\"\\\n{}, y",le="0.5"} 1
h_bucket{a="x\"\\\n{}, y",le="+Inf"} 2
h_sum{a="x\"\\\n{}, y"} 1e-05
h_count{a="x\"\\\n{}, y"} 2
# TYPE c_total counter
c_total{b="2",a="1"} 3
c_total 4
TEXT
my ($values, $types, $help) = parse_exposition($good);
is_deeply($values, {
        'h_bucket{a="x\"\\\\\n{}, y",le="0.5"}' => 1,
        'h_bucket{a="x\"\\\\\n{}, y",le="+Inf"}' => 2,
        'h_sum{a="x\"\\\\\n{}, y"}' => '1e-05',
        'h_count{a="x\"\\\\\n{}, y"}' => 2,
        'c_total{a="1",b="2"}' => 3,
        'c_total' => 4
    }, 'a good text: its values');
is_deeply($types, { h => 'histogram', c_total => 'counter' }, 'its types');
is_deeply($help, { h => "Say \\ or \n." }, 'its help');

for my $case (
    [ 'no newline at the end', sub { chomp }, qr/no newline/ ],
    [ 'invalid UTF-8', sub { s/y"/\xe9"/ }, qr/UTF-8/ ],
    [ 'an overlong form', sub { s/y"/\xc0\xaf"/ }, qr/UTF-8/ ],
    [ 'HELP twice', sub { s/(# HELP .*\n)/$1$1/ }, qr/second HELP/ ],
    [ 'TYPE twice', sub { s/(# TYPE h .*\n)/$1$1/ }, qr/second TYPE/ ],
    [ 'HELP after the samples', sub { $_ .= "# HELP c_total X.\n" }, qr/HELP after/ ],
    [ 'TYPE missing', sub { s/# TYPE c_total.*\n// }, qr/no TYPE/ ],
    [ 'TYPE of another family', sub { s/# TYPE h /# TYPE i / }, qr/no TYPE/ ],
    [ 'TYPE unknown', sub { s/c_total counter/c_total count/ }, qr/unknown TYPE/ ],
    [ 'samples apart', sub { $_ .= qq{h_sum{a="z"} 1\n} }, qr/not together/ ],
    [ 'a family twice', sub { $_ .= "# TYPE h histogram\n" }, qr/second time/ ],
    [ 'a family without samples', sub { $_ .= "# TYPE g gauge\n" }, qr/no samples/ ],
    [ 'a series twice', sub { s/^c_total 4/c_total{a="1",b="2"} 4/m }, qr/series comes a second/ ],
    [ 'a label twice', sub { s/b="2",a/a="2",a/ }, qr/twice/ ],
    [ 'an invalid metric name', sub { s/^c_total 4/c-total 4/m }, qr/invalid name/ ],
    [ 'an invalid family name', sub { s/TYPE c_total/TYPE 1c/ }, qr/invalid name/ ],
    [ 'an invalid label name', sub { s/b="2"/b-c="2"/ }, qr/invalid label/ ],
    [ 'no comma', sub { s/"2",a/"2"a/ }, qr/comma/ ],
    [ 'a bad escape in a label', sub { s/b="2"/b="\\t"/ }, qr/bad escape/ ],
    [ 'a bad escape in HELP', sub { s/Say/S\\"ay/ }, qr/bad escape/ ],
    [ 'a quote that is not escaped', sub { s/b="2"/b="2"2"/ }, qr/comma|invalid label/ ],
    [ 'a bare newline in a label', sub { s/b="2"/b="\n2"/ }, qr/no end/ ],
    [ 'no number', sub { s/^c_total 4/c_total four/m }, qr/invalid value/ ],
    [ 'a carriage return', sub { s/^c_total 4/c_total 4\r/m }, qr/invalid value/ ],
    [ 'a counter below 0', sub { s/^c_total 4/c_total -4/m }, qr/below 0/ ],
    [ 'le not ascending', sub { s/le="0\.5"(.*\n)/le="0.5"$1h_bucket{a="x\\"\\\\\\n{}, y",le="0.25"} 1\n/ },
        qr/not above/ ],
    [ 'le twice in two forms', sub { s/le="0\.5"(.*\n)/le="0.5"$1h_bucket{a="x\\"\\\\\\n{}, y",le="0.50"} 1\n/ },
        qr/not above/ ],
    [ 'le no number', sub { s/le="0\.5"/le="half"/ }, qr/invalid le/ ],
    [ 'a bucket without le', sub { s/,le="0\.5"// }, qr/without le/ ],
    [ 'no +Inf', sub { s/^.*\+Inf.*\n//m }, qr/no bucket \+Inf/ ],
    [ '+Inf is not _count', sub { s/^(h_count.*) 2/$1 3/m }, qr/not _count/ ],
    [ 'buckets that decrease', sub { s/(le="0\.5"\}) 1/$1 3/ }, qr/below the one before/ ],
    [ 'half an observation', sub { s/(le="0\.5"\}) 1/$1 1.5/ }, qr/whole number/ ],
    [ 'no _sum', sub { s/^h_sum.*\n//m }, qr/no _sum/ ],
    [ 'no _count', sub { s/^h_count.*\n//m }, qr/no _count/ ],
    [ 'a histogram with a value', sub { s/^h_sum/h 1\nh_sum/m }, qr/no such sample/ ]) {
    my ($what, $break, $reason) = @$case;
    local $_ = $good;
    $break->();
    ok($_ ne $good, "$what: the text is another") or next;
    eval { parse_exposition($_); 1 };
    like($@, $reason, "$what: refused");
}

# --- something in every metric -------------------------------------------------------------------

my $node = new_server('main',
    conf => [ q{bacmr.expire_interval = '1s'}, q{bacmr.metrics_max_series = 200} ]);
app_database($node, 'app');
$node->safe_psql('app', 'CREATE ROLE bacmr_exporter LOGIN IN ROLE pg_monitor');

sub json {
    my ($sql, @options) = @_;
    return JSON::PP::decode_json($node->safe_psql('app', $sql, @options));
}

# Numbers in one form, exactly.
sub exact {
    my ($values) = @_;
    return { map { $_ => sprintf '%.17g', $values->{$_} } keys %$values };
}

# The view's samples, as series => value.
sub view {
    my %values = map { series_name($_->{name}, $_->{labels}) => $_->{value} }
      @{ json('SELECT json_agg(m) FROM bacmr_metrics m') };
    return exact(\%values);
}

give_wallets($node, 'app', 3);
reserve($node, 'app', 1, 10, '-1 second');
await_sql($node, 'app',
    q{SELECT count(*) = 1 FROM bacmr_metrics WHERE name = 'bacmr_expired_reservations_total' AND value = 1},
    'the worker expires a reservation');
$node->safe_psql('app', q{SELECT bacmr_pause('expire', 'test')});
reserve($node, 'app', 2, 10, '-10 minutes');
await_sql($node, 'app',
    q{SELECT count(*) = 1 FROM bacmr_metrics WHERE name = 'bacmr_stale_reservations' AND value = 1},
    'and publishes gauges');
# From here on nothing records but what follows.
$node->safe_psql('postgres', 'ALTER SYSTEM SET bacmr.worker_enabled = off');
$node->reload;
await_sql($node, 'app',
    q{SELECT value = 0 FROM bacmr_metrics WHERE name = 'bacmr_worker_up'}, 'the worker is gone');

$node->safe_psql('app', <<'SQL');
UPDATE wallet SET token_balance = token_balance + 7 WHERE user_id = u(3);
SELECT bacmr_reconcile();
SELECT bacmr_record_ingestion_job('completed', 'العربية', 12.5);
SELECT bacmr_record_ingestion_job('failed', 'fr');
SELECT bacmr_record_pinecone_query(E'say "سؤال" \\ or\nnot', s) FROM unnest('{0.004,0.3,0.3,7,1e3}'::float8[]) s;
SELECT bacmr_record_pinecone_query('', 0.1);
SELECT bacmr_record_pinecone_upsert(E'\\n, le="1"} {', 0.1, 9007199254740993);
SELECT bacmr_record_openai_request('gpt-4o', E'chat\t/\\"', 0.1 + 0.2, 1234567);
SELECT bacmr_record_wallet_reservation('finalized');
SELECT bacmr_set_circuit_breaker_state('pinecone', 2);
SELECT bacmr_set_active_reservations(3);
SELECT bacmr_record_rate_limit_rejection('user', '/سؤال?server="x",server=');
SELECT bacmr_record_pinecone_query('n', 'NaN');
SELECT bacmr_record_pinecone_query(NULL, 1);
-- More series than there is room for.
SELECT count(bacmr_record_rate_limit_rejection('path', i::text)) FROM generate_series(1, 200) i;
SQL

my $view = view();
my %expected_types = %{
    json('SELECT json_object_agg(name, type) FROM (SELECT DISTINCT name, type FROM bacmr_metric_series()) s')
};
cmp_ok($view->{bacmr_metrics_series_dropped_total}, '>', 0, 'some recordings are lost, and counted');
is($view->{bacmr_wallet_drift_tokens}, 7, 'a drift');
is($view->{'pinecone_query_duration_seconds_count{namespace="say \"سؤال\" \\\\ or\nnot"}'}, 5,
    'a label with all that has to be escaped');

# --- the extension's own text --------------------------------------------------------------------

sub own_text { return $node->safe_psql('app', 'SELECT bacmr_metrics_prometheus()'); }

($values, $types, my $own_help) = parse_exposition(own_text());
is_deeply(exact($values), $view, 'bacmr_metrics_prometheus() says what the view says');
is_deeply($types, \%expected_types, 'with the types of its families');

# --- postgres_exporter ---------------------------------------------------------------------------

my $queries_file = "$monitoring/postgres_exporter/queries.yaml";
my $queries = slurp_file($queries_file);
# Metric => type of what queries.yaml gives.
my %queried;
while ($queries =~ /^(\w+):\n((?:[ ].*\n)+)/mg) {
    my ($query, $body) = ($1, $2);
    while ($body =~ /^    - (\w+):\n        usage: "(\w+)"/mg) {
        $queried{"${query}_$1"} = lc $2 unless $2 eq 'LABEL';
    }
}
is_deeply([ sort keys %queried ], [ sort @absent, keys %expected_types ],
    'queries.yaml has what was recorded, and what could not be');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $log = PostgreSQL::Test::Utils::tempdir() . '/exporter.log';
my $exporter;
{
    local $ENV{DATA_SOURCE_NAME} = join ' ', 'host=' . $node->host, 'port=' . $node->port,
      'user=bacmr_exporter', 'dbname=app', 'sslmode=disable';
    $exporter = IPC::Run::start(
        [
            "$tools/prometheus-postgres-exporter", "--web.listen-address=127.0.0.1:$port",
            "--extend.query-path=$queries_file", '--disable-default-metrics',
            '--disable-settings-metrics'
        ],
        '<', \'', '>', $log, '2>&1');
}

END {
    # The exit status is the test's.
    local $?;
    $exporter->kill_kill if $exporter;
}

sub scrape {
    my $answer = HTTP::Tiny->new(timeout => 20)->get("http://127.0.0.1:$port/metrics");
    return $answer->{success} ? $answer->{content} : undef;
}

# The exporter's answer without what is its own: the label server, and metrics about itself.
sub scraped {
    my ($values, $types, $help) = parse_exposition(scrape() // die('no answer'), 'server');
    my %ours;
    for my $series (keys %$values) {
        my ($name) = $series =~ /^(\w+)/;
        next unless $queried{$name} || $queried{ $name =~ s/_(?:bucket|sum|count)$//r };
        $ours{$series} = $values->{$series};
    }
    my %types = map { $_ => $types->{$_} } grep { $queried{$_} } keys %$types;
    my %help = map { $_ => $help->{$_} } keys %types;
    return ($values->{pg_exporter_last_scrape_error}, exact(\%ours), \%types, \%help);
}

await('postgres_exporter answers', \&scrape) or diag(slurp_file($log));
my ($error, $ours, $our_types, $our_help) = scraped();
is($error, 0, 'every query runs as a role that has pg_monitor and nothing else')
  or diag(slurp_file($log));
is_deeply($ours, $view, 'postgres_exporter says what the view says');
is_deeply($our_types, \%expected_types, 'with the same types');
is_deeply($our_help, $own_help, 'and the same help');
my @there = grep { exists $our_types->{$_} } @absent;
is("@there", '', 'what has no series is absent, and no error');

$node->safe_psql('app', q{SELECT bacmr_record_pinecone_query('', 400)});
($error, $ours) = scraped();
is($ours->{'pinecone_query_duration_seconds_count{namespace=""}'}, 2, 'the next scrape has the latest');
is_deeply($ours, view(), 'all of it');

$node->safe_psql('app', 'REVOKE pg_monitor FROM bacmr_exporter');
($error, $ours) = scraped();
is($error, 1, 'without pg_monitor the queries fail, and the exporter says so');
is_deeply($ours, {}, 'and gives nothing');
$node->safe_psql('app', 'GRANT pg_monitor TO bacmr_exporter');

# --- the queries for sql_exporter ----------------------------------------------------------------

my $collector = slurp_file("$monitoring/sql_exporter/bacmr_ops.collector.yml");
my (%collected, %collector_types);
my $metric = qr/
    ^\ \ -\ metric_name:\ (?<name>\w+)\n
    \ {4}type:\ (?<type>counter|gauge)\n
    \ {4}help:\ "[^"\\]+"\n
    (?:\ {4}key_labels:\ \[(?<labels>[\w,\ ]+)\]\n)?
    \ {4}values:\ \[value\]\n
    \ {4}query:\ \|\n
    (?<query>(?:\ {6}.*\n)+)/mx;
while ($collector =~ /$metric/g) {
    my ($name, $type, $query) = @+{qw(name type query)};
    my @labels = split /, /, $+{labels} // '';
    die "$name comes twice" if $collector_types{$name};
    $collector_types{$name} = $type;
    # Named columns: one that the query does not have is an error, also where there are no rows.
    my $columns = join ', ', @labels, 'value';
    my $rows = json("SELECT coalesce(json_agg(r), '[]') FROM (SELECT $columns FROM ($query) q) r",
        extra_params => [ '-U', 'bacmr_exporter' ]);
    for my $row (@$rows) {
        my $series = series_name($name, { map { $_ => $row->{$_} } @labels });
        die "$series comes twice" if exists $collected{$series};
        $collected{$series} = $row->{value};
    }
}
is(scalar(keys %collector_types), scalar(() = $collector =~ /metric_name:/g),
    'every metric of the collector was read');
is_deeply(exact(\%collected), view(), 'sql_exporter\'s queries say what the view says');
my %expected_collector;
for my $name (keys %queried) {
    if ($queried{$name} eq 'histogram') {
        $expected_collector{ $name . $_ } = 'counter' for qw(_bucket _sum _count);
    } else {
        $expected_collector{$name} = $queried{$name};
    }
}
is_deeply(\%collector_types, \%expected_collector, 'for all the metrics, with their types');

$node->stop;
done_testing();
