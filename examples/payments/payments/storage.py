"""Opens the databases: sessions that find shard and replica, and ids for new payments."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from readreplica import follow_causality
from sharding import IdGenerator, ShardedSessions, Topology, open_ids, open_sessions


@dataclass(frozen=True)
class Storage:
    """What an endpoint works with."""

    sessions: ShardedSessions
    ids: IdGenerator


@asynccontextmanager
async def open_storage(topology: Topology) -> AsyncIterator[Storage]:
    """Open everything; it is closed at the end."""
    async with (
        open_sessions(topology, application_name="payments") as sessions,
        open_ids(topology) as ids,
    ):
        follow_causality(*sessions.clusters.values())
        yield Storage(sessions, ids)
