"""The library through PgBouncer in transaction mode: one pooler in front of each server."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ops.embedded.ports import LOOPBACK, PortPicker, is_free, start_on_free_port
from ops.embedded.postgres import SUPERUSER
from ops.embedded.processes import Daemon, wait_until
from ops.embedded.unprivileged import launch_prefix
from readreplica.cluster import PRIMARY, Cluster
from readreplica.engines import reader_engine, writer_engine
from readreplica.freshness import PRIMARY as ON_PRIMARY
from tests.integration.replicas_rig import COUNT, HAS, QUICK, check_own_writes, insert, make_table, url_of
from tests.needs import require
from tests.servers import PostgresServers

INI = """
[databases]
postgres = host={host} port={server_port} dbname=postgres
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = transaction
default_pool_size = 3
logfile = {log}
"""
ISOLATION = text("SELECT current_setting('transaction_isolation')")


@dataclass(frozen=True)
class Poolers:
    """Where the poolers of the primary and of the replica listen."""

    primary: int
    replica: int


@contextmanager
def pooler(folder: Path, servers: PostgresServers, server_port: int) -> Iterator[int]:
    program = require("pgbouncer")
    folder.mkdir(mode=0o755)
    users = folder / "users.txt"
    users.write_text(f'"{SUPERUSER}" "{servers.passwords[SUPERUSER]}"\n')
    daemon = Daemon("pgbouncer", pidfile=folder / "pid", log=folder / "stdout")

    def start(port: int) -> None:
        words = {"host": LOOPBACK, "server_port": server_port, "port": port, "users": users}
        (folder / "ini").write_text(INI.format(**words, log=folder / "log"))
        daemon.launch([*launch_prefix(program), str(program), str(folder / "ini")])
        assert wait_until(lambda: not is_free(port), timeout_seconds=20)

    try:
        yield start_on_free_port(PortPicker(random.Random()), start)
    finally:
        daemon.stop()


@pytest.fixture
def poolers(postgres: PostgresServers, tmp_path: Path) -> Iterator[Poolers]:
    make_table(postgres)
    with ExitStack() as stack:
        yield Poolers(
            stack.enter_context(pooler(tmp_path / "a", postgres, postgres.primary_port)),
            stack.enter_context(pooler(tmp_path / "b", postgres, postgres.replica_port)),
        )


@pytest.fixture
async def cluster(poolers: Poolers, postgres: PostgresServers) -> AsyncIterator[Cluster]:
    words = {"application_name": "test", "prepare_threshold": None}
    url = url_of(postgres, poolers.primary)
    cluster = Cluster(
        "main",
        primary=writer_engine(url, **words),  # type: ignore[arg-type]
        primary_reader=reader_engine(url, **words),  # type: ignore[arg-type]
        replicas={"replica": reader_engine(url.set(port=poolers.replica), **words)},  # type: ignore[arg-type]
        options=QUICK,
    )
    try:
        yield cluster
    finally:
        await cluster.close()


async def test_own_writes_are_read_through_the_pooler(cluster: Cluster) -> None:
    checks = (check_own_writes(cluster, units=range(user, 40, 8), reads=5) for user in range(8))
    assert sum(await asyncio.gather(*checks)) == 0
    async with cluster.read(after=await insert(cluster, 1000)) as session:
        assert (await session.execute(HAS, {"n": 1000})).scalar_one() == 1
        assert session.node == "replica"


@pytest.mark.parametrize("autocommit", [False, True])
async def test_readers_cannot_write_and_do_not_spoil_the_pool_for_writers(
    cluster: Cluster, autocommit: bool
) -> None:
    for freshness in (ON_PRIMARY, ON_PRIMARY, ON_PRIMARY):
        async with cluster.read(freshness=freshness, autocommit=autocommit) as session:
            # The pooler drops the option, so nobody vouches for read only but BEGIN itself.
            assert (await session.execute(ISOLATION)).scalar_one() == "repeatable read"
            with pytest.raises(DBAPIError, match="read-only transaction"):
                await session.execute(text("DELETE FROM notes"))
        assert session.node == PRIMARY
    for n in range(5):
        await insert(cluster, n)
    async with cluster.write() as writer:
        assert (await writer.execute(COUNT)).scalar_one() == 5
