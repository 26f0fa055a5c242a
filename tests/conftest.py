"""Fixtures: real servers for each worker, and for each test databases of its own."""

import fcntl
import gc
import os
import sys
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings
from structlog.dev import ConsoleRenderer, plain_traceback

from ops.__main__ import GARBAGE_AFTER
from sharding.topology import Topology
from tests.memory import roomy_memory
from tests.needs import require, skip_place
from tests.order import spread
from tests.platform_topology import migrate_templates, write_topology
from tests.pool import DatabasePool
from tests.pooler import RunningPooler, run_pooler
from tests.reaper import reaping
from tests.servers import PostgresServers, ValkeyServer, run_postgres, run_valkey
from tests.warm_mesctl import start_warm_mesctl

# How long an example takes says how busy the machine is, and nothing about what is proved.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

ONE_IN = "MES_STORAGE_ONE_TEST_IN"


def pytest_configure() -> None:
    """Have folders in memory, unless somebody has said where, bytecode kept, and tracebacks plain."""
    # As in the Makefile. To compile everything again costs 2 s of CPU with each start of a service.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Rich would colour the source around each frame of an exception: a few per cent of the CPU.
    plain = ConsoleRenderer(colors=False, exception_formatter=plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])
    if folder := roomy_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report each test that lacks a program at one place, so that pytest counts them on one line."""
    report = yield
    report.longrepr = skip_place(report.longrepr)
    return report


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of every later search for garbage: a tenth of the CPU.

    And search as seldom as `mesctl` does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER, *gc.get_threshold()[1:])


@pytest.hookimpl(trylast=True)  # behind `-m` and `-k`: xdist cuts what these have left
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have every worker begin with some of what takes long; the files stay as they are among each other.

    `MES_STORAGE_ONE_TEST_IN=3` leaves every third test, the same ones each time.
    """
    one_in = int(os.environ.get(ONE_IN, "1"))
    items[:] = [item for item in items if zlib.crc32(item.nodeid.encode()) % one_in == 0]
    long = [(str(item.path), item) for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    items[:] = spread(long, others, workers=int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the timeout: who waits for his turn is not late
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let two workers at once start whole platforms: of four, none would start or answer in time."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not (worker and item.get_closest_marker("long") and "acceptance" in item.path.parts):
        return (yield)
    # Any two files that all workers see.
    folder = Path(__file__).parent
    turn = ("conftest.py", "order.py")[int(worker.removeprefix("gw")) % 2]
    with (folder / turn).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        return (yield)


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
def warm_mesctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a `mesctl` that starts in a tenth of the time, with `alembic` beside it, for this worker."""
    with start_warm_mesctl(tmp_path_factory.mktemp("mesctl")) as program:
        yield program


@pytest.fixture(scope="session")
def templates(
    postgres: PostgresServers, valkey_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, str]:
    """Migrate one template of each database, for this worker; its tests clone them."""
    return migrate_templates(postgres, valkey_server, tmp_path_factory.mktemp("templates"))


@pytest.fixture(scope="session")
def databases(postgres: PostgresServers, templates: Mapping[str, str]) -> Iterator[DatabasePool]:
    """Keep migrated databases, which tests borrow and give back, for this worker."""
    with closing(DatabasePool(postgres, templates)) as pool:
        yield pool


@pytest.fixture
def topology_path(
    postgres: PostgresServers, valkey: ValkeyServer, databases: DatabasePool, tmp_path: Path
) -> Iterator[Path]:
    """Give the topology file of five migrated databases that are this test's own."""
    with databases.borrow() as dbnames:
        yield write_topology(tmp_path / "topology.toml", dbnames, postgres, valkey)


@pytest.fixture
def topology(topology_path: Path) -> Topology:
    """Give a topology of five migrated databases that are this test's own; the MES shards have a replica."""
    return Topology.load(topology_path)


@pytest.fixture(scope="module")
def module_topology(
    postgres: PostgresServers,
    valkey_server: ValkeyServer,
    databases: DatabasePool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Topology]:
    """Give a topology that all tests of a module share; they leave it as they found it, or do not mind."""
    folder = tmp_path_factory.mktemp("module")
    with databases.borrow() as dbnames:
        yield Topology.load(write_topology(folder / "topology.toml", dbnames, postgres, valkey_server))


@pytest.fixture(scope="session")
def pgbouncer() -> Path:
    """Give PgBouncer's program."""
    return require("pgbouncer")


@pytest.fixture(scope="module")
def pooler(module_topology: Topology, pgbouncer: Path) -> Iterator[RunningPooler]:
    """Give five migrated databases behind a PgBouncer, which the tests of one file share."""
    path = module_topology.path
    with run_pooler(path, path.parent / "pgbouncer", program=pgbouncer) as running:
        yield running
