-- The directory: which shard owns which bucket, and who may make order ids with which node number.
SET LOCAL lock_timeout = '3s';

CREATE TABLE shard_map_versions (
    version    integer NOT NULL,
    owners     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (version)
);

CREATE TABLE node_leases (
    node       integer NOT NULL,
    holder     text NOT NULL,
    ceiling_ms bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (node)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON shard_map_versions, node_leases TO shop, crm, mes;
