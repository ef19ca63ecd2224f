# shellcheck shell=bash
# The chapters on disaster recovery of demo/run.sh, which sources this: real text, a real S3 server.

S3=

stop_s3() {
    if [ -n "$S3" ]; then as_pg "$CLUSTER_BASE/services/swift.sh" stop "$S3" >/dev/null 2>&1 || true; fi
}

start_s3() {
    as_pg mkdir "$CLUSTER_BASE/services"
    tar -c -C test/services . | as_pg tar -x --no-same-owner -C "$CLUSTER_BASE/services"
    S3=$CLUSTER_BASE/s3
    as_pg "$CLUSTER_BASE/services/swift.sh" start "$S3" >"$CLUSTER_BASE/s3.log" 2>&1 ||
        { indent <"$CLUSTER_BASE/s3.log" >&2; fail 'the S3 server starts'; }
    as_pg "$CLUSTER_BASE/services/make_bucket.py" "$S3" bacmr-dr
    # shellcheck disable=SC2016  # expanded by the inner shell
    as_pg sh -c 'umask 077; sed -n "s/^secret_key=//p" "$1/env" >"$1/secret"' sh "$S3"
}

# A digest of every row, whatever their order.
CHUNK_DIGEST="SELECT md5(string_agg(md5(c::text), '' ORDER BY id)) FROM chunks c"

export_and_prove() {
    chapter 'Disaster recovery: an export that proves itself'
    say "Real text: The Debian Administrator's Handbook in French, Arabic and English, from Debian's" \
        'package debian-handbook, cut into chunks:'
    python3 test/services/handbook.py --copy |
        quiet_psql -c '\copy chunks (id, namespace, document_id, chunk_index, content, metadata, token_count) FROM pstdin'
    quiet_psql -c 'ANALYZE chunks'
    table 'SELECT namespace, count(*) AS chunks, pg_size_pretty(sum(octet_length(content))) AS text
           FROM chunks GROUP BY 1 ORDER BY 1'
    say 'And a real S3 server (OpenStack Swift), with its secret in a file that only the server reads:'
    start_s3
    local endpoint access_key
    endpoint=$(as_pg sed -n 's/^endpoint=//p' "$S3/env")
    access_key=$(as_pg sed -n 's/^access_key=//p' "$S3/env")
    show_run "CREATE SERVER dr FOREIGN DATA WRAPPER bacmr_blob_store
             OPTIONS (type 's3', endpoint '$endpoint', bucket 'bacmr-dr')"
    show_run "CREATE USER MAPPING FOR PUBLIC SERVER dr
             OPTIONS (access_key_id '$access_key', secret_access_key_file '$S3/secret')"
    show_run "ALTER DATABASE postgres SET bacmr.blob_store = 'dr'"
    say '' 'What pg_cron runs every Sunday: export, restore drill, upload, verification.'
    show_run "CALL bacmr_run_job('export', '{\"compression\": \"zstd\"}')"
    EXPORT=$(value "SELECT detail->>'source' FROM bacmr_job_run WHERE job = 'export' ORDER BY run_id DESC LIMIT 1")
    table "SELECT s.key AS step, s.value AS figures FROM bacmr_job_run r, jsonb_each(r.detail->'steps') s
           WHERE r.run_id = (SELECT max(run_id) FROM bacmr_job_run WHERE job = 'export')
           ORDER BY position(s.key IN 'export drill upload verify retention')"
    holds 'restored in a drill under the export'\''s own snapshot, not one row differs' \
        "SELECT (detail #>> '{steps,drill,ok}')::boolean
                AND (detail #>> '{steps,drill,rows}')::bigint = (SELECT count(*) FROM chunks)
         FROM bacmr_job_run WHERE job = 'export' ORDER BY run_id DESC LIMIT 1"
    show "SELECT ok, chunks, bytes, left(sha256, 16) || '…' AS sha256 FROM bacmr_verify_export('$EXPORT')"
    prove_by_hand
}

# The same without the extension.
prove_by_hand() {
    local file
    file=$(value "SELECT detail->>'path' FROM bacmr_job_run WHERE job = 'export' ORDER BY run_id DESC LIMIT 1")
    say '' 'Nobody has to take its word for it: sha256sum and jq say the same of the file.'
    if [ "$(as_pg sha256sum "$file" | cut -d ' ' -f 1)" = "$(as_pg jq -r .sha256 "$file.manifest.json")" ] &&
        [ "$(as_pg head -n -2 "$file.manifest.json" | sha256sum | cut -d ' ' -f 1)" = \
            "$(as_pg jq -r .manifest_sha256 "$file.manifest.json")" ] &&
        [ "$(as_pg zstd -dc "$file" | jq -c .id | wc -l)" = "$(as_pg jq .rows "$file.manifest.json")" ]; then
        true_is 'both checksums, and as many JSON lines as the manifest states'
    else
        fail 'sha256sum and jq agree with the manifest'
    fi
}

lose_and_recover() {
    chapter 'The table is lost, and comes back'
    local before
    before=$(value "$CHUNK_DIGEST")
    show_run 'TRUNCATE chunks'
    show_run 'SELECT count(*) FROM chunks'
    say 'Straight from the object store, checked against its manifest before a row is committed:'
    show "SELECT read, inserted, skipped FROM bacmr_import_chunks('$EXPORT')"
    if [ "$(value "$CHUNK_DIGEST")" = "$before" ]; then
        true_is "every row is there, byte for byte (md5 of all: ${before:0:12}…)"
    else
        fail 'every row is there, byte for byte'
    fi
}
