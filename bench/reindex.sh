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

# services EMBED_MS UPSERT_MS DIMENSIONS: both stand-ins anew, and servers that point to them.
services() {
    stop_stand_ins
    stand_in openai "{\"latency_ms\": $1}"
    stand_in pinecone "{\"latency_ms\": $2, \"dimension\": $3, \"ids_only\": true}"
    PGOPTIONS='-c client_min_messages=error' cluster_psql bench -c 'DROP SERVER IF EXISTS bench_openai, bench_pinecone CASCADE' \
        -c "CREATE SERVER bench_openai FOREIGN DATA WRAPPER bacmr_embedder OPTIONS (type 'openai',
            base_url '$(cat "$CLUSTER_BASE/openai.endpoint")/v1', model 'text-embedding-3-small', dimensions '$3')" \
        -c "CREATE SERVER bench_pinecone FOREIGN DATA WRAPPER bacmr_vector_store OPTIONS (type 'pinecone',
            host '$(cat "$CLUSTER_BASE/pinecone.endpoint")')" \
        -c "CREATE USER MAPPING FOR PUBLIC SERVER bench_openai OPTIONS (api_key 'sk-test')" \
        -c "CREATE USER MAPPING FOR PUBLIC SERVER bench_pinecone OPTIONS (api_key 'pc-test')"
}

# stand_in_cpu: seconds of CPU that each has used so far, openai.py's first.
stand_in_cpu() {
    local pid
    for pid in "${REINDEX_PIDS[@]}"; do
        awk -v tick="$(getconf CLK_TCK)" '{sub(/.*\) /, ""); printf "%.2f ", ($12 + $13) / tick}' "/proc/$pid/stat"
    done
}

# reindex_chunks COUNT WORDS: so many, each with so many times a few words more.
reindex_chunks() {
    cluster_psql bench -c 'TRUNCATE chunks, bacmr_embedding_cache, bacmr_chunk_change' \
        -c "INSERT INTO chunks (namespace, content) SELECT 'bench', 'Chapitre ' || i ||
            repeat(' le théorème de la dérivée', $2) FROM generate_series(1, $1) i" -c 'ANALYZE chunks'
}

# queued NAME CONCURRENCY EMBEDDER STORE: the job's number.
queued() {
    value "SELECT bacmr_reindex('bench', embedder => '$3', vector_store => '$4',
           target_namespace => '$1-' || clock_timestamp(), concurrency => $2)"
}

# done_with NAME JOB: all of it has been stored. A store that keeps ids alone (see pinecone.py) has
# those, and then no vector to compare: that alone may be wrong.
done_with() {
    if [ "$(value "SELECT processed_chunks = total_chunks AND failed_chunks = 0
                   AND CASE WHEN error IS NULL THEN status = 'completed'
                       ELSE error LIKE '%: 0 vectors missing, 0 too many, % sampled ones wrong%' END
                   FROM bacmr_reindex_status WHERE job_id = $2")" != t ]; then
        cat "$CLUSTER_BASE/$1.err" >&2
        exit 1
    fi
    # It would go on noting changes: also that the chunks are replaced for the next one.
    value "SELECT bacmr_reindex_cancel($2)" >/dev/null
}

# reindex_job NAME CONCURRENCY EMBEDDER STORE: runs one, with cost() of part f: the walk to NAME, the
# verification to NAME-check. How fast the batches were, their own times say.
reindex_job() {
    local job before after batches
    job=$(queued "$@")
    batches=$(value "SELECT ceil(total_chunks / 100.0) FROM bacmr_reindex_status WHERE job_id = $job")
    before=$(stand_in_cpu)
    cost "$1" "CALL bacmr_reindex_run($job, $batches);"
    after=$(stand_in_cpu)
    # Which part of the time the backend and each stand-in were at work: about 100 is a processor.
    calc '%.0f\n' "100 * $(tail -n 1 "$CLUSTER_BASE/$1.cpu") / $(tail -n 1 "$CLUSTER_BASE/$1.wall")" \
        >>"$CLUSTER_BASE/$1.busy"
    awk -v before="$before" -v after="$after" -v wall="$(tail -n 1 "$CLUSTER_BASE/$1.wall")" 'BEGIN {
        split(before, b, " "); split(after, a, " ")
        printf "%.0f %.0f\n", 100 * (a[1] - b[1]) / wall, 100 * (a[2] - b[2]) / wall}' \
        >>"$CLUSTER_BASE/$1.stand-ins"
    cost "$1-check" "\\set ON_ERROR_STOP off
CALL bacmr_reindex_run($job);" 2>"$CLUSTER_BASE/$1.err"
    value "SELECT count(*) * 100 / extract(epoch FROM max(finished_at) - min(started_at))
           FROM bacmr_reindex_batch WHERE job_id = $job" >>"$CLUSTER_BASE/$1.rate"
    done_with "$1" "$job"
}

# reindex_memory NAME: one in one session, watched: the kB of memory of its own that the backend had at
# the most go to NAME.peak.
reindex_memory() {
    local job
    job=$(queued "$1" 4 bench_openai bench_pinecone)
    # Until the backend is gone.
    cost "$1" "\\! while sed -n 's/^RssAnon: *//p' /proc/\$P/status 2>/dev/null; do sleep 0.2; done >$CLUSTER_BASE/$1.sizes &
\\set ON_ERROR_STOP off
CALL bacmr_reindex_run($job);" 2>"$CLUSTER_BASE/$1.err"
    tr -dc '0-9\n' <"$CLUSTER_BASE/$1.sizes" | sort -rn | head -n 1 >"$CLUSTER_BASE/$1.peak"
    done_with "$1" "$job"
}

# The loop that this replaces, over so many batches: chunks a second, and milliseconds of CPU a chunk.
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


start, cpu = time.monotonic(), time.process_time()
for batch in range(batches):
    texts = [f"Chapitre {batch * 100 + i}" + " le théorème de la dérivée" * 20 for i in range(100)]
    found = post(openai, "/v1/embeddings", {"model": "text-embedding-3-small", "input": texts},
                 {"Authorization": "Bearer sk-test"})
    vectors = [{"id": f"loop-{batch}-{i}", "values": one["embedding"]} for i, one in enumerate(found["data"])]
    # 100 vectors of 1536 numbers with all their digits are more than Pinecone's 2 MB.
    for part in vectors[:50], vectors[50:]:
        post(pinecone, "/vectors/upsert", {"vectors": part, "namespace": "loop"},
             {"Api-Key": "pc-test", "X-Pinecone-Api-Version": "2025-10"})
print(batches * 100 / (time.monotonic() - start), 1000 * (time.process_time() - cpu) / (batches * 100))
PYTHON
}

reindex() {
    say "g. reindex: 1536 dimensions; memory: $REINDEX_CHUNKS short chunks"
    cluster_at_exit stop_stand_ins
    cluster_psql bench -c "CREATE SERVER bench_local FOREIGN DATA WRAPPER bacmr_embedder
                           OPTIONS (type 'local', dimensions '1536')"
    local few=$((REINDEX_CHUNKS < 10000 ? REINDEX_CHUNKS : 10000))
    reindex_with_latency "$few"
    reindex_without_latency "$few"
    reindex_here "$few"
    reindex_much
    stop_stand_ins
}

reindex_with_latency() {
    local i concurrency rate allowed
    services 300 100 1536
    for ((i = 0; i < RUNS; i++)); do
        sequential_loop 10 | cut -d ' ' -f 1 >>"$CLUSTER_BASE/loop.rate"
        for concurrency in 4 16; do
            reindex_chunks "$1" 20
            reindex_job "latency$concurrency" "$concurrency" bench_openai bench_pinecone
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
}

# The stand-ins, which are Python, may be what is slow here: what holds anywhere is the CPU a chunk.
reindex_without_latency() {
    local i loop cpu
    services 0 0 1536
    for ((i = 0; i < RUNS; i++)); do
        sequential_loop 20 >"$CLUSTER_BASE/fastloop"
        cut -d ' ' -f 1 "$CLUSTER_BASE/fastloop" >>"$CLUSTER_BASE/fastloop.rate"
        cut -d ' ' -f 2 "$CLUSTER_BASE/fastloop" >>"$CLUSTER_BASE/fastloop.cpu"
        reindex_chunks "$1" 20
        reindex_job nolatency 4 bench_openai bench_pinecone
    done
    cut -d ' ' -f 1 "$CLUSTER_BASE/nolatency.stand-ins" >"$CLUSTER_BASE/nolatency.openai"
    cut -d ' ' -f 2 "$CLUSTER_BASE/nolatency.stand-ins" >"$CLUSTER_BASE/nolatency.pinecone"
    loop=$(med fastloop.cpu) cpu=$(calc '%.4f' "1000 * $(med nolatency.cpu) / $1")
    result 'g. without latency: the sequential loop' "$(calc '%.0f' "$(med fastloop.rate)") /s"
    result 'g. without latency: bacmr_reindex, concurrency 4' "$(calc '%.0f' "$(med nolatency.rate)") /s" \
        "at work: backend $(med nolatency.busy) %, openai.py $(med nolatency.openai) %, pinecone.py $(med nolatency.pinecone) %"
    result 'g. CPU of the loop, a chunk' "$(calc '%.3f' "$loop") ms"
    result 'g. CPU of the backend, a chunk' "$(calc '%.3f' "$cpu") ms" \
        "verification: $(calc '%.3f' "1000 * $(med nolatency-check.cpu) / $1") ms more"
    result 'g. its CPU, as a part of that of the loop' "$(calc '%.2f' "$cpu / $loop")"
}

# Without any service: the local embedder, and the table of vectors.
reindex_here() {
    local i
    for ((i = 0; i < RUNS; i++)); do
        reindex_chunks "$1" 20
        reindex_job here 4 bench_local bacmr_postgres
        cluster_psql bench -c 'TRUNCATE bacmr_vector'
    done
    result 'g. local embedder, vectors in a table' "$(calc '%.0f' "$(med here.rate)") /s" \
        "CPU of the backend: $(calc '%.3f' "1000 * $(med here.cpu) / $1") ms a chunk"
}

# The table grows tenfold; the backend must not.
reindex_much() {
    local count small=$((REINDEX_CHUNKS / 10))
    services 0 0 8
    for count in "$small" "$REINDEX_CHUNKS"; do
        reindex_chunks "$count" 0
        reindex_memory "memory-$count"
        result "g. peak memory of the backend, $count chunks" "$(med "memory-$count.peak") kB" \
            "in $(calc '%.0f' "$(med "memory-$count.wall")") s, verification included"
    done
    result "g. its growth, by ten times the chunks" \
        "$(calc '%.2f' "$(med "memory-$REINDEX_CHUNKS.peak") / $(med "memory-$small.peak")") times"
}
