SET LOCAL lock_timeout = '3s';

ALTER TABLE pricing_jobs DROP COLUMN traceparent, DROP COLUMN created_at;
