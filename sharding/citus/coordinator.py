"""The coordinator: the one database of a sharded tree when Citus keeps its shards. Pure."""

from sharding.ownership import Ownership
from sharding.shard_map import ShardMap
from sharding.topology import Database, Topology


def coordinator_of(topology: Topology, tree: str) -> Database:
    """Return the coordinator's database; a tree of this backend has exactly one (the topology checks it)."""
    [database] = topology.databases_of(tree).values()
    return database


def whole_map(topology: Topology, tree: str) -> ShardMap:
    """Make the shard map of a coordinator: every bucket is its own, for Citus itself places the rows."""
    return ShardMap(1, (topology.coordinator_of(tree).name,) * topology.trees[tree].buckets)


def whole_ownership(topology: Topology, tree: str) -> Ownership:
    """Tell a coordinator who it is: a shard that owns everything, whose guard has nothing to refuse."""
    return Ownership.of(whole_map(topology, tree), topology.coordinator_of(tree).name)
