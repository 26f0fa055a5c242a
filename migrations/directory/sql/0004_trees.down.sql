SET LOCAL lock_timeout = '3s';

ALTER TABLE shard_map_versions DROP COLUMN tree;
ALTER TABLE node_leases DROP COLUMN id_space;
ALTER TABLE two_phase_decisions DROP COLUMN tree;
ALTER TABLE reference_contents DROP COLUMN tree;
