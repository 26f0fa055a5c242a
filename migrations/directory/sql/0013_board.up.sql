-- The board lets its callers in as the services do.
SET LOCAL lock_timeout = '3s';

GRANT SELECT ON identities, identity_keys, identities_version TO board;
GRANT UPDATE (last_used_at) ON identity_keys TO board;
