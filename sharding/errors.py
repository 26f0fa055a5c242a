"""The errors of this package. Each names the object and the way out."""

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


class UnknownTree(ShardingError):
    """The topology has no tree of this name and kind."""

    def __init__(self, name: str, known: Iterable[str], *, kind: str = "") -> None:
        self.name = name
        self.known = tuple(known)
        trees = f"{kind} tree".strip()
        super().__init__(f"the topology has no {trees} {name!r}; it has {', '.join(self.known) or 'none'}")


class TreeUnclear(ShardingError):
    """A tree must be named, because there is not exactly one that could be meant."""

    def __init__(self, known: Iterable[str], *, kind: str) -> None:
        self.known = tuple(known)
        self.kind = kind
        fault = (
            f"has the {kind} trees {', '.join(self.known)}: name one" if self.known else f"has no {kind} tree"
        )
        super().__init__(f"the topology {fault}")


class DirectoryMissing(ShardingError):
    """A tree has no directory, and one is needed."""

    def __init__(self, tree: str) -> None:
        self.tree = tree
        super().__init__(
            f"the tree {tree!r} has no directory, which keeps the shard map, the node leases and the ledger: "
            'add [trees.directory] with kind = "directory", and a database with tree = "directory"'
        )


class SectionMissing(TopologyError):
    """The topology file lacks a table that the application needs."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        super().__init__(path, [f"{name}: missing table; add [{name}]"])


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
    """The directory holds no shard map of a tree yet."""

    def __init__(self, tree: str) -> None:
        self.tree = tree
        super().__init__(
            f"the directory holds no shard map of the tree {tree}: save one with Directory.save_map"
        )


class ShardMapConflict(ShardingError):
    """The shard map was changed meanwhile."""

    def __init__(self, *, expected_version: int, found_version: int) -> None:
        self.expected_version = expected_version
        self.found_version = found_version
        super().__init__(
            f"the shard map is at version {found_version}, not {expected_version}: "
            "load it again and repeat the change"
        )


class ShardMapNotConfirmed(ShardingError):
    """The directory was lost, or did not answer in time, while a map was saved; the cause is chained."""

    def __init__(self, version: int, *, seconds: float) -> None:
        self.version = version
        self.seconds = seconds
        super().__init__(
            f"the directory did not confirm shard map version {version} within {seconds:g} s, so that it may "
            "be in force or not: load the map to see. To save it again does no harm: it is refused if it is"
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
            f"no id can be made: the lease of node {node} ends at {ceiling_ms} ms of id time and the "
            f"clock is at {now_ms} ms; it was not renewed (is the directory up?), or this clock is ahead"
        )


class NodesExhausted(ShardingError):
    """Every node number is leased."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        super().__init__(f"all {nodes} node numbers are leased: stop a process that makes ids, or wait")


class BucketNotOwned(ShardingError):
    """A shard refused a row of a bucket that it does not own (any more); nothing was committed."""

    def __init__(self, *, shard: str, key: int, bucket: int, map_version: int) -> None:
        self.shard = shard
        self.key = key
        self.bucket = bucket
        self.map_version = map_version
        super().__init__(
            f"shard {shard} refused key {key}: by map version {map_version} it does not own bucket {bucket}; "
            "nothing was committed, so run the unit of work again (`sessions.transact` does)"
        )


class WrongShard(ShardingError):
    """The address of a shard leads to another shard's database."""

    def __init__(self, *, expected: str, found: str, address: str) -> None:
        self.expected = expected
        self.found = found
        self.address = address
        super().__init__(
            f"{address} is the database of shard {found}, not of {expected}: "
            f"correct [databases.{expected}] in the topology"
        )


class ShardUnnamed(ShardingError):
    """The database at the address of a shard has no record of which shard it is."""

    def __init__(self, *, expected: str, address: str) -> None:
        self.expected = expected
        self.address = address
        super().__init__(
            f"{address} should be shard {expected}, but its shard_identity has no row: give the shard its "
            "name and its buckets (`sharding.ownership.set_ownership`)"
        )


class OwnershipConflict(ShardingError):
    """A shard has the ownership of a newer map than the one that is to be set."""

    def __init__(self, shard: str, *, found_version: int, version: int) -> None:
        self.shard = shard
        self.found_version = found_version
        self.version = version
        super().__init__(
            f"shard {shard} knows map version {found_version} already; version {version} is older: "
            "load the map again"
        )


class OwnershipNotChanged(ShardingError):
    """The lock against writers was not had in time, at any attempt. Nothing was changed."""

    def __init__(self, shard: str, *, attempts: int, reason: str) -> None:
        self.shard = shard
        self.attempts = attempts
        self.reason = reason
        super().__init__(
            f"what shard {shard} owns was not changed: its tables were not had for writing in {attempts} "
            f"attempts ({reason}); end the long transactions (pg_stat_activity), then repeat"
        )


class OtherShard(ShardingError):
    """A unit of work on one shard touched a key of another one."""

    def __init__(self, *, key: int, shard: str, other_key: int, other_shard: str, table: str) -> None:
        self.key = key
        self.shard = shard
        self.other_key = other_key
        self.other_shard = other_shard
        self.table = table
        super().__init__(
            f"this unit of work was begun for key {key} and stays on shard {shard}, but {table} {other_key} "
            f"is on shard {other_shard}: use a second session for it, `sessions.read({other_key})` or "
            "`sessions.write`, or `sessions.scatter` to read over all shards"
        )


class ScatterRefused(ShardingError):
    """A SELECT cannot be answered exactly from the shards' answers."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the SELECT cannot run over all shards: {reason}")


class ShardFailed(ShardingError):
    """A shard could not do its part of a call; the cause is chained."""

    def __init__(self, shard: str, fault: object) -> None:
        self.shard = shard
        super().__init__(f"shard {shard} failed: {fault}")


class ValueUnreadable(ShardFailed):
    """The page holds a value that PostgreSQL has and Python has not, such as infinity in a date.

    One database gives such a page no more than several do.
    """

    def __init__(self, shard: str, cause: object) -> None:
        super().__init__(shard, f"Python has no such value, so cast it to Text: {cause}")


class ShardTimedOut(ShardFailed):
    """A shard, or the directory, did not answer in time: its query was cancelled, or its connection shut."""

    def __init__(self, shard: str, *, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        super().__init__(shard, f"it did not answer within {timeout_seconds:g} s")


class TooManyGroups(ShardingError):
    """A shard has more groups than a caller may hold in memory."""

    def __init__(self, shard: str, *, groups: int) -> None:
        self.shard = shard
        self.groups = groups
        super().__init__(
            f"shard {shard} has more than {groups} groups: narrow the SELECT by WHERE, group by the shard "
            "key as well, or raise Bounds.groups"
        )


class CursorMalformed(ShardingError, ValueError):
    """The page cursor is not one that `scatter` has handed out: forged, cut, or signed by a key now gone."""

    def __init__(self, cursor: str) -> None:
        self.cursor = cursor
        super().__init__(f"{cursor[:40]!r} is no page cursor: use next_cursor of the page before, or none")


class CursorOfAnotherQuery(CursorMalformed):
    """The page cursor is genuine, but of another SELECT, of other parameters, or of another order."""

    def __init__(self, cursor: str) -> None:
        super().__init__(cursor)
        self.args = (
            f"the page cursor {cursor[:40]!r} belongs to another query, other parameters or another order: "
            "begin again without a cursor",
        )


class CitusError(ShardingError):
    """Base of every error about Citus."""


class CitusRefused(CitusError):
    """Nothing was changed, because a check refused it."""


class NotOnCitus(CitusRefused):
    """The topology's backend is plain PostgreSQL."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        super().__init__(f'the tree\'s backend is {backend!r}, and this needs `backend = "citus"`')


class CitusMissing(CitusRefused):
    """The extension is not in the database that should be the coordinator."""

    def __init__(self, database: str, extension: str = "citus") -> None:
        self.database = database
        self.extension = extension
        super().__init__(
            f"{database}: the extension {extension} is not in this database: a superuser says "
            f"`CREATE EXTENSION {extension}` on the coordinator and on every worker (docs/how-to/citus.md)"
        )


class DistributionConflict(CitusRefused):
    """A table is distributed in another way than is declared."""

    def __init__(self, table: str, *, found: str, declared: str) -> None:
        self.table = table
        self.found = found
        self.declared = declared
        super().__init__(
            f"{table} is {found}, and should be {declared}: `SELECT undistribute_table('{table}')` on the "
            "coordinator copies its rows back"
        )


class UnknownNode(CitusRefused):
    """There is no such node."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(known)
        super().__init__(f"Citus has no node {name!r}; it has {', '.join(self.known) or 'none'}")


class UnknownPlacement(CitusRefused):
    """There is no such shard, or no shard for a key."""

    def __init__(self, what: str, *, fix: str) -> None:
        self.what = what
        super().__init__(f"Citus has no {what}: {fix}")


class MoveRefused(CitusRefused):
    """A shard, or a node's shards, cannot be moved like this."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what} is not moved: {reason}")


class ColumnarRefused(CitusRefused):
    """A month cannot be stored by column (or by row) now."""

    def __init__(self, partition: str, reason: str) -> None:
        self.partition = partition
        self.reason = reason
        super().__init__(f"{partition} stays as it is: {reason}")


class AdministratorNeeded(CitusRefused):
    """Citus lets only a superuser do this."""

    def __init__(self, what: str, *, role: str) -> None:
        self.what = what
        self.role = role
        super().__init__(f"Citus lets only a superuser {what}, and {role} is none: connect as one")


class RebalanceFailed(CitusError):
    """A background move of Citus ended badly; what had been moved before stays moved."""

    def __init__(self, state: str, messages: Iterable[str]) -> None:
        self.state = state
        self.messages = tuple(messages)
        said = "; ".join(self.messages) or "see citus_rebalance_status() on the coordinator"
        super().__init__(f"the rebalance ended as {state!r}: {said}")
