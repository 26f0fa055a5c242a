-- Of `attempts`, those that ended without a word: the worker has died, or could not reach the database.
SET LOCAL lock_timeout = '3s';

ALTER TABLE pricing_jobs ADD COLUMN expired_leases integer NOT NULL DEFAULT 0;
