-- Who has changed what (docs/how-to/audit-log.md).
SET LOCAL lock_timeout = '3s';

CREATE TABLE audit_log (
    xid         bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
    line_no     bigint GENERATED ALWAYS AS IDENTITY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    action      text NOT NULL,
    order_id    bigint,
    caller      text NOT NULL,
    role        text NOT NULL,
    door        text,
    identity_id bigint,
    credential  text,
    address     text,
    trace_id    text,
    facts       jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (xid, line_no)
);
CREATE INDEX audit_log_order_id_idx ON audit_log (order_id);

CREATE TABLE audit_seals (
    seal_no      integer NOT NULL,
    from_xid     bigint NOT NULL,
    below_xid    bigint NOT NULL,
    line_nos     bigint[] NOT NULL,
    line_digests bytea NOT NULL,
    previous     bytea NOT NULL,
    digest       bytea NOT NULL,
    sealed_by    text NOT NULL,
    sealed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (seal_no)
);

-- To append is all that a service may; when and in which transaction a line was written, the server says.
GRANT SELECT ON audit_log, audit_seals TO crm;
GRANT INSERT (action, order_id, caller, role, door, identity_id, credential, address, trace_id, facts) ON audit_log TO crm;
GRANT INSERT ON audit_seals TO crm;
