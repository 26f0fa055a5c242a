"""Databases as an earlier release has left them, restored from its dump and brought to this one's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from app.console.audit.databases import OrderDatabases
from app.console.demo.census import take_census
from ops.embedded.servers import ensure_database
from ops.migrate import run
from ops.migrate.catalogue.differences import Drift
from ops.migrate.drift import find_drift
from ops.waiting import wait_until
from sharding.topology import Topology
from tests.platform_topology import write_topology
from tests.project import DATABASES, PROJECT
from tests.psql import psql
from tests.servers import PostgresServers, ValkeyServer

RELEASES = sorted((Path(__file__).parents[1] / "data").glob("databases-*"))
"""The dumps of each release: tests/data/README.md."""

_TABLES = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
"""


class Revisions(NamedTuple):
    """Where a database is, and where it should be."""

    current: str | None
    head: str | None


def upgrade_all(topology: Topology) -> None:
    """Bring every database to the newest schema, as `mesctl migrate upgrade` does."""
    for tree in PROJECT.trees.values():
        run.upgrade(topology, tree)


def read_revisions(topology: Topology) -> dict[str, Revisions]:
    """Read the revision of every database, beside the newest of its tree."""
    return {
        name: Revisions(current, run.head(tree))
        for tree in PROJECT.trees.values()
        for name, current in run.current(topology, tree).items()
    }


def read_drift(topology: Topology) -> dict[str, list[Drift] | str | None]:
    """Compare every database with what migrations from nothing make; a text says why one was not read."""
    return {
        found.database: found.uncompared or list(found.differences)
        for tree in PROJECT.trees.values()
        for found in find_drift(topology, tree)
    }


Counts = Mapping[str, Mapping[str, int]]
"""How many rows each table has, by database; a partitioned table has those of its partitions."""


@dataclass(frozen=True)
class Upgraded:
    """The databases of a release after the upgrade."""

    topology: Topology
    servers: PostgresServers
    before: Counts
    after: Counts

    def query(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        """Read from a database as the superuser."""
        return _query(self.servers, self.topology.database(name).dbname, statement)

    def query_shards(self, statement: str) -> list[tuple[Any, ...]]:
        """Read from every shard."""
        return [row for name in self.topology.databases_of("mes") for row in self.query(name, statement)]


@contextmanager
def restored(servers: PostgresServers, release: Path) -> Iterator[Mapping[str, str]]:
    """Restore the dumps of a release; give the databases' names. One that it had not is empty."""
    names = {shape.name: f"{release.name}_{shape.name}" for shape in DATABASES}
    try:
        with servers.primary.connect() as connection:
            for shape in DATABASES:
                ensure_database(connection, names[shape.name], owner=shape.owner, services=shape.services)
        for dump in release.glob("*.sql"):
            psql(servers.conninfo(names[dump.stem]), dump.read_text(encoding="utf-8"))
        yield names
    finally:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with servers.primary.connect() as connection:
            for name in names.values():
                connection.execute(drop.format(sql.Identifier(name)))


@contextmanager
def upgraded(
    servers: PostgresServers, valkey: ValkeyServer, release: Path, folder: Path
) -> Iterator[Upgraded]:
    """Restore the dumps of a release and bring them to the newest schema."""
    with restored(servers, release) as names:
        topology = Topology.load(write_topology(folder / "topology.toml", names, servers, valkey))
        before = {shape.name: _count_rows(servers, names[shape.name]) for shape in DATABASES}
        upgrade_all(topology)
        after = {shape.name: _count_rows(servers, names[shape.name]) for shape in DATABASES}
        servers.wait_for_replica()
        yield Upgraded(topology, servers, before, after)


def _count_rows(servers: PostgresServers, dbname: str) -> dict[str, int]:
    tables = [table for (table,) in _query(servers, dbname, _TABLES)]
    return {table: _query(servers, dbname, f"SELECT count(*) FROM {table}")[0][0] for table in tables}


def _query(servers: PostgresServers, dbname: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(servers.conninfo(dbname)) as connection:
        return connection.execute(statement.encode()).fetchall()


def wait_for_acknowledgements(topology: Topology) -> None:
    """Return when no service owes a message."""
    books = OrderDatabases(topology)
    if not wait_until(lambda: take_census(books).owed == 0, timeout_seconds=60):
        raise TimeoutError("messages are under way for more than 60 s")
