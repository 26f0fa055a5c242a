# Generated from sharding/engines.py by `make sync`: change that file, not this one.
"""From a topology to clusters with open engines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from readreplica.options import ReplicaOptions
from readreplica.sync.cluster import Cluster
from readreplica.sync.engines import reader_engine, writer_engine
from sharding.shard_binding import register_checks
from sharding.topology import Topology

MakeEngine = Callable[..., Engine]


@contextmanager
def open_cluster(
    topology: Topology, database: str, *, role: str, application_name: str, direct: bool = False
) -> Iterator[Cluster]:
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
    if topology.database(database).is_shard:
        # Without sessions over it, too: its refusals have a name.
        watch_cluster(cluster)
    try:
        yield cluster
    finally:
        cluster.close()


def watch_cluster(cluster: Cluster) -> None:
    """Have the engines of a shard check the statements of units, those too that discovery adds later."""
    cluster.on_engine(_watch)


def _watch(engine: Engine) -> None:
    register_checks(engine)


def _build(topology: Topology, database: str, *, role: str, application_name: str, direct: bool) -> Cluster:
    tree = topology.tree_of(database)
    is_shard = tree.kind == "sharded"
    pooler = None if direct else topology.pgbouncer
    prepares = pooler is None or pooler.keeps_prepared_statements

    def engine(make: MakeEngine, replica: str | None = None) -> Engine:
        url = topology.url(database, role=role, service=application_name, direct=direct, replica=replica)
        address = f"{url.host}:{url.port}/{url.database}"
        greet = expect_shard(database, address=address) if is_shard else None
        if greet and tree.backend == "citus" and pooler is None:
            greet = reaching_workers(greet)
        return make(
            url,
            application_name=application_name,
            configure=greet,
            pool_size=topology.pool.size,
            max_overflow=topology.pool.max_overflow,
            pool_timeout=topology.pool.timeout_seconds,
            # Behind such a pooler the next transaction may have another server, which knows none of them.
            prepare_threshold=5 if prepares else None,
        )

    return Cluster(
        database,
        primary=engine(writer_engine),
        primary_reader=engine(reader_engine),
        replicas={
            replica.name: engine(reader_engine, replica.name)
            for replica in topology.database(database).replicas
        },
        options=ReplicaOptions(**topology.replicas.model_dump()),
    )
