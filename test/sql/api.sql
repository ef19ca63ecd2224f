--
-- The interface of bacmr_ops, as psql shows it, and what it answers to common mistakes.
--
CREATE EXTENSION bacmr_ops;
-- Nothing but this file does anything here.
SELECT bacmr_pause('expire', 'api test');

--
-- The objects
--
\df bacmr_*
SELECT relname, CASE relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' END AS kind,
       obj_description(oid, 'pg_class') AS description
  FROM pg_class WHERE relname LIKE 'bacmr\_%' AND relkind IN ('r', 'v') ORDER BY relname;
\d bacmr_sources
\d bacmr_status
\d bacmr_job_run
\d bacmr_discrepancy

--
-- Attaching
--
SELECT * FROM bacmr_attach();
SELECT * FROM bacmr_attach('no_such_schema');
SELECT * FROM bacmr_attach(NULL);
SELECT bacmr_reconcile();
SELECT bacmr_expire_reservations();

CREATE TABLE chunks (id int PRIMARY KEY, namespace text, content text);
SELECT bacmr_create_tables();
SELECT source, relation, status FROM bacmr_sources ORDER BY source;

CREATE TABLE account (user_id uuid, credits float8);
SELECT bacmr_attach('purse', 'account');
SELECT bacmr_attach('wallet', 'account');
SELECT bacmr_attach('wallet', 'account', '{"token_balance": "credit"}');
SELECT bacmr_attach('wallet', 'account', '{"balance": "credits"}');
SELECT bacmr_attach('wallet', 'account', '{"token_balance": "credits"}');
ALTER TABLE account ALTER credits TYPE bigint;
SELECT bacmr_attach('wallet', 'account', '{"token_balance": "credits"}');
ALTER TABLE account ADD UNIQUE (user_id);
SELECT bacmr_attach('wallet', 'account', '{"token_balance": "credits"}', '{"refund": false}');
SELECT bacmr_attach('reservations', 'reservations', '{}', '{"refund": "no"}');
SELECT bacmr_attach('wallet', 'account', '{"token_balance": "credits"}');
SELECT relation, columns FROM bacmr_sources WHERE source = 'wallet';
ALTER TABLE account RENAME credits TO tokens;
SELECT status FROM bacmr_sources WHERE source = 'wallet';
SELECT bacmr_reconcile();
DROP TABLE account;
SELECT bacmr_reconcile();
SELECT bacmr_detach('wallet');
SELECT bacmr_detach('wallet');
SELECT bacmr_attach('wallet', 'wallet');

-- Whose table
CREATE ROLE regress_bacmr_clerk;
SELECT bacmr_grant('clerk', 'regress_bacmr_clerk');
SELECT bacmr_grant('operator', 'regress_bacmr_clerk');
SET ROLE regress_bacmr_clerk;
SELECT bacmr_attach('wallet', 'wallet');
SELECT bacmr_detach('wallet');
SELECT bacmr_grant('operator', 'regress_bacmr_clerk');
SELECT bacmr_reconcile();
RESET ROLE;

--
-- Reconciling
--
SELECT bacmr_reconcile(NULL);
SELECT bacmr_reconcile('-1 second');
INSERT INTO wallet (user_id, token_balance)
  VALUES ('00000000-0000-0000-0000-000000000001', 120), ('00000000-0000-0000-0000-000000000002', 0);
INSERT INTO wallet_ledger (user_id, delta, reason)
  VALUES ('00000000-0000-0000-0000-000000000001', 100, 'purchase'),
         ('00000000-0000-0000-0000-000000000003', 7, 'purchase');
SELECT wallets_checked, ledger_rows, discrepancies, drift FROM bacmr_reconcile();
SELECT kind, user_id, current_balance, ledger_sum, discrepancy FROM bacmr_discrepancy ORDER BY kind;
SELECT report->'kinds' AS kinds, report->'drift' AS drift FROM bacmr_reconcile_report() AS report;
-- Both tables lost their rows: they agree, and that is worth a word.
TRUNCATE wallet, wallet_ledger;
SELECT wallets_checked, ledger_rows, discrepancies, drift FROM bacmr_reconcile();

--
-- Expiring
--
SELECT bacmr_expire_reservations(0);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT bacmr_expire_reservations();
ROLLBACK;
INSERT INTO wallet VALUES ('00000000-0000-0000-0000-000000000001', 0);
INSERT INTO reservations (user_id, amount, expires_at)
  VALUES ('00000000-0000-0000-0000-000000000001', 5, now() - interval '1 minute'),
         ('00000000-0000-0000-0000-000000000001', 6, now() + interval '1 hour');
SELECT * FROM bacmr_expire_reservations();
SELECT amount, status FROM reservations ORDER BY amount;
SELECT user_id, delta, reason FROM wallet_ledger;

--
-- Jobs
--
CALL bacmr_run_job('recon');
CALL bacmr_run_job('reconcile', '{"recheck": "5 seconds"}');
CALL bacmr_run_job('reconcile', '[]');
CALL bacmr_run_job('expire', '{"max_reservations": 0}');
BEGIN;
CALL bacmr_run_job('reconcile');
ROLLBACK;
CALL bacmr_run_job('expire');
SELECT bacmr_pause('recon');
SELECT bacmr_unpause('reconcile');
SELECT job, state, last_status, next_step FROM bacmr_status
  WHERE job IN ('reconcile', 'expire') ORDER BY job;
SELECT bacmr_log('loud', 'hello');
SELECT bacmr_log('info', 'hello', '[]');

--
-- The tables belong to the user
--
DROP EXTENSION bacmr_ops;
SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename;
DROP TABLE wallet, wallet_ledger, reservations, chunks;
DROP OWNED BY regress_bacmr_clerk;
DROP ROLE regress_bacmr_clerk;
