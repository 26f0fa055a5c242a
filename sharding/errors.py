"""What can go wrong between a key and its shard. Each error names the object and the way out."""

from collections.abc import Iterable, Sequence
from pathlib import Path


class ShardingError(Exception):
    """Base of every error of this package."""


class TopologyError(ShardingError):
    """The topology file cannot be used; one line per fault."""

    def __init__(self, path: Path, faults: Sequence[str]) -> None:
        self.path = path
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{path.name}: {fault}" for fault in self.faults))


class UnknownDatabase(ShardingError):
    """The topology has no database (or replica) of this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(f"the topology has no {name!r}; it has {', '.join(self.known) or 'none'}")


class InvalidShardKey(ShardingError, TypeError):
    """A shard key is a whole number that fits PostgreSQL's int8, and nothing that only looks like one."""

    def __init__(self, key: object) -> None:
        self.key = key
        why = "is outside int8" if type(key) is int else f"is of type {type(key).__name__}"
        super().__init__(f"{key!r} is no shard key: it {why}; a key is an int from -2**63 to 2**63 - 1")


class ShardMapInvalid(ShardingError):
    """The owners do not make a shard map."""

    def __init__(self, version: int, fault: str) -> None:
        self.version = version
        self.fault = fault
        super().__init__(f"shard map version {version}: {fault}")


class ShardMapMissing(ShardingError):
    """The directory holds no shard map yet."""

    def __init__(self) -> None:
        super().__init__("the directory holds no shard map: save one with Directory.save_map")


class ShardMapConflict(ShardingError):
    """Somebody else changed the shard map first."""

    def __init__(self, *, expected_version: int, found_version: int) -> None:
        self.expected_version = expected_version
        self.found_version = found_version
        super().__init__(
            f"the shard map is at version {found_version}, not {expected_version}: "
            "load it again and repeat the change"
        )


class UnknownShard(ShardingError):
    """The shard map names a shard that the topology does not have."""

    def __init__(self, shard: str, *, map_version: int, databases: Iterable[str]) -> None:
        self.shard = shard
        self.map_version = map_version
        self.databases = tuple(databases)
        super().__init__(
            f"shard map version {map_version} names the shard {shard!r}, but the topology's databases of "
            f"that tree are {', '.join(self.databases) or 'none'}: add [databases.{shard}] to the topology"
        )


class NodeLeaseExpired(ShardingError):
    """The window of id time that this process may use is over, or its clock stands beyond it."""

    def __init__(self, *, node: int, now_ms: int, ceiling_ms: int) -> None:
        self.node = node
        self.now_ms = now_ms
        self.ceiling_ms = ceiling_ms
        super().__init__(
            f"no order id can be made: the lease of node {node} ends at {ceiling_ms} ms of id time and the "
            f"clock is at {now_ms} ms; it was not renewed (is the directory up?), or this clock is ahead"
        )


class NodesExhausted(ShardingError):
    """Every node number is leased."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        super().__init__(f"all {nodes} node numbers are leased: stop a process that makes order ids, or wait")
