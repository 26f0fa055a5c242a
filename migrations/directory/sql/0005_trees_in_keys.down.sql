-- Refused where a second tree or id space has rows: their keys are not unique without it.
SET LOCAL lock_timeout = '3s';

ALTER TABLE shard_map_versions
    DROP CONSTRAINT shard_map_versions_pkey,
    ADD CONSTRAINT shard_map_versions_pkey PRIMARY KEY (version),
    ALTER COLUMN tree SET DEFAULT 'mes';
ALTER TABLE node_leases
    DROP CONSTRAINT node_leases_pkey,
    ADD CONSTRAINT node_leases_pkey PRIMARY KEY (node);
ALTER TABLE two_phase_decisions ALTER COLUMN tree SET DEFAULT 'mes';
ALTER TABLE reference_contents
    DROP CONSTRAINT reference_contents_pkey,
    ADD CONSTRAINT reference_contents_pkey PRIMARY KEY (table_name, version),
    ALTER COLUMN tree SET DEFAULT 'mes';
CREATE UNIQUE INDEX shard_map_versions_tree_version_key ON shard_map_versions (tree, version);
CREATE UNIQUE INDEX node_leases_id_space_node_key ON node_leases (id_space, node);
CREATE UNIQUE INDEX reference_contents_tree_table_name_version_key
    ON reference_contents (tree, table_name, version);
