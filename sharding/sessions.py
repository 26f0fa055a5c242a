"""From a key to a session on its shard: what a service team works with.

async with open_sessions(topology, role="mes", application_name="mes") as sessions:
    async with sessions.write(order_id) as session:
        ...
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple, overload

from sqlalchemy import Select

from readreplica.freshness import ANY, Freshness
from readreplica.token import CausalToken
from sharding.keyed import KeyedSessions, open_keyed
from sharding.scatter import KEY, AnySelect, Bounds, CursorKeys, Page, scatter
from sharding.topology import Topology

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
        freshness: Freshness = ANY,
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
        freshness: Freshness = ANY,
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
            freshness=freshness,
            allow_missing=allow_missing,
            key=key,
            shard_of=self.shard_of,
            keys=keys,
            bounds=bounds,
        )


@asynccontextmanager
async def open_sessions(
    topology: Topology, *, role: str, application_name: str, poll_seconds: float = 5.0
) -> AsyncIterator[ShardedSessions]:
    """Load the shard map and open a cluster for each shard; everything is closed at the end.

    Changes of the map are heard of while the block runs, and it goes on when the directory is away.

    With `backend = "citus"` there is no map to load: every key is the coordinator's.

    Nothing but the directory is connected to yet, so a shard that is down does not stop a service from
    starting.

    Parameters:
        topology: where everything is.
        role: the PostgreSQL role that connects, to the directory as well.
        application_name: what pg_stat_activity shows.
        poll_seconds: how long to trust that no notification of a new map was lost.

    Raises:
        ShardMapMissing: the directory has no shard map.
        ShardMapInvalid: it is no map, or its number of buckets is not the topology's.
        UnknownShard: the map names a shard that the topology lacks.
    """
    async with open_keyed(
        ShardedSessions,
        topology,
        role=role,
        application_name=application_name,
        poll_seconds=poll_seconds,
    ) as sessions:
        yield sessions
