-- Who may attach beside what others have attached: a job works on wallet, ledger and reservations
-- together, and would run the code of all their owners.
\ir include/helpers.psql
SELECT * FROM no_plan();
SET client_min_messages = error;
CREATE EXTENSION bacmr_ops;
SELECT bacmr_pause('expire', 'test');
CREATE SCHEMA shop;
CREATE SCHEMA elsewhere;
DROP ROLE IF EXISTS owners_shop, owners_mallory;
CREATE ROLE owners_shop;
CREATE ROLE owners_mallory;
SELECT bacmr_grant('operator', r) FROM unnest('{owners_shop,owners_mallory}'::name[]) r;
GRANT USAGE, CREATE ON SCHEMA shop TO owners_shop, owners_mallory;
GRANT USAGE, CREATE ON SCHEMA elsewhere TO owners_mallory;

SET ROLE owners_shop;
SELECT bacmr_create_tables('shop');
RESET ROLE;
SELECT bacmr_detach('reservations');
SET ROLE owners_mallory;
CREATE TABLE elsewhere.reservations (id uuid PRIMARY KEY, user_id uuid, amount bigint, status text,
                                     expires_at timestamptz);
CREATE TABLE elsewhere.chunks (id uuid PRIMARY KEY, namespace text, content text);
RESET ROLE;

SELECT raises($$SELECT bacmr_attach('reservations', 'elsewhere.reservations')$$, '42501',
  'must be owner of shop.wallet to attach "reservations" beside it', 'owners_shop',
  'nobody puts reservations beside another role''s wallet', 'owners_mallory');
SELECT raises($$SELECT * FROM bacmr_attach('elsewhere')$$, '42501',
  'must be owner of shop.wallet', 'owners_shop', 'nor by the schema', 'owners_mallory');
SELECT raises($$SELECT bacmr_attach('reservations', 'shop.reservations')$$, '42501',
  'must be owner of shop', '', 'nor a table of others', 'owners_mallory');
SELECT works_for('owners_shop', $$SELECT bacmr_attach('reservations', 'shop.reservations')$$,
  'their owner does');

-- A table that is away for the moment still belongs to its owner.
ALTER TABLE shop.wallet RENAME TO wallet_away;
SELECT raises($$SELECT bacmr_detach('wallet')$$, '42501', 'belongs to the role owners_shop', 'as that role',
  'an attachment whose table is missing is not detached by others', 'owners_mallory');
SET ROLE owners_mallory;
CREATE TABLE shop.wallet (user_id uuid PRIMARY KEY, token_balance bigint);
RESET ROLE;
SELECT alike((SELECT status FROM bacmr_sources WHERE source = 'wallet'),
  'invalid: it is another table than the one that was attached%owners_mallory%',
  'another role''s table of the same name does not take its place');
SELECT raises('SELECT bacmr_reconcile()', '55000', 'another table', 'bacmr_attach',
  'no job touches it');
SELECT raises('SELECT bacmr_expire_reservations()', '55000', 'another table', 'bacmr_attach',
  'neither the expiry');
DROP TABLE shop.wallet;
ALTER TABLE shop.wallet_away RENAME TO wallet;
SELECT is((SELECT status FROM bacmr_sources WHERE source = 'wallet'), 'attached',
  'the table itself is welcome back');
-- The owner may put a new table in its place, and a table may change hands.
ALTER TABLE shop.wallet RENAME TO wallet_old;
SET ROLE owners_shop;
CREATE TABLE shop.wallet (LIKE shop.wallet_old INCLUDING ALL);
RESET ROLE;
SELECT is((SELECT status FROM bacmr_sources WHERE source = 'wallet'), 'attached',
  'a new table of the same owner takes its place');
SELECT bacmr_attach('wallet', 'shop.wallet');
ALTER TABLE shop.wallet OWNER TO owners_mallory;
SELECT is((SELECT status FROM bacmr_sources WHERE source = 'wallet'), 'attached',
  'a table that changes hands stays attached');
ALTER TABLE shop.wallet OWNER TO owners_shop;

SELECT bacmr_detach('chunks');
SELECT works_for('owners_mallory', $$SELECT bacmr_attach('chunks', 'elsewhere.chunks')$$,
  'chunks are no money: they may be another role''s');
SELECT raises($$SELECT bacmr_grant('operator', 'public')$$, '42939', 'PUBLIC', '',
  'no profile for PUBLIC');

SELECT * FROM finish();
DROP OWNED BY owners_mallory, owners_shop CASCADE;
DROP ROLE owners_mallory, owners_shop;
