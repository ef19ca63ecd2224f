SELECT w.user_id, w.token_balance AS current_balance, COALESCE(SUM(wl.delta), 0) AS ledger_sum,
       w.token_balance - COALESCE(SUM(wl.delta), 0) AS discrepancy
FROM wallet w LEFT JOIN wallet_ledger wl ON w.user_id = wl.user_id
GROUP BY w.user_id, w.token_balance
HAVING w.token_balance != COALESCE(SUM(wl.delta), 0);
