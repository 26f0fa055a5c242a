SET LOCAL lock_timeout = '3s';

ALTER TABLE pricing_jobs DROP COLUMN sender, DROP COLUMN position;
