"""Fixtures: the two ways to the servers; several shards, one of them on a server that tests stop, freeze."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from psycopg import sql

from ops.embedded.servers import grant_monitor
from sharding.sessions import ShardedSessions, open_sessions
from sharding.topology import Topology
from tests.integration.replicas_rig import make_table
from tests.integration.shards_rig import guarded_sessions
from tests.integration.ways import PGBOUNCER, ways_of
from tests.integration.writes_rig import Wide, run_wide
from tests.needs import require
from tests.node_poolers import behind_poolers
from tests.pool import DatabasePool
from tests.pooler import run_pooler
from tests.project import DATABASES
from tests.servers import PostgresServers, ValkeyServer, run_postgres


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that takes a way on all of its ways."""
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", list(ways_of(metafunc.function.__name__)))


@pytest.fixture(scope="session")
def pooled_postgres(
    postgres: PostgresServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresServers]:
    """Give this worker's primary and replica, each behind a PgBouncer of its own."""
    folder = tmp_path_factory.mktemp("node_poolers")
    with behind_poolers(postgres, folder, program=require("pgbouncer")) as servers:
        yield servers


@pytest.fixture
def nodes(way: str, request: pytest.FixtureRequest) -> PostgresServers:
    """Give this worker's primary and replica, as this test's way leads to them."""
    found = request.getfixturevalue("pooled_postgres" if way == PGBOUNCER else "postgres")
    assert isinstance(found, PostgresServers)
    return found


@pytest.fixture
def servers(way: str, tmp_path: Path) -> Iterator[PostgresServers]:
    """Give a primary and a replica that the test may break, with an empty table `notes`."""
    with run_postgres(tmp_path) as made:
        make_table(made)
        if way != PGBOUNCER:
            yield made
            return
        with behind_poolers(made, tmp_path / "poolers", program=require("pgbouncer")) as servers:
            yield servers


@pytest.fixture
def routed(way: str, topology_path: Path, tmp_path: Path) -> Iterator[Topology]:
    """Give a topology of databases that are this test's own, with a pooler in it on that way."""
    if way != PGBOUNCER:
        yield Topology.load(topology_path)
        return
    with run_pooler(topology_path, tmp_path / "pgbouncer", program=require("pgbouncer")) as running:
        yield running.topology


@pytest.fixture
async def sessions(topology: Topology) -> AsyncIterator[ShardedSessions]:
    """Open sessions over two shards that own what `EVEN` gives them, and refuse the rest."""
    async with guarded_sessions(topology) as sessions:
        yield sessions


@pytest.fixture(scope="session")
def wide_servers(
    postgres: PostgresServers,
    valkey_server: ValkeyServer,
    databases: DatabasePool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Wide]:
    """Run three shards for this worker."""
    with run_wide(tmp_path_factory.mktemp("wide"), postgres, valkey_server, databases) as wide:
        yield wide


@pytest.fixture
def wide(wide_servers: Wide) -> Iterator[Wide]:
    """Give three empty shards."""
    wide_servers.clear()
    yield wide_servers
    wide_servers.end_prepared()  # every test of this worker would wait for them


@pytest.fixture
async def wide_sessions(wide: Wide) -> AsyncIterator[ShardedSessions]:
    """Open sessions over three empty shards."""
    async with open_sessions(wide.topology, role="mes", application_name="test") as sessions:
        yield sessions


@pytest.fixture(scope="module")
def stats_rights(postgres: PostgresServers) -> Iterator[None]:
    """Let the owners see the sessions of other roles, as on a platform of `mesctl up`."""
    owners = sorted({shape.owner for shape in DATABASES})
    with postgres.primary.connect() as connection:
        for owner in owners:
            grant_monitor(connection, owner)
        yield
        for owner in owners:
            connection.execute(sql.SQL("REVOKE pg_monitor FROM {}").format(sql.Identifier(owner)))
