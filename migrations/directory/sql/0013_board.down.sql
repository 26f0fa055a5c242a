SET LOCAL lock_timeout = '3s';

REVOKE SELECT ON identities, identity_keys, identities_version FROM board;
REVOKE UPDATE (last_used_at) ON identity_keys FROM board;
