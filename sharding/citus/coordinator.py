"""The coordinator: the one database of the MES tree when Citus keeps the shards. Pure."""

from sharding.guard import Ownership
from sharding.shard_map import ShardMap
from sharding.topology import Database, Topology


def coordinator_of(topology: Topology) -> Database:
    """Give the coordinator's database; a topology of this backend has exactly one (it is checked there)."""
    [database] = topology.tree("mes").values()
    return database


def whole_map(topology: Topology) -> ShardMap:
    """Make the shard map of a coordinator: every bucket is its own, for Citus itself places the rows."""
    return ShardMap(1, (coordinator_of(topology).name,) * topology.buckets)


def whole_ownership(topology: Topology) -> Ownership:
    """Tell a coordinator who it is: a shard that owns everything, whose guard has nothing to refuse."""
    return Ownership.of(whole_map(topology), coordinator_of(topology).name)
