-- The library grants every service its own two tables, and again when it is next brought up: without the board
-- they are as before.
SET LOCAL lock_timeout = '3s';

REVOKE SELECT ON identities, identity_keys, identities_version FROM board;
REVOKE UPDATE (last_used_at) ON identity_keys FROM board;
REVOKE ALL ON shard_map_versions, node_leases FROM board;
