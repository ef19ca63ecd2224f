-- Metrics: the eight helpers, metrics of one's own, what the readers show, who may, and that jobs
-- count when they commit.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');
SELECT bacmr_create_tables();
SELECT bacmr_metrics_reset();

CREATE FUNCTION m(metric text, wanted jsonb DEFAULT '{}') RETURNS float8 LANGUAGE sql AS
  $$SELECT value FROM bacmr_metrics WHERE name = metric AND labels = wanted$$;

-- ---------------------------------------------------------------------------------------------
-- The eleven of the document, by their eight helpers
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_record_ingestion_job('ready', 'ar', 12.5), bacmr_record_ingestion_job('failed', 'fr');
SELECT bacmr_record_pinecone_query('grade-12-math', 0.05);
SELECT bacmr_record_pinecone_upsert('grade-12-math', 0.5, 100);
SELECT bacmr_record_openai_request(model => 'gpt-4o', endpoint => 'chat', duration_seconds => 2.5,
                                   tokens => 350);
SELECT bacmr_record_wallet_reservation('reserved') FROM generate_series(1, 3);
SELECT bacmr_set_circuit_breaker_state('openai_mini', 2);
SELECT bacmr_set_active_reservations(5);
SELECT bacmr_record_rate_limit_rejection('user', '/ask');

SELECT results_eq($$
    SELECT DISTINCT regexp_replace(name, '_(bucket|sum|count)$', ''), type,
           (SELECT string_agg(k, ',' ORDER BY k) FROM jsonb_object_keys(labels - 'le') k)
    FROM bacmr_metrics WHERE name !~ '^bacmr_' ORDER BY 1$$,
  $$VALUES ('active_reservations', 'gauge', NULL), ('circuit_breaker_state', 'gauge', 'service'),
    ('ingestion_job_duration_seconds', 'histogram', 'language,status'),
    ('ingestion_job_status_total', 'counter', 'language,status'),
    ('openai_request_duration_seconds', 'histogram', 'endpoint,model'),
    ('openai_tokens_used_total', 'counter', 'model'),
    ('pinecone_query_duration_seconds', 'histogram', 'namespace'),
    ('pinecone_upsert_duration_seconds', 'histogram', 'namespace'),
    ('pinecone_vectors_upserted_total', 'counter', 'namespace'),
    ('rate_limit_rejected_total', 'counter', 'path,scope'),
    ('wallet_reservation_total', 'counter', 'status')$$,
  'names, types and labels are the document''s');
SELECT is(m('ingestion_job_status_total', '{"status": "failed", "language": "fr"}'), 1::float8,
  'an ingestion job without a duration is counted');
SELECT is(m('ingestion_job_duration_seconds_count', '{"status": "failed", "language": "fr"}'), NULL,
  'and has none');
SELECT is(m('ingestion_job_duration_seconds_sum', '{"status": "ready", "language": "ar"}'), 12.5::float8,
  'one with a duration has it');
SELECT is(m('pinecone_vectors_upserted_total', '{"namespace": "grade-12-math"}'), 100::float8, 'vectors');
SELECT is(m('openai_tokens_used_total', '{"model": "gpt-4o"}'), 350::float8, 'tokens');
SELECT is(m('openai_request_duration_seconds_bucket',
            '{"model": "gpt-4o", "endpoint": "chat", "le": "2.5"}'), 1::float8,
  'a value on a bound is in its bucket');
SELECT is(m('openai_request_duration_seconds_bucket',
            '{"model": "gpt-4o", "endpoint": "chat", "le": "1"}'), 0::float8, 'and in none below');
SELECT cmp_ok((SELECT max((labels->>'le')::float8) FROM bacmr_metrics
               WHERE name = 'openai_request_duration_seconds_bucket' AND labels->>'le' <> '+Inf'),
  '>=', 300::float8, 'buckets reach 300 s');
SELECT is(m('wallet_reservation_total', '{"status": "reserved"}'), 3::float8, 'reservations');
SELECT is(m('circuit_breaker_state', '{"service": "openai_mini"}'), 2::float8, 'a breaker');
SELECT is(m('active_reservations'), 5::float8, 'a gauge without labels');

-- Recorded whatever becomes of the transaction: what happened outside has happened.
BEGIN;
SELECT bacmr_record_wallet_reservation('reserved');
ROLLBACK;
SELECT is(m('wallet_reservation_total', '{"status": "reserved"}'), 4::float8, 'a rollback takes nothing back');

-- ---------------------------------------------------------------------------------------------
-- Bad input never fails the application, and is counted by reason
-- ---------------------------------------------------------------------------------------------

CREATE TEMP TABLE before AS SELECT * FROM bacmr_metrics WHERE name NOT LIKE 'bacmr_metrics_%';
SELECT bacmr_record_ingestion_job(NULL, 'fr'), bacmr_record_pinecone_query('n', NULL),
       bacmr_record_pinecone_upsert('n', 1, NULL), bacmr_record_openai_request('m', 'e', 1, NULL),
       bacmr_record_wallet_reservation(NULL), bacmr_set_circuit_breaker_state(NULL, 1),
       bacmr_set_active_reservations(NULL), bacmr_record_rate_limit_rejection('user', NULL);
SELECT is(m('bacmr_metrics_rejected_total', '{"reason": "null"}'), 8::float8, 'NULL');
SELECT bacmr_record_pinecone_query('n', -1), bacmr_record_pinecone_query('n', 'NaN'),
       bacmr_record_pinecone_query('n', 'Infinity'), bacmr_record_openai_request('m', 'e', 1, -1),
       bacmr_set_circuit_breaker_state('s', 3), bacmr_set_circuit_breaker_state('s', -1),
       bacmr_set_active_reservations(-1);
SELECT is(m('bacmr_metrics_rejected_total', '{"reason": "bad_number"}'), 7::float8, 'bad numbers');
SELECT bacmr_record_rate_limit_rejection('user', repeat('x', 1000)),
       bacmr_record_rate_limit_rejection('user', repeat('طويل', 100000));
SELECT is(m('bacmr_metrics_rejected_total', '{"reason": "too_long"}'), 2::float8, 'labels that are too long');
SELECT results_eq('SELECT * FROM bacmr_metrics WHERE name NOT LIKE ''bacmr_metrics_%'' ORDER BY 1, 3',
  'SELECT * FROM before ORDER BY 1, 3', 'and nothing of such a call is recorded');

-- No metric takes all room.
SELECT count(bacmr_record_rate_limit_rejection('user', '/' || i)) FROM generate_series(1, 3000) i;
SELECT cmp_ok(m('bacmr_metrics_series_dropped_total'), '>=', 2000::float8, 'a label with many values is cut off, and counted');
SELECT bacmr_record_wallet_reservation('finalized');
SELECT is(m('wallet_reservation_total', '{"status": "finalized"}'), 1::float8, 'other metrics have room');
SELECT bacmr_record_rate_limit_rejection('user', '/ask');
SELECT is(m('rate_limit_rejected_total', '{"scope": "user", "path": "/ask"}'), 2::float8,
  'and so have its known series');

-- ---------------------------------------------------------------------------------------------
-- Metrics of one's own
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_metric_define('quiz_total', 'counter', 'Quizzes.', '{subject,level}');
SELECT bacmr_metric_define('quiz_total', 'counter', 'Quizzes taken.', '{subject,level}');
SELECT bacmr_metric_inc('quiz_total', '{"level": 12, "subject": "رياضيات"}');
SELECT bacmr_metric_inc('quiz_total', '{"subject": "رياضيات", "level": "12"}', 2.5);
SELECT is(m('quiz_total', '{"subject": "رياضيات", "level": "12"}'), 3.5::float8, 'a counter with labels');
SELECT bacmr_metric_define('queue', 'gauge');
SELECT bacmr_metric_set('queue', '{}', 7), bacmr_metric_inc('queue', by => -2);
SELECT is(m('queue'), 5::float8, 'a gauge goes up and down');
SELECT bacmr_metric_define('answer_seconds', 'histogram', 'Time.', '{}', '{0.5,2,Infinity}');
SELECT bacmr_metric_observe('answer_seconds', '{}', v) FROM unnest('{0.1,0.5,1,60}'::float8[]) v;
SELECT results_eq($$SELECT bounds, buckets, sum, count FROM bacmr_metric_series('answer_seconds')$$,
  $$VALUES ('{0.5,2}'::float8[], '{2,3}'::bigint[], 61.6::float8, 4::bigint)$$, 'a histogram with buckets of its own');

SELECT raises($$SELECT bacmr_metric_inc('nothing')$$, '42704', 'not defined', 'bacmr_metric_define', 'an unknown metric');
SELECT raises($$SELECT bacmr_metric_inc('quiz_total')$$, '22023', 'labels', 'subject, level', 'labels that are missing');
SELECT raises($$SELECT bacmr_metric_inc('quiz_total', '{"subject": "x", "grade": "y"}')$$, '22023', '"level"', 'subject, level', 'another label');
SELECT raises($$SELECT bacmr_metric_inc('quiz_total', '{"subject": "x", "level": null}')$$, '22023', '"level"', '', 'a label that is null');
SELECT raises($$SELECT bacmr_metric_inc('quiz_total', '[]')$$, '22023', 'labels', '', 'labels that are no object');
SELECT raises($$SELECT bacmr_metric_inc('quiz_total', NULL)$$, '22023', 'NULL', '', 'labels NULL');
SELECT raises($$SELECT bacmr_metric_inc('quiz_total', '{"subject": "x", "level": "1"}', -1)$$, '22023', 'negative', '', 'a counter that goes down');
SELECT raises($$SELECT bacmr_metric_set('queue', '{}', 'NaN')$$, '22023', 'finite', '', 'NaN');
SELECT raises($$SELECT bacmr_metric_set('queue', '{}', NULL)$$, '22004', 'NULL', '', 'NULL');
SELECT raises($$SELECT bacmr_metric_set('quiz_total', '{"subject": "x", "level": "1"}', 1)$$, '42809', 'counter', 'bacmr_metric_inc', 'setting a counter');
SELECT raises($$SELECT bacmr_metric_observe('queue', '{}', 1)$$, '42809', 'gauge', '', 'observing a gauge');
SELECT raises($$SELECT bacmr_metric_observe('answer_seconds', '{}', -1)$$, '22023', 'negative', '', 'a negative observation');
SELECT raises($$SELECT bacmr_metric_inc('bacmr_refunded_tokens_total')$$, '22023', 'itself', '', 'the extension''s own are its own');
SELECT raises($$SELECT bacmr_metric_define('queue', 'counter')$$, '42710', 'otherwise', 'undefine', 'defining it otherwise');
SELECT raises($$SELECT bacmr_metric_define('bacmr_mine', 'counter')$$, '42939', 'reserved', '', 'the prefix is reserved');
SELECT raises($$SELECT bacmr_metric_define('active_reservations', 'gauge')$$, '42710', 'built in', '', 'a built-in one');
SELECT raises($$SELECT bacmr_metric_define('answer_seconds_sum', 'counter')$$, '42710', 'clash', '', 'a name that a histogram''s samples have');
SELECT raises($$SELECT bacmr_metric_define('x', 'summary')$$, '22023', 'summary', 'histogram', 'an unknown type');
SELECT raises($$SELECT bacmr_metric_define('x y', 'gauge')$$, '22023', 'invalid metric name', '', 'an invalid name');
SELECT raises($$SELECT bacmr_metric_define('x', 'gauge', labels => '{a,NULL}')$$, '22023', 'label', '', 'a label name that is NULL');
SELECT raises($$SELECT bacmr_metric_define('x', 'histogram', buckets => '{1,NULL}')$$, '22023', 'finite', '', 'a bucket that is NULL');
SELECT raises($$SELECT bacmr_metric_undefine('nothing')$$, '42704', 'not defined', '', 'undefining what is not');

BEGIN;
SELECT bacmr_metric_define('rolled_back', 'gauge');
ROLLBACK;
SELECT lives_ok($$SELECT bacmr_metric_undefine('rolled_back')$$, 'a definition that was rolled back can be undefined');
SELECT bacmr_metric_undefine('queue');
SELECT is(m('queue'), NULL, 'undefined, with its series');
SELECT bacmr_metric_define('queue', 'counter');
SELECT bacmr_metric_inc('queue');
SELECT is(m('queue'), 1::float8, 'and defined otherwise');

-- ---------------------------------------------------------------------------------------------
-- Text and JSON
-- ---------------------------------------------------------------------------------------------

SELECT bacmr_record_openai_request('a"b\c', E'line\nline', 1, 1);
SELECT ok(position(E'openai_tokens_used_total{model="a\\"b\\\\c"} 1\n' IN bacmr_metrics_prometheus()) > 0,
  'labels are escaped');
SELECT ok(position(E'quiz_total{subject="رياضيات",level="12"} 3.5\n' IN bacmr_metrics_prometheus()) > 0,
  'Arabic stands as it is, labels in their order');
SELECT is((SELECT count(*) FROM regexp_matches(bacmr_metrics_prometheus(), '^# TYPE', 'gn')),
  (SELECT count(DISTINCT n) FROM (SELECT (regexp_matches(bacmr_metrics_prometheus(), '^# TYPE (\S+)', 'gn'))[1] AS n) t),
  'each family has one TYPE');
SELECT is((SELECT count(*) FROM regexp_matches(bacmr_metrics_prometheus(), '^[^#]', 'gn')),
  (SELECT count(*) FROM bacmr_metrics), 'text and view show the same samples');
SELECT is(bacmr_metrics_json() - 'timestamp' ?& '{counters,histograms,gauges}', true, 'JSON has the document''s parts');
SELECT ok(bacmr_metrics_json()->>'timestamp' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$', 'and its timestamp');
SELECT is(bacmr_metrics_json()->'counters'->'ingestion_job_status_total{status="failed",language="fr"}', '1',
  'labels in the order of the document''s table');
SELECT is(bacmr_metrics_json()->'histograms'->'openai_request_duration_seconds{model="gpt-4o",endpoint="chat"}',
  '{"count": 1, "sum": 2.5, "min": 2.5, "max": 2.5, "mean": 2.5, "p50": 2.5, "p95": 2.5, "p99": 2.5}', 'a histogram');
SELECT bacmr_metric_define('spread', 'histogram');
SELECT count(bacmr_metric_observe('spread', '{}', i / 1000.0)) FROM generate_series(1, 10000) i;
SELECT ok(abs((bacmr_metrics_json()->'histograms'->'spread'->>p)::float8 / exact - 1) <= 0.0101, p || ' within 1 %')
  FROM (SELECT unnest('{p50,p95,p99}'::text[]) AS p,
               unnest(percentile_disc('{0.5,0.95,0.99}'::float8[]) WITHIN GROUP (ORDER BY i / 1000.0)) AS exact
        FROM generate_series(1, 10000) i) q;

-- ---------------------------------------------------------------------------------------------
-- The extension's own: they move when the job's transaction commits
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION u(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid$$;
INSERT INTO wallet VALUES (u(1), 90), (u(2), 90);
INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(1), 90, 'x'), (u(2), 80, 'x');
INSERT INTO reservations (user_id, amount, expires_at)
  SELECT u(1), 10, now() - interval '10 minutes' FROM generate_series(1, 3);
BEGIN;
SELECT is((SELECT expired FROM bacmr_expire_reservations()), 3::bigint, 'expired, in a transaction');
SELECT is(coalesce(m('bacmr_expired_reservations_total'), 0), 0::float8, 'counted not before the commit');
ROLLBACK;
SELECT is(coalesce(m('bacmr_expired_reservations_total'), 0), 0::float8, 'and not after a rollback');
BEGIN;
SAVEPOINT s;
SELECT bacmr_expire_reservations(1);
ROLLBACK TO s;
SELECT bacmr_expire_reservations(2);
COMMIT;
SELECT is(m('bacmr_expired_reservations_total'), 2::float8, 'a savepoint that is rolled back is not counted');
SELECT is(m('wallet_reservation_total', '{"status": "expired"}'), 2::float8, 'under the document''s name too');
SELECT is(m('bacmr_refunded_tokens_total'), 20::float8, 'with the tokens');
SELECT is(m('bacmr_job_runs_total', '{"job": "expire", "status": "succeeded"}'), 1::float8, 'and the run');
SELECT bacmr_expire_reservations();
SELECT bacmr_reconcile();
SELECT is(m('bacmr_wallet_discrepancies', '{"kind": "balance_mismatch"}'), 1::float8, 'discrepancies by kind');
SELECT is(m('bacmr_wallet_discrepancies', '{"kind": "missing_wallet"}'), 0::float8, 'and 0 for the others');
SELECT is(m('bacmr_wallet_drift_tokens'), 10::float8, 'the drift');
SELECT is(m('bacmr_job_runs_total', '{"job": "reconcile", "status": "discrepancies"}'), 1::float8, 'the run');
SELECT is(m('bacmr_job_duration_seconds_count', '{"job": "reconcile"}'), 1::float8, 'its duration');
SELECT ok(abs(m('bacmr_job_last_success_timestamp_seconds', '{"job": "reconcile"}')
              - extract(epoch FROM now())) < 60, 'and when it was');
SELECT is((SELECT array_agg(DISTINCT d.request_id = r.request_id) FROM bacmr_discrepancy d
           JOIN bacmr_job_run r USING (run_id)), '{t}', 'findings carry the run''s request id');
UPDATE wallet SET token_balance = 80 WHERE user_id = u(2);
SELECT bacmr_reconcile();
SELECT is(m('bacmr_wallet_drift_tokens'), 0::float8, 'a clean run clears the drift');

-- ---------------------------------------------------------------------------------------------
-- Reset, roles
-- ---------------------------------------------------------------------------------------------

DROP ROLE IF EXISTS metrics_app, metrics_monitor, metrics_nobody;
CREATE ROLE metrics_app;
CREATE ROLE metrics_monitor IN ROLE pg_monitor;
CREATE ROLE metrics_nobody;
SELECT bacmr_grant('app', 'metrics_app');
SELECT works_for('metrics_app', $$SELECT bacmr_record_wallet_reservation('x')$$, 'app records');
SELECT works_for('metrics_app', $$SELECT bacmr_metric_define('apps', 'gauge'), bacmr_metric_set('apps', '{}', 1)$$, 'and defines');
SELECT raises('SELECT bacmr_metrics_reset()', '42501', 'permission denied', '', 'but does not reset', 'metrics_app');
SELECT works_for('metrics_monitor', 'SELECT * FROM bacmr_metrics', 'pg_monitor reads the view');
SELECT works_for('metrics_monitor', 'SELECT bacmr_metrics_prometheus(), bacmr_metrics_json(), bacmr_metric_series()', 'and calls what is beneath it');
SELECT raises($$SELECT bacmr_record_wallet_reservation('x')$$, '42501', 'permission denied', '', 'but does not record', 'metrics_monitor');
SELECT raises('SELECT * FROM bacmr_metrics', '42501', 'permission denied', '', 'PUBLIC sees nothing', 'metrics_nobody');
SELECT raises($$SELECT bacmr_record_wallet_reservation('x')$$, '42501', 'permission denied', '', 'and records nothing', 'metrics_nobody');
SELECT bacmr_metrics_reset();
SELECT is(m('quiz_total', '{"subject": "رياضيات", "level": "12"}'), NULL, 'reset forgets');
SELECT bacmr_metric_inc('quiz_total', '{"subject": "رياضيات", "level": "12"}');
SELECT is(m('quiz_total', '{"subject": "رياضيات", "level": "12"}'), 1::float8, 'and counting begins anew');

SELECT * FROM finish();
DROP OWNED BY metrics_app, metrics_monitor CASCADE;
DROP ROLE metrics_app, metrics_monitor, metrics_nobody;
