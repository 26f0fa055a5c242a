"""Sessions on the shard of a key, pages out of all shards, writes over several, and ids for new rows.

async with open_sessions(topology, application_name="orders") as sessions:
    async with sessions.write(order_id) as session:
        ...
"""

import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple, Unpack, overload

from sqlalchemy import Select, Table

from readreplica.freshness import ANY, Freshness
from readreplica.token import CausalToken
from sharding.directory import Directory, open_id_generator
from sharding.engines import open_cluster
from sharding.ids import IdGenerator
from sharding.keyed import KeyedSessions
from sharding.scatter import AnySelect, Bounds, CursorKeys, Page, scatter
from sharding.topology import Topology
from sharding.writes.bulk import BulkOptions, Rows, bulk
from sharding.writes.errors import UnitRefused
from sharding.writes.prepared import Decisions
from sharding.writes.rows import BulkReport
from sharding.writes.two_phase import TwoPhaseUnit, two_phase

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
Ts = TypeVarTuple("Ts")


class ShardedSessions(KeyedSessions):
    """Sessions by shard key, and pages out of all shards."""

    @overload
    async def scatter(
        self,
        statement: Select[T],
        *,
        limit: int,
        cursor: str | None = None,
        after: CausalToken | None = None,
        freshness: Freshness = ANY,
        allow_missing: bool = False,
        key: str | None = None,
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
        freshness: Freshness = ANY,
        allow_missing: bool = False,
        key: str | None = None,
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
        freshness: Freshness = ANY,
        allow_missing: bool = False,
        key: str | None = None,
        keys: CursorKeys | None = None,
        bounds: Bounds | None = None,
    ) -> Page[Any]:
        """Run a SELECT over all shards, and return a page of what one database with all rows would return.

        See `sharding.scatter.scatter` for parameters and errors, and docs/explanation/scatter.md for what it
        may hold. Without `keys`, cursors are valid in this process only.
        """
        owners = {shard: self.clusters[shard] for shard in self.shard_map.shards}
        return await scatter(
            owners,
            statement,
            limit=limit,
            cursor=cursor,
            after=after,
            freshness=freshness,
            allow_missing=allow_missing,
            key=key,
            shard_of=self.shard_of,
            keys=keys,
            bounds=bounds,
        )

    async def bulk(self, entity: type[Any] | Table, rows: Rows, **options: Unpack[BulkOptions]) -> BulkReport:
        """Insert or update rows on the shards of their keys.

        A chunk that a shard refuses, because it has lost a bucket, is cut anew by the newer map and written
        once more; the others are not touched. See `sharding.writes.bulk` for the options and errors,
        docs/explanation/writes-over-shards.md for what is written when something fails.
        """
        return await bulk(self, entity, rows, refresh=self.wait_for_map, **options)

    @asynccontextmanager
    async def two_phase(
        self, keys: Iterable[int], *, decisions: Decisions, label: str
    ) -> AsyncIterator[TwoPhaseUnit]:
        """Open a unit of work on the shards of some keys, all or nothing; see `sharding.writes.two_phase`.

        Raises:
            UnitRefused: a shard has lost a bucket that the unit writes. Nothing was written, and the newer
                map is at hand: run the unit again.
        """
        try:
            async with two_phase(self, keys, decisions=decisions, label=label) as unit:
                yield unit
        except UnitRefused as refusal:
            await self.wait_for_map(refusal.map_version)
            raise


open_sessions = ShardedSessions.open
"""`ShardedSessions.open`: what most services begin with."""


@asynccontextmanager
async def open_ids(topology: Topology, *, tree: str | None = None) -> AsyncIterator[IdGenerator]:
    """Lease a node number from the directory of a tree, and make ids with it until the block ends.

    The lease shows the tree's role with this host and process. See `open_id_generator`.

    Parameters:
        topology: where the directory is.
        tree: whose rows get the ids; without it, the only sharded tree.

    Raises:
        TreeUnclear: no tree was named, and there is no sharded one, or several.
        UnknownTree: the topology has no such tree.
        DirectoryMissing: the tree has no directory.
        NodesExhausted: every node number is held.
    """
    name = tree or topology.sharded_tree()
    place, section = topology.directory_of(name).name, topology.trees[name]
    holder = f"{section.role}@{socket.gethostname()}:{os.getpid()}"
    async with (
        open_cluster(topology, place, role=section.role, application_name=f"{section.role}-ids") as cluster,
        open_id_generator(Directory(cluster.primary, name, id_space=section.id_space), holder=holder) as ids,
    ):
        yield ids
