#!/usr/bin/env bash
# A tour of bacmr_ops on a throwaway cluster of its own: `make demo`.
#
#   KEEP=1 demo/run.sh     leaves the cluster running, and says how to reach and how to remove it
#   PG=17 demo/run.sh      another installed server version
#
# It exits non-zero as soon as something that it shows is not true. It touches no other cluster;
# it installs the packages it needs, and the extension, into the system (with sudo unless root).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
# The make that may have called this has job slots of its own.
unset MAKEFLAGS MFLAGS MAKELEVEL

WALLETS=4000
# The application leaves the last hundred alone: the faults are planted there.
STUDENTS=$((WALLETS - 100))
BUILD_LOG=$ROOT/build/demo-build.log

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' GREEN='' RED='' PLAIN=''
fi

# --- how it talks ----------------------------------------------------------------------------

chapter_number=0
chapter() {
    chapter_number=$((chapter_number + 1))
    printf '\n%s%d. %s%s\n' "$BOLD" "$chapter_number" "$1" "$PLAIN"
}
say() { printf '%s\n' "$@" | indent; }
indent() { sed 's/^/   /; s/[[:space:]]*$//'; }
true_is() { printf '   %sTrue:%s %s\n' "$GREEN" "$PLAIN" "$1"; }
fail() {
    printf '\n   %sNOT TRUE:%s %s\n' "$RED" "$PLAIN" "$1" >&2
    if [ -n "${CLUSTER_BASE:-}" ] && [ -e "$(cluster_log demo)" ]; then
        echo "   The end of the server's log, without the worker's ticks:" >&2
        as_pg grep -v '"message":"reservations expired"' "$(cluster_log demo)" | tail -n 25 |
            indent >&2
    fi
    exit 1
}

# --- how it asks the server ------------------------------------------------------------------

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Warnings are part of the story only where the story tells them.
quiet_psql() { PGOPTIONS='-c client_min_messages=error' cluster_psql demo "$@"; }

# One value.
value() { quiet_psql -At -c "$1"; }

# A statement as one would type it, and its result.
show_statement() { printf '   %s=> %s;%s\n' "$DIM" "$1" "$PLAIN"; }
show() {
    show_statement "$1"
    table "$1"
}
# A command, or a query of one value.
show_run() {
    show_statement "$1"
    quiet_psql -At -c "$1" | indent
}
table() { quiet_psql -P footer=off -P format=wrapped -P columns=96 -P null=- -c "$1" | indent; }

# holds CLAIM QUERY: the query returns true, or the demo ends here.
holds() {
    if [ "$(value "$2")" = t ]; then true_is "$1"; else fail "$1"; fi
}

# await WHAT SECONDS QUERY: until the query returns true.
await() {
    local deadline=$((SECONDS + $2))
    until [ "$(value "$3")" = t ]; do
        if [ "$SECONDS" -ge "$deadline" ]; then fail "$1 (waited $2 s)"; fi
        sleep 0.5
    done
}

# pg_cron starts its job in the first second of a minute, and only one reconciliation runs at a
# time: a run by hand keeps clear of that moment.
reconcile_by_hand() {
    while [ $((10#$(date +%S))) -ge 58 ] || [ $((10#$(date +%S))) -lt 2 ]; do sleep 0.5; done
    show 'SELECT * FROM bacmr_reconcile()'
}
latest_run() { value "SELECT max(run_id) FROM bacmr_job_run WHERE job = 'reconcile'"; }

# What pg_cron's scheduled reconciliations came to since a moment.
cron_runs() {
    echo "SELECT count(*) > 0 FROM cron.job_run_details d JOIN cron.job j USING (jobid)
          WHERE j.jobname LIKE 'bacmr-reconcile@%' AND d.status = '$1' AND d.end_time > '$2'"
}
await_cron() {
    say "pg_cron starts its jobs at the full minute: that is in $((60 - 10#$(date +%S))) s."
    await "pg_cron's run ends as '$1'" 90 "$(cron_runs "$1" "$2")"
}

# --- the application -------------------------------------------------------------------------

APP=
APP_LOG=

# pgbench in short rounds: each ends with a summary, and stopping is a matter of a second or two.
application() {
    while [ ! -e "$CLUSTER_BASE/stop" ]; do
        as_pg pgbench -n -h "$(cluster_socket demo)" -p "$(cluster_port demo)" -U postgres \
            -c 2 -j 1 -T 2 -R 150 -D students="$STUDENTS" -f "$CLUSTER_BASE/reserve.sql@50" \
            -f "$CLUSTER_BASE/finalize.sql@25" -f "$CLUSTER_BASE/release.sql@5" postgres || return
    done
}

start_application() {
    local script
    for script in reserve finalize release; do
        # The server's user may not be able to read the checkout.
        as_pg tee "$CLUSTER_BASE/$script.sql" <"demo/$script.sql" >/dev/null
    done
    APP_LOG=$CLUSTER_BASE/application.log
    set -m
    application >"$APP_LOG" 2>&1 </dev/null &
    APP=$!
    set +m
}

stop_application() {
    local status=0
    touch "$CLUSTER_BASE/stop"
    wait "$APP" || status=$?
    APP=
    if [ "$status" -ne 0 ]; then tail -n 5 "$APP_LOG" >&2; fail "the application ran through"; fi
}

kill_application() {
    # bash reports a killed job on stderr.
    if [ -n "$APP" ]; then { kill -KILL -- "-$APP" && wait "$APP"; } 2>/dev/null || true; fi
}

# The sum of a number in the rounds' summaries.
app_total() { sed -n "s/^number of $1: \([0-9]*\).*/\1/p" "$APP_LOG" | awk '{n += $1} END {print n + 0}'; }

# --- the chapters ----------------------------------------------------------------------------

build() {
    chapter 'Build, and a server of our own'
    mkdir -p build
    local start=$SECONDS
    # Without the bitcode for the JIT, which nothing here uses and which doubles the time.
    if ! cluster_run make -s -j"$(nproc)" all with_llvm=no >"$BUILD_LOG" 2>&1 || ! install; then
        tail -n 20 "$BUILD_LOG" | indent >&2
        fail "it builds and installs (all of it: $BUILD_LOG)"
    fi
    say "Built and installed in $((SECONDS - start)) s (log: build/demo-build.log)."
}

# sudo drops the environment: the choice of server goes along as arguments.
install() {
    as_root make install with_llvm=no ${PG:+PG="$PG"} ${PG_CONFIG:+PG_CONFIG="$PG_CONFIG"} \
        >>"$BUILD_LOG" 2>&1
}

server() {
    cluster_create demo
    cluster_conf_preload demo
    cluster_start demo
    cluster_psql demo -c 'CREATE EXTENSION pg_cron' -c 'CREATE EXTENSION bacmr_ops'
    say 'A throwaway cluster with shared_preload_libraries = bacmr_ops, pg_cron:'
    table "SELECT extname AS extension, extversion AS version FROM pg_extension
           WHERE extname IN ('bacmr_ops', 'pg_cron')
           UNION ALL SELECT 'PostgreSQL', current_setting('server_version') ORDER BY 1"
}

year_of_history() {
    chapter 'A year of history'
    say "The reference tables, and $WALLETS students who bought, spent and let things lapse:"
    quiet_psql -c 'SELECT bacmr_create_tables()' >/dev/null
    quiet_psql -v wallets="$WALLETS" -f - <demo/history.sql >/dev/null
    show 'SELECT source, relation, status FROM bacmr_sources'
    table "SELECT reason, count(*) AS \"ledger rows\", sum(delta) AS tokens
           FROM wallet_ledger GROUP BY 1 ORDER BY 2 DESC"
}

schedule() {
    chapter 'The nightly run, every minute for once'
    say 'bacmr_schedule() alone means 02:00 GMT each night. The demo cannot wait that long:'
    show "SELECT * FROM bacmr_schedule(reconcile => '* * * * *', export => NULL)"
    say 'No job for expiry: the worker does that, and knows when the next reservation is due.'
}

plant() {
    chapter 'Faults of all nine kinds, while the application runs'
    start_application
    await 'the application reserves tokens' 15 \
        "SELECT count(*) > 20 FROM reservations WHERE status = 'reserved'"
    say 'pgbench plays the application: it reserves, finalizes and releases all the time.' \
        'Then demo/plant.sql breaks things. For some of that it first drops a constraint, for' \
        'a stale reservation it pauses the expiry: no worker would have left it lying.'
    quiet_psql -v first="$((STUDENTS + 1))" -f - <demo/plant.sql >/dev/null
    PLANTED_AT=$(value 'SELECT clock_timestamp()')
    table 'SELECT kind, left(user_id, 8) AS "user", discrepancy AS tokens, story AS "what happened"
           FROM demo_planted ORDER BY kind, story'
}

find_them() {
    chapter 'Reconcile: are exactly these found?'
    reconcile_by_hand
    RUN_BY_HAND=$(latest_run)
    say 'discrepancies counts every kind but stale_reservation; drift adds up the tokens of' \
        'balance_mismatch and missing_wallet. Row by row against what was planted:'
    quiet_psql -P footer=off -v run_id="$RUN_BY_HAND" -f - <demo/compare.sql | indent ||
        fail 'exactly the planted faults are found'
    true_is 'exactly the planted faults, with their amounts and reservations, and nothing else'
    say '' 'bacmr_doctor() looks at the set-up rather than at the tokens:'
    doctor
}

# Each finding on lines of its own: a command is easier to copy than a cell.
doctor() {
    show_statement 'SELECT severity, finding, fix FROM bacmr_doctor()'
    value "SELECT format(E'%s: %s\n    %s', severity, finding, fix) FROM bacmr_doctor()" |
        fold -s -w 92 | indent
}

cron_fails() {
    chapter 'The scheduled run fails, and keeps its evidence'
    await_cron failed "$PLANTED_AT"
    table "SELECT to_char(end_time, 'HH24:MI:SS') AS ended, status,
                  left(split_part(return_message, E'\\n', 1), 68) AS message
           FROM cron.job_run_details WHERE status = 'failed' AND end_time > '$PLANTED_AT'
           ORDER BY runid LIMIT 1"
    CRON_RUN=$(value "SELECT min(run_id) FROM bacmr_job_run WHERE status = 'discrepancies'
                      AND started_at > '$PLANTED_AT' AND run_id <> $RUN_BY_HAND")
    holds "the run's own record, committed before the error was raised, is there" \
        "SELECT status = 'discrepancies' AND (detail->>'discrepancies')::int =
                (SELECT count(*) FROM demo_planted WHERE kind <> 'stale_reservation')
         FROM bacmr_job_run WHERE run_id = $CRON_RUN"
    local report
    report=$(value "SELECT detail->>'report' FROM bacmr_job_run WHERE run_id = $CRON_RUN")
    say 'And its report, for whoever gets up in the morning:' "$report"
    as_pg head -n 14 "$report" | cut -c1-94 | indent
    say '  ...'
    as_pg jq -e . "$report" >/dev/null || fail 'the report is valid JSON'
    holds 'the file says what bacmr_reconcile_report() says' \
        "SELECT pg_read_file('$report')::jsonb = bacmr_reconcile_report($CRON_RUN)"
}

repair() {
    chapter 'Repair, by hand'
    say 'bacmr_ops finds; it never changes a wallet to make it fit. People decide. Here they use' \
        'a view of the findings, and type (demo/repair.sql):' ''
    quiet_psql -c "CREATE VIEW fault AS
        SELECT kind, user_id::uuid, current_balance, ledger_sum, discrepancy,
               (detail->>'reservation_id')::uuid AS reservation_id
        FROM bacmr_discrepancy WHERE run_id = $CRON_RUN"
    printf '%s' "$DIM"
    indent <demo/repair.sql
    printf '%s\n' "$PLAIN"
    # One transaction a statement: ALTER TABLE on two tables in one could deadlock with the
    # application. Each statement leaves wallet and ledger as they have to be.
    quiet_psql -f - <demo/repair.sql >/dev/null
    REPAIRED_AT=$(value 'SELECT clock_timestamp()')
    reconcile_by_hand
    holds 'no discrepancy is left; what remains is the stale reservation' \
        "SELECT detail->'kinds' = '{\"stale_reservation\": 1}' AND detail->>'discrepancies' = '0'
         FROM bacmr_job_run WHERE run_id = $(latest_run)"
}

# One line of the worker's progress since $1.
progress() {
    value "SELECT format('%s  %s  %s  %s  %s  %s', to_char(now(), 'HH24:MI:SS'),
             lpad(count(*) FILTER (WHERE r.created_at > '$1')::text, 12),
             lpad(count(*) FILTER (WHERE r.status = 'reserved')::text, 6),
             lpad(count(*) FILTER (WHERE r.status = 'reserved' AND r.expires_at <= now())::text, 5),
             lpad(count(l.id)::text, 8), lpad(coalesce(sum(l.delta), 0)::text, 15))
           FROM reservations r LEFT JOIN wallet_ledger l
             ON l.reservation_id = r.id AND l.reason = 'reservation_expired'
                AND l.created_at > '$1'"
}

worker() {
    chapter 'The worker refunds what falls due, while the application runs'
    say 'Reservations lapsed all the time, and the expiry was paused. Now it goes on:'
    local since before deadline=$((SECONDS + 60)) lines=0
    since=$(value 'SELECT clock_timestamp()')
    before=$(progress "$since")
    show_statement "SELECT bacmr_unpause('expire')"
    value "SELECT bacmr_unpause('expire')" >/dev/null
    say 'time      new reserved    open    due  refunded  tokens refunded' "$before   (before)"
    # At least six lines, and until it has ticked three times and nothing was left over.
    until [ "$lines" -ge 6 ] &&
        [ "$(value "$(worker_ticks "$since") AND $(nothing_overdue)")" = t ]; do
        if [ "$SECONDS" -ge "$deadline" ]; then fail 'the worker keeps up with what falls due'; fi
        sleep 1.5
        say "$(progress "$since")"
        lines=$((lines + 1))
    done
    true_is 'nothing is due for more than 3 seconds: the worker wakes when the next falls due'
    holds 'each expired reservation has exactly one refund, of its amount' \
        "SELECT count(*) > 50 AND bool_and((SELECT array_agg(l.delta) FROM wallet_ledger l
                  WHERE l.reservation_id = r.id AND l.reason = 'reservation_expired')
                = ARRAY[r.amount])
         FROM reservations r WHERE status = 'expired' AND updated_at > '$PLANTED_AT'"
    holds 'among them the stale one, and the one that had no end' \
        "SELECT count(*) = 2 FROM demo_planted p JOIN reservations r ON r.id::text = p.reservation_id
         WHERE r.status = 'expired' AND (p.story LIKE 'due for 10%' OR p.story LIKE '%no expires_at')"
    say '' 'A tick that did something leaves a row, and a line in the log:'
    table "SELECT run_id, to_char(started_at, 'HH24:MI:SS.MS') AS started, status,
                  detail->>'expired' AS expired, detail->>'tokens_refunded' AS tokens,
                  detail->>'skipped_locked' AS \"held by others\"
           FROM bacmr_job_run WHERE job = 'expire' AND status <> 'skipped'
           ORDER BY run_id DESC LIMIT 3"
    as_pg grep -h '"reservations expired"' "$(cluster_log demo)" | tail -n 1 | fold -w 94 | indent
}

worker_ticks() {
    echo "SELECT (SELECT count(*) >= 3 FROM bacmr_job_run
                  WHERE job = 'expire' AND status = 'succeeded' AND started_at > '$1')"
}
nothing_overdue() {
    echo "NOT EXISTS (SELECT FROM reservations
                      WHERE status = 'reserved' AND expires_at < now() - interval '3 seconds')"
}

INVARIANT='SELECT (SELECT sum(token_balance) FROM wallet) AS "sum of balances",
       (SELECT sum(delta) FROM wallet_ledger) AS "sum of ledger",
       (SELECT count(*) FROM (SELECT w.user_id FROM wallet w LEFT JOIN wallet_ledger l USING (user_id)
          GROUP BY w.user_id, w.token_balance
          HAVING w.token_balance <> coalesce(sum(l.delta), 0)) off) AS "users that disagree"'

invariant() {
    chapter 'The invariant: what the wallets hold is what the ledger says'
    say 'One statement, so one snapshot, with the application and the worker still at work:'
    table "$INVARIANT"
    holds 'the two sums are equal, and so they are for every single user' \
        "SELECT \"sum of balances\" = \"sum of ledger\" AND \"users that disagree\" = 0
         FROM ($INVARIANT) i"
}

cron_succeeds() {
    chapter 'The next scheduled run is clean'
    await_cron succeeded "$REPAIRED_AT"
    table "SELECT to_char(start_time, 'HH24:MI:SS') AS started, status,
                  left(split_part(return_message, E'\\n', 1), 68) AS message
           FROM cron.job_run_details WHERE end_time IS NOT NULL ORDER BY runid"
    holds 'pg_cron has one run that failed because of discrepancies, and one that succeeded' \
        "SELECT count(*) FILTER (WHERE status = 'failed' AND return_message LIKE '%discrepanc%') > 0
                AND count(*) FILTER (WHERE status = 'succeeded') > 0
         FROM cron.job_run_details"
    say 'Back to every night, and the export to every Sunday:'
    show 'SELECT * FROM bacmr_schedule()'
}

farewell() {
    chapter 'How things stand'
    stop_application
    say "The application made $(app_total 'transactions actually processed') transactions; by\
 deadlocks and the like $(app_total 'failed transactions') failed."
    if [ "$(app_total 'transactions actually processed')" -eq 0 ] ||
        [ "$(app_total 'failed transactions')" -gt 0 ]; then fail 'no transaction of it failed'; fi
    show "SELECT job, state, last_status, last_run_at::timestamp(0), next_step FROM bacmr_status"
    doctor
    holds 'the doctor has nothing to say' 'SELECT count(*) = 0 FROM bacmr_doctor()'
}

# At top level: what it declares has to be global.
scripts/deps.sh build demo
# shellcheck source=scripts/cluster.sh
. scripts/cluster.sh
# shellcheck source=demo/disaster.sh
. demo/disaster.sh
# shellcheck source=demo/reindex.sh
. demo/reindex.sh
cluster_at_exit kill_application
cluster_at_exit stop_s3

main() {
    build
    server
    year_of_history
    schedule
    plant
    find_them
    cron_fails
    repair
    worker
    invariant
    export_and_prove
    lose_and_recover
    new_model
    cron_succeeds
    farewell
    printf '\n%sAll of it was true.%s %d s from the first line to this.\n' "$BOLD$GREEN" "$PLAIN" "$SECONDS"
    if [ "${KEEP:-}" ] && [ "$KEEP" != 0 ]; then
        echo
        cluster_keep demo
    fi
}

main "$@"
