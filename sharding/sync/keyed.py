# Generated from sharding/keyed.py by `make sync`: change that file, not this one.
"""Sessions by shard key over open clusters, and the opening of them.

`sharding.sync.keyed` is generated from this module; `sharding.sessions` adds what asyncio alone has.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import MappingProxyType
from typing import Self, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_random,
)

from readreplica.errors import CommitInDoubt
from readreplica.freshness import ANY, Freshness
from readreplica.sync.cluster import Cluster
from readreplica.sync.concurrency import Event, Lock
from readreplica.sync.retry import UnitOfWork
from readreplica.sync.sessions import ReadSession, WriteSession
from readreplica.token import CausalToken, Committed
from readreplica.transaction_status import TransactionStatus
from sharding.errors import BucketNotOwned, ShardingError
from sharding.shard_binding import ShardBinding
from sharding.shard_map import Routing, ShardMap, check_map, check_successor
from sharding.sync.engines import open_cluster, register_cluster_checks
from sharding.sync.map_watch import MapReader, watch_map
from sharding.telemetry import Telemetry
from sharding.topology import Topology

log = logging.getLogger("sharding")

T = TypeVar("T")


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
            directory: where newer maps are loaded; without it the map stays as it is.
            map_wait_seconds: how long a refused unit of work waits for the map that has its new shard.
            verify_missing_rows: after an UPDATE that found no row, and after a DELETE, have the shard check
                that it owns the keys: one round trip more, and for these alone. See docs/adr/021.
        """
        self.clusters: Mapping[str, Cluster] = MappingProxyType(dict(clusters))
        for cluster in self.clusters.values():
            register_cluster_checks(cluster)
        self.map_wanted = Event()
        """Set when a newer map is wanted at once; `watch_map` waits for it."""
        self._directory = directory
        self._map_wait_seconds = map_wait_seconds
        self._verify_missing_rows = verify_missing_rows
        self._refused: ShardMap | None = None
        self._changing = Lock()
        self._telemetry = Telemetry.if_wanted(lambda: self.shard_map.version)
        self._routing = self._route_by(shard_map)

    @classmethod
    @contextmanager
    def open(
        cls,
        topology: Topology,
        *,
        tree: str | None = None,
        role: str | None = None,
        application_name: str,
        poll_seconds: float = 5.0,
        verify_missing_rows: bool = True,
    ) -> Iterator[Self]:
        """Load the shard map and open a cluster for each shard; everything is closed at the end.

        Newer maps are loaded while the block runs, and it goes on when the directory cannot be reached. With
        `backend = "citus"` there is no map to load: every key is the coordinator's.

        Nothing but the directory is connected to yet, so a shard that is down does not stop a service from
        starting.

        Parameters:
            topology: where everything is.
            tree: the sharded tree; without it, the only one.
            role: the PostgreSQL role that connects, to the directory as well; without it, the tree's.
            application_name: what pg_stat_activity shows.
            poll_seconds: how often the map is loaded without a notification.
            verify_missing_rows: after an UPDATE that found no row, and after a DELETE, have the shard check
                that it owns the keys (docs/explanation/sharding.md).

        Raises:
            TreeUnclear: no tree was named, and there is none, or several.
            UnknownTree: the topology has no such sharded tree.
            ShardMapMissing: the directory has no shard map of the tree.
            ShardMapInvalid: it is no map, or its number of buckets is not the topology's.
            UnknownShard: the map names a shard that the topology lacks.
        """
        name = topology.sharded_tree(tree)
        shards, section = topology.databases_of(name), topology.trees[name]
        user = role or section.role
        with ExitStack() as stack:

            def opened(database: str) -> Cluster:
                return stack.enter_context(
                    open_cluster(topology, database, role=user, application_name=application_name)
                )

            if section.backend == "citus":
                # Citus finds the shard; every statement goes to the coordinator, whose map never changes.
                clusters = {shard: opened(shard) for shard in shards}
                yield cls(ShardMap.even(list(shards), section.buckets), clusters, verify_missing_rows=False)
                return
            place = topology.directory_of(name).name
            directory = MapReader((opened(place)).primary, name)
            shard_map = directory.load_map()
            check_map(shard_map, shards=list(shards), buckets=section.buckets)
            clusters = {shard: opened(shard) for shard in shards}
            sessions = cls(shard_map, clusters, directory=directory, verify_missing_rows=verify_missing_rows)
            watch = watch_map(
                topology.url(place, role=user, direct=True),
                sessions.refresh,
                tree=name,
                wanted=sessions.map_wanted,
                poll_seconds=poll_seconds,
            )
            stack.enter_context(watch)
            yield sessions

    @property
    def shard_map(self) -> ShardMap:
        """The map by which keys are routed."""
        return self._routing.shard_map

    def use(self, shard_map: ShardMap) -> bool:
        """Route by another map from now on; sessions that have begun keep their shard.

        A map that cannot be right is refused, with an error in the log, and the old one kept: one of an older
        version, with another number of buckets, or with an unknown shard.

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
        log.info("shard map taken", extra={"version": shard_map.version, "before": now.version})
        return True

    def _refuse(self, shard_map: ShardMap, why: str) -> None:
        # Once for each map: it is read again every few seconds.
        if shard_map != self._refused:
            log.error(
                "shard map refused; going on with the one at hand",
                extra={"at_hand": self.shard_map.version, "why": why},
            )
        self._refused = shard_map

    def refresh(self) -> ShardMap:
        """Load the map that is in force, and route by it.

        Returns:
            The map that is routed by now.

        Raises:
            ShardMapMissing, ShardMapInvalid: what is in the directory is no map.
            sqlalchemy.exc.DBAPIError: the directory cannot be reached.
        """
        if self._directory is not None:
            self.use(self._directory.load_map())
        return self.shard_map

    def _bind(self, key: int, *, verifies: bool = False) -> ShardBinding[Cluster]:
        routing = self._routing
        return ShardBinding(key, routing.route_of(key), routing, verifies=verifies)

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
        """Return a read session on the key's shard.

        Parameters:
            key: the order id, or another int8 shard key.
            after: the token that the read must see; without it any replica of the shard will do.
            freshness: a policy of `readreplica.freshness`; it holds together with `after`.
            autocommit: no one snapshot for the session, for a cheaper read. See `Cluster.read`.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
            OtherShard: (a statement of the session) it names a key of another shard.
        """
        binding = self._bind(key)
        return binding.route.cluster.read(
            after=after, freshness=freshness, autocommit=autocommit, hooks=binding
        )

    def write(self, key: int) -> WriteSession:
        """Return a write session on the key's shard; it commits when its `with` ends well.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
            OtherShard: (a statement of the session) it names a key of another shard.
            BucketNotOwned: (a statement of the session) the shard has lost the key's bucket; the map is
                being loaded again, and the unit can be run again. `transact` does both.
        """
        binding = self._bind(key, verifies=self._verify_missing_rows)
        return binding.route.cluster.write(hooks=binding)

    def transact(self, key: int, work: Callable[[WriteSession], T], *, attempts: int = 5) -> Committed[T]:
        """Run a unit of work on the key's shard, again if a concurrent transaction ended it.

        If the shard refuses because it has lost the key's bucket, the map is loaded again, and the unit is
        run once more on the shard that the newer map names. See `Cluster.transact`.

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
            return unit.run()
        except BucketNotOwned as refusal:
            if not unit.may_repeat:
                raise  # it has committed by itself before
            before = self.shard_map.version
            self.wait_for_map(refusal.map_version)
            log.info(
                "unit of work refused, doing it again", extra={"shard": refusal.shard, "map_version": before}
            )
        return self._unit_of_work(key, work, attempts).run()

    def _unit_of_work(self, key: int, work: Callable[[WriteSession], T], attempts: int) -> UnitOfWork[T]:
        binding = self._bind(key, verifies=self._verify_missing_rows)
        return binding.route.cluster.unit_of_work(work, attempts=attempts, hooks=binding)

    def transact_read(
        self,
        key: int,
        work: Callable[[ReadSession], T],
        *,
        after: CausalToken | None = None,
        freshness: Freshness = ANY,
        autocommit: bool = False,
        attempts: int = 3,
    ) -> T:
        """Run a unit of reading on the key's shard, again on another node of it if its node failed.

        See `Cluster.transact_read`.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
            OtherShard: it names a key of another shard.
        """
        binding = self._bind(key)
        return binding.route.cluster.transact_read(
            work,
            after=after,
            freshness=freshness,
            autocommit=autocommit,
            attempts=attempts,
            hooks=binding,
        )

    def resolve(
        self,
        in_doubt: CommitInDoubt,
        *,
        lookup: Callable[[ReadSession], bool] | None = None,
        timeout_seconds: float = 30.0,
    ) -> TransactionStatus:
        """Find the status of a transaction in doubt, on the shard where its COMMIT was sent.

        See `Cluster.resolve`.
        """
        cluster = self.clusters[in_doubt.cluster]
        return cluster.resolve(in_doubt, lookup=lookup, timeout_seconds=timeout_seconds)

    def wait_for_map(self, version: int) -> None:
        """Load the map until it is of a version or newer, for a moment at most.

        Errors of that are suppressed: the refusal that made it necessary says more. The last attempt may take
        as long as the directory may take to answer.

        A change reaches the shard before the directory, so that no two shards ever own a bucket.
        """

        def found() -> int:
            return (self.refresh()).version

        retrying = Retrying(
            stop=stop_after_delay(self._map_wait_seconds),
            wait=wait_random(0.02, 0.1),
            retry=retry_if_result(lambda found: found < version)
            | retry_if_exception_type((SQLAlchemyError, ShardingError)),
        )
        with suppress(RetryError):
            retrying(found)

    def shard_of(self, key: int) -> str:
        """Return the name of the shard of a key.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
        """
        return self._routing.route_of(key).shard
