# The worker acts as the tables' owner. Whatever an application's trigger does, and whenever it
# fires, it must never find itself a superuser.
use strict;
use warnings;
use BacmrTest;
use Test::More;

my $node = new_server('main', conf => [ q{bacmr.expire_interval = '1s'} ]);
app_database($node, 'app');

# An owner that can neither log in nor do anything special, and a table of witnesses.
$node->safe_psql('app', <<'SQL');
CREATE ROLE app_owner NOLOGIN;
ALTER TABLE wallet OWNER TO app_owner;
ALTER TABLE wallet_ledger OWNER TO app_owner;
ALTER TABLE reservations OWNER TO app_owner;
CREATE SCHEMA witness AUTHORIZATION app_owner;
SET ROLE app_owner;
CREATE TABLE witness.seen (what text, who name, superuser boolean, outcome text);
CREATE FUNCTION witness.note(what text, outcome text DEFAULT 'fired') RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO witness.seen SELECT what, current_user, rolsuper, outcome
    FROM pg_catalog.pg_roles WHERE rolname = current_user;
  RETURN true;
END $$;
-- Runs a statement and notes how it ended, and as whom the session goes on.
CREATE FUNCTION witness.try(what text, statement text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  outcome text := 'done';
BEGIN
  BEGIN
    EXECUTE statement;
  EXCEPTION WHEN OTHERS THEN
    outcome := SQLSTATE;
  END;
  PERFORM witness.note(what, outcome);
END $$;
SQL
give_wallets($node, 'app', 5);

# One reservation falls due and is refunded, with $triggers in force. They fire for refunds only:
# reservations are made by the superuser that runs this test.
my $user = 0;

sub refund_with {
    my ($what, $triggers) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $node->safe_psql('app', "SET ROLE app_owner; TRUNCATE witness.seen; $triggers");
    my $id = reserve($node, 'app', ++$user % 5 + 1, 10, '-1 second');
    return await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'},
        "$what: the refund is made");
}

sub witnesses {
    return $node->safe_psql('app',
        q{SELECT DISTINCT what, who, superuser, outcome FROM witness.seen ORDER BY 1, 2});
}

# --- when a trigger fires ------------------------------------------------------------------------

refund_with('an ordinary trigger', <<'SQL');
CREATE FUNCTION witness.row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM witness.note(TG_NAME);
  RETURN NEW;
END $$;
CREATE TRIGGER immediate BEFORE UPDATE ON wallet
  FOR EACH ROW WHEN (NEW.token_balance > OLD.token_balance) EXECUTE FUNCTION witness.row();
SQL
is(witnesses(), 'immediate|app_owner|f|fired', 'it runs as the owner');

refund_with('a deferred constraint trigger', <<'SQL');
DROP TRIGGER immediate ON wallet;
CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON wallet DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (NEW.token_balance > OLD.token_balance) EXECUTE FUNCTION witness.row();
SQL
is(witnesses(), 'deferred|app_owner|f|fired', 'it runs as the owner too, at the commit');

refund_with('SET CONSTRAINTS ALL DEFERRED in a trigger', <<'SQL');
DROP TRIGGER deferred ON wallet;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON wallet_ledger DEFERRABLE INITIALLY IMMEDIATE
  FOR EACH ROW WHEN (NEW.reason = 'reservation_expired') EXECUTE FUNCTION witness.row();
CREATE FUNCTION witness.defer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SET CONSTRAINTS ALL DEFERRED;
  RETURN NEW;
END $$;
CREATE TRIGGER defer BEFORE UPDATE ON wallet
  FOR EACH ROW WHEN (NEW.token_balance > OLD.token_balance) EXECUTE FUNCTION witness.defer();
SQL
is($node->safe_psql('app', q{SELECT count(*) FROM witness.seen WHERE what = 'late'
       AND (who <> 'app_owner' OR superuser)}),
    0, 'what it puts off runs as the owner');
is($node->safe_psql('app', q{SELECT count(*) > 0 FROM witness.seen WHERE what = 'late'}),
    't', 'and does run');

refund_with('a deferred trigger that queues another one', <<'SQL');
DROP TRIGGER late ON wallet_ledger;
DROP TRIGGER defer ON wallet;
CREATE TABLE witness.chain (n int);
CREATE FUNCTION witness.chain() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM witness.note(TG_NAME);
  INSERT INTO witness.chain VALUES (1);
  RETURN NEW;
END $$;
CREATE CONSTRAINT TRIGGER first AFTER UPDATE ON wallet DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (NEW.token_balance > OLD.token_balance) EXECUTE FUNCTION witness.chain();
CREATE CONSTRAINT TRIGGER second AFTER INSERT ON witness.chain DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION witness.row();
SQL
is(witnesses(), "first|app_owner|f|fired\nsecond|app_owner|f|fired", 'both run as the owner');

refund_with('a cursor WITH HOLD, whose query runs at the commit', <<'SQL');
DROP TRIGGER first ON wallet;
CREATE FUNCTION witness.hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM witness.try('declare',
    'DECLARE held CURSOR WITH HOLD FOR SELECT witness.note(''held'')');
  RETURN NEW;
END $$;
CREATE TRIGGER hold BEFORE UPDATE ON wallet
  FOR EACH ROW WHEN (NEW.token_balance > OLD.token_balance) EXECUTE FUNCTION witness.hold();
SQL
is($node->safe_psql('app', q{SELECT count(*) FROM witness.seen WHERE who <> 'app_owner'
       OR superuser}),
    0, 'runs as the owner, if at all');
is($node->safe_psql('app', q{SELECT count(*) FROM witness.seen WHERE what = 'declare'}),
    1, 'and the trigger did try');

# --- what a trigger tries ------------------------------------------------------------------------

my $superuser = $node->safe_psql('app', 'SELECT current_user');
refund_with('a trigger that tries to become somebody else', <<"SQL");
DROP TRIGGER hold ON wallet;
CREATE FUNCTION witness.escape() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
  PERFORM witness.try('set role', 'SET ROLE "$superuser"');
  PERFORM witness.try('reset role', 'RESET ROLE');
  PERFORM witness.try('set session authorization', 'SET SESSION AUTHORIZATION "$superuser"');
  PERFORM witness.try('reset session authorization', 'RESET SESSION AUTHORIZATION');
  PERFORM witness.try('superuser work', 'CREATE ROLE intruder SUPERUSER');
  PERFORM witness.try('program', \$x\$COPY witness.seen (what) FROM PROGRAM 'echo owned'\$x\$);
  RETURN NEW;
END \$\$;
CREATE TRIGGER escape BEFORE UPDATE ON wallet
  FOR EACH ROW WHEN (NEW.token_balance > OLD.token_balance) EXECUTE FUNCTION witness.escape();
CREATE CONSTRAINT TRIGGER escape_late AFTER UPDATE ON wallet DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (NEW.token_balance > OLD.token_balance) EXECUTE FUNCTION witness.escape();
SQL
is($node->safe_psql('app', q{SELECT string_agg(DISTINCT who || ' ' || superuser, ', ')
       FROM witness.seen}),
    'app_owner false', 'stays the owner whatever it tries');
is($node->safe_psql('app', q{SELECT count(*) = 12 AND bool_and(outcome = '42501')
       FROM witness.seen}),
    't', 'every attempt ends with insufficient_privilege, immediate and deferred');
is($node->safe_psql('app', q{SELECT count(*) FROM pg_roles WHERE rolname = 'intruder'}),
    0, 'and nothing of it was done');

refund_with('a trigger that leaves settings behind', <<'SQL');
DROP TRIGGER escape ON wallet;
DROP TRIGGER escape_late ON wallet;
CREATE FUNCTION witness.leave_settings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SET search_path = witness, pg_catalog;
  SET lock_timeout = '1ms';
  SET default_transaction_read_only = on;
  SET default_transaction_isolation = 'serializable';
  RETURN NEW;
END $$;
CREATE TRIGGER leave_settings BEFORE UPDATE ON wallet
  FOR EACH ROW WHEN (NEW.token_balance > OLD.token_balance)
  EXECUTE FUNCTION witness.leave_settings();
SQL
refund_with('the next refund after it', 'SELECT 1');
$node->safe_psql('app', 'DROP TRIGGER leave_settings ON wallet');

# --- a deferred trigger that raises --------------------------------------------------------------

my $offset = log_size($node);
$node->safe_psql('app', <<'SQL');
SET ROLE app_owner;
CREATE FUNCTION witness.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'not at the commit' USING ERRCODE = 'AP008';
END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON wallet DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (NEW.token_balance > OLD.token_balance) EXECUTE FUNCTION witness.refuse();
SQL
my $id = reserve($node, 'app', 1, 10, '-1 second');
await_sql($node, 'app', q{SELECT bool_or(status = 'failed' AND error LIKE '%not at the commit%')
    FROM bacmr_job_run WHERE job = 'expire'}, 'a deferred trigger that raises is reported');
is($node->safe_psql('app', qq{SELECT r.status, (SELECT count(*) FROM wallet_ledger l
       WHERE l.reservation_id = r.id) FROM reservations r WHERE id = '$id'}),
    'reserved|0', 'and nothing of the batch stays');
balances_agree($node, 'app', 'the balances are as they were');
await('the log has it', sub {
    grep { ($_->{fields}{error} // '') =~ /not at the commit/ } log_entries($node, $offset);
});
$node->safe_psql('app', 'DROP TRIGGER refuse ON wallet');
await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'},
    'once the trigger is gone the batch is tried again');

# --- rights that are missing ---------------------------------------------------------------------

# The reservations' owner must have rights on the other tables: the worker lends it none.
$node->safe_psql('app', 'CREATE ROLE other_owner NOLOGIN;'
      . ' ALTER TABLE wallet_ledger OWNER TO other_owner');
$id = reserve($node, 'app', 2, 10, '-1 second');
await_sql($node, 'app', q{SELECT last_status = 'failed' AND next_step LIKE '%permission denied%'
    FROM bacmr_status WHERE job = 'expire'}, 'a right that is missing is reported, not lent');
is($node->safe_psql('app', qq{SELECT status FROM reservations WHERE id = '$id'}),
    'reserved', 'and nothing expires without it');
$node->safe_psql('app', 'GRANT SELECT, INSERT ON wallet_ledger TO app_owner;'
      . ' GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app_owner');
await_sql($node, 'app', qq{SELECT status = 'expired' FROM reservations WHERE id = '$id'},
    'with the right granted, it does');
balances_agree($node, 'app');

$node->stop;
done_testing();
