# shellcheck shell=bash
# Part g of bench/run.sh, which sources this: reindexing against stand-ins for OpenAI and Pinecone,
# beside the loop of Phase F: 100 chunks a batch, one after the other.

REINDEX_PIDS=()
stop_stand_ins() {
    if [ ${#REINDEX_PIDS[@]} -gt 0 ]; then kill "${REINDEX_PIDS[@]}" 2>/dev/null || true; fi
    REINDEX_PIDS=()
}

# stand_in NAME SETTINGS: starts it; its endpoint goes to $CLUSTER_BASE/NAME.endpoint.
stand_in() {
    rm -f "$CLUSTER_BASE/$1.out"   # of the one before it
    python3 "test/services/$1.py" --settings "$2" >"$CLUSTER_BASE/$1.out" 2>&1 </dev/null &
    REINDEX_PIDS+=("$!")
    local i
    for ((i = 0; i < 100; i++)); do
        if grep -qs '^control=' "$CLUSTER_BASE/$1.out"; then break; fi
        sleep 0.1
    done
    sed -n 's/^endpoint=//p' "$CLUSTER_BASE/$1.out" >"$CLUSTER_BASE/$1.endpoint"
}

# services EMBED_MS UPSERT_MS: both stand-ins anew, and servers that point to them.
services() {
    stop_stand_ins
    stand_in openai "{\"latency_ms\": $1}"
    stand_in pinecone "{\"latency_ms\": $2, \"ids_only\": true}"
    PGOPTIONS='-c client_min_messages=error' cluster_psql bench -c 'DROP SERVER IF EXISTS bench_openai, bench_pinecone CASCADE' \
        -c "CREATE SERVER bench_openai FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'openai',
            base_url '$(cat "$CLUSTER_BASE/openai.endpoint")/v1', model 'text-embedding-3-small', dimensions '1536')" \
        -c "CREATE SERVER bench_pinecone FOREIGN DATA WRAPPER bacmr_vector_store OPTIONS (type 'pinecone',
            host '$(cat "$CLUSTER_BASE/pinecone.endpoint")')" \
        -c "CREATE USER MAPPING FOR PUBLIC SERVER bench_openai OPTIONS (api_key 'sk-test')" \
        -c "CREATE USER MAPPING FOR PUBLIC SERVER bench_pinecone OPTIONS (api_key 'pc-test')"
}

reindex_chunks() {
    cluster_psql bench -c 'TRUNCATE chunks, bacmr_embedding_cache, bacmr_chunk_change' \
        -c "INSERT INTO chunks (namespace, content) SELECT 'bench', 'Chapitre ' || i ||
            repeat(' le théorème de la dérivée', 20) FROM generate_series(1, $1) i" -c 'ANALYZE chunks'
}

# reindex_job NAME CONCURRENCY: runs one, with cost() of part f. How fast the batches were, their own
# times say; the verification comes after them. The store keeps ids alone (see pinecone.py), so the
# verification finds all of those, and then no vector to compare: that alone may be wrong.
reindex_job() {
    local job
    job=$(value "SELECT bacmr_reindex('bench', embedder => 'bench_openai', vector_store => 'bench_pinecone',
                 target_namespace => '$1-' || clock_timestamp(), concurrency => $2)")
    cost "$1" "\\set ON_ERROR_STOP off
CALL bacmr_reindex_run($job);" 2>"$CLUSTER_BASE/$1.err"
    if [ "$(value "SELECT processed_chunks = total_chunks AND failed_chunks = 0
                   AND error LIKE '%: 0 vectors missing, 0 too many, % sampled ones wrong%'
                   FROM bacmr_reindex_status WHERE job_id = $job")" != t ]; then
        cat "$CLUSTER_BASE/$1.err" >&2
        exit 1
    fi
    value "SELECT count(*) * 100 / extract(epoch FROM max(finished_at) - min(started_at))
           FROM bacmr_reindex_batch WHERE job_id = $job" >>"$CLUSTER_BASE/$1.rate"
    # It would go on noting changes: also that the chunks are replaced for the next one.
    value "SELECT bacmr_reindex_cancel($job)" >/dev/null
}

# The loop that this replaces: chunks a second, over so many batches.
sequential_loop() {
    python3 - "$(cat "$CLUSTER_BASE/openai.endpoint")" "$(cat "$CLUSTER_BASE/pinecone.endpoint")" "$1" <<'PYTHON'
import http.client, json, sys, time, urllib.parse

openai, pinecone = (http.client.HTTPConnection(urllib.parse.urlparse(url).netloc) for url in sys.argv[1:3])
batches = int(sys.argv[3])


def post(connection, path, body, headers):
    connection.request("POST", path, json.dumps(body, separators=(",", ":")),
                       {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        sys.exit(f"{path}: {answer.status} {text[:300]}")
    return json.loads(text)


start = time.monotonic()
for batch in range(batches):
    texts = [f"Chapitre {batch * 100 + i}" + " le théorème de la dérivée" * 20 for i in range(100)]
    found = post(openai, "/v1/embeddings", {"model": "text-embedding-3-small", "input": texts},
                 {"Authorization": "Bearer sk-test"})
    vectors = [{"id": f"loop-{batch}-{i}", "values": one["embedding"]} for i, one in enumerate(found["data"])]
    # 100 vectors of 1536 numbers with all their digits are more than Pinecone's 2 MB.
    for part in vectors[:50], vectors[50:]:
        post(pinecone, "/vectors/upsert", {"vectors": part, "namespace": "loop"},
             {"Api-Key": "pc-test", "X-Pinecone-Api-Version": "2025-10"})
print(batches * 100 / (time.monotonic() - start))
PYTHON
}

reindex() {
    say "g. reindex: up to $REINDEX_CHUNKS chunks, 1536 dimensions"
    cluster_at_exit stop_stand_ins
    local i concurrency rate allowed few=$((REINDEX_CHUNKS < 10000 ? REINDEX_CHUNKS : 10000))
    services 300 100
    for ((i = 0; i < RUNS; i++)); do
        sequential_loop 10 >>"$CLUSTER_BASE/loop.rate"
        for concurrency in 4 16; do
            reindex_chunks "$few"
            reindex_job "latency$concurrency" "$concurrency"
        done
    done
    result 'g. 300 ms and 100 ms: the sequential loop' "$(calc '%.0f' "$(med loop.rate)") /s"
    for concurrency in 4 16; do
        rate=$(med "latency$concurrency.rate")
        # So many batches of 100 in flight, each 0.4 s on its way.
        allowed=$(calc '%.0f' "$concurrency * 100 / 0.4")
        result "g. the same: bacmr_reindex, concurrency $concurrency" "$(calc '%.0f' "$rate") /s" \
            "$(calc '%.0f' "100 * $rate / $allowed") % of the $allowed that it allows"
    done
    services 0 0
    for ((i = 0; i < RUNS; i++)); do
        reindex_chunks "$few"
        reindex_job nolatency 4
    done
    result 'g. without latency' "$(calc '%.0f' "$(med nolatency.rate)") /s" \
        "CPU of the backend, verification included: $(calc '%.3f' "1000 * $(med nolatency.cpu) / $few") ms a chunk"
    for i in $((REINDEX_CHUNKS / 10)) "$REINDEX_CHUNKS"; do
        reindex_chunks "$i"
        reindex_job "memory-$i" 4
        result "g. memory of the backend after $i chunks" "$(med "memory-$i.rss") kB"
    done
    stop_stand_ins
}
