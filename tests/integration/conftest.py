"""Fixtures of several shards, one of them in a server that tests stop and freeze."""

from collections.abc import AsyncIterator, Iterator

import pytest

from sharding.sessions import ShardedSessions, open_sessions
from sharding.topology import Topology
from tests.integration.shards_rig import guarded_sessions
from tests.integration.writes_rig import Wide, run_wide
from tests.pool import DatabasePool
from tests.servers import PostgresServers, ValkeyServer


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
