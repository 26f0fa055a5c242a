"""Sessions by shard key over open clusters, and the opening of them. `sharding.sync.keyed` is the twin.

What is here has a twin for threads; `sharding.sessions` adds what asyncio alone has.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import MappingProxyType
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError
from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_random,
)

from readreplica.cluster import Cluster
from readreplica.concurrency import Event, Lock
from readreplica.errors import CommitInDoubt
from readreplica.freshness import ANY, Freshness
from readreplica.retry import UnitOfWork
from readreplica.sessions import ReadSession, WriteSession
from readreplica.token import CausalToken, Committed
from readreplica.transaction_status import TransactionStatus
from sharding.citus.distribute import coordinator_map
from sharding.engines import open_cluster, register_cluster_checks
from sharding.errors import BucketNotOwned, ShardingError
from sharding.map_watch import MapReader, watch_map
from sharding.shard_binding import ShardBinding
from sharding.shard_map import Routing, ShardMap, check_map, check_successor
from sharding.telemetry import Telemetry
from sharding.topology import Topology

log: structlog.stdlib.BoundLogger = structlog.get_logger("sharding")

T = TypeVar("T")
S = TypeVar("S", bound="KeyedSessions")


class KeyedSessions:
    """Sessions by shard key. Finding the shard is a hash and a look-up: no round trip."""

    def __init__(
        self,
        shard_map: ShardMap,
        clusters: Mapping[str, Cluster],
        *,
        directory: MapReader | None = None,
        map_wait_seconds: float = 2.0,
        verify_missing_rows: bool = True,
    ) -> None:
        """Route by a shard map over open clusters, which must have every shard of the map.

        Parameters:
            shard_map: the map to begin with.
            clusters: the shards, by name.
            directory: where newer maps are read; without it the map stays as it is.
            map_wait_seconds: how long a refused unit of work waits for the map that tells its new shard.
            verify_missing_rows: after an UPDATE that found no row, and after a DELETE, ask the shard whether it owns
                the keys: one round trip more, and for these alone. See docs/adr/021.
        """
        self.clusters: Mapping[str, Cluster] = MappingProxyType(dict(clusters))
        for cluster in self.clusters.values():
            register_cluster_checks(cluster)
        self.map_wanted = Event()
        """Set when a newer map is wanted at once; `watching_map` waits for it."""
        self._directory = directory
        self._map_wait_seconds = map_wait_seconds
        self._ask_absent = verify_missing_rows
        self._refused: ShardMap | None = None
        self._changing = Lock()
        self._telemetry = Telemetry.if_wanted(lambda: self.shard_map.version)
        self._routing = self._route_by(shard_map)

    @property
    def shard_map(self) -> ShardMap:
        """The map that is routed by now."""
        return self._routing.shard_map

    def use(self, shard_map: ShardMap) -> bool:
        """Route by another map from now on; sessions that have begun keep their shard.

        A map that cannot be right is refused, loudly, and the old one kept: an older version, another
        number of buckets, a shard that is unknown here.

        Returns:
            Whether it is routed by that map now.
        """
        with self._changing:
            now = self.shard_map
            if shard_map == now:
                return True
            try:
                check_successor(shard_map, now=now, shards=list(self.clusters))
            except ShardingError as fault:
                self._refuse(shard_map, str(fault))
                return False
            self._routing = self._route_by(shard_map)
        log.info("shard map taken", version=shard_map.version, before=now.version)
        return True

    def _refuse(self, shard_map: ShardMap, why: str) -> None:
        # Once for each map: it is read again every few seconds.
        if shard_map != self._refused:
            log.error(
                "shard map refused; going on with the one at hand", at_hand=self.shard_map.version, why=why
            )
        self._refused = shard_map

    async def refresh(self) -> ShardMap:
        """Read the map that is in force, and route by it.

        Returns:
            The map that is routed by now.

        Raises:
            ShardMapMissing, ShardMapInvalid: what is in the directory is no map.
            sqlalchemy.exc.DBAPIError: the directory cannot be reached.
        """
        if self._directory is not None:
            self.use(await self._directory.load_map())
        return self.shard_map

    def _route_by(self, shard_map: ShardMap) -> Routing[Cluster]:
        meter_of = self._telemetry.of if self._telemetry else lambda _shard: None
        return Routing.of(shard_map, self.clusters, meter_of=meter_of, refused=self.map_wanted.set)

    def read(
        self,
        key: int,
        *,
        after: CausalToken | None = None,
        freshness: Freshness = ANY,
        autocommit: bool = False,
    ) -> ReadSession:
        """Make a read session on the key's shard.

        Parameters:
            key: the order id, or another int8 shard key.
            after: what the read must have seen; without it any replica of the shard will do.
            freshness: a policy of `readreplica.freshness`; it holds together with `after`.
            autocommit: give up the one snapshot, for a cheaper read. See `Cluster.read`.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
            OtherShard: (a statement of the session) it names a key of another shard.
        """
        routing = self._routing
        route = routing.route_of(key)
        return route.cluster.read(
            after=after, freshness=freshness, autocommit=autocommit, hooks=ShardBinding(key, route, routing)
        )

    def write(self, key: int) -> WriteSession:
        """Make a write session on the key's shard; it commits when its `async with` ends well.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
            OtherShard: (a statement of the session) it names a key of another shard.
            BucketNotOwned: (a statement of the session) the shard has lost the key's bucket; the map is
                being read again, and the unit can be run again. `transact` does both.
        """
        routing = self._routing
        route = routing.route_of(key)
        return route.cluster.write(hooks=ShardBinding(key, route, routing, asks=self._ask_absent))

    async def transact(
        self, key: int, work: Callable[[WriteSession], Awaitable[T]], *, attempts: int = 5
    ) -> Committed[T]:
        """Do a unit of work on the key's shard, again if a concurrent transaction ended it.

        If the shard refuses because it has lost the key's bucket, the map is read again, and the unit is done
        once more on the shard that the newer map names. See `Cluster.transact`.

        Returns:
            What `work` returned, and the token with which a read sees it.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
            RetriesExhausted: every attempt ended in SQLSTATE 40001 or 40P01.
            OtherShard: it names a key of another shard.
            BucketNotOwned: refused again, or there is no newer map, or after the unit committed a part by
                itself.
        """
        unit = self._unit_of_work(key, work, attempts)
        try:
            return await unit.run()
        except BucketNotOwned as refusal:
            if not unit.may_repeat:
                raise  # it has committed by itself before
            before = self.shard_map.version
            await self.wait_for_map(refusal.map_version)
            log.info("unit of work refused, doing it again", shard=refusal.shard, map_version=before)
        return await self._unit_of_work(key, work, attempts).run()

    def _unit_of_work(
        self, key: int, work: Callable[[WriteSession], Awaitable[T]], attempts: int
    ) -> UnitOfWork[T]:
        routing = self._routing
        route = routing.route_of(key)
        hooks = ShardBinding(key, route, routing, asks=self._ask_absent)
        return route.cluster.unit_of_work(work, attempts=attempts, hooks=hooks)

    async def transact_read(
        self,
        key: int,
        work: Callable[[ReadSession], Awaitable[T]],
        *,
        after: CausalToken | None = None,
        freshness: Freshness = ANY,
        autocommit: bool = False,
        attempts: int = 3,
    ) -> T:
        """Do a unit of reading on the key's shard, again on another node of it if its node failed.

        See `Cluster.transact_read`.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
            OtherShard: it names a key of another shard.
        """
        routing = self._routing
        route = routing.route_of(key)
        return await route.cluster.transact_read(
            work,
            after=after,
            freshness=freshness,
            autocommit=autocommit,
            attempts=attempts,
            hooks=ShardBinding(key, route, routing),
        )

    async def resolve(
        self,
        in_doubt: CommitInDoubt,
        *,
        lookup: Callable[[ReadSession], Awaitable[bool]] | None = None,
        timeout_seconds: float = 30.0,
    ) -> TransactionStatus:
        """Find out what became of a COMMIT whose answer was lost, on the shard where it was sent.

        See `Cluster.resolve`.
        """
        cluster = self.clusters[in_doubt.cluster]
        return await cluster.resolve(in_doubt, lookup=lookup, timeout_seconds=timeout_seconds)

    async def wait_for_map(self, version: int) -> None:
        """Read the map until it is of a version or newer, for a moment at most.

        Whatever goes wrong with that is left alone: the refusal which made it necessary tells more. The last
        attempt may take as long as the directory may take to answer.

        A shard is told of a change before the directory is, so that no two shards ever own a bucket.
        """

        async def found() -> int:
            return (await self.refresh()).version

        retrying = AsyncRetrying(
            stop=stop_after_delay(self._map_wait_seconds),
            wait=wait_random(0.02, 0.1),
            retry=retry_if_result(lambda found: found < version)
            | retry_if_exception_type((SQLAlchemyError, ShardingError)),
        )
        with suppress(RetryError):
            await retrying(found)

    def shard_of(self, key: int) -> str:
        """Name the shard of a key.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
        """
        return self._routing.route_of(key).shard


@asynccontextmanager
async def open_keyed(
    kind: type[S],
    topology: Topology,
    *,
    tree: str | None,
    role: str | None,
    application_name: str,
    poll_seconds: float,
    verify_missing_rows: bool,
) -> AsyncIterator[S]:
    """Load the shard map and open a cluster for each shard; everything is closed at the end.

    Changes of the map are heard of while the block runs, and it goes on when the directory is away.

    Parameters:
        kind: the class of the sessions to be made.
        topology, tree, role, application_name, poll_seconds, verify_missing_rows: as for `open_sessions`.
    """
    name = topology.sharded_tree(tree)
    shards, section = topology.databases_of(name), topology.trees[name]
    user = role or section.role
    async with AsyncExitStack() as stack:

        async def opened(database: str) -> Cluster:
            return await stack.enter_async_context(
                open_cluster(topology, database, role=user, application_name=application_name)
            )

        if section.backend == "citus":
            # Citus finds the shard; the coordinator is asked for everything, and its map never changes.
            clusters = {shard: await opened(shard) for shard in shards}
            yield kind(coordinator_map(topology, name), clusters, verify_missing_rows=False)
            return
        place = topology.directory_of(name).name
        directory = MapReader((await opened(place)).primary, name)
        shard_map = await directory.load_map()
        check_map(shard_map, shards=list(shards), buckets=section.buckets)
        clusters = {shard: await opened(shard) for shard in shards}
        sessions = kind(shard_map, clusters, directory=directory, verify_missing_rows=verify_missing_rows)
        watch = watch_map(
            topology.url(place, role=user, direct=True),
            sessions.refresh,
            tree=name,
            wanted=sessions.map_wanted,
            poll_seconds=poll_seconds,
        )
        await stack.enter_async_context(watch)
        yield sessions
