"""Every database of a topology, one after another: what a command does to one, it does to all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

import partitions
from app.models.policies import POLICIES
from partitions import Finding
from partitions.actions import Action
from partitions.catalog import Catalog
from sharding.topology import Database, Topology

Report = Callable[[Database, Action], None]


@contextmanager
def open_engine(topology: Topology, database: Database, *, role: str) -> Iterator[Engine]:
    """Open an engine on a database's primary; it keeps no connection between uses.

    Parameters:
        topology: where the databases are.
        database: one of them.
        role: the PostgreSQL role that connects.
    """
    url = topology.url(database, role=role)
    engine = create_engine(url, poolclass=NullPool, connect_args={"application_name": "mesctl"})
    try:
        yield engine
    finally:
        engine.dispose()


def owner_of(database: Database) -> str:
    """Name the role that owns a database: schema changes are made as it."""
    return f"{database.tree}_owner"


def connect_line(topology: Topology, database: Database, *, role: str) -> str:
    """Give psql's command that connects to a database, so that one script reaches several."""
    url = topology.url(database, role=role)
    # Not the password, should the topology have one from the environment: psql asks for it.
    words = {key: value for key, value in url.query.items() if isinstance(value, str)}
    conninfo = make_conninfo(host=url.host, port=url.port, dbname=url.database, user=role, **words)
    quoted = conninfo.replace("\\", "\\\\").replace("'", "''")
    return f"\\connect '{quoted}'\n"


def partitioned(topology: Topology) -> list[Database]:
    """List the databases whose tree has partitioned tables, in name order."""
    return [database for tree in POLICIES for database in topology.tree(tree).values()]


def plan_partitions(topology: Topology, *, now: datetime) -> list[tuple[Database, list[Action]]]:
    """List what `apply_partitions` would do, by database.

    Raises:
        PartitionError: a database is not what the policies expect.
    """
    return [
        (database, partitions.plan(POLICIES[database.tree], catalog, now))
        for database, catalog in read_catalogs(topology)
    ]


def check_partitions(topology: Topology, *, now: datetime) -> list[tuple[Database, list[Finding]]]:
    """List what differs from the policies, by database."""
    return [
        (database, partitions.check(POLICIES[database.tree], catalog, now))
        for database, catalog in read_catalogs(topology)
    ]


def read_catalogs(topology: Topology) -> Iterator[tuple[Database, Catalog]]:
    """Read the partitioned tables of one database after another."""
    for database in partitioned(topology):
        with (
            open_engine(topology, database, role=owner_of(database)) as engine,
            engine.connect() as connection,
        ):
            tables = [policy.table for policy in POLICIES[database.tree]]
            yield database, partitions.read_catalog(connection, tables)


def apply_partitions(topology: Topology, *, now: datetime, report: Report | None = None) -> int:
    """Make every database equal to its partition policies.

    Parameters:
        topology: where the databases are.
        now: the current instant, with a time zone.
        report: is told of each action that was done.

    Returns:
        how many actions were done; 0 when all stood already.

    Raises:
        PartitionError: a database refused an action; those before it stay done.
    """
    done = 0
    for database in partitioned(topology):
        with open_engine(topology, database, role=owner_of(database)) as engine:
            for action in partitions.apply(engine, POLICIES[database.tree], now):
                done += 1
                if report is not None:
                    report(database, action)
    return done
