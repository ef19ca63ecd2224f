#!/usr/bin/env bash
# Measurements on a throwaway cluster with fsync on: `make bench`. Each figure stands beside what it
# replaces, measured in the same run, alternating. Sizes come from the environment:
#
#   BENCH_LEDGER_ROWS=5000000 BENCH_WALLETS=200000 BENCH_BACKLOG=200000 BENCH_RESERVATIONS=5000000
#   BENCH_RUNS=5      runs of each contestant
#   BENCH_CLIENTS=4   clients of the application (d)
#   BENCH_RATE=1000   its offered load, transactions a second (default: as fast as it can)
#   BENCH_BATCH_SIZE=1000   bacmr.expire_batch_size (b, d)
#   BENCH_CALLS=2000000  recording calls (e)
#   BENCH_CHUNKS=500000  chunks to export (f)
#   BENCH_REINDEX_CHUNKS=1000000  chunks to reindex for memory, and a tenth of that (g; at most 10,000 of
#                     them for what is timed)
#   BENCH_PARTS=abcdefg  which parts
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
unset MAKEFLAGS MFLAGS MAKELEVEL

LEDGER_ROWS=${BENCH_LEDGER_ROWS:-5000000}
WALLETS=${BENCH_WALLETS:-200000}
BACKLOG=${BENCH_BACKLOG:-200000}
RESERVATIONS=${BENCH_RESERVATIONS:-5000000}
RUNS=${BENCH_RUNS:-5}
CLIENTS=${BENCH_CLIENTS:-4}
PARTS=${BENCH_PARTS:-abcdefg}
CHUNKS=${BENCH_CHUNKS:-500000}
REINDEX_CHUNKS=${BENCH_REINDEX_CHUNKS:-1000000}
CALLS=${BENCH_CALLS:-2000000}
BATCH_SIZE=${BENCH_BATCH_SIZE:-1000}

scripts/deps.sh build test
# shellcheck source=scripts/cluster.sh
. scripts/cluster.sh
# shellcheck source=bench/exports.sh
. bench/exports.sh
# shellcheck source=bench/reindex.sh
. bench/reindex.sh

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}
say() { printf '%s\n' "$*"; }
psql_file() {
    local file=$1
    shift
    cluster_psql bench "$@" -f - <"$file" >/dev/null
}
value() { PGOPTIONS='-c client_min_messages=error' cluster_psql bench -At -c "$1"; }

# times N SETTING SQL: milliseconds of N runs in one session, one a line.
times() {
    local i
    {
        printf '%s\n' "$2" '\timing on'
        for ((i = 0; i < $1; i++)); do printf '%s\n' "$3"; done
    } | PGOPTIONS='-c client_min_messages=error' cluster_psql bench -f - |
        sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p'
}

# The numbers on stdin: best, median.
best() { sort -g | head -n 1; }
median() { sort -g | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
calc() { awk "BEGIN {printf \"$1\", $2}"; }
now() { date +%s.%N; }

LINES_OUT=()
result() { LINES_OUT+=("$(printf '%-56s %14s   %s' "$1" "$2" "${3:-}")"); say "   $1: $2  ${3:-}"; }

prepare() {
    mkdir -p build
    local log=$ROOT/build/bench-build.log
    say 'building …'
    if ! make -s -j"$(nproc)" all with_llvm=no >"$log" 2>&1 ||
        ! as_root make install with_llvm=no ${PG:+PG="$PG"} ${PG_CONFIG:+PG_CONFIG="$PG_CONFIG"} \
            >>"$log" 2>&1; then
        tail -n 20 "$log" >&2
        exit 1
    fi
    cluster_create bench
    # fsync on, as in life; everything in memory; no checkpoint in the middle of a measurement. The
    # worker is off: what is measured is called by hand.
    cluster_conf bench "fsync = on" "shared_buffers = '2GB'" "max_wal_size = '16GB'" \
        "checkpoint_timeout = '1h'" "autovacuum = off" "shared_preload_libraries = 'bacmr_ops'" \
        "bacmr.worker_enabled = off" "bacmr.metrics_max_series = 4000" \
        "bacmr.expire_batch_size = $BATCH_SIZE"
    cluster_start bench
    cluster_psql bench -c 'CREATE EXTENSION bacmr_ops' -c 'SELECT bacmr_create_tables()' >/dev/null
}

machine() {
    say "machine   $(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
        "$(awk '/^MemTotal/ {printf "%.0f GB", $2 / 1048576}' /proc/meminfo)," \
        "$(df --output=fstype "$CLUSTER_BASE" | tail -n 1) file system, Linux $(uname -r)"
    say "versions  PostgreSQL $(value 'SHOW server_version'), bacmr_ops $(value 'SELECT bacmr_library_version()')," \
        "$(gcc --version | head -n 1)"
    say "settings  fsync on, shared_buffers 2GB, max_parallel_workers_per_gather" \
        "$(value 'SHOW max_parallel_workers_per_gather')"
}

# (a) Reconciliation beside the Phase F query.
reconcile() {
    say "a. reconciliation: $WALLETS wallets, $LEDGER_ROWS ledger rows"
    psql_file bench/load-wallets.sql -v wallets="$WALLETS" -v rows="$LEDGER_ROWS"
    local query i
    query=$(cat bench/phase-f.sql)
    local scan='SELECT bacmr_reconcile();' by_sql="SET bacmr.reconcile_memory = '64kB';"
    : >"$CLUSTER_BASE/f" && : >"$CLUSTER_BASE/scan" && : >"$CLUSTER_BASE/sql"
    times 1 '' "$query" >/dev/null && times 1 '' "$scan" >/dev/null
    for ((i = 0; i < RUNS; i++)); do
        times 1 '' "$query" >>"$CLUSTER_BASE/f"
        times 1 '' "$scan" >>"$CLUSTER_BASE/scan"
        times 1 "$by_sql" "$scan" >>"$CLUSTER_BASE/sql"
    done
    if [ "$(value "SELECT count(*) FROM bacmr_job_run WHERE status <> 'succeeded'")" != 0 ] ||
        [ "$(value "SELECT count(DISTINCT left(detail->>'method', 3)) FROM bacmr_job_run")" != 2 ]; then
        say 'the runs were not what they should have been' >&2
        exit 1
    fi
    local f_best s_best f_median s_median
    f_best=$(best <"$CLUSTER_BASE/f") s_best=$(best <"$CLUSTER_BASE/scan")
    f_median=$(median <"$CLUSTER_BASE/f") s_median=$(median <"$CLUSTER_BASE/scan")
    result 'a. Phase F query' "$f_median ms" "best $f_best ms"
    result 'a. bacmr_reconcile()' "$s_median ms" "best $s_best ms"
    result 'a. bacmr_reconcile(), its SQL path' "$(median <"$CLUSTER_BASE/sql") ms" \
        "best $(best <"$CLUSTER_BASE/sql") ms"
    result 'a. times faster than the Phase F query' \
        "$(calc '%.1f' "$f_median / $s_median")" "by the best: $(calc '%.1f' "$f_best / $s_best")"
}

fresh_backlog() { psql_file bench/backlog.sql -v wallets="$WALLETS" -v backlog="$BACKLOG"; }

# per_second FILE: appends how many reservations a second the command after it expired.
per_second() {
    local file=$1 start end done_before done_after
    shift
    done_before=$(value "SELECT count(*) FROM reservations WHERE status = 'expired'")
    start=$(now)
    "$@"
    end=$(now)
    done_after=$(value "SELECT count(*) FROM reservations WHERE status = 'expired'")
    calc '%.0f\n' "($done_after - $done_before) / ($end - $start)" >>"$file"
}

# The sample keeps this part short: the loop's speed does not depend on how long it runs.
script_loop() {
    as_pg pgbench -n -h "$(cluster_socket bench)" -p "$(cluster_port bench)" -U postgres -c 1 \
        -t $((BACKLOG < 5000 ? BACKLOG : 5000)) -f "$CLUSTER_BASE/script-loop.sql" postgres \
        >"$CLUSTER_BASE/script-loop.log" 2>&1
}

# (b) Working off a backlog.
expire() {
    say "b. expiry: a backlog of $BACKLOG reservations of $WALLETS users"
    as_pg tee "$CLUSTER_BASE/script-loop.sql" <bench/script-loop.sql >/dev/null
    local i
    for ((i = 0; i < RUNS; i++)); do
        fresh_backlog
        per_second "$CLUSTER_BASE/job" cluster_psql bench -c "CALL bacmr_run_job('expire')"
        if [ "$(value "SELECT count(*) FROM reservations WHERE status = 'reserved'")" != 0 ]; then
            say 'the job left reservations behind' >&2
            exit 1
        fi
        fresh_backlog
        per_second "$CLUSTER_BASE/cte" psql_file bench/naive-cte.sql
        fresh_backlog
        per_second "$CLUSTER_BASE/loop" script_loop
    done
    result "b. CALL bacmr_run_job('expire'), batches of $BATCH_SIZE" \
        "$(median <"$CLUSTER_BASE/job") /s" "best $(sort -gr "$CLUSTER_BASE/job" | head -n 1) /s"
    result 'b. one statement (locks all of it until its end)' \
        "$(median <"$CLUSTER_BASE/cte") /s" "best $(sort -gr "$CLUSTER_BASE/cte" | head -n 1) /s"
    result "b. a script's loop, one transaction each" \
        "$(median <"$CLUSTER_BASE/loop") /s" "best $(sort -gr "$CLUSTER_BASE/loop" | head -n 1) /s"
}

# (c) A tick with nothing due.
tick() {
    say "c. a tick with nothing due: $RESERVATIONS reservations"
    psql_file bench/load-reservations.sql -v wallets="$WALLETS" -v reservations="$RESERVATIONS"
    # Without the first: a worker's session is warm.
    result 'c. bacmr_expire_reservations(), nothing due' \
        "$(times 51 '' 'SELECT bacmr_expire_reservations();' | tail -n +2 | median) ms"
    cluster_psql bench -c 'DROP INDEX reservations_due_idx'
    result "c. SELECT … WHERE status = 'reserved' AND expires_at < now(), no index" \
        "$(times $((RUNS + 1)) '' "SELECT id FROM reservations WHERE status = 'reserved' AND expires_at < now();" |
            tail -n +2 | median) ms"
    cluster_psql bench -c "CREATE INDEX reservations_due_idx ON reservations (expires_at, id)
                           WHERE status = 'reserved'"
}

more_due() {
    cluster_psql bench -c "INSERT INTO reservations (user_id, amount, expires_at)
        SELECT md5('student ' || 1 + floor(random() * $WALLETS)::bigint)::uuid, 50,
               now() - random() * interval '10 minutes' FROM generate_series(1, $BACKLOG)" \
        -c 'VACUUM ANALYZE wallet, wallet_ledger, reservations'   # autovacuum is off
}

# transactions FROM TO: of the application between two moments, a second.
throughput() {
    cat "$CLUSTER_BASE"/app.[0-9]* | awk -v from="$1" -v to="$2" '
        {t = $5 + $6 / 1e6} t >= from && t < to {n++} END {printf "%.0f\n", n / (to - from)}'
}

# (d) The application while a backlog is worked off. One pgbench run; windows without and with an
# expiry alternate in it, and its log tells what it did in each.
mixed() {
    say "d. mixed load: $CLIENTS clients${BENCH_RATE:+, $BENCH_RATE/s offered}, with and without a backlog of $BACKLOG being worked off"
    fresh_backlog
    cluster_psql bench -c 'DELETE FROM reservations'
    local script i from to
    for script in reserve finalize release; do
        as_pg tee "$CLUSTER_BASE/$script.sql" <"demo/$script.sql" >/dev/null
    done
    set -m
    as_pg pgbench -n -h "$(cluster_socket bench)" -p "$(cluster_port bench)" -U postgres \
        -c "$CLIENTS" -j 1 ${BENCH_RATE:+-R "$BENCH_RATE"} -T 3600 -l --log-prefix="$CLUSTER_BASE/app" -D students="$WALLETS" \
        -f "$CLUSTER_BASE/reserve.sql@50" -f "$CLUSTER_BASE/finalize.sql@25" \
        -f "$CLUSTER_BASE/release.sql@5" postgres >"$CLUSTER_BASE/app-output" 2>&1 </dev/null &
    CLUSTER_CHILD=$!   # the clean-up ends it
    set +m
    for ((i = 0; i < RUNS; i++)); do
        more_due
        sleep 1
        from=$(now) && sleep 4 && to=$(now)
        echo "$from $to" >>"$CLUSTER_BASE/without"
        from=$(now)
        cluster_psql bench -c "CALL bacmr_run_job('expire')"
        to=$(now)
        echo "$from $to" >>"$CLUSTER_BASE/with"
    done
    sleep 1
    # pgbench writes its log in blocks, the last one when it ends.
    kill -TERM "$CLUSTER_CHILD" 2>/dev/null || { cat "$CLUSTER_BASE/app-output" >&2; exit 1; }
    wait "$CLUSTER_CHILD" 2>/dev/null || true
    CLUSTER_CHILD=
    local quiet busy deadlocks
    quiet=$(while read -r from to; do throughput "$from" "$to"; done <"$CLUSTER_BASE/without" | median)
    busy=$(while read -r from to; do throughput "$from" "$to"; done <"$CLUSTER_BASE/with" | median)
    deadlocks=$(value "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    result 'd. application, no expiry' "$quiet tps"
    result 'd. application, backlog being worked off' "$busy tps" "deadlocks: $deadlocks"
    result 'd. loss' "$(calc '%.1f' "100 * (1 - $busy / $quiet)") %"
}

# pgbench_rate CLIENTS SQL: transactions a second.
pgbench_rate() {
    as_pg tee "$CLUSTER_BASE/rate.sql" <<<"$2" >/dev/null
    as_pg pgbench -n -h "$(cluster_socket bench)" -p "$(cluster_port bench)" -U postgres -M prepared \
        -c "$1" -j 1 -T 3 -f "$CLUSTER_BASE/rate.sql" postgres 2>&1 | sed -n 's/^tps = \([0-9]*\).*/\1/p'
}

# (e) Metrics: a recording beside an empty C function, and beside a counter table; a scrape.
metrics() {
    say "e. metrics: $CALLS recordings"
    make -s -C test/module all
    as_pg tee "$CLUSTER_BASE/bacmr_test.so" <test/module/bacmr_test.so >/dev/null
    cluster_psql bench -c "CREATE FUNCTION bacmr_test_nothing(text, text, float8, bigint) RETURNS void
        LANGUAGE c AS '$CLUSTER_BASE/bacmr_test.so'" -c 'CREATE TABLE counter (name text, labels text,
        value bigint, PRIMARY KEY (name, labels))' -c 'SET max_parallel_workers_per_gather = 0' >/dev/null
    local call="('gpt-4o', 'chat', 0.5 + i * 1e-7, 350)) FROM generate_series(1, $CALLS) i;" i empty full
    for ((i = 0; i < RUNS; i++)); do
        times 1 '' "SELECT count(bacmr_test_nothing$call" >>"$CLUSTER_BASE/empty"
        times 1 '' "SELECT count(bacmr_record_openai_request$call" >>"$CLUSTER_BASE/record"
        times 1 '' "SELECT count(bacmr_record_wallet_reservation('reserved')) FROM generate_series(1, $CALLS);" \
            >>"$CLUSTER_BASE/count"
    done
    empty=$(median <"$CLUSTER_BASE/empty") full=$(median <"$CLUSTER_BASE/record")
    result 'e. an empty C function' "$(calc '%.3f' "1000 * $empty / $CALLS") us"
    result 'e. bacmr_record_openai_request (a histogram, a counter)' "$(calc '%.3f' "1000 * $full / $CALLS") us" \
        "over the empty one: $(calc '%.3f' "1000 * ($full - $empty) / $CALLS") us"
    result 'e. bacmr_record_wallet_reservation (a counter)' \
        "$(calc '%.3f' "1000 * $(median <"$CLUSTER_BASE/count") / $CALLS") us"
    result 'e. 1 client, SELECT bacmr_record_wallet_reservation' \
        "$(pgbench_rate 1 "SELECT bacmr_record_wallet_reservation('x');") /s"
    local upsert="INSERT INTO counter VALUES ('n', 'l', 1) ON CONFLICT (name, labels) DO UPDATE SET value = counter.value + 1;"
    result 'e. 1 client, a counter table' "$(pgbench_rate 1 "$upsert") /s"
    result 'e. 8 clients, SELECT bacmr_record_wallet_reservation' \
        "$(pgbench_rate 8 "SELECT bacmr_record_wallet_reservation('y');") /s"
    result 'e. 8 clients, a counter table' "$(pgbench_rate 8 "$upsert") /s"
    cluster_psql bench -c 'SELECT bacmr_metrics_reset()' \
        -c "SELECT bacmr_metric_define('c' || n, 'counter', 'Help.', '{a,b}') FROM generate_series(1, 6) n" \
        -c "SELECT bacmr_metric_define('h' || n, 'histogram', 'Help.', '{a,b}') FROM generate_series(1, 2) n" \
        -c "SELECT count(bacmr_metric_inc('c' || n, jsonb_build_object('a', i, 'b', 'x')))
            FROM generate_series(1, 6) n, generate_series(1, 300) i" \
        -c "SELECT count(bacmr_metric_observe('h' || n, jsonb_build_object('a', i, 'b', 'x'), i * k))
            FROM generate_series(1, 2) n, generate_series(1, 100) i, generate_series(1, 50) k" >/dev/null
    result 'e. a scrape of 2,000 series, 200 of them histograms: text' \
        "$(times 11 '' 'SELECT length(bacmr_metrics_prometheus());' | tail -n +2 | median) ms"
    result 'e. the same: view' "$(times 11 '' 'SELECT count(labels) FROM bacmr_metrics;' | tail -n +2 | median) ms"
    result 'e. the same: JSON' "$(times 11 '' 'SELECT bacmr_metrics_json() IS NULL;' | tail -n +2 | median) ms"
}

main() {
    prepare
    if [[ $PARTS == *a* ]]; then reconcile; fi
    if [[ $PARTS == *b* ]]; then expire; fi
    if [[ $PARTS == *c* ]]; then tick; fi
    if [[ $PARTS == *d* ]]; then mixed; fi
    if [[ $PARTS == *e* ]]; then metrics; fi
    if [[ $PARTS == *f* ]]; then exports; fi
    if [[ $PARTS == *g* ]]; then reindex; fi
    say '' && machine && say ''
    printf '%-56s %14s\n' 'measurement' "median of $RUNS"
    printf '%s\n' "${LINES_OUT[@]}"
}

main "$@"
