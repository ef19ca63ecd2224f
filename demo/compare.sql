-- What was planted against what run :run_id found, row by row, both ways.
CREATE TEMPORARY VIEW found AS
SELECT kind, user_id, discrepancy, detail->>'reservation_id' AS reservation_id
FROM bacmr_discrepancy WHERE run_id = :run_id;

CREATE TEMPORARY VIEW planted AS
SELECT kind, user_id, discrepancy, reservation_id FROM demo_planted;

CREATE TEMPORARY VIEW missed AS TABLE planted EXCEPT ALL TABLE found;
CREATE TEMPORARY VIEW unexpected AS TABLE found EXCEPT ALL TABLE planted;

SELECT kind, (SELECT count(*) FROM planted p WHERE p.kind = k.kind) AS planted,
       (SELECT count(*) FROM found f WHERE f.kind = k.kind) AS found,
       (SELECT count(*) FROM missed m WHERE m.kind = k.kind) AS missed,
       (SELECT count(*) FROM unexpected u WHERE u.kind = k.kind) AS "false alarms"
FROM (SELECT kind FROM planted UNION SELECT kind FROM found) k ORDER BY kind;

DO $$
BEGIN
  IF (SELECT count(DISTINCT kind) FROM planted) <> 9 THEN
    RAISE 'not every kind of fault was planted';
  END IF;
  IF EXISTS (TABLE missed) OR EXISTS (TABLE unexpected) THEN
    RAISE 'what was found is not what was planted'
      USING DETAIL = (SELECT string_agg(line, E'\n') FROM (
        SELECT 'missed: ' || to_jsonb(m) AS line FROM missed m
        UNION ALL SELECT 'unexpected: ' || to_jsonb(u) FROM unexpected u) lines);
  END IF;
END $$;
