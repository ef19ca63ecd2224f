# shellcheck shell=bash
# Part f of bench/run.sh, which sources this: exports and imports beside COPY.

# cost NAME SQL: runs the statement in a session of its own; appends the seconds of CPU that its
# backend used, and of the wall, to NAME.cpu and NAME.wall, and the kB of memory of its own that it
# held at the end (without shared buffers) to NAME.rss.
cost() {
    local name=$1 sql=$2
    # shellcheck disable=SC2016  # expanded by psql's shell
    cluster_psql bench -At <<SQL >/dev/null
SELECT pg_backend_pid() AS pid \gset
\setenv P :pid
\! { cat /proc/\$P/stat; date +%s.%N; } >$CLUSTER_BASE/before
$sql
\! { cat /proc/\$P/stat; date +%s.%N; sed -n 's/^RssAnon: *//p' /proc/\$P/status; } >$CLUSTER_BASE/after
SQL
    local before after
    before=$(awk 'NR == 1 {sub(/.*\) /, ""); print ($12 + $13)} NR == 2' "$CLUSTER_BASE/before" | xargs)
    after=$(awk 'NR == 1 {sub(/.*\) /, ""); print ($12 + $13)} NR > 1' "$CLUSTER_BASE/after" | xargs)
    calc '%.2f\n' "(${after%% *} - ${before%% *}) / $(getconf CLK_TCK)" >>"$CLUSTER_BASE/$name.cpu"
    calc '%.2f\n' "$(echo "$after" | cut -d ' ' -f 2) - $(echo "$before" | cut -d ' ' -f 2)" \
        >>"$CLUSTER_BASE/$name.wall"
    echo "$after" | cut -d ' ' -f 3 >>"$CLUSTER_BASE/$name.rss"
}

med() { median <"$CLUSTER_BASE/$1"; }

# What the disk takes for as many bytes.
write_and_fsync() {
    local start end
    start=$(now)
    as_pg dd if="$CLUSTER_BASE/copy.out" of="$CLUSTER_BASE/dd.out" bs=1M conv=fsync status=none
    end=$(now)
    calc '%.2f\n' "$end - $start" >>"$CLUSTER_BASE/dd.wall"
    as_pg rm -f "$CLUSTER_BASE/dd.out"
}

no_artifacts() { as_pg find "$(cluster_data bench)/bacmr_artifacts" -type f -delete 2>/dev/null || true; }

newest_export() {
    value "SELECT detail->>'file' FROM bacmr_job_run WHERE job = 'export' ORDER BY run_id DESC LIMIT 1"
}

exports() {
    say "f. exports: $CHUNKS chunks"
    psql_file bench/load-chunks.sql -v chunks="$CHUNKS"
    cluster_psql bench -c 'CREATE TABLE chunks_copy (LIKE chunks INCLUDING ALL)'
    local i rows="SELECT row_to_json(c) FROM chunks c"
    for ((i = 0; i < RUNS; i++)); do
        no_artifacts
        cost copy "COPY ($rows) TO '$CLUSTER_BASE/copy.out';"
        # COPY leaves its file to the kernel; whoever relies on it has to sync it.
        local start end
        start=$(now) && as_pg sync "$CLUSTER_BASE/copy.out" && end=$(now)
        calc '%.2f\n' "$(tail -n 1 "$CLUSTER_BASE/copy.wall") + $end - $start" >>"$CLUSTER_BASE/copysync.wall"
        cost export 'SELECT bacmr_export_chunks();'
        write_and_fsync
        start=$(now)
        cluster_psql bench -c "COPY ($rows) TO PROGRAM 'zstd -q -f -o $CLUSTER_BASE/copy.zst'"
        end=$(now)
        calc '%.2f\n' "$end - $start" >>"$CLUSTER_BASE/copyzstd.wall"
        cost exportzstd "SELECT bacmr_export_chunks(compression => 'zstd');"
    done
    local size
    size=$(calc '%.0f' "$(as_pg stat -c %s "$CLUSTER_BASE/copy.out") / 1048576")
    result "f. COPY (SELECT row_to_json …), $size MB: CPU" "$(med copy.cpu) s" \
        "wall $(med copy.wall) s, with sync $(med copysync.wall) s"
    result 'f. bacmr_export_chunks(): CPU, sha256 and manifest included' "$(med export.cpu) s" \
        "wall, fsync included, $(med export.wall) s"
    result 'f. its CPU, as a part of that of COPY' "$(calc '%.2f' "$(med export.cpu) / $(med copy.cpu)")"
    result 'f. writing and syncing as many bytes (dd)' "$(med dd.wall) s"
    result 'f. its wall, by the longer of its CPU and that' \
        "$(calc '%.2f' "$(med export.wall) / ($(med export.cpu) > $(med dd.wall) ? $(med export.cpu) : $(med dd.wall))")"
    result 'f. COPY … TO PROGRAM zstd: wall' "$(med copyzstd.wall) s" 'two processes, not synced'
    result "f. bacmr_export_chunks(compression => 'zstd'): wall" "$(med exportzstd.wall) s" \
        "CPU $(med exportzstd.cpu) s"

    local file
    file=$(newest_export)
    cluster_psql bench -c "COPY chunks TO '$CLUSTER_BASE/chunks.copy'"
    for ((i = 0; i < RUNS; i++)); do
        cluster_psql bench -c 'TRUNCATE chunks_copy'
        cost copyin "COPY chunks_copy FROM '$CLUSTER_BASE/chunks.copy';"
        cluster_psql bench -c 'TRUNCATE chunks_copy'
        cost import "SELECT bacmr_import('chunks_copy', '$file');"
    done
    result 'f. COPY chunks FROM a file: wall' "$(med copyin.wall) s" "CPU $(med copyin.cpu) s"
    result 'f. bacmr_import() of the same rows from zstd, checked: wall' "$(med import.wall) s" \
        "CPU $(med import.cpu) s"
    result 'f. its speed, as a part of that of COPY' "$(calc '%.2f' "$(med copyin.wall) / $(med import.wall)")"
    export_memory
}

# What a backend holds of its own after an export, small table and large.
export_memory() {
    no_artifacts
    local count
    for count in 100000 2000000; do
        cluster_psql bench -c 'DROP TABLE IF EXISTS lines' \
            -c "CREATE TABLE lines AS SELECT i AS id, 'grade-12' AS namespace, md5(i::text) AS content
                FROM generate_series(1, $count) i"
        cost "memory$count" "SELECT bacmr_export('lines', compression => 'zstd');"
        cluster_psql bench -c 'CREATE TABLE lines_copy (LIKE lines)'
        cost "memoryin$count" "SELECT bacmr_import('lines_copy', '$(newest_export)');"
        cluster_psql bench -c 'DROP TABLE lines_copy'
        result "f. memory of the backend after an export of $count rows" "$(med "memory$count.rss") kB" \
            "after an import: $(med "memoryin$count.rss") kB"
    done
}
