-- Reconciliation: each kind of discrepancy, planted alone, is found alone; the report; the run.
\ir include/helpers.psql
BEGIN;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_create_tables();
-- Faults that the reference tables would refuse.
ALTER TABLE wallet ALTER token_balance DROP NOT NULL, DROP CONSTRAINT wallet_pkey,
  ALTER user_id DROP NOT NULL, ADD CONSTRAINT wallet_key UNIQUE (user_id);
ALTER TABLE wallet_ledger ALTER delta DROP NOT NULL, ALTER user_id DROP NOT NULL;
DROP INDEX wallet_ledger_reservation_expired_key;
ALTER TABLE reservations ALTER amount DROP NOT NULL, ALTER expires_at DROP NOT NULL,
  ALTER user_id DROP NOT NULL;
-- All of this is one transaction, whose now() is older than the attachment.
ALTER TABLE wallet_ledger ALTER created_at SET DEFAULT clock_timestamp();
ALTER TABLE reservations ALTER updated_at SET DEFAULT clock_timestamp();

-- User n, reservation n.
CREATE FUNCTION u(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid$$;
CREATE FUNCTION r(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$SELECT ('11111111-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid$$;

CREATE TYPE found AS (kind text, user_id text, balance numeric, ledger_sum numeric,
                      discrepancy numeric, reservation_id text);

-- Clean data: three users, one of them without ledger rows, and a reservation in every state.
CREATE FUNCTION clean_data() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  TRUNCATE wallet, wallet_ledger, reservations;
  INSERT INTO wallet VALUES (u(1), 100), (u(2), 30), (u(3), 0);
  INSERT INTO wallet_ledger (user_id, delta, reason)
    VALUES (u(1), 150, 'purchase'), (u(1), -50, 'use'), (u(2), 40, 'purchase');
  INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
    VALUES (u(2), -10, 'reserve', r(1)), (u(2), -5, 'reserve', r(2)),
           (u(2), 5, 'reservation_expired', r(2));
  INSERT INTO reservations (id, user_id, amount, status, expires_at)
    VALUES (r(1), u(2), 10, 'reserved', now() + interval '1 hour'),
           (r(2), u(2), 5, 'expired', now() - interval '1 hour'),
           (r(3), u(1), 9, 'finalized', now() - interval '1 hour'),
           (r(4), u(1), 9, 'released', now() - interval '1 hour');
END $$;

-- What a reconciliation of the data as they are finds.
CREATE FUNCTION findings() RETURNS SETOF found LANGUAGE plpgsql AS $$
DECLARE run record;
BEGIN
  SELECT * INTO run FROM bacmr_reconcile();
  RETURN QUERY SELECT d.kind, d.user_id, d.current_balance, d.ledger_sum, d.discrepancy,
                      d.detail->>'reservation_id'
               FROM bacmr_discrepancy d WHERE d.run_id = run.run_id;
END $$;

-- Plants a fault in clean data and compares what is found with what should be.
CREATE FUNCTION finds(fault text, expected found[], description text) RETURNS text
  LANGUAGE plpgsql AS $$
BEGIN
  PERFORM clean_data();
  EXECUTE fault;
  -- Not set_eq(): nothing may be found twice.
  RETURN is(ARRAY(SELECT f::text FROM findings() f ORDER BY 1),
            ARRAY(SELECT e::text FROM unnest(expected) e ORDER BY 1), description);
END $$;

-- ---------------------------------------------------------------------------------------------
-- Clean data
-- ---------------------------------------------------------------------------------------------

SELECT clean_data();
SELECT is((SELECT (wallets_checked, ledger_rows, discrepancies, drift) FROM bacmr_reconcile()),
  (3::bigint, 6::bigint, 0::bigint, 0::numeric), 'clean data: everything is counted, nothing found');
SELECT is_empty('SELECT * FROM findings()', 'and no row is written');
TRUNCATE wallet, wallet_ledger, reservations;
SELECT is((SELECT (wallets_checked, ledger_rows, discrepancies, drift) FROM bacmr_reconcile()),
  (0::bigint, 0::bigint, 0::bigint, 0::numeric), 'empty tables');
SELECT bacmr_detach('reservations');
SELECT lives_ok('SELECT bacmr_reconcile()', 'without reservations');
SELECT bacmr_attach('reservations', 'reservations');

-- ---------------------------------------------------------------------------------------------
-- Balances
-- ---------------------------------------------------------------------------------------------

SELECT finds('UPDATE wallet SET token_balance = 107 WHERE user_id = u(1)',
  ARRAY[('balance_mismatch', u(1), 107, 100, 7, NULL)::found], 'balance_mismatch: too much');
SELECT finds('UPDATE wallet SET token_balance = 93 WHERE user_id = u(1)',
  ARRAY[('balance_mismatch', u(1), 93, 100, -7, NULL)::found], 'balance_mismatch: too little');
SELECT finds('UPDATE wallet SET token_balance = 1 WHERE user_id = u(3)',
  ARRAY[('balance_mismatch', u(3), 1, 0, 1, NULL)::found],
  'balance_mismatch: a wallet without ledger rows has the sum 0');
SELECT finds($$INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(9), 12, 'gift'),
    (u(9), -4, 'use')$$,
  ARRAY[('missing_wallet', u(9), NULL, 8, -8, NULL)::found], 'missing_wallet');
SELECT finds($$INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(9), 4, 'gift'),
    (u(9), -4, 'use')$$,
  ARRAY[('missing_wallet', u(9), NULL, 0, 0, NULL)::found],
  'missing_wallet: also where the rows sum up to 0');
SELECT finds($$UPDATE wallet SET token_balance = -6 WHERE user_id = u(3);
    INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(3), -6, 'use')$$,
  ARRAY[('negative_balance', u(3), -6, -6, 0, NULL)::found], 'negative_balance');
SELECT finds('UPDATE wallet SET token_balance = NULL WHERE user_id = u(3)',
  ARRAY[('null_amount', u(3), NULL, 0, NULL, NULL)::found], 'null_amount: a NULL balance');
SELECT finds($$INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(1), NULL, 'use')$$,
  ARRAY[('null_amount', u(1), 100, 100, 0, NULL)::found],
  'null_amount: a NULL delta, which counts as 0');
SELECT finds($$INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (NULL, 5, 'use')$$,
  ARRAY[('missing_wallet', NULL, NULL, 5, -5, NULL)::found], 'ledger rows of nobody');
SELECT finds('INSERT INTO wallet VALUES (NULL, 5)',
  ARRAY[('balance_mismatch', NULL, 5, 0, 5, NULL)::found], 'a wallet of nobody');

-- Several kinds for one user
SELECT finds('UPDATE wallet SET token_balance = -1 WHERE user_id = u(2)',
  ARRAY[('balance_mismatch', u(2), -1, 30, -31, NULL), ('negative_balance', u(2), -1, 30, -31, NULL)]
    ::found[], 'a user with two kinds: mismatch and negative');
SELECT finds('UPDATE wallet SET token_balance = NULL WHERE user_id = u(1)',
  ARRAY[('balance_mismatch', u(1), 0, 100, -100, NULL), ('null_amount', u(1), NULL, 100, NULL, NULL)]
    ::found[], 'a NULL balance counts as 0 elsewhere');
SELECT finds($$INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(9), NULL, 'x'),
    (u(9), 2, 'y')$$,
  ARRAY[('missing_wallet', u(9), NULL, 2, -2, NULL), ('null_amount', u(9), NULL, 2, NULL, NULL)]
    ::found[], 'no wallet and a NULL delta');
SELECT finds($$UPDATE wallet SET token_balance = -1 WHERE user_id = u(3);
    INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(3), NULL, 'x')$$,
  ARRAY[('balance_mismatch', u(3), -1, 0, -1, NULL), ('negative_balance', u(3), -1, 0, -1, NULL),
        ('null_amount', u(3), -1, 0, -1, NULL)]::found[], 'a user with three kinds');

-- Limits of the types
SELECT finds($$UPDATE wallet SET token_balance = 9223372036854775807 WHERE user_id = u(3);
    INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(3), -9223372036854775807, 'x')$$,
  ARRAY[('balance_mismatch', u(3), 9223372036854775807, -9223372036854775807,
         18446744073709551614, NULL)::found], 'a discrepancy beyond 64 bits');

-- ---------------------------------------------------------------------------------------------
-- Reservations: one row each, without amounts
-- ---------------------------------------------------------------------------------------------

SELECT finds($$INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
    VALUES (u(2), 5, 'reservation_expired', r(2)), (u(2), -5, 'correction', NULL)$$,
  ARRAY[('duplicate_refund', u(2), NULL, NULL, NULL, r(2))::found], 'duplicate_refund');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, status, expires_at)
    VALUES (r(5), u(1), 3, 'expired', now() - interval '1 minute')$$,
  ARRAY[('unrefunded_expiry', u(1), NULL, NULL, NULL, r(5))::found],
  'unrefunded_expiry: no ledger row');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, status, expires_at)
    VALUES (r(5), u(1), 3, 'expired', now() - interval '1 minute');
    INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
    VALUES (u(1), 2, 'reservation_expired', r(5)), (u(1), -2, 'correction', NULL)$$,
  ARRAY[('unrefunded_expiry', u(1), NULL, NULL, NULL, r(5))::found],
  'unrefunded_expiry: a ledger row with another amount');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, status, expires_at)
    VALUES (r(5), u(1), 3, 'expired', now() - interval '1 minute');
    INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
    VALUES (u(1), 3, 'refund', r(5)), (u(1), -3, 'correction', NULL)$$,
  ARRAY[('unrefunded_expiry', u(1), NULL, NULL, NULL, r(5))::found],
  'unrefunded_expiry: a ledger row for another reason is none');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, expires_at)
    VALUES (r(5), u(9), 3, now() + interval '1 hour')$$,
  ARRAY[('orphan_reservation', u(9), NULL, NULL, NULL, r(5))::found], 'orphan_reservation');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, expires_at)
    VALUES (r(5), NULL, 3, now() + interval '1 hour')$$,
  ARRAY[('orphan_reservation', NULL, NULL, NULL, NULL, r(5))::found],
  'orphan_reservation: of nobody');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, expires_at)
    VALUES (r(5), u(1), 3, NULL), (r(6), u(1), NULL, now() + interval '1 hour'),
           (r(7), u(1), 0, now() + interval '1 hour'), (r(8), u(1), -3, now() + interval '1 hour')$$,
  ARRAY[('invalid_reservation', u(1), NULL, NULL, NULL, r(5)),
        ('invalid_reservation', u(1), NULL, NULL, NULL, r(6)),
        ('invalid_reservation', u(1), NULL, NULL, NULL, r(7)),
        ('invalid_reservation', u(1), NULL, NULL, NULL, r(8))]::found[],
  'invalid_reservation: expires_at NULL, amount NULL, 0, negative');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, expires_at)
    VALUES (r(5), u(1), 3, now() - interval '6 minutes'),
           (r(6), u(1), 3, now() - interval '4 minutes')$$,
  ARRAY[('stale_reservation', u(1), NULL, NULL, NULL, r(5))::found],
  'stale_reservation: due for more than 5 minutes');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, expires_at)
    VALUES (r(5), u(9), 0, now() - interval '1 hour')$$,
  ARRAY[('orphan_reservation', u(9), NULL, NULL, NULL, r(5)),
        ('invalid_reservation', u(9), NULL, NULL, NULL, r(5)),
        ('stale_reservation', u(9), NULL, NULL, NULL, r(5))]::found[],
  'one reservation with three kinds');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, status, expires_at)
    VALUES (r(5), u(9), 0, 'finalized', NULL), (r(6), u(9), NULL, 'released', NULL)$$,
  '{}'::found[], 'a closed reservation is nobody''s concern any more');
-- numeric amounts know more values that are no amount
ALTER TABLE reservations ALTER amount TYPE numeric;
SELECT finds($$INSERT INTO reservations (id, user_id, amount, expires_at)
    VALUES (r(5), u(1), 'NaN', now() + interval '1 hour'),
           (r(6), u(1), 'Infinity', now() + interval '1 hour')$$,
  ARRAY[('invalid_reservation', u(1), NULL, NULL, NULL, r(5)),
        ('invalid_reservation', u(1), NULL, NULL, NULL, r(6))]::found[],
  'invalid_reservation: NaN and infinity, which expiry leaves alone');
ALTER TABLE reservations ALTER amount TYPE bigint USING NULL;

-- since: what expired before it is not checked
CREATE FUNCTION old_faults() RETURNS void LANGUAGE sql AS $$
  INSERT INTO reservations (id, user_id, amount, status, expires_at, updated_at)
  SELECT r(5 + n), u(1), 3, 'expired', moment, moment
  FROM (VALUES (0, '2020-01-01'::timestamptz), (1, '2022-01-01')) v(n, moment)
$$;
SELECT finds('SELECT old_faults()', '{}'::found[],
  'what had expired before it was attached is not checked');
SELECT bacmr_attach('reservations', 'reservations', '{}', '{"since": "2021-01-01 00:00+00"}');
SELECT finds('SELECT old_faults()',
  ARRAY[('unrefunded_expiry', u(1), NULL, NULL, NULL, r(6))::found],
  'since 2021: 2022 is checked, 2020 is not');
SELECT bacmr_attach('reservations', 'reservations', '{}', '{"since": "2019-01-01 00:00+00"}');
SELECT finds('SELECT old_faults()',
  ARRAY[('unrefunded_expiry', u(1), NULL, NULL, NULL, r(5)),
        ('unrefunded_expiry', u(1), NULL, NULL, NULL, r(6))]::found[], 'since 2019: both');
-- Nobody kept updated_at: it fell due after it was attached all the same.
SELECT bacmr_attach('reservations', 'reservations', '{}', '{"since": "2021-01-01 00:00+00"}');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, status, expires_at, updated_at)
    VALUES (r(5), u(1), 3, 'expired', '2022-01-01', '2020-01-01')$$,
  ARRAY[('unrefunded_expiry', u(1), NULL, NULL, NULL, r(5))::found],
  'due after since, last updated before it: checked');
SELECT bacmr_attach('reservations', 'reservations', '{}', '{"since": "2019-01-01 00:00+00"}');
-- One reservation refunded to two users: wallets and ledger agree, the money is gone.
SELECT finds($$INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
    VALUES (u(1), 5, 'reservation_expired', r(2));
    UPDATE wallet SET token_balance = token_balance + 5 WHERE user_id = u(1)$$,
  ARRAY[('duplicate_refund', u(1), NULL, NULL, NULL, r(2))::found],
  'duplicate_refund: to two users');
SELECT is((SELECT discrepancies FROM bacmr_reconcile('10 milliseconds')), 1::bigint,
  'and a second look at the user whom the finding names confirms it');
-- Nothing can be done with a reservation that has no id; nothing else waits for it.
ALTER TABLE reservations DROP CONSTRAINT reservations_pkey, ALTER id DROP NOT NULL,
  ADD CONSTRAINT reservations_id_key UNIQUE (id);
SELECT finds($$INSERT INTO reservations (id, user_id, amount, expires_at)
    VALUES (NULL, u(1), 3, now() + interval '1 hour')$$,
  ARRAY[('invalid_reservation', u(1), NULL, NULL, NULL, NULL)::found],
  'invalid_reservation: without an id');
-- refund: whether the refund checks apply at all
SELECT bacmr_attach('reservations', 'reservations', '{}',
  '{"since": "2019-01-01 00:00+00", "refund": false}');
SELECT finds($$SELECT old_faults();
    INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
    VALUES (u(2), 5, 'reservation_expired', r(2)), (u(2), -5, 'correction', NULL)$$,
  '{}'::found[], 'refund false: the refund checks are off');
SELECT finds($$INSERT INTO reservations (id, user_id, amount, expires_at)
    VALUES (r(5), u(9), 3, now() + interval '1 hour')$$,
  ARRAY[('orphan_reservation', u(9), NULL, NULL, NULL, r(5))::found], 'the others are not');
SELECT bacmr_attach('reservations', 'reservations');

-- ---------------------------------------------------------------------------------------------
-- Totals, and what a reconciliation leaves alone
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION many_faults() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM clean_data();
  UPDATE wallet SET token_balance = -1 WHERE user_id = u(2);
  UPDATE wallet SET token_balance = 110 WHERE user_id = u(1);
  INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (u(9), 5, 'x');
  INSERT INTO reservations (id, user_id, amount, expires_at)
    VALUES (r(5), u(9), 3, now() - interval '1 hour');
END $$;
SELECT many_faults();
CREATE TEMP TABLE before AS TABLE wallet;
CREATE TEMP TABLE before_ledger AS TABLE wallet_ledger;
SELECT is((SELECT (discrepancies, drift) FROM bacmr_reconcile()), (5::bigint, 46::numeric),
  'discrepancies counts rows of every kind but stale; drift adds |−31|, |10| and |−5|');
SELECT set_eq('TABLE wallet', 'TABLE before', 'no wallet was changed');
SELECT set_eq('TABLE wallet_ledger', 'TABLE before_ledger', 'no ledger row was changed');
SELECT clean_data();
INSERT INTO reservations (id, user_id, amount, expires_at)
  VALUES (r(5), u(1), 3, now() - interval '1 hour');
SELECT is((SELECT discrepancies FROM bacmr_reconcile()), 0::bigint,
  'a stale reservation alone is no discrepancy');
SELECT is((SELECT status FROM bacmr_job_run ORDER BY run_id DESC LIMIT 1), 'succeeded',
  'and the run has succeeded');

-- ---------------------------------------------------------------------------------------------
-- The run, the report
-- ---------------------------------------------------------------------------------------------

SET LOCAL bacmr.request_id = 'request-42';
SELECT many_faults();
SELECT run_id AS run FROM bacmr_reconcile() \gset
SELECT results_eq(format('SELECT job, status, request_id, error FROM bacmr_job_run WHERE run_id = %s',
  :run), $$VALUES ('reconcile', 'discrepancies', 'request-42', NULL::text)$$,
  'a plain call writes a run, under the session''s request id');
SELECT ok(started_at <= finished_at, 'with both of its times') FROM bacmr_job_run
  WHERE run_id = :run;
RESET bacmr.request_id;
SELECT run_id AS other FROM bacmr_reconcile() \gset
SELECT matches((SELECT request_id FROM bacmr_job_run WHERE run_id = :other), '^[0-9a-f-]{36}$',
  'a run without a request id makes its own');

SELECT bacmr_reconcile_report(:run) AS report \gset
SELECT is((:'report'::jsonb->>'run_id')::bigint, :run::bigint, 'the report of one run');
SELECT is(bacmr_reconcile_report(), bacmr_reconcile_report(:other), 'the default is the latest run');
SELECT is(bacmr_reconcile_report(NULL), bacmr_reconcile_report(:other), 'so is NULL');
SELECT is(bacmr_reconcile_report(-1), NULL, 'no report of a run that does not exist');
SELECT is(:'report'::jsonb->'kinds', '{"balance_mismatch": {"rows": 2, "absolute": 41},
  "missing_wallet": {"rows": 1, "absolute": 5}, "negative_balance": {"rows": 1, "absolute": 31},
  "orphan_reservation": {"rows": 1, "absolute": null},
  "stale_reservation": {"rows": 1, "absolute": null}}', 'totals for each kind');
SELECT is((SELECT (r->'discrepancies', r->'drift', r->'wallets_checked', r->'ledger_rows',
                   r->'truncated', r->>'status', r->>'request_id')
           FROM (SELECT :'report'::jsonb) v(r)),
  ('5'::jsonb, '46'::jsonb, '3'::jsonb, '7'::jsonb, 'false'::jsonb, 'discrepancies'::text,
   'request-42'::text), 'the numbers of the run');
SELECT bag_eq(format($$SELECT to_jsonb(d) - 'run_id' - 'request_id' FROM bacmr_discrepancy d WHERE run_id = %s$$, :run),
  format($$SELECT jsonb_array_elements(%L::jsonb)$$, :'report'::jsonb->'rows'), 'the rows of the run');
SELECT set_eq(format('SELECT user_id FROM bacmr_discrepancy WHERE run_id = %s
    AND detail->>''reservation_id'' IS NOT NULL', :run), ARRAY[u(9)::text],
  'a reservation''s row names its user');

SELECT clean_data();
INSERT INTO wallet SELECT u(n), 1 FROM generate_series(1001, 11001) n;
SELECT run_id AS run FROM bacmr_reconcile() \gset
SELECT is((SELECT (jsonb_array_length(r->'rows'), r->'truncated', r#>'{kinds,balance_mismatch,rows}')
           FROM bacmr_reconcile_report() r), (10000, 'true'::jsonb, '10001'::jsonb),
  'a report holds the first 10,000 rows, says so, and counts them all');
SELECT is((SELECT count(*) FROM bacmr_discrepancy WHERE run_id = :run), 10001::bigint,
  'the table holds them all');

-- The file
SELECT clean_data();
SELECT current_setting('data_directory') || '/' || current_setting('bacmr.artifact_directory')
  AS artifacts \gset
CREATE TEMP TABLE files_before AS
  SELECT pg_ls_dir(:'artifacts') AS name;
SELECT bacmr_reconcile();
SELECT is_empty(format('SELECT pg_ls_dir(%L) EXCEPT TABLE files_before', :'artifacts'),
  'a clean run writes no file');
SELECT many_faults();
SET LOCAL TimeZone = 'Asia/Tokyo';
SELECT run_id AS run FROM bacmr_reconcile() \gset
CREATE TEMP TABLE new_file AS
  SELECT pg_ls_dir(:'artifacts') AS name EXCEPT TABLE files_before;
SELECT is((SELECT count(*) FROM new_file), 1::bigint, 'a run with discrepancies writes one file');
SELECT matches((SELECT name FROM new_file), '^wallet_discrepancies_\d{8}_\d{6}(_\d+)?\.json$',
  'under the name of the contract');
SELECT ok(abs(extract(epoch FROM to_timestamp(substring(name from '\d{8}_\d{6}'),
    'YYYYMMDD_HH24MISS')::timestamp AT TIME ZONE 'UTC' - clock_timestamp())) < 300, 'with the time in UTC') FROM new_file;
SELECT is(pg_read_file(:'artifacts' || '/' || name)::jsonb, bacmr_reconcile_report(:run),
  'it is JSON, and the report') FROM new_file;
SET LOCAL TimeZone = 'UTC';

-- ---------------------------------------------------------------------------------------------
-- first_seen
-- ---------------------------------------------------------------------------------------------

-- The first_seen of one kind in a new run; NULL where it is not found.
CREATE FUNCTION seen(kind text) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE run record;
BEGIN
  SELECT * INTO run FROM bacmr_reconcile();
  RETURN (SELECT d.first_seen FROM bacmr_discrepancy d
          WHERE d.run_id = run.run_id AND d.kind = seen.kind);
END $$;
CREATE TEMP TABLE moments (no int, first_seen timestamptz);

SELECT clean_data();
UPDATE wallet SET token_balance = 101 WHERE user_id = u(1);
INSERT INTO moments VALUES (1, seen('balance_mismatch'));
UPDATE wallet SET token_balance = 102 WHERE user_id = u(1);
INSERT INTO moments VALUES (2, seen('balance_mismatch'));
INSERT INTO moments VALUES (3, seen('balance_mismatch'));
SELECT is(count(DISTINCT first_seen), 1::bigint,
  'an unbroken series of runs keeps first_seen, whatever the amount') FROM moments;
UPDATE wallet SET token_balance = 100 WHERE user_id = u(1);
SELECT is(seen('balance_mismatch'), NULL, 'a mended user is not reported');
UPDATE wallet SET token_balance = 101 WHERE user_id = u(1);
INSERT INTO moments VALUES (4, seen('balance_mismatch'));
SELECT ok((SELECT first_seen FROM moments WHERE no = 4) > (SELECT first_seen FROM moments
  WHERE no = 1), 'a series that was broken begins anew');
UPDATE wallet SET token_balance = -101 WHERE user_id = u(1);
SELECT ok(seen('negative_balance') > (SELECT first_seen FROM moments WHERE no = 4),
  'another kind of the same user has a series of its own');
-- Reservations: by reservation, not by user
SELECT clean_data();
INSERT INTO reservations (id, user_id, amount, expires_at)
  VALUES (r(5), u(1), 0, now() + interval '1 hour');
INSERT INTO moments VALUES (5, seen('invalid_reservation'));
INSERT INTO reservations (id, user_id, amount, expires_at)
  VALUES (r(6), u(1), 0, now() + interval '1 hour');
SELECT run_id AS run FROM bacmr_reconcile() \gset
SELECT is((SELECT first_seen FROM bacmr_discrepancy WHERE run_id = :run
           AND detail->>'reservation_id' = r(5)::text),
  (SELECT first_seen FROM moments WHERE no = 5), 'a reservation keeps its first_seen');
SELECT ok((SELECT first_seen FROM bacmr_discrepancy WHERE run_id = :run
           AND detail->>'reservation_id' = r(6)::text) > (SELECT first_seen FROM moments
           WHERE no = 5), 'a new one of the same user begins anew');
-- A user without a name
SELECT clean_data();
INSERT INTO wallet_ledger (user_id, delta, reason) VALUES (NULL, 5, 'x');
INSERT INTO moments VALUES (6, seen('missing_wallet'));
SELECT is(seen('missing_wallet'), (SELECT first_seen FROM moments WHERE no = 6),
  'nobody has a series too');

-- ---------------------------------------------------------------------------------------------
-- Emptied tables agree with each other: only their size tells
-- ---------------------------------------------------------------------------------------------

SELECT clean_data();
SELECT bacmr_reconcile();
SELECT is(bacmr_reconcile_report()->'warnings', '[]', 'nothing to warn of');
TRUNCATE wallet, wallet_ledger, reservations;
SELECT is((SELECT discrepancies FROM bacmr_reconcile()), 0::bigint,
  'both tables truncated: no discrepancy');
SELECT ok(w @? '$[*] ? (@ like_regex "wallet table.* 0 .* 3")'
      AND w @? '$[*] ? (@ like_regex "ledger.* 0 .* 6")',
  'but a warning for each, with the counts before and now')
  FROM (SELECT bacmr_reconcile_report()->'warnings') v(w);
SELECT bacmr_reconcile();
SELECT is(bacmr_reconcile_report()->'warnings', '[]', 'once: the next run compares with this one');

-- ---------------------------------------------------------------------------------------------
-- A run that died
-- ---------------------------------------------------------------------------------------------

INSERT INTO bacmr_job_run (job, status, started_at, request_id)
  VALUES ('reconcile', 'running', now() - interval '1 day', 'dead') RETURNING run_id AS dead \gset
SELECT bacmr_reconcile();
SELECT is((SELECT (status, error IS NULL, finished_at IS NULL) FROM bacmr_job_run
           WHERE run_id = :dead), ('failed'::text, false, false),
  'a running row whose process is gone becomes failed, and says why and when');

SELECT * FROM finish();
ROLLBACK;
