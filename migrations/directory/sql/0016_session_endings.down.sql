SET LOCAL lock_timeout = '3s';

REVOKE INSERT (action, order_id, caller, role, door, identity_id, credential, address, trace_id, facts) ON audit_log FROM crm, board;
REVOKE UPDATE (version) ON identities_version FROM crm, mes, board;
DROP TABLE session_endings;
