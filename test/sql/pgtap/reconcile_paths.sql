-- The scan in C++ and plain SQL are two ways to one answer: on the same random data, with every
-- type, both find the same rows. detail.method and detail.parallel_workers say which way was gone.
-- No transaction around it: a parallel scan must not depend on one.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;

-- ---------------------------------------------------------------------------------------------
-- Random data: users 1 to 4000, some without wallet, some without ledger rows, NULLs, negative
-- balances, exact ones, and rows of nobody. The same with every run of this file.
-- ---------------------------------------------------------------------------------------------

SELECT setseed(0.42);
CREATE TABLE model_ledger AS
  SELECT CASE WHEN random() < 0.01 THEN NULL ELSE 1 + floor(random() * 4000)::int END AS n,
         CASE WHEN random() < 0.02 THEN NULL ELSE floor(random() * 2000 - 800)::int END AS delta
  FROM generate_series(1, 30000);
CREATE TABLE model_wallet AS
  SELECT n, CASE WHEN dice < 0.05 THEN NULL WHEN dice < 0.25 THEN total + 7
                 WHEN dice < 0.35 THEN -total ELSE total END::int AS balance
  FROM (SELECT u.n, random() AS dice, coalesce(sum(l.delta), 0) AS total
        FROM generate_series(1, 4400) u(n) LEFT JOIN model_ledger l USING (n)
        WHERE u.n % 11 <> 0 GROUP BY u.n ORDER BY u.n) s;
INSERT INTO model_wallet VALUES (NULL, 9);

-- What any reconciliation must find, from the contract's words alone.
CREATE TABLE expected AS
  WITH state AS (
    SELECT coalesce(w.n, l.n) AS n, w.present, w.balance, coalesce(l.total, 0) AS total,
           coalesce(l.nulls, 0) AS nulls
    FROM (SELECT n, balance, true AS present FROM model_wallet) w
    FULL JOIN (SELECT n, sum(delta) AS total, count(*) FILTER (WHERE delta IS NULL) AS nulls
               FROM model_ledger GROUP BY n) l ON w.n = l.n)
  SELECT 'balance_mismatch' AS kind, n, coalesce(balance, 0)::numeric AS balance,
         total::numeric AS total, (coalesce(balance, 0) - total)::numeric AS discrepancy
  FROM state WHERE present AND coalesce(balance, 0) <> total
  UNION ALL SELECT 'missing_wallet', n, NULL, total, -total FROM state WHERE present IS NULL
  UNION ALL SELECT 'negative_balance', n, balance, total, balance - total FROM state
            WHERE balance < 0
  UNION ALL SELECT 'null_amount', n, balance, total, balance - total FROM state
            WHERE nulls > 0 OR (present AND balance IS NULL);

SELECT cmp_ok((SELECT min(c) FROM (SELECT count(*) AS c FROM expected GROUP BY kind) k), '>', 50::bigint,
  'the random data has many rows of each kind');
SELECT is((SELECT count(*) FROM expected WHERE n IS NULL), 3::bigint,
  'and rows of nobody: a wallet, ledger rows, NULL deltas');

-- The key of user n in each type.
CREATE TABLE keys AS
  SELECT n, md5(n::text)::uuid AS as_uuid, n::bigint * 4294967297 - 9000000000000 AS as_bigint,
         n - 2000 AS as_integer, 'user ' || n AS as_text
  FROM generate_series(1, 4400) n;
CREATE UNIQUE INDEX ON keys (n);

-- Makes the two tables with these types. `partitions` is '' or a PARTITION BY clause's strategy.
CREATE FUNCTION make_tables(key text, amount text, partitioned boolean DEFAULT false)
  RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DROP SCHEMA IF EXISTS data CASCADE;
  CREATE SCHEMA data;
  IF partitioned THEN
    EXECUTE format('CREATE TABLE data.wallet (user_id %s UNIQUE, token_balance %s)'
                   ' PARTITION BY HASH (user_id)', key, amount);
    EXECUTE format('CREATE TABLE data.wallet_ledger (user_id %s, delta %s, reason text, part int)'
                   ' PARTITION BY LIST (part)', key, amount);
    CREATE TABLE data.wallet_0 PARTITION OF data.wallet FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE data.wallet_1 PARTITION OF data.wallet FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    -- Partitions whose columns are in another order, with a dropped one among them; a second level.
    EXECUTE format('CREATE TABLE data.ledger_0 (part int, gone text, reason text, delta %s,'
                   ' user_id %s)', amount, key);
    ALTER TABLE data.ledger_0 DROP COLUMN gone;
    ALTER TABLE data.wallet_ledger ATTACH PARTITION data.ledger_0 FOR VALUES IN (0);
    CREATE TABLE data.ledger_1 PARTITION OF data.wallet_ledger FOR VALUES IN (1)
      PARTITION BY LIST (reason);
    CREATE TABLE data.ledger_1_x PARTITION OF data.ledger_1 DEFAULT;
    CREATE TABLE data.ledger_empty PARTITION OF data.wallet_ledger FOR VALUES IN (2);
  ELSE
    EXECUTE format('CREATE TABLE data.wallet (user_id %s UNIQUE, token_balance %s)', key, amount);
    EXECUTE format('CREATE TABLE data.wallet_ledger (user_id %s, delta %s, reason text, part int)',
                   key, amount);
  END IF;
  EXECUTE format('INSERT INTO data.wallet SELECT k.as_%s, balance FROM model_wallet'
                 ' LEFT JOIN keys k USING (n)', regexp_replace(key, 'varchar|number_key',
                 CASE WHEN key = 'varchar' THEN 'text' ELSE 'bigint' END));
  EXECUTE format('INSERT INTO data.wallet_ledger SELECT k.as_%s, delta, ''x'', coalesce(n, 0) %% 2'
                 ' FROM model_ledger LEFT JOIN keys k USING (n)', regexp_replace(key,
                 'varchar|number_key', CASE WHEN key = 'varchar' THEN 'text' ELSE 'bigint' END));
  PERFORM bacmr_attach('data');
END $$;

-- Reconciles, and compares method and rows.
CREATE FUNCTION agrees(method text, description text, recheck_after interval DEFAULT '0')
  RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE run record;
BEGIN
  SELECT * INTO run FROM bacmr_reconcile(recheck_after);
  RETURN NEXT alike((SELECT r.detail->>'method' FROM bacmr_job_run r WHERE r.run_id = run.run_id),
                    method, description || ': the way');
  RETURN NEXT is((run.wallets_checked, run.ledger_rows, run.discrepancies, run.drift),
    ((SELECT count(*) FROM model_wallet), (SELECT count(*) FROM data.wallet_ledger),
     (SELECT count(*) FROM expected),
     (SELECT sum(abs(e.discrepancy)) FROM expected e
      WHERE kind IN ('balance_mismatch', 'missing_wallet'))), description || ': the totals');
  RETURN NEXT bag_eq(format(
    'SELECT d.kind, k.n, d.current_balance, d.ledger_sum, d.discrepancy FROM bacmr_discrepancy d'
    ' LEFT JOIN keys k ON d.user_id IN (k.as_uuid::text, k.as_bigint::text, k.as_integer::text,'
    ' k.as_text) WHERE d.run_id = %s', run.run_id),
    'SELECT kind, n, balance, total, discrepancy FROM expected', description || ': the rows');
END $$;
CREATE INDEX ON keys ((as_uuid::text));
CREATE INDEX ON keys ((as_bigint::text));
CREATE INDEX ON keys ((as_integer::text));
CREATE INDEX ON keys (as_text);
ANALYZE keys;

-- The keys of integer and bigint users overlap with nobody else's: or the join above would lie.
SELECT is_empty('SELECT 1 FROM keys a JOIN keys b ON a.as_integer = b.as_bigint',
  'the keys of different types are told apart');

-- ---------------------------------------------------------------------------------------------
-- The same data, both ways
-- ---------------------------------------------------------------------------------------------

SET max_parallel_workers_per_gather = 0;

CREATE FUNCTION both_ways(key text, amount text, partitioned boolean) RETURNS SETOF text
  LANGUAGE plpgsql AS $$
DECLARE
  what text := format('%s keys, %s amounts%s', key, amount,
                      CASE WHEN partitioned THEN ', partitioned' END);
BEGIN
  PERFORM make_tables(key, amount, partitioned);
  RETURN QUERY SELECT agrees('scan', what || ', by the scan');
  SET LOCAL bacmr.reconcile_memory = '64kB';
  RETURN QUERY SELECT agrees('sql:%', what || ', by SQL for want of memory');
  RESET bacmr.reconcile_memory;
END $$;
SELECT both_ways(key, amount, partitioned) FROM (VALUES
  ('uuid', 'bigint', false), ('bigint', 'bigint', false), ('integer', 'bigint', false),
  ('uuid', 'integer', false), ('integer', 'integer', false),
  ('uuid', 'bigint', true), ('bigint', 'integer', true)) v(key, amount, partitioned);

CREATE FUNCTION by_sql(key text, amount text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM make_tables(key, amount);
  RETURN QUERY SELECT agrees('sql:%', format('%s keys, %s amounts, by SQL', key, amount));
END $$;
SELECT by_sql(key, amount) FROM (VALUES
  ('uuid', 'numeric'), ('uuid', 'numeric(20,2)'), ('text', 'bigint'), ('varchar', 'bigint'),
  ('text', 'numeric')) v(key, amount);

-- Views over the same rows
SELECT make_tables('uuid', 'bigint');
ALTER TABLE data.wallet RENAME TO real_wallet;
CREATE VIEW data.wallet AS TABLE data.real_wallet;
SELECT agrees('sql:%', 'a view as wallet');
DROP VIEW data.wallet;
ALTER TABLE data.real_wallet RENAME TO wallet;
ALTER TABLE data.wallet_ledger RENAME TO real_ledger;
CREATE VIEW data.wallet_ledger AS TABLE data.real_ledger;
SELECT agrees('sql:%', 'a view as ledger');
DROP VIEW data.wallet_ledger;
ALTER TABLE data.real_ledger RENAME TO wallet_ledger;

-- A child by inheritance belongs to its parent, as in SQL.
CREATE TABLE data.old_ledger () INHERITS (data.wallet_ledger);
WITH moved AS (DELETE FROM data.wallet_ledger WHERE part = 1 RETURNING *)
  INSERT INTO data.old_ledger SELECT * FROM moved;
SELECT agrees('%', 'a ledger with an inheriting table');

-- Columns that were added after the rows, with a default that no row holds.
SELECT make_tables('bigint', 'bigint');
ALTER TABLE data.wallet_ledger DROP COLUMN delta;
ALTER TABLE data.wallet_ledger ADD COLUMN delta bigint DEFAULT 5;
SELECT is((SELECT (wallets_checked, drift) FROM bacmr_reconcile()),
  ((SELECT count(*) FROM data.wallet),
   (SELECT sum(abs(coalesce(w.token_balance, 0) - coalesce(l.total, 0)))
    FROM data.wallet w FULL JOIN (SELECT user_id, sum(delta) AS total FROM data.wallet_ledger
                                  GROUP BY 1) l ON w.user_id = l.user_id)),
  'a column added with a default counts with that default');

-- A domain is its base type.
CREATE DOMAIN number_key AS bigint;
SELECT make_tables('number_key', 'bigint');
SELECT agrees('%', 'keys of a domain over bigint');

-- Rows that are dead, or not yet there, do not count.
SELECT make_tables('uuid', 'bigint');
UPDATE data.wallet SET token_balance = token_balance + 1;
UPDATE data.wallet SET token_balance = token_balance - 1;
INSERT INTO data.wallet_ledger SELECT * FROM data.wallet_ledger;
DELETE FROM data.wallet_ledger WHERE ctid > (SELECT max(ctid) FROM (SELECT ctid
  FROM data.wallet_ledger ORDER BY ctid LIMIT 30000) first_half);
SELECT agrees('scan', 'updated and deleted rows');

-- A second look at the same data takes nothing back.
SELECT agrees('scan', 'with recheck_after', '10 milliseconds');
SELECT make_tables('text', 'numeric');
SELECT agrees('sql:%', 'text and numeric, with recheck_after', '10 milliseconds');
SELECT make_tables('integer', 'integer', true);
SELECT agrees('scan', 'integer, partitioned, with recheck_after', '10 milliseconds');

\if :has_virtual_columns
-- What is not stored is not there to be scanned.
SELECT make_tables('uuid', 'bigint');
ALTER TABLE data.wallet_ledger RENAME delta TO stored;
ALTER TABLE data.wallet_ledger ADD delta bigint GENERATED ALWAYS AS (stored + 0) VIRTUAL;
SELECT agrees('sql:%', 'a virtual generated column in the ledger');
SELECT make_tables('uuid', 'bigint');
ALTER TABLE data.wallet RENAME token_balance TO stored;
ALTER TABLE data.wallet ADD token_balance bigint GENERATED ALWAYS AS (stored + 0) VIRTUAL;
SELECT agrees('sql:%', 'a virtual generated column in the wallets');
\endif

-- ---------------------------------------------------------------------------------------------
-- Parallel
-- ---------------------------------------------------------------------------------------------

SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
CREATE FUNCTION workers() RETURNS int LANGUAGE sql AS
  $$SELECT (detail->>'parallel_workers')::int FROM bacmr_job_run ORDER BY run_id DESC LIMIT 1$$;
-- Rows of no effect before the others: so that the workers are there before the scan is over.
CREATE FUNCTION lengthen_ledger() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  CREATE TABLE data.kept AS SELECT user_id, delta, reason, part FROM data.wallet_ledger;
  TRUNCATE data.wallet_ledger;
  INSERT INTO data.wallet_ledger (user_id, delta, reason, part)
    SELECT user_id, 0, reason, part FROM data.kept, generate_series(1, 12)
    WHERE user_id IS NOT NULL;
  INSERT INTO data.wallet_ledger (user_id, delta, reason, part)
    SELECT user_id, delta, reason, part FROM data.kept;
END $$;
SELECT make_tables('uuid', 'bigint');
SELECT lengthen_ledger();
SELECT agrees('scan', 'uuid, in parallel');
SELECT cmp_ok(workers(), '>', 0, 'workers took part');
SELECT make_tables('integer', 'integer', true);
SELECT lengthen_ledger();
SELECT agrees('scan', 'integer, partitioned, in parallel');
SELECT cmp_ok(workers(), '>', 0, 'workers took part in a partitioned scan');
SET bacmr.reconcile_memory = '64kB';
SELECT agrees('sql:%', 'in parallel, beyond the memory');
RESET bacmr.reconcile_memory;
SELECT make_tables('uuid', 'bigint');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT agrees('scan', 'in a SERIALIZABLE transaction');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT agrees('scan', 'in a REPEATABLE READ transaction');
COMMIT;
BEGIN;
INSERT INTO data.wallet VALUES ('00000000-0000-0000-0000-000000000000', 3);
SELECT is((SELECT drift FROM bacmr_reconcile()), (SELECT sum(abs(discrepancy)) + 3 FROM expected
    WHERE kind IN ('balance_mismatch', 'missing_wallet')),
  'in parallel, the transaction''s own rows count');
DELETE FROM data.wallet WHERE user_id = '00000000-0000-0000-0000-000000000000';
COMMIT;
SET max_parallel_workers_per_gather = 0;
SELECT agrees('scan', 'with parallel scans off');
SELECT is(workers(), 0, 'no worker took part');

-- ---------------------------------------------------------------------------------------------
-- Sums beyond 64 bits
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION huge(deltas bigint[], users bigint[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  TRUNCATE data.wallet, data.wallet_ledger;
  INSERT INTO data.wallet VALUES (1, 9223372036854775807), (2, 5);
  INSERT INTO data.wallet_ledger SELECT u, x, 'x' FROM unnest(users, deltas) t(u, x);
  INSERT INTO data.wallet_ledger VALUES (2, 5, 'x');
  PERFORM bacmr_reconcile();
  RETURN QUERY SELECT (b.kind, b.user_id, b.current_balance, b.ledger_sum, b.discrepancy)::text
    FROM bacmr_discrepancy b WHERE b.run_id = (SELECT max(r.run_id) FROM bacmr_job_run r);
END $$;
SELECT make_tables('bigint', 'bigint');
CREATE FUNCTION huge_agrees() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE biggest bigint := 9223372036854775807;
BEGIN
  RETURN NEXT is(ARRAY(SELECT huge(ARRAY[biggest, biggest], '{1,1}')),
    ARRAY['(balance_mismatch,1,9223372036854775807,18446744073709551614,-9223372036854775807)'],
    'a sum beyond 64 bits is exact');
  RETURN NEXT is(ARRAY(SELECT huge(ARRAY[biggest, 1, -1], '{1,1,1}')), '{}',
    'a sum that leaves 64 bits and comes back is exact');
  RETURN NEXT is(ARRAY(SELECT huge(ARRAY[-biggest, -biggest, -2], '{1,1,1}')),
    ARRAY['(balance_mismatch,1,9223372036854775807,-18446744073709551616,27670116110564327423)'],
    'a sum below 64 bits is exact');
  RETURN NEXT is(ARRAY(SELECT huge(ARRAY[biggest, biggest, biggest],
    ARRAY[1, NULL, NULL])),
    ARRAY['(missing_wallet,,,18446744073709551614,-18446744073709551614)'],
    'the sum of nobody''s rows too');
END $$;
SELECT huge_agrees();
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SELECT huge_agrees();

-- ---------------------------------------------------------------------------------------------
-- Odd keys, odd numbers
-- ---------------------------------------------------------------------------------------------

SELECT make_tables('text', 'numeric');
TRUNCATE data.wallet, data.wallet_ledger;
INSERT INTO data.wallet VALUES ('', 3), (NULL, 4), ('{a,"b\c"}', 0.25), ('NULL', 1), ('nan', 'NaN'),
  ('infinite', 'Infinity'), ('scale', 1.50), ('zero', 0.00);
INSERT INTO data.wallet_ledger VALUES ('', 1, 'x'), (NULL, 1, 'x'), ('gone''s', 1.5, 'x'),
  ('scale', 1.5, 'x');
CREATE FUNCTION odd_rows(recheck_after interval) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE run record;
BEGIN
  SELECT * INTO run FROM bacmr_reconcile(recheck_after);
  RETURN ARRAY(SELECT concat_ws(' | ', d.kind, coalesce(quote_literal(d.user_id), 'nobody'), d.discrepancy)
               FROM bacmr_discrepancy d WHERE d.run_id = run.run_id ORDER BY 1);
END $$;
SELECT is(odd_rows(recheck_after), ARRAY[
    $$balance_mismatch | '' | 2$$, $$balance_mismatch | 'NULL' | 1$$,
    $$balance_mismatch | 'infinite' | Infinity$$, $$balance_mismatch | 'nan' | NaN$$,
    $$balance_mismatch | E'{a,"b\\c"}' | 0.25$$, $$balance_mismatch | nobody | 4$$,
    $$missing_wallet | 'gone''s' | -1.5$$, $$missing_wallet | nobody | -1$$],
  'an empty name is somebody, 1.50 is 1.5, NaN is no balance; recheck_after ' || recheck_after)
  FROM unnest('{0,1 millisecond}'::interval[]) recheck_after;
SELECT ok(bacmr_reconcile_report() IS NOT NULL, 'and the report can say so in JSON');

SELECT * FROM finish();
