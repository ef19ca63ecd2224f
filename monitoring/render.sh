#!/usr/bin/env bash
# Draws the Grafana dashboard from real data, without Grafana: docs/images/dashboard*.png.
#
#   monitoring/render.sh             about seven minutes and the build: load, pictures
#   OUT=/tmp/x monitoring/render.sh  pictures elsewhere
#
# A throwaway cluster with an application (pictures/application.sql), an S3 server, stand-ins for OpenAI
# and Pinecone, and a Prometheus that scrapes the extension's endpoint each second. Then
# pictures/draw.py evaluates the expressions of each panel, and draws what they return. It fails when a
# panel has nothing to show. It touches no other cluster; it installs the packages it needs, and the
# extension, into the system (with sudo unless root).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
OUT=${OUT:-$ROOT/docs/images}
LOG=$ROOT/build/render.log
DASHBOARD=monitoring/grafana/dashboards/bacmr_ops.json
# Debian's, which has matplotlib; there may be another one in the PATH.
PYTHON=/usr/bin/python3
SPACE=debian-handbook-fr
unset MAKEFLAGS MFLAGS MAKELEVEL

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}
say() { printf '%s\n' "$*"; }
indent() { sed 's/^/   /'; }
fail() {
    echo "render: $*" >&2
    exit 1
}

app() { PGOPTIONS='-c client_min_messages=error' cluster_psql pictures -d app -At "$@"; }
value() { app -c "$1"; }

# await WHAT SECONDS COMMAND …: until it prints "t".
await() {
    local what=$1 deadline=$((SECONDS + $2))
    shift 2
    until [ "$("$@" 2>/dev/null)" = t ]; do
        if [ "$SECONDS" -ge "$deadline" ]; then fail "$what: not within the time"; fi
        sleep 0.3
    done
}

# --- what runs beside the server -------------------------------------------------------------

CHILDREN=()
# Each in a process group of its own: a Ctrl-C goes to this script alone, which ends them in order.
background() {
    local log=$1
    shift
    set -m
    "$@" >"$CLUSTER_BASE/$log.out" 2>&1 </dev/null &
    CHILDREN+=("$!")
    set +m
}
end_children() {
    local child
    for child in "${CHILDREN[@]}"; do kill -TERM -- "-$child" 2>/dev/null || true; done
    # bash reports a killed job on stderr.
    for child in "${CHILDREN[@]}"; do { wait "$child"; } 2>/dev/null || true; done
    CHILDREN=()
}

# stand_in NAME SETTINGS: its URLs go to $CLUSTER_BASE/NAME.out.
stand_in() {
    background "$1" "$PYTHON" "test/services/$1.py" --settings "$2"
    await "$1 listens" 30 sh -c "grep -q ^control= '$CLUSTER_BASE/$1.out' && echo t"
}
url_of() { sed -n "s/^$2=//p" "$CLUSTER_BASE/$1.out"; }

# faults NAME RULES: what the stand-in is to do wrong from now on.
faults() {
    "$PYTHON" -c 'import sys, urllib.request as u
u.urlopen(u.Request(sys.argv[1] + "/__faults", sys.argv[2].encode(), method="PUT")).read()' \
        "$(url_of "$1" control)" "$2"
}

prometheus() {
    local tools
    tools=$(scripts/monitoring-tools.sh)
    PROMETHEUS=http://127.0.0.1:$(cluster_free_port)
    cat >"$CLUSTER_BASE/prometheus.yml" <<YAML
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: bacmr
    honor_labels: true
    metrics_path: /metrics/prometheus
    static_configs:
      # As monitoring/prometheus/prometheus.yml has it; here the port is a random one.
      - targets: ['$ENDPOINT']
        labels: {instance: 'localhost:9188'}
YAML
    background prometheus "$tools/prometheus" --config.file="$CLUSTER_BASE/prometheus.yml" \
        --storage.tsdb.path="$CLUSTER_BASE/prometheus" --web.listen-address="${PROMETHEUS#http://}"
    await 'Prometheus scrapes the endpoint' 60 sh -c "'$tools/promtool' query instant '$PROMETHEUS' \
        bacmr_worker_up | grep -q ' => 1 ' && echo t"
}

# --- the server and what it is given ---------------------------------------------------------

build() {
    mkdir -p build "$OUT"
    # Without the bitcode for the JIT, which nothing here uses.
    if ! cluster_run make -s -j"$(nproc)" all with_llvm=no >"$LOG" 2>&1 ||
        ! as_root make install with_llvm=no ${PG:+PG="$PG"} ${PG_CONFIG:+PG_CONFIG="$PG_CONFIG"} >>"$LOG" 2>&1; then
        tail -n 20 "$LOG" >&2
        fail "it does not build and install (all of it: $LOG)"
    fi
}

server() {
    ENDPOINT=127.0.0.1:$(cluster_free_port)
    cluster_create pictures
    cluster_conf_preload pictures
    cluster_conf pictures "bacmr.metrics_listen = '$ENDPOINT'" "bacmr.expire_interval = '5s'"
    cluster_start pictures
    cluster_psql pictures -c 'CREATE DATABASE app'
    app -c 'CREATE EXTENSION bacmr_ops' -c 'SELECT bacmr_create_tables()' >/dev/null
    app -f - <monitoring/pictures/application.sql
    "$PYTHON" test/services/handbook.py --copy --limit 1500 |
        app -c '\copy chunks (id, namespace, document_id, chunk_index, content, metadata, token_count) FROM pstdin'
}

services() {
    start_s3
    stand_in openai '{"latency_ms": 1100}'
    stand_in pinecone '{"latency_ms": 600}'
    app -c "CREATE SERVER dr FOREIGN DATA WRAPPER bacmr_blob_store
            OPTIONS (type 's3', bucket 'bacmr-dr', endpoint '$(as_pg sed -n 's/^endpoint=//p' "$S3/env")')" \
        -c "CREATE USER MAPPING FOR PUBLIC SERVER dr OPTIONS (secret_access_key_file '$S3/secret',
            access_key_id '$(as_pg sed -n 's/^access_key=//p' "$S3/env")')" \
        -c "CREATE SERVER openai FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'openai',
            base_url '$(url_of openai endpoint)/v1', model 'text-embedding-3-small')" \
        -c "CREATE SERVER pinecone FOREIGN DATA WRAPPER bacmr_vector_store OPTIONS (type 'pinecone',
            host '$(url_of pinecone endpoint)')" \
        -c "CREATE USER MAPPING FOR PUBLIC SERVER openai OPTIONS (api_key 'sk-test')" \
        -c "CREATE USER MAPPING FOR PUBLIC SERVER pinecone OPTIONS (api_key 'pc-test')" \
        -c "ALTER DATABASE app SET bacmr.blob_store = 'dr'" \
        -c "ALTER DATABASE app SET bacmr.embedder = 'openai'" \
        -c "ALTER DATABASE app SET bacmr.vector_store = 'pinecone'"
}

# --- what happens ----------------------------------------------------------------------------

load() {
    local name
    for name in ask answer ingest; do
        echo "SELECT $name();" | as_pg tee "$CLUSTER_BASE/$name.sql" >/dev/null
    done
    background load as_pg pgbench -n -h "$(cluster_socket pictures)" -p "$(cluster_port pictures)" -U postgres \
        -c 3 -j 1 -T 3600 -R 60 -f "$CLUSTER_BASE/ask.sql@48" -f "$CLUSTER_BASE/answer.sql@50" \
        -f "$CLUSTER_BASE/ingest.sql@3" app
    BEGAN=$SECONDS
}

# at SECONDS WHAT: waits until the load is so old.
at() {
    while [ $((SECONDS - BEGAN)) -lt "$1" ]; do
        kill -0 "${CHILDREN[-1]}" 2>/dev/null || fail "the load has ended: $(grep -m 1 error "$CLUSTER_BASE/load.out")"
        sleep 0.2
    done
    printf '%3d s  %s\n' "$((SECONDS - BEGAN))" "$2"
}

weather() { value "UPDATE weather SET slowness = $1, breaker = $2" && value "SELECT bacmr_set_circuit_breaker_state('openai', $2)" >/dev/null; }
reconcile() { value "SELECT format('       %s wallets, %s discrepancies, drift %s', wallets_checked, discrepancies, drift) FROM bacmr_reconcile()"; }

# credit AMOUNT, book AMOUNT REASON: the first student's wallet, and their ledger.
credit() { value "UPDATE wallet SET token_balance = token_balance + $1 WHERE user_id = md5('student 1')::uuid"; }
book() { value "INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (md5('student 1')::uuid, $1, '$2')"; }

# Sixty that fell due seven minutes ago, debited and booked.
forgotten_reservations() {
    value "WITH hold AS (INSERT INTO reservations (user_id, amount, expires_at)
             SELECT user_id, 10, now() - interval '7 minutes' FROM student WHERE n > 1900 AND n <= 1960
             RETURNING id, user_id),
           debit AS (UPDATE wallet w SET token_balance = token_balance - 10 FROM hold WHERE w.user_id = hold.user_id)
           INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
           SELECT user_id, -10, 'reservation', id FROM hold"
}

events() {
    weather 1 0
    at 15 'reconciliation'
    reconcile
    at 30 'export, restore drill, upload, verification'
    value "CALL bacmr_run_job('export', '{\"compression\": \"zstd\"}')"
    at 60 'support credits 500 tokens without a ledger row; reconciliation'
    credit 500
    reconcile
    at 75 'reindex job, with three chunks that the model refuses and an upset store'
    value "UPDATE chunks SET content = content || ' <refused>' WHERE id IN
           (SELECT id FROM chunks WHERE namespace = '$SPACE' ORDER BY id OFFSET 200 LIMIT 3)"
    faults openai '[{"match": {"text": "<refused>"}, "action": "status", "status": 400, "times": 0},
        {"match": {"kind": "embeddings"}, "action": "rate_limit", "retry_after_ms": 1500, "skip": 8, "times": 4}]'
    faults pinecone '[{"match": {"kind": "upsert"}, "action": "status", "status": 503, "skip": 3, "times": 2}]'
    JOB=$(value "SELECT bacmr_reindex('$SPACE', batch_size => 20, concurrency => 2)")
    at 105 'the ledger row is added; reconciliation'
    book 500 'correction'
    reconcile
    at 125 'the model becomes slow'
    weather 5 0
    at 150 'its breaker opens'
    weather 5 1
    at 165 'half-open'
    weather 1.5 2
    at 175 'closed'
    weather 1 0
    at 190 'expiry is paused, and 60 reservations are forgotten; reconciliation'
    value "SELECT bacmr_pause('expire', 'a migration')" >/dev/null
    forgotten_reservations
    reconcile
    at 215 'expiry goes on'
    value "SELECT bacmr_unpause('expire')" >/dev/null
    at 235 'second export, after 200 chunks were revised'
    value "UPDATE chunks SET content = content || ' (révisé)' WHERE id IN (SELECT id FROM chunks LIMIT 200);
           DELETE FROM chunks WHERE id IN (SELECT id FROM chunks ORDER BY id LIMIT 100)"
    value "CALL bacmr_run_job('export', '{\"compression\": \"zstd\"}')"
    at 260 'reconciliation'
    reconcile
    await 'the reindex job is done' 120 value "SELECT status = 'completed' FROM bacmr_reindex_status WHERE job_id = $JOB"
    at 285 'the end'
}

# --- all of it -------------------------------------------------------------------------------

scripts/deps.sh build demo pictures
# shellcheck source=scripts/cluster.sh
. scripts/cluster.sh
# start_s3 and stop_s3.
# shellcheck source=demo/disaster.sh
. demo/disaster.sh
cluster_at_exit end_children
cluster_at_exit stop_s3

main() {
    local from
    build
    server
    services
    prometheus
    from=$(date +%s)
    load
    events
    "$PYTHON" monitoring/pictures/draw.py --prometheus "$PROMETHEUS" --scrape-interval 1 \
        --from "$from" --to "$(date +%s)" --folder "$OUT" "$DASHBOARD" \
        dashboard.png=Overview,Wallet,Reservations \
        dashboard-jobs.png='Jobs,LLM and vector latency' \
        dashboard-recovery.png='Reindex,Disaster recovery'
}

main "$@"
