-- W3C's trace context. NULL of what code without traces has written, or was written outside of a trace.
SET LOCAL lock_timeout = '3s';

ALTER TABLE outbox ADD COLUMN traceparent text;
