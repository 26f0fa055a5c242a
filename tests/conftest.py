"""Fixtures: real servers for each worker, and for each test databases of its own."""

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

import pytest

from ops.pgbouncer.versions import find_program
from sharding.topology import Topology
from tests.platform_topology import cloned, migrate_templates, write_topology
from tests.pooler import MISSING, RunningPooler, required, run_pooler
from tests.reaper import reaping
from tests.servers import PostgresServers, ValkeyServer, run_postgres, run_valkey

_numbers = count(1)


@pytest.fixture(scope="session", autouse=True)
def reaper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave nothing running, even when this worker is killed."""
    with reaping(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServers]:
    """Run a primary and one streaming replica for this worker."""
    with run_postgres(tmp_path_factory.mktemp("postgres")) as servers:
        yield servers


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Run Valkey for this worker."""
    with run_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> ValkeyServer:
    """Give an empty Valkey."""
    valkey_server.flush()
    return valkey_server


@pytest.fixture(scope="session")
def templates(
    postgres: PostgresServers, valkey_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, str]:
    """Migrate one template of each database, for this worker; its tests clone them."""
    return migrate_templates(postgres, valkey_server, tmp_path_factory.mktemp("templates"))


@pytest.fixture
def topology_path(
    postgres: PostgresServers, valkey: ValkeyServer, templates: Mapping[str, str], tmp_path: Path
) -> Iterator[Path]:
    """Give the topology file of five migrated databases that are this test's own."""
    with cloned(postgres, templates, prefix=f"t{next(_numbers)}") as dbnames:
        yield write_topology(tmp_path / "topology.toml", dbnames, postgres, valkey)


@pytest.fixture
def topology(topology_path: Path) -> Topology:
    """Give a topology of five migrated databases that are this test's own; the MES shards have a replica."""
    return Topology.load(topology_path)


@pytest.fixture(scope="session")
def pgbouncer() -> Path:
    """Give PgBouncer's program, or skip and say how to get it."""
    program = find_program()
    if program is None:
        if required():
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return program


@pytest.fixture(scope="module")
def pooler(
    postgres: PostgresServers,
    valkey_server: ValkeyServer,
    templates: Mapping[str, str],
    pgbouncer: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningPooler]:
    """Give five migrated databases behind a PgBouncer, which the tests of one file share."""
    folder = tmp_path_factory.mktemp("pooler")
    with cloned(postgres, templates, prefix=f"p{next(_numbers)}") as dbnames:
        path = write_topology(folder / "topology.toml", dbnames, postgres, valkey_server)
        with run_pooler(path, folder / "pgbouncer", program=pgbouncer) as running:
            yield running
