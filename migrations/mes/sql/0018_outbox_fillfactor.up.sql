SET LOCAL lock_timeout = '3s';

-- Each message is sent once as a rule, and that is one more version of its row.
ALTER TABLE outbox SET (fillfactor = 50);
