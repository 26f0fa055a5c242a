SET LOCAL lock_timeout = '3s';

ALTER TABLE pricing_jobs DROP COLUMN expired_leases;
