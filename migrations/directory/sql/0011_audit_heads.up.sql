-- The newest seal of each audit log, where who can write to that log cannot change it.
SET LOCAL lock_timeout = '3s';

CREATE TABLE audit_heads (
    database    text NOT NULL,
    seal_no     integer NOT NULL,
    digest      bytea NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (database, seal_no)
);

GRANT SELECT ON audit_heads TO shop, crm, mes;
GRANT INSERT (database, seal_no, digest) ON audit_heads TO shop, crm, mes;
