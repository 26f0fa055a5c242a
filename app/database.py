"""The composition root: from a topology to the databases that a process works with."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.instruments import watch_pool
from readreplica.cluster import Cluster
from readreplica.context import follow_causality
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.sessions import ShardedSessions, open_sessions
from sharding.topology import Topology

RESOLVE_SECONDS = 3.0
"""How long a unit asks what became of a COMMIT whose answer was lost. Its client waits meanwhile."""

T = TypeVar("T")
Work = Callable[[WriteSession], Awaitable[T]]
"""A unit of work: all that one transaction does. It may be run again, so it decides afresh each time."""


@dataclass(frozen=True, kw_only=True)
class DatabaseTimeouts:
    """How long a request may wait for a database."""

    statement_seconds: float
    """For one statement. The server ends it; behind a pooler, which passes no options on, the role's own
    `statement_timeout` does."""

    queue_seconds: float
    """For a free connection of the pool."""


@asynccontextmanager
async def open_database(
    topology: Topology, name: str, *, timeouts: DatabaseTimeouts
) -> AsyncIterator[Cluster]:
    """Open the database of the Shop or the CRM; the role has the service's name."""
    limited = _with_timeouts(topology, timeouts)
    async with open_cluster(limited, name, role=name, application_name=name) as cluster:
        _prepare(cluster, topology, timeouts)
        yield cluster


@asynccontextmanager
async def open_shards(
    topology: Topology, *, application_name: str, timeouts: DatabaseTimeouts | None = None
) -> AsyncIterator[ShardedSessions]:
    """Open the MES shards, for the MES itself, the pricing worker and the archive job.

    Parameters:
        topology: where they are.
        application_name: what pg_stat_activity shows.
        timeouts: how long to wait for a shard; as long as the topology says, without it.
    """
    limited = _with_timeouts(topology, timeouts) if timeouts is not None else topology
    async with open_sessions(limited, tree="mes", application_name=application_name) as sessions:
        for cluster in sessions.clusters.values():
            _prepare(cluster, topology, timeouts)
        yield sessions


@asynccontextmanager
async def open_directory(
    topology: Topology, *, application_name: str, role: str = "mes", timeouts: DatabaseTimeouts | None = None
) -> AsyncIterator[Cluster]:
    """Open the directory of the MES, with the role of a service."""
    name = topology.directory_of("mes").name
    limited = _with_timeouts(topology, timeouts) if timeouts is not None else topology
    async with open_cluster(limited, name, role=role, application_name=application_name) as cluster:
        _limit(cluster, topology, timeouts)
        yield cluster


def _with_timeouts(topology: Topology, timeouts: DatabaseTimeouts) -> Topology:
    pool = topology.pool.model_copy(update={"timeout_seconds": timeouts.queue_seconds})
    return topology.model_copy(update={"pool": pool})


def _prepare(cluster: Cluster, topology: Topology, timeouts: DatabaseTimeouts | None) -> None:
    follow_causality(cluster)
    cluster.on_engine(partial(_watch_pool, database=cluster.name))
    cluster.resolve_commits(within_seconds=RESOLVE_SECONDS)
    _limit(cluster, topology, timeouts)


def _limit(cluster: Cluster, topology: Topology, timeouts: DatabaseTimeouts | None) -> None:
    if timeouts is not None and topology.pgbouncer is None:
        cluster.on_engine(partial(_limit_statements, seconds=timeouts.statement_seconds))


def _watch_pool(engine: AsyncEngine, *, database: str) -> None:
    watch_pool(engine.sync_engine, database=database)


def _limit_statements(engine: AsyncEngine, *, seconds: float) -> None:
    def limit(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        limit = f"-c statement_timeout={round(seconds * 1000)}"
        options["options"] = f"{options.get('options', '')} {limit}".strip()

    event.listen(engine.sync_engine, "do_connect", limit)
