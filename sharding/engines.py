"""From a topology to clusters with open engines."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.cluster import Cluster
from readreplica.engines import reader_engine, writer_engine
from sharding.identity import expect_shard
from sharding.topology import Endpoint, Topology
from sharding.units import watch_units

MakeEngine = Callable[..., AsyncEngine]


@asynccontextmanager
async def open_cluster(
    topology: Topology, database: str, *, role: str, application_name: str
) -> AsyncIterator[Cluster]:
    """Open a database of the topology as a cluster; nothing connects before the first session does.

    Parameters:
        topology: where everything is.
        database: the database's name in the topology.
        role: the PostgreSQL role that connects.
        application_name: what pg_stat_activity shows.

    Raises:
        UnknownDatabase: the topology has no such database.
    """
    cluster = _build(topology, database, role=role, application_name=application_name)
    try:
        yield cluster
    finally:
        await cluster.close()


def _build(topology: Topology, database: str, *, role: str, application_name: str) -> Cluster:
    found = topology.database(database)
    is_shard = found.tree == "mes"

    def engine(make: MakeEngine, endpoint: Endpoint, url: URL) -> AsyncEngine:
        address = f"{endpoint.host}:{endpoint.port}/{found.dbname}"
        made = make(
            url,
            application_name=application_name,
            greet=expect_shard(database, address=address) if is_shard else None,
            pool_size=topology.pool.size,
            max_overflow=topology.pool.max_overflow,
            pool_timeout=topology.pool.timeout_seconds,
        )
        if is_shard:
            watch_units(made.sync_engine)
        return made

    primary = topology.url(database, role=role)
    return Cluster(
        database,
        primary=engine(writer_engine, found.primary, primary),
        primary_reader=engine(reader_engine, found.primary, primary),
        replicas={
            replica.name: engine(
                reader_engine, replica, topology.url(database, role=role, replica=replica.name)
            )
            for replica in found.replicas
        },
    )
