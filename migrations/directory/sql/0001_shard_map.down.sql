SET LOCAL lock_timeout = '3s';

DROP TABLE shard_map_versions, node_leases;
