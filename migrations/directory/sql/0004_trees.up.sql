-- Several sharded trees share a directory: maps, decisions and reference contents carry their tree, leases their
-- id space. Until now the one tree was `mes`, so the code that runs now goes on without naming it.
SET LOCAL lock_timeout = '3s';

ALTER TABLE shard_map_versions ADD COLUMN tree text NOT NULL DEFAULT 'mes';
ALTER TABLE node_leases ADD COLUMN id_space text NOT NULL DEFAULT 'default';
ALTER TABLE two_phase_decisions ADD COLUMN tree text NOT NULL DEFAULT 'mes';
ALTER TABLE reference_contents ADD COLUMN tree text NOT NULL DEFAULT 'mes';

-- The keys to come; the old ones still hold, for the code that runs now inserts by them.
CREATE UNIQUE INDEX shard_map_versions_tree_version_key ON shard_map_versions (tree, version);
CREATE UNIQUE INDEX node_leases_id_space_node_key ON node_leases (id_space, node);
CREATE UNIQUE INDEX reference_contents_tree_table_name_version_key
    ON reference_contents (tree, table_name, version);
