"""From a topology to clusters with open engines."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from readreplica.cluster import Cluster
from readreplica.engines import reader_engine, writer_engine
from readreplica.options import ReplicaOptions
from sharding.topology import Topology


@asynccontextmanager
async def open_cluster(
    topology: Topology, database: str, *, role: str, application_name: str, direct: bool = False
) -> AsyncIterator[Cluster]:
    """Open a database of the topology as a cluster; nothing connects before the first session does.

    Parameters:
        topology: where everything is.
        database: the database's name in the topology.
        role: the PostgreSQL role that connects.
        application_name: what pg_stat_activity shows; the service of that name has its pool in the pooler.
        direct: past the pooler, to the servers themselves.

    Raises:
        UnknownDatabase: the topology has no such database.
    """
    cluster = _build(topology, database, role=role, application_name=application_name, direct=direct)
    try:
        yield cluster
    finally:
        await cluster.close()


def _build(topology: Topology, database: str, *, role: str, application_name: str, direct: bool) -> Cluster:
    pool: dict[str, Any] = {
        "pool_size": topology.pool.size,
        "max_overflow": topology.pool.max_overflow,
        "pool_timeout": topology.pool.timeout_seconds,
    }
    pooler = None if direct else topology.pgbouncer
    if pooler is not None and not pooler.keeps_prepared_statements:
        # The next transaction may have another server, which knows none of them.
        pool["prepare_threshold"] = None
    url = partial(topology.url, database, role=role, service=application_name, direct=direct)
    return Cluster(
        database,
        primary=writer_engine(url(), application_name=application_name, **pool),
        primary_reader=reader_engine(url(), application_name=application_name, **pool),
        replicas={
            replica.name: reader_engine(url(replica=replica.name), application_name=application_name, **pool)
            for replica in topology.database(database).replicas
        },
        options=ReplicaOptions(**topology.replicas.model_dump()),
    )
