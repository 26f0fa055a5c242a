SET LOCAL lock_timeout = '3s';

DROP TABLE audit_seals, audit_log;
