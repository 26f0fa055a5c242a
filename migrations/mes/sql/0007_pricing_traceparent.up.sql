-- W3C's trace context of what has made the job; NULL of what code without traces has written. Work of much later than
-- `created_at` is no part of that trace. Jobs of before get the time of this change.
SET LOCAL lock_timeout = '3s';

ALTER TABLE pricing_jobs
    ADD COLUMN created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN traceparent text;
