# From a planted discrepancy to the person who is told: reconciliation, postgres_exporter, Prometheus,
# Alertmanager, webhook, all of them real, with the configuration of monitoring/ (only its waits are
# cut short). Then the discrepancy is mended, and the alert resolves.
use strict;
use warnings;
use BacmrTest;
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tools = $ENV{BACMR_MONITORING_TOOLS}
  or plan skip_all => 'BACMR_MONITORING_TOOLS does not name the folder of Prometheus and Alertmanager';
my $monitoring = $ENV{BACMR_MONITORING} or die 'BACMR_MONITORING does not name monitoring/';

# Debian's Alertmanager reads a template below /usr/share/prometheus, which an unpacked package does
# not bring there: it gets its own /usr/share, in a mount name space.
system('unshare', '--map-root-user', '--mount', 'true') == 0
  or plan skip_all => 'no user name spaces here (unshare), so Alertmanager finds no templates';

my $folder = PostgreSQL::Test::Utils::tempdir();
my %port = map { $_ => PostgreSQL::Test::Cluster::get_free_port() }
  qw(exporter prometheus alertmanager webhook);
my @children;
END { kill 'KILL', @children if @children; }

sub background {
    my ($log, @command) = @_;
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDOUT, '>', "$folder/$log" or die $!;
        open STDERR, '>&', \*STDOUT or die $!;
        exec @command or die "$command[0]: $!";
    }
    push @children, $pid;
    return;
}

# A file of monitoring/, with other ports, and seconds for minutes.
sub adapt {
    my ($from, $to, %replace) = @_;
    my $text = slurp_file("$monitoring/$from");
    while (my ($old, $new) = each %replace) { $text =~ s/$old/$new/g; }
    append_to_file("$folder/$to", $text);
    return;
}

sub json_of {
    my ($url) = @_;
    my $answer = HTTP::Tiny->new(timeout => 5)->get($url);
    return $answer->{success} ? JSON::PP::decode_json($answer->{content}) : undef;
}

# --- the webhook: keeps what it is sent, a line a message ----------------------------------------

my $received = "$folder/received";
append_to_file($received, '');
my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port{webhook}, Listen => 5, ReuseAddr => 1)
  or die "cannot listen: $!";
my $webhook = fork // die "fork: $!";
if ($webhook == 0) {
    while (my $client = $listener->accept) {
        my ($length, $body) = (0, '');
        while (defined(my $line = <$client>)) {
            $length = $1 if $line =~ /^Content-Length: (\d+)/i;
            last if $line =~ /^\r?\n$/;
        }
        read $client, $body, $length;
        append_to_file($received, "$body\n");
        print $client "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        close $client;
    }
    require POSIX;
    POSIX::_exit(0);
}
push @children, $webhook;
close $listener;

sub was_told {
    my ($name, $status) = @_;
    for my $line (split /\n/, slurp_file($received)) {
        # A line that is being written this very moment is read the next time.
        my $message = eval { JSON::PP::decode_json($line) } or next;
        for my $alert (@{ $message->{alerts} }) {
            return $alert if $alert->{labels}{alertname} eq $name && $alert->{status} eq $status;
        }
    }
    return;
}

# --- the server, and what watches it -------------------------------------------------------------

my $node = new_server('main', conf => [ q{bacmr.expire_interval = '1s'} ]);
app_database($node, 'app');
give_wallets($node, 'app', 3);
$node->safe_psql('app', 'CREATE ROLE watcher LOGIN IN ROLE pg_monitor; SELECT bacmr_reconcile()');

$ENV{DATA_SOURCE_NAME} = sprintf 'host=%s port=%d user=watcher dbname=app sslmode=disable',
  $node->host, $node->port;
background('exporter.log', "$tools/prometheus-postgres-exporter",
    "--web.listen-address=127.0.0.1:$port{exporter}", '--disable-default-metrics',
    '--disable-settings-metrics',
    "--extend.query-path=$monitoring/postgres_exporter/queries.yaml");

adapt('prometheus/alerts.yml', 'alerts.yml', 'for: \S+' => 'for: 2s');
adapt('prometheus/prometheus.yml', 'prometheus.yml', '15s' => '1s',
    'localhost:9187' => "127.0.0.1:$port{exporter}",
    'localhost:9093' => "127.0.0.1:$port{alertmanager}");
adapt('alertmanager/alertmanager.yml', 'alertmanager.yml',
    '(group_wait|group_interval): \S+' => 'group_interval: 1s',
    'localhost:5001' => "127.0.0.1:$port{webhook}");
# Both waits became one key: the first of each pair goes.
my $routes = slurp_file("$folder/alertmanager.yml");
$routes =~ s/( +)group_interval: 1s\n +group_interval: 1s\n/$1group_wait: 0s\n$1group_interval: 1s\n/g;
unlink "$folder/alertmanager.yml";
append_to_file("$folder/alertmanager.yml", $routes);

background('alertmanager.log', 'unshare', '--map-root-user', '--mount', 'sh', '-c',
    'mount --bind "$0/../share" /usr/share && exec "$0/prometheus-alertmanager" "$@"', $tools,
    "--config.file=$folder/alertmanager.yml", "--storage.path=$folder/alertmanager",
    "--web.listen-address=127.0.0.1:$port{alertmanager}", '--cluster.listen-address=');
background('prometheus.log', "$tools/prometheus", "--config.file=$folder/prometheus.yml",
    "--storage.tsdb.path=$folder/prometheus", "--web.listen-address=127.0.0.1:$port{prometheus}");

my $api = "http://127.0.0.1:$port{prometheus}/api/v1";

sub query {
    my ($expression) = @_;
    my $result = json_of("$api/query?query=" . HTTP::Tiny->new->_uri_escape($expression));
    return $result ? $result->{data}{result} : [];
}
sub alert_states {
    my ($name) = @_;
    my $result = json_of("$api/alerts") or return '';
    return join ',', map { $_->{state} } grep { $_->{labels}{alertname} eq $name } @{ $result->{data}{alerts} };
}

await('Alertmanager is ready', sub {
    HTTP::Tiny->new->get("http://127.0.0.1:$port{alertmanager}/-/ready")->{success};
}) or diag(slurp_file("$folder/alertmanager.log"));
await('Prometheus scrapes the metrics through the exporter',
    sub { @{ query('bacmr_wallet_discrepancies{kind="balance_mismatch"}') } == 1 });
is(query('bacmr_job_last_success_timestamp_seconds{job="reconcile"} > 0')->[0]{metric}{job},
    'reconcile', 'the label `job` is ours');
is(alert_states('WalletDiscrepancy'), '', 'no alert while the wallets agree');
is(alert_states('WorkerDown'), '', 'none on the worker, which runs');

# --- a discrepancy -------------------------------------------------------------------------------

my $user = user_id(2);
$node->safe_psql('app', "UPDATE wallet SET token_balance = token_balance + 5 WHERE user_id = '$user';"
      . ' SELECT bacmr_reconcile()');
my %seen;
await('the alert is pending, then firing', sub {
    my $state = alert_states('WalletDiscrepancy');
    $seen{$state} = 1 if $state;
    $state eq 'firing';
});
ok($seen{pending} || $seen{firing}, 'it waited for its time');
my $alert;
await('the webhook is told', sub { $alert = was_told('WalletDiscrepancy', 'firing') });
is($alert->{labels}{severity}, 'warning', 'with its severity');
like($alert->{annotations}{description}, qr/^The latest reconciliation found 1 discrepanc/,
    'what was found');
like($alert->{annotations}{runbook_url}, qr/runbooks\.md#/, 'and where to read on');

# --- mended --------------------------------------------------------------------------------------

$node->safe_psql('app', "UPDATE wallet SET token_balance = token_balance - 5 WHERE user_id = '$user';"
      . ' SELECT bacmr_reconcile()');
await('after the next clean run the alert goes', sub { alert_states('WalletDiscrepancy') eq '' });
await('and the webhook is told that it is resolved',
    sub { was_told('WalletDiscrepancy', 'resolved') });

# --- the worker ----------------------------------------------------------------------------------

$node->safe_psql('postgres', 'ALTER SYSTEM SET bacmr.worker_enabled = off');
$node->reload;
await('a worker that is gone fires its alert', sub { alert_states('WorkerDown') eq 'firing' });
await('critical, by its own route', sub {
    my $told = was_told('WorkerDown', 'firing');
    $told && $told->{labels}{severity} eq 'critical';
});

$node->stop;
done_testing();
