SET LOCAL lock_timeout = '3s';

ALTER TABLE outbox RESET (fillfactor);
