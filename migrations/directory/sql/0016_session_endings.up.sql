-- Which sessions of staff have ended before their time (docs/how-to/identities.md). Whoever serves staff writes here, raises the
-- version that all services look at, and says so in the audit log.
SET LOCAL lock_timeout = '3s';

CREATE TABLE session_endings (
    issuer   text NOT NULL,
    jti      text NOT NULL,
    subject  text,
    sid      text,
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (issuer, jti)
);

GRANT SELECT ON session_endings TO shop, crm, mes, board;
GRANT INSERT (issuer, jti, subject, sid), DELETE ON session_endings TO crm, mes, board;
GRANT UPDATE (version) ON identities_version TO crm, mes, board;
GRANT INSERT (action, order_id, caller, role, door, identity_id, credential, address, trace_id, facts) ON audit_log TO crm, board;
