#!/usr/bin/env bash
# Checks monitoring/: the files with the programs that will read them, and that alerts, dashboard,
# runbooks and the metrics of the extension name each other rightly. One line a check: ok or FAIL.
# shellcheck disable=SC2317  # checks are called by their names
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
RULES=monitoring/prometheus/alerts.yml
RULES_TEST=monitoring/prometheus/alerts_test.yml
DASHBOARD=monitoring/grafana/dashboards/bacmr_ops.json
RUNBOOKS=docs/runbooks.md
CATALOG=src/metrics/catalog.cpp
failures=0

# check WHAT COMMAND …: the command prints what is wrong and fails, or prints nothing of interest.
check() {
    local what=$1 output
    shift
    if output=$("$@" 2>&1); then
        echo "ok    $what"
    else
        echo "FAIL  $what"
        printf '%s\n' "$output" | sed 's/^/      /' | head -n 200
        failures=$((failures + 1))
    fi
}

# rules: one line an alert: name, severity, for, runbook_url, and how many of summary, description and
# expr it has, with tabs. The files are our own, so their layout is known: no YAML parser is needed.
rules() {
    perl -ne '
        sub flush_alert {
            print join("\t", $name, map({ $v{$_} // "-" } qw(severity for runbook_url)),
                scalar grep { defined $v{$_} } qw(summary description expr)), "\n" if defined $name;
            %v = ();
        }
        if (/^\s+- alert:\s*(\S+)/) { flush_alert(); $name = $1 }
        elsif (/^\s+(severity|for|runbook_url|summary|description|expr):\s*(\S.*?)\s*$/) { $v{$1} = $2 }
        END { flush_alert() }
    ' "$RULES"
}

# expressions_of_rules: the expressions of the alerts, each on a line.
expressions_of_rules() {
    perl -ne '
        if (defined $indent) {
            my ($blanks) = /^( *)\S/;
            if (!defined $blanks || length($blanks) > $indent) { chomp; $text .= " $_"; next }
            print "$text\n"; undef $indent;
        }
        if (/^( *)expr: [|>]/) { $indent = length $1; $text = "" }
        elsif (/^ *expr: (.+)/) { print "$1\n" }
        END { print "$text\n" if defined $indent }
    ' "$RULES"
}

# expressions_of_dashboard: those of panels and of variables.
expressions_of_dashboard() {
    jq -r '.. | objects
        | (.expr? // empty),
          (select(.type? == "query") | .definition // empty
           | capture("^label_values\\((?<metric>.*), *[a-z_]+\\)$") | .metric)' "$DASHBOARD"
}

# metrics: name and type of each metric of the catalogue.
metrics() {
    perl -0777 -ne '
        print "$1 $2\n" while /\{Metric::k\w+,\s*"(\w+)",\s*k(Counter|Gauge|Histogram),/g
    ' "$CATALOG"
}

# unknown_metrics: reads expressions, prints what they name that is no metric. Fails also where there
# is nothing to read: a check that sees nothing must not pass.
unknown_metrics() {
    metrics | perl -e '
        my (%known, %bad, $lines);
        for (<STDIN>) {
            my ($name, $type) = split;
            $known{$_} = 1 for $type eq "Histogram" ? map { "${name}_$_" } qw(bucket sum count) : $name;
        }
        die "no metrics found in the catalogue\n" unless %known;
        $known{up} = 1;    # made by Prometheus itself, for each target
        open my $expressions, "<", $ARGV[0] or die "$ARGV[0]: $!\n";
        for (<$expressions>) {
            chomp(my $whole = $_);
            my $seen = 0;
            s/"(?:[^"\\]|\\.)*"//g;
            s/\{[^{}]*\}//g;
            s/\[[^\]]*\]//g;
            s/\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)//g;
            for my $name (/(?<![\w:\$.])[A-Za-z_:][\w:]*(?![\w:]*\s*\()/g) {
                next if $name =~ /^(?:and|or|unless|offset|bool|by|without|on|ignoring|group_left|group_right|inf|nan)$/i;
                ++$seen;
                $bad{"no such metric: $name in: $whole"} = 1 unless $known{$name};
            }
            $bad{"no metric in: $whole"} = 1 unless $seen;
            ++$lines;
        }
        print "$_\n" for sort keys %bad;
        die "no expressions found\n" unless $lines;
        exit(%bad ? 1 : 0);
    ' "$1"
}

metrics_of_rules() {
    expressions_of_rules >"$scratch/rules"
    unknown_metrics "$scratch/rules"
}

metrics_of_dashboard() {
    expressions_of_dashboard >"$scratch/dashboard"
    unknown_metrics "$scratch/dashboard"
}

complete_rules() {
    local name severity for_ url texts bad=0 count=0
    while IFS=$'\t' read -r name severity for_ url texts; do
        count=$((count + 1))
        case $severity in critical | warning) ;; *) echo "$name: severity is $severity"; bad=1 ;; esac
        [ "$for_" != - ] || { echo "$name: no for"; bad=1; }
        [ "$url" != - ] || { echo "$name: no runbook_url"; bad=1; }
        [ "$texts" = 3 ] || { echo "$name: expr, summary or description is missing"; bad=1; }
    done < <(rules)
    [ "$count" -gt 0 ] || { echo "no alerts in $RULES"; bad=1; }
    return "$bad"
}

# anchors: those of the headings, as GitHub makes them: lower case, no punctuation, - for blanks.
anchors() {
    perl -ne '
        $code = !$code if /^\s*```/;
        next if $code || !/^#+\s+(.*?)\s*$/;
        ($_ = lc $1) =~ s/[^\w\- ]//g;
        tr/ /-/;
        print "$_\n";
    ' "$RUNBOOKS"
}

runbook_anchors() {
    local name severity for_ url texts bad=0
    anchors >"$scratch/anchors"
    while IFS=$'\t' read -r name severity for_ url texts; do
        if [[ $url != */$RUNBOOKS#?* ]]; then
            echo "$name: $url does not point into $RUNBOOKS"
            bad=1
        elif ! grep -qxF -- "${url#*#}" "$scratch/anchors"; then
            echo "$name: $RUNBOOKS has no heading for #${url#*#}"
            bad=1
        fi
    done < <(rules)
    return "$bad"
}

# A test of an alert that does not exist passes when it expects nothing, so that is looked for too.
tested_rules() {
    local name rest kind bad=0
    perl -ne '
        $name = $1 if /^\s+alertname:\s*(\S+)/;
        print "$name silent\n" if /^\s+exp_alerts:\s*\[\]\s*$/;
        print "$name firing\n" if /^\s+- exp_labels:/;
    ' "$RULES_TEST" | sort -u >"$scratch/tested"
    rules | cut -f 1 | sort -u >"$scratch/alerts"
    while read -r name; do
        for kind in firing silent; do
            grep -qxF "$name $kind" "$scratch/tested" || { echo "$name: no test where it is $kind"; bad=1; }
        done
    done <"$scratch/alerts"
    while read -r name rest; do
        grep -qxF "$name" "$scratch/alerts" || { echo "$name ($rest): tested, but no such alert"; bad=1; }
    done <"$scratch/tested"
    return "$bad"
}

dashboard_is_portable() {
    jq -e '.uid == "bacmr-ops"' "$DASHBOARD" >/dev/null || { echo 'its uid is not bacmr-ops'; return 1; }
    jq -r '.. | objects | .datasource? | objects | .uid' "$DASHBOARD" | sort -u >"$scratch/datasources"
    if grep -vxF "\${datasource}" "$scratch/datasources"; then
        echo 'is a datasource, not the variable'
        return 1
    fi
    expressions_of_dashboard >"$scratch/dashboard"
    ! grep -nE 'instance *=~? *"[^$]' "$scratch/dashboard" || { echo 'names an instance'; return 1; }
}

# Panels and rows by the names that the runbooks give them: panel "A", panels "A" and "B", row "C".
panels_of_runbooks() {
    local name bad=0 count=0
    jq -r '.panels[].title' "$DASHBOARD" >"$scratch/titles"
    while read -r name; do
        count=$((count + 1))
        grep -qxF "$name" "$scratch/titles" || { echo "$RUNBOOKS names a panel that is not there: $name"; bad=1; }
    done < <(perl -0777 -ne 'while (/\b(?:panels?|row)((?:(?:,| and)?\s+"[^"]+")+)/g) {
        my $names = $1;
        print "$_\n" for $names =~ /"([^"]+)"/g;
    }' "$RUNBOOKS")
    [ "$count" -gt 0 ] || { echo "no panels in $RUNBOOKS"; bad=1; }
    return "$bad"
}

main() {
    local tools
    tools=$(scripts/monitoring-tools.sh)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT

    check 'alert rules (promtool check rules)' "$tools/promtool" check rules "$RULES"
    check 'Prometheus configuration (promtool check config)' \
        "$tools/promtool" check config monitoring/prometheus/prometheus.yml
    check 'tests of the alert rules (promtool test rules)' "$tools/promtool" test rules "$RULES_TEST"
    check 'Alertmanager configuration (amtool check-config)' \
        "$tools/amtool" check-config monitoring/alertmanager/alertmanager.yml
    check 'every alert has for, severity, summary, description, runbook' complete_rules
    check 'every alert is tested firing and silent' tested_rules
    check 'every runbook_url has its heading' runbook_anchors
    check 'metrics of the alerts exist' metrics_of_rules
    check 'metrics of the dashboard exist' metrics_of_dashboard
    check 'panels that the runbooks name exist' panels_of_runbooks
    check 'the dashboard names no datasource and no instance' dashboard_is_portable

    if [ "$failures" -gt 0 ]; then
        echo "monitoring: $failures checks failed"
        return 1
    fi
    echo "monitoring: all checks passed"
}

main "$@"
