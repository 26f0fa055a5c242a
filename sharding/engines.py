"""From a topology to clusters with open engines."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from readreplica.cluster import Cluster
from readreplica.engines import reader_engine, writer_engine
from readreplica.options import ReplicaOptions
from sharding.topology import Topology


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
    pool: dict[str, Any] = {
        "pool_size": topology.pool.size,
        "max_overflow": topology.pool.max_overflow,
        "pool_timeout": topology.pool.timeout_seconds,
    }
    primary = topology.url(database, role=role)
    return Cluster(
        database,
        primary=writer_engine(primary, application_name=application_name, **pool),
        primary_reader=reader_engine(primary, application_name=application_name, **pool),
        replicas={
            replica.name: reader_engine(
                topology.url(database, role=role, replica=replica.name),
                application_name=application_name,
                **pool,
            )
            for replica in topology.database(database).replicas
        },
        options=ReplicaOptions(**topology.replicas.model_dump()),
    )
