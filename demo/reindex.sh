# shellcheck shell=bash
# The chapter on a new embedding model of demo/run.sh, which sources this: the handbook's French and Arabic
# text, from the local embedder at one size to the same at another. It stands for any two models, and needs no account.

SPACE=debian-handbook

# reindexed JOB: until the worker has done it.
reindexed() {
    await "the worker completes reindex job $1" 90 \
        "SELECT status IN ('completed', 'failed') FROM bacmr_reindex_status WHERE job_id = $1"
    holds "the job is complete, and verified by ids" \
        "SELECT status = 'completed' AND verified_at IS NOT NULL AND expected = actual
                AND actual = (SELECT count(*) FROM chunks WHERE namespace = '$SPACE')
         FROM bacmr_reindex_job WHERE job_id = $1"
}

active() { value "SELECT bacmr_active_namespace('$SPACE')"; }

# active_is NAME CLAIM
active_is() {
    if [ "$(active)" = "$1" ]; then true_is "$2"; else fail "$2"; fi
}

new_model() {
    chapter 'A new embedding model'
    say 'Pupils ask in French and in Arabic, and search in one namespace:'
    show_run "UPDATE chunks SET namespace = '$SPACE' WHERE namespace IN ('$SPACE-fr', '$SPACE-ar')"
    say 'The first index, with the model "local-128": vectors in Postgres, made without any service.'
    local job
    job=$(value "SELECT bacmr_reindex('$SPACE', 'local-128')")
    reindexed "$job"
    value "SELECT bacmr_reindex_swap($job)" >/dev/null
    active_is "$SPACE-v2" "searches now go to $SPACE-v2"
    say '' 'Then a better model comes out. What would it take?'
    show "SELECT * FROM bacmr_reindex_plan('$SPACE', 'local-512')"
    # As a real store would be, far away: otherwise it is done before one can look.
    quiet_psql -c "CREATE FUNCTION demo_far_away() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_catalog.pg_sleep(0.003); RETURN NEW; END'" \
        -c 'CREATE TRIGGER demo_far_away BEFORE INSERT ON bacmr_vector FOR EACH ROW
            EXECUTE FUNCTION demo_far_away()'
    show_statement "SELECT bacmr_reindex('$SPACE', 'local-512')"
    job=$(value "SELECT bacmr_reindex('$SPACE', 'local-512')")
    say "$job" 'A trigger makes each vector take 3 ms, as if the store were far away.'
    kill_half_way "$job"
    reindexed "$job"
    quiet_psql -c 'DROP FUNCTION demo_far_away() CASCADE'
    holds 'what was done before it was killed has not been done again' \
        "SELECT count(*) FILTER (WHERE finished_at < '$KILLED_AT') = $DONE_BEFORE
                AND bool_and(status = 'done') FROM bacmr_reindex_batch WHERE job_id = $job"
    holds 'each chunk has one vector, the new one too' \
        "SELECT (SELECT array_agg(id ORDER BY id COLLATE \"C\") FROM bacmr_vector WHERE namespace = '$SPACE-v3')
                = array_agg(id::text ORDER BY id::text COLLATE \"C\")
         FROM chunks WHERE namespace = '$SPACE'"
    value "SELECT bacmr_reindex_summary($job)" | indent
    compare_and_swap "$job"
}

kill_half_way() {
    await 'the job is half-way' 30 \
        "SELECT processed_chunks >= 900 FROM bacmr_reindex_status WHERE job_id = $1"
    say '' 'Half-way its process is killed. (It would be back within a second: so it is also paused.)'
    # In one statement: the process ends before it could see the pause.
    show_run "SELECT pg_terminate_backend(pid), bacmr_pause('reindex', 'the demo looks around')
             FROM pg_stat_activity WHERE backend_type = 'bacmr_ops reindex'"
    await 'the process is gone' 15 \
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'bacmr_ops reindex')"
    show "SELECT status, processed_chunks, total_chunks, progress_pct, chunks_per_second::int, eta
          FROM bacmr_reindex_status WHERE job_id = $1"
    table "SELECT status, count(*) AS batches, sum(chunks) AS chunks FROM bacmr_reindex_batch
           WHERE job_id = $1 GROUP BY 1 ORDER BY 1"
    KILLED_AT=$(value 'SELECT clock_timestamp()')
    DONE_BEFORE=$(value "SELECT count(*) FROM bacmr_reindex_batch WHERE job_id = $1 AND status = 'done'")
    holds 'it broke off half-way, with batches on their way, and says so' \
        "SELECT processed_chunks BETWEEN 900 AND total_chunks - 1 AND status = 'running'
                AND EXISTS (SELECT FROM bacmr_reindex_batch b WHERE b.job_id = $1 AND b.status = 'running')
         FROM bacmr_reindex_status WHERE job_id = $1"
    active_is "$SPACE-v2" "searches have noticed nothing: $SPACE-v2 is active"
    say 'Meanwhile a chunk is revised, and one is new:'
    show_run "UPDATE chunks SET content = content || ' (révisé)'
             WHERE id = (SELECT id FROM chunks WHERE namespace = '$SPACE' ORDER BY id LIMIT 1)"
    show_run "INSERT INTO chunks (namespace, content, metadata)
             VALUES ('$SPACE', 'Le paquet bacmr arrive pendant la réindexation.', '{\"lang\": \"fr-FR\"}')"
    show_run "SELECT bacmr_unpause('reindex')"
    say 'It goes on where it was:'
}

compare_and_swap() {
    say '' 'Is the new model any better? The first sentence of 100 chunks, asked of both:'
    show "SELECT language, queries, overlap_at_k::numeric(4, 2), self_hit_rate::numeric(4, 2)
          FROM bacmr_reindex_compare($1)"
    show_run "SELECT bacmr_reindex_swap($1)"
    active_is "$SPACE-v3" 'one transaction, and searches go to the new one'
    show_run "SELECT bacmr_reindex_rollback('$SPACE')"
    active_is "$SPACE-v2" 'back to the old one, as fast'
    show_run "SELECT bacmr_reindex_rollback('$SPACE')"
    active_is "$SPACE-v3" 'and to the new one again'
    show "SELECT * FROM bacmr_vectors_verify('$SPACE')"
    holds 'chunks and vectors are the same set' "SELECT ok FROM bacmr_vectors_verify('$SPACE')"
    show_run "SELECT bacmr_reindex_cleanup($1)"
    holds 'the old namespace is gone' \
        "SELECT NOT EXISTS (SELECT FROM bacmr_vector WHERE namespace = '$SPACE-v2')"
    await 'the triggers on the chunks are gone' 30 \
        "SELECT NOT EXISTS (SELECT FROM pg_trigger WHERE tgname LIKE 'bacmr_capture%')"
}
