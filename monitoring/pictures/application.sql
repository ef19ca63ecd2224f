-- The application of render.sh: students ask, a model answers, documents come in. It books as
-- bacmr_ops expects it (debited and in the ledger when reserved), and records what it does with the
-- helpers. Its latencies are made up; everything that is counted has happened.

-- How the model's service is at the moment.
CREATE TABLE weather (slowness float8 NOT NULL, breaker int NOT NULL);
INSERT INTO weather VALUES (1, 0);

CREATE TABLE student AS SELECT n, md5('student ' || n)::uuid AS user_id FROM generate_series(1, 2000) n;
INSERT INTO wallet (user_id, token_balance) SELECT user_id, 1000000 FROM student;
INSERT INTO wallet_ledger (user_id, delta, reason) SELECT user_id, 1000000, 'top_up' FROM student;
ANALYZE student, wallet, wallet_ledger;

-- Mostly near to the usual time, now and then several times as long.
CREATE FUNCTION about(usual float8) RETURNS float8 LANGUAGE sql VOLATILE
  RETURN usual * exp(1.2 * (random() + random() + random() + random() - 2));

-- A question: tokens are held for it. One in 25 is abandoned: nobody will settle it, and the worker
-- has to refund it. It lapses after 20 seconds, not after ten minutes as in life.
CREATE FUNCTION ask() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  who uuid := md5('student ' || 1 + floor(random() * 2000)::int)::uuid;
  tokens int := 5 + floor(random() * 115);
  reservation uuid;
BEGIN
  -- What the student types is searched for at once, mostly.
  IF random() < 0.6 THEN
    PERFORM bacmr_record_openai_request('text-embedding-3-small', 'embeddings',
      about(0.15 * (SELECT slowness FROM weather)), 12);
  END IF;
  IF random() < 0.002 THEN
    PERFORM bacmr_record_rate_limit_rejection(
      (ARRAY['user', 'ip'])[1 + (random() < 0.3)::int], (ARRAY['/ask', '/search'])[1 + (random() < 0.4)::int]);
    RETURN;
  END IF;
  UPDATE wallet SET token_balance = token_balance - tokens, updated_at = now()
  WHERE user_id = who AND token_balance >= tokens;
  IF NOT FOUND THEN RETURN; END IF;
  INSERT INTO reservations (user_id, amount, expires_at, request_id)
  VALUES (who, tokens, now() + interval '20 seconds', CASE WHEN random() < 0.04 THEN 'abandoned' END)
  RETURNING id INTO reservation;
  INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id) VALUES (who, -tokens, 'reservation', reservation);
  PERFORM bacmr_record_wallet_reservation('reserved');
END $$;

-- The answer to a question that has waited for two seconds: a search, and the model. What was not
-- used goes back; all of it where the student has left, or the breaker lets no call through.
CREATE FUNCTION answer() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  now_is weather := w FROM weather w;
  r reservations;
  settled text := 'finalized';
  unused bigint;
BEGIN
  SELECT * INTO r FROM reservations
  WHERE status = 'reserved' AND request_id IS NULL AND expires_at > now()
    AND created_at < now() - interval '2 seconds'
  ORDER BY expires_at, id LIMIT 1 FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN RETURN; END IF;
  PERFORM bacmr_record_pinecone_query('grade-12-math', about(0.06));
  IF now_is.breaker = 1 OR random() < 0.05 THEN
    settled := 'released';
    unused := r.amount;
  ELSE
    unused := floor(r.amount * random() * 0.6);
    PERFORM bacmr_record_openai_request('gpt-4o-mini', 'chat', about(1.4 * now_is.slowness), r.amount - unused);
  END IF;
  UPDATE reservations SET status = settled, updated_at = now() WHERE id = r.id;
  UPDATE wallet SET token_balance = token_balance + unused, updated_at = now() WHERE user_id = r.user_id;
  INSERT INTO wallet_ledger (user_id, delta, reason, reservation_id)
  VALUES (r.user_id, unused, 'reservation_' || settled, r.id);
  PERFORM bacmr_record_wallet_reservation(settled);
END $$;

-- A document comes in: cut, embedded, stored.
CREATE FUNCTION ingest() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  language text := (ARRAY['fr', 'ar'])[1 + (random() < 0.4)::int];
BEGIN
  IF random() < 0.06 THEN
    PERFORM bacmr_record_ingestion_job('failed', language, about(4));
    -- A mistake of the application's: a metric without its label.
    PERFORM bacmr_record_pinecone_upsert(NULL, 0, 0);
    RETURN;
  END IF;
  PERFORM bacmr_record_pinecone_upsert('grade-12-math', about(0.35), 20 + floor(random() * 80)::int);
  PERFORM bacmr_record_ingestion_job('ready', language, about(25));
END $$;
