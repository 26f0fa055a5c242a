-- The keys carry the tree and the id space, and nothing may leave out its tree any more.
SET LOCAL lock_timeout = '3s';

ALTER TABLE shard_map_versions
    DROP CONSTRAINT shard_map_versions_pkey,
    ADD CONSTRAINT shard_map_versions_pkey PRIMARY KEY USING INDEX shard_map_versions_tree_version_key,
    ALTER COLUMN tree DROP DEFAULT;
ALTER TABLE node_leases
    DROP CONSTRAINT node_leases_pkey,
    ADD CONSTRAINT node_leases_pkey PRIMARY KEY USING INDEX node_leases_id_space_node_key;
ALTER TABLE two_phase_decisions ALTER COLUMN tree DROP DEFAULT;
ALTER TABLE reference_contents
    DROP CONSTRAINT reference_contents_pkey,
    ADD CONSTRAINT reference_contents_pkey
        PRIMARY KEY USING INDEX reference_contents_tree_table_name_version_key,
    ALTER COLUMN tree DROP DEFAULT;
