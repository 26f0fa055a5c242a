"""From a key to a session on its shard: what a service team works with.

async with open_sessions(topology, role="mes", application_name="mes") as sessions:
    async with sessions.write(order_id) as session:
        ...
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import Any, TypeVar, TypeVarTuple, overload

from sqlalchemy import Select

from readreplica.cluster import Cluster
from readreplica.sessions import ReadSession, WriteSession
from readreplica.token import CausalToken
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.errors import InvalidShardKey, ShardMapInvalid, UnknownShard
from sharding.hashing import bucket_of
from sharding.scatter import KEY, AnySelect, Bounds, CursorKeys, Page, scatter
from sharding.shard_map import ShardMap
from sharding.topology import Topology

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
Ts = TypeVarTuple("Ts")
_INT8 = range(-(1 << 63), 1 << 63)


class ShardedSessions:
    """Sessions by shard key. Finding the shard is a hash and a look-up: no round trip."""

    def __init__(self, shard_map: ShardMap, clusters: Mapping[str, Cluster]) -> None:
        """Route by a shard map over open clusters, which must have every shard of the map."""
        self.shard_map = shard_map
        self.clusters: Mapping[str, Cluster] = MappingProxyType(dict(clusters))
        self._by_bucket = [clusters[owner] for owner in shard_map.owners]

    def read(self, key: int, *, after: CausalToken | None = None) -> ReadSession:
        """Make a read session on the key's shard.

        Parameters:
            key: the order id, or another int8 shard key.
            after: what the read must have seen; without it any replica of the shard will do.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
        """
        return self._cluster_of(key).read(after=after)

    def write(self, key: int) -> WriteSession:
        """Make a write session on the key's shard; it commits when its `async with` ends well.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
        """
        return self._cluster_of(key).write()

    async def transact(
        self, key: int, work: Callable[[WriteSession], Awaitable[T]], *, attempts: int = 5
    ) -> T:
        """Do a unit of work on the key's shard, again if a concurrent transaction ended it.

        See `Cluster.transact`.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
            RetriesExhausted: every attempt ended in SQLSTATE 40001 or 40P01.
        """
        return await self._cluster_of(key).transact(work, attempts=attempts)

    def shard_of(self, key: int) -> str:
        """Name the shard of a key.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
        """
        return self._cluster_of(key).name

    @overload
    async def scatter(
        self,
        statement: Select[T],
        *,
        limit: int,
        cursor: str | None = None,
        after: CausalToken | None = None,
        allow_missing: bool = False,
        key: str = KEY,
        keys: CursorKeys | None = None,
        bounds: Bounds | None = None,
    ) -> Page[T]: ...

    @overload
    async def scatter(
        self,
        statement: Select[T1, T2, *Ts],
        *,
        limit: int,
        cursor: str | None = None,
        after: CausalToken | None = None,
        allow_missing: bool = False,
        key: str = KEY,
        keys: CursorKeys | None = None,
        bounds: Bounds | None = None,
    ) -> Page[tuple[T1, T2, *Ts]]: ...

    async def scatter(
        self,
        statement: AnySelect,
        *,
        limit: int,
        cursor: str | None = None,
        after: CausalToken | None = None,
        allow_missing: bool = False,
        key: str = KEY,
        keys: CursorKeys | None = None,
        bounds: Bounds | None = None,
    ) -> Page[Any]:
        """Run a SELECT over all shards, and give a page of what one database with all rows would give.

        See `sharding.scatter.scatter` for the parameters and errors, docs/scatter.md for what the SELECT
        may hold. Without `keys`, cursors are good in this process only.
        """
        owners = {shard: self.clusters[shard] for shard in self.shard_map.shards}
        return await scatter(
            owners,
            statement,
            limit=limit,
            cursor=cursor,
            after=after,
            allow_missing=allow_missing,
            key=key,
            shard_of=self.shard_of,
            keys=keys,
            bounds=bounds,
        )

    def _cluster_of(self, key: int) -> Cluster:
        # Exactly int: True is an int to Python, and an order id that arrives as a bool is a mistake.
        if type(key) is not int or key not in _INT8:
            raise InvalidShardKey(key)
        return self._by_bucket[bucket_of(key, len(self._by_bucket))]


@asynccontextmanager
async def open_sessions(
    topology: Topology, *, role: str, application_name: str
) -> AsyncIterator[ShardedSessions]:
    """Load the shard map and open a cluster for each shard; everything is closed at the end.

    Nothing but the directory is connected to yet, so a shard that is down does not stop a service from
    starting.

    Parameters:
        topology: where everything is.
        role: the PostgreSQL role that connects, to the directory as well.
        application_name: what pg_stat_activity shows.

    Raises:
        ShardMapMissing: the directory has no shard map.
        ShardMapInvalid: it is no map, or its number of buckets is not the topology's.
        UnknownShard: the map names a shard that the topology lacks.
    """
    shard_map = await _load_map(topology, role=role, application_name=application_name)
    shards = topology.tree("mes")
    check_map(shard_map, shards=list(shards), buckets=topology.buckets)
    async with AsyncExitStack() as stack:
        clusters = {
            shard: await stack.enter_async_context(
                open_cluster(topology, shard, role=role, application_name=application_name)
            )
            for shard in shards
        }
        yield ShardedSessions(shard_map, clusters)


def check_map(shard_map: ShardMap, *, shards: list[str], buckets: int) -> None:
    """Refuse a shard map that does not fit the topology.

    Raises:
        ShardMapInvalid: its number of buckets is another.
        UnknownShard: it names a shard that is not among `shards`.
    """
    if shard_map.buckets != buckets:
        fault = f"it has {shard_map.buckets} buckets, but the topology says {buckets}: correct it there"
        raise ShardMapInvalid(shard_map.version, fault)
    for shard in shard_map.shards:
        if shard not in shards:
            raise UnknownShard(shard, map_version=shard_map.version, databases=shards)


async def _load_map(topology: Topology, *, role: str, application_name: str) -> ShardMap:
    name = next(iter(topology.tree("directory")), "directory")
    async with open_cluster(topology, name, role=role, application_name=application_name) as cluster:
        return await Directory(cluster.primary).load_map()
