"""Every database of a topology, one after another: what a command does to one, it does to all."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from sharding.citus.reach import REACHING
from sharding.topology import Database, Topology


@contextmanager
def open_engine(topology: Topology, database: Database, *, role: str) -> Iterator[Engine]:
    """Open an engine on a database's primary; it keeps no connection between uses.

    Parameters:
        topology: where the databases are.
        database: one of them.
        role: the PostgreSQL role that connects.
    """
    url = topology.url(database, role=role, direct=True)
    words = {"application_name": "mesctl"}
    if database.is_coordinator:
        words["options"] = REACHING
    engine = create_engine(url, poolclass=NullPool, connect_args=words)
    try:
        yield engine
    finally:
        engine.dispose()


def connect_line(topology: Topology, database: Database, *, role: str) -> str:
    """Give psql's command that connects to a database, so that one script reaches several."""
    url = topology.url(database, role=role, direct=True)
    # Not the password, should the topology have one from the environment: psql asks for it.
    words = {key: value for key, value in url.query.items() if isinstance(value, str)}
    conninfo = make_conninfo(host=url.host, port=url.port, dbname=url.database, user=role, **words)
    quoted = conninfo.replace("\\", "\\\\").replace("'", "''")
    return f"\\connect '{quoted}'\n"
