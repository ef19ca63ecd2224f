-- Tables divided on this server: by user, and a ledger by time. The jobs work, and what the doctor asks
-- for can be done.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');

CREATE FUNCTION index_findings() RETURNS SETOF text LANGUAGE sql AS $$
  SELECT fix FROM bacmr_doctor() WHERE check_name = 'indexes' ORDER BY fix
$$;
CREATE FUNCTION last_method() RETURNS text LANGUAGE sql AS $$
  SELECT detail->>'method' FROM bacmr_job_run WHERE job = 'reconcile' ORDER BY run_id DESC LIMIT 1
$$;

-- --------------------------------------------------------------------------------------------
-- All three by user: the key of a reservation holds the user
-- --------------------------------------------------------------------------------------------

CREATE TABLE wallet (user_id int PRIMARY KEY, token_balance bigint) PARTITION BY HASH (user_id);
CREATE TABLE wallet_ledger (user_id int NOT NULL, delta bigint, reason text, reservation_id int,
  created_at timestamptz DEFAULT now()) PARTITION BY HASH (user_id);
CREATE TABLE reservations (id int, user_id int, amount bigint, status text DEFAULT 'reserved',
  expires_at timestamptz, updated_at timestamptz, PRIMARY KEY (id, user_id)) PARTITION BY HASH (user_id);
SELECT format('CREATE TABLE %1$s_%2$s PARTITION OF %1$s FOR VALUES WITH (MODULUS 3, REMAINDER %2$s)', t, n)
FROM unnest('{wallet,wallet_ledger,reservations}'::text[]) t, generate_series(0, 2) n \gexec
INSERT INTO wallet SELECT n, 90 FROM generate_series(1, 30) n;
INSERT INTO wallet_ledger (user_id, delta, reason) SELECT n, d, 'x' FROM generate_series(1, 30) n, (VALUES (100), (-10)) v(d);
-- Ids are each user's own: all have the same one.
INSERT INTO reservations SELECT 1, n, 10, 'reserved', now() - interval '1 minute' FROM generate_series(1, 30) n;
SELECT is((SELECT count(*) FROM bacmr_attach() WHERE status = 'attached'), 3::bigint, 'they can be attached');

SELECT results_eq('SELECT index_findings()', $$VALUES
  ('CREATE INDEX ON public.reservations (expires_at, id) WHERE status = ''reserved'''),
  ('CREATE INDEX ON public.wallet_ledger (user_id)'),
  ('CREATE UNIQUE INDEX ON public.wallet_ledger (reservation_id, user_id) WHERE reason = ''reservation_expired''')$$,
  'the doctor asks for indexes that partitioned tables can have');
SELECT fix FROM bacmr_doctor() WHERE check_name = 'indexes' \gexec
SELECT is_empty('SELECT index_findings()', 'which mends it');

SELECT is((SELECT (wallets_checked, ledger_rows, discrepancies) FROM bacmr_reconcile()), (30::bigint, 60::bigint, 0::bigint),
  'reconciliation reads every partition');
SELECT is(last_method(), 'scan', 'by the scan');
SELECT is((SELECT (expired, tokens_refunded) FROM bacmr_expire_reservations()), (30::bigint, 300::numeric), 'expiry too');
SELECT is((SELECT (discrepancies, drift) FROM bacmr_reconcile()), (0::bigint, 0::numeric),
  'one refund for each user, though all ids are the same');
SELECT is(((SELECT count(*) FROM wallet WHERE token_balance = 100),
           (SELECT count(*) FROM reservations WHERE status = 'expired')), (30::bigint, 30::bigint), 'and all is refunded');
SELECT throws_ok($$INSERT INTO wallet_ledger VALUES (7, 10, 'reservation_expired', 1)$$, '23505', NULL,
  'a second refund is forbidden');
SELECT is((SELECT chunks FROM bacmr_export('wallet_ledger')), 90::bigint, 'an export has the rows of all partitions');

-- More of one id and one time than a batch takes: the walk from batch to batch passes over none.
INSERT INTO wallet SELECT n, 90 FROM generate_series(1001, 3500) n;
INSERT INTO wallet_ledger (user_id, delta, reason) SELECT n, 90, 'x' FROM generate_series(1001, 3500) n;
INSERT INTO reservations SELECT 9, n, 10, 'reserved', '2026-01-01' FROM generate_series(1001, 3500) n;
SELECT is((SELECT expired FROM bacmr_expire_reservations()), 2500::bigint, 'one call expires what is due, in several batches');
SELECT is((SELECT discrepancies FROM bacmr_reconcile()), 0::bigint, 'and the books agree');

-- Crosswise: the ids of one batch belong to its users only.
UPDATE wallet SET token_balance = token_balance - 20 WHERE user_id IN (1, 2);
INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (1, -20, 'x'), (2, -20, 'x');
INSERT INTO reservations VALUES (21, 1, 10, 'reserved', '2026-01-01'), (22, 2, 10, 'reserved', '2026-01-02'),
  (22, 1, 10, 'reserved', '2026-01-03'), (21, 2, 10, 'reserved', '2026-01-04');
SELECT is((SELECT expired FROM bacmr_expire_reservations(2)), 2::bigint, 'max_reservations holds');
SELECT results_eq($$SELECT id, user_id FROM reservations WHERE id > 20 AND status = 'expired' ORDER BY 1$$,
  'VALUES (21, 1), (22, 2)', 'for those that are due longest');
SELECT is((SELECT expired FROM bacmr_expire_reservations()), 2::bigint, 'the others come next');
SELECT is((SELECT discrepancies FROM bacmr_reconcile()), 0::bigint, 'and the books agree');

-- A refund of another user is none; without the index a second one is found.
DROP INDEX wallet_ledger_reservation_id_user_id_idx;
UPDATE wallet_ledger SET reservation_id = 2 WHERE user_id = 5 AND reservation_id = 1;
INSERT INTO wallet_ledger VALUES (6, 10, 'reservation_expired', 1);
SELECT bacmr_reconcile();
SELECT results_eq($$SELECT kind, user_id FROM bacmr_discrepancy WHERE run_id = (SELECT max(run_id) FROM bacmr_job_run)
    AND kind LIKE '%refund%' ORDER BY 1, 2$$,
  $$VALUES ('duplicate_refund', '6'), ('unrefunded_expiry', '5')$$, 'what is wrong is found with the right user');
SELECT bacmr_detach(source) FROM bacmr_sources;
DROP TABLE wallet, wallet_ledger, reservations;

-- --------------------------------------------------------------------------------------------
-- A ledger by time: no index can forbid a second refund there
-- --------------------------------------------------------------------------------------------

CREATE TABLE wallet (user_id int PRIMARY KEY, token_balance bigint);
CREATE TABLE reservations (id int PRIMARY KEY, user_id int, amount bigint, status text DEFAULT 'reserved',
  expires_at timestamptz, updated_at timestamptz);
CREATE INDEX ON reservations (expires_at, id) WHERE status = 'reserved';
CREATE TABLE wallet_ledger (user_id int, delta bigint, reason text, reservation_id int,
  created_at timestamptz NOT NULL DEFAULT now()) PARTITION BY RANGE (created_at);
CREATE TABLE ledger_old PARTITION OF wallet_ledger FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE ledger_new PARTITION OF wallet_ledger FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
CREATE INDEX ON wallet_ledger (user_id);
INSERT INTO wallet VALUES (1, 90);
INSERT INTO wallet_ledger VALUES (1, 100, 'x', NULL, '2019-01-01'), (1, -10, 'x', NULL, now());
INSERT INTO reservations VALUES (1, 1, 10, 'reserved', now() - interval '1 minute');
SELECT is((SELECT count(*) FROM bacmr_attach() WHERE status = 'attached'), 3::bigint, 'they can be attached');
SELECT is_empty('SELECT index_findings()', 'the doctor asks for nothing that cannot be');
SELECT is((SELECT discrepancies FROM bacmr_reconcile()), 0::bigint, 'old and new are summed');
SELECT is(last_method(), 'scan', 'by the scan');
SELECT is((SELECT expired FROM bacmr_expire_reservations()), 1::bigint, 'expiry writes into the partition of today');
INSERT INTO wallet_ledger VALUES (1, 10, 'reservation_expired', 1);
UPDATE wallet SET token_balance = 110;
SELECT bacmr_reconcile();
SELECT is((SELECT array_agg(kind) FROM bacmr_discrepancy WHERE run_id = (SELECT max(run_id) FROM bacmr_job_run)),
  '{duplicate_refund}'::text[], 'a second refund is found by reconciliation');

SELECT * FROM finish();
