# Generated from sharding/engines.py by `make sync`: change that file, not this one.
"""Opens the databases of a topology as clusters, whose connections check which shard they have reached."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege, UndefinedTable
from sqlalchemy import Engine

from readreplica.options import ReplicaOptions
from readreplica.sync.cluster import Cluster
from readreplica.sync.connections import Configure
from readreplica.sync.engines import reader_engine, writer_engine
from readreplica.sync.sessions import AnySession
from sharding.errors import ShardUnnamed, WrongShard
from sharding.shard_binding import register_checks
from sharding.topology import Topology

_TOPOLOGY = "sharding_topology"
_SHARD_NAME = "SELECT shard FROM public.shard_identity"

MakeEngine = Callable[..., Engine]


def expect_shard(shard: str, *, address: str) -> Configure:
    """Return the function that refuses a new connection to any other database than the shard's.

    Parameters:
        shard: the name that the database must have.
        address: where the connection leads, for the text of the error.

    Raises:
        WrongShard: (the function) the database is another shard's.
        ShardUnnamed: (the function) the database has no shard's name.
    """

    def configure(connection: Connection[Any]) -> None:
        try:
            row = (connection.execute(_SHARD_NAME)).fetchone()
        except (UndefinedTable, InsufficientPrivilege) as error:
            raise ShardUnnamed(expected=shard, address=address) from error
        if row is None:
            raise ShardUnnamed(expected=shard, address=address)
        if row[0] != shard:
            raise WrongShard(expected=shard, found=row[0], address=address)

    return configure


def propagate_set_local(configure: Configure) -> Configure:
    """Return a function that also lets the SET LOCAL of a new connection hold on the workers of Citus.

    By default, `SET LOCAL lock_timeout` holds on the coordinator only, and a row that is locked on a worker
    is waited for without end. With `citus.propagate_set_commands = 'local'` Citus sends it along: the whole
    text that the server was sent. So it is a setting of sessions that send one statement at a time, as ours
    do, and not of the database: `SET LOCAL ...; UPDATE ...` in one text would be sent to the workers as well,
    UPDATE and all. (Source: PostprocessVariableSetStmt in src/backend/distributed/commands/variableset.c of
    Citus is given the query string.)
    """

    def configure_and_set(connection: Connection[Any]) -> None:
        configure(connection)
        connection.execute("SET citus.propagate_set_commands = 'local'")

    return configure_and_set


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
        register_cluster_checks(cluster)
    try:
        yield cluster
    finally:
        cluster.close()


def register_cluster_checks(cluster: Cluster) -> None:
    """Have the engines of a shard check the statements of units, those too that discovery adds later."""
    cluster.on_engine(_register)


def _register(engine: Engine) -> None:
    register_checks(engine)


def _build(topology: Topology, database: str, *, role: str, application_name: str, direct: bool) -> Cluster:
    tree = topology.tree_of(database)
    is_shard = tree.kind == "sharded"
    pooler = None if direct else topology.pgbouncer
    prepares = pooler is None or pooler.keeps_prepared_statements

    def engine(make: MakeEngine, replica: str | None = None) -> Engine:
        url = topology.url(database, role=role, service=application_name, direct=direct, replica=replica)
        address = f"{url.host}:{url.port}/{url.database}"
        configure = expect_shard(database, address=address) if is_shard else None
        if configure and tree.backend == "citus" and pooler is None:
            configure = propagate_set_local(configure)
        return make(
            url,
            application_name=application_name,
            configure=configure,
            pool_size=topology.pool.size,
            max_overflow=topology.pool.max_overflow,
            pool_timeout=topology.pool.timeout_seconds,
            # Behind such a pooler the next transaction may have another server, which knows none of them.
            prepare_threshold=5 if prepares else None,
        )

    cluster = Cluster(
        database,
        primary=engine(writer_engine),
        primary_reader=engine(reader_engine),
        replicas={
            replica.name: engine(reader_engine, replica.name)
            for replica in topology.database(database).replicas
        },
        options=ReplicaOptions(**topology.replicas.model_dump()),
    )
    cluster.on_engine(partial(_note_topology, topology=topology))
    return cluster


def _note_topology(engine: Engine, *, topology: Topology) -> None:
    engine.update_execution_options(**{_TOPOLOGY: topology})


def topology_of(session: AnySession) -> Topology:
    """Return the topology by which a session's cluster was opened.

    Raises:
        LookupError: it was opened by none.
    """
    topology: Topology = session.get_bind().get_execution_options()[_TOPOLOGY]
    return topology
