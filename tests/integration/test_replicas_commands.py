"""`mesctl replicas` on a primary and a replica of the test's own, which the switch-over changes."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from ops.embedded.bootstrap import ensure_database
from readreplica.sessions import WriteSession
from tests.integration.mesctl_rig import Mesctl
from tests.integration.replicas_rig import INSERT, QUICK, cluster_at, make_table, paused_replay
from tests.servers import PostgresServers, run_postgres

TOPOLOGY = """
passfile = "{passfile}"
redis = {{ url = "redis://127.0.0.1:1/0" }}
files = {{ url = "file:///nowhere" }}
[databases.mes_0]
tree = "mes"
dbname = "mes_0"
primary = {{ host = "127.0.0.1", port = {primary} }}
replicas = [ {{ name = "mes_0_replica", host = "127.0.0.1", port = {replica} }} ]
[databases.directory]
tree = "directory"
dbname = "directory"
primary = {{ host = "127.0.0.1", port = {primary} }}
"""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[PostgresServers]:
    with run_postgres(tmp_path) as servers:
        with servers.primary.connect() as connection:
            ensure_database(connection, "mes_0", owner="mes_owner", services=["mes"])
        make_table(servers)
        yield servers


@pytest.fixture
def mesctl(servers: PostgresServers, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    path = tmp_path / "topology.toml"
    path.write_text(
        TOPOLOGY.format(passfile=servers.passfile, primary=servers.primary_port, replica=servers.replica_port)
    )
    return Mesctl(path, capsys)


async def put(session: WriteSession, *, n: int) -> None:
    await session.execute(INSERT, {"n": n})


def test_list_lag_watch_and_a_switch_over_under_writes(servers: PostgresServers, mesctl: Mesctl) -> None:
    found = {row["node"]: row for row in mesctl("replicas", "list", "--json").json}
    assert {node: row["role"] for node, row in found.items()} == {
        "primary": "primary",
        "mes_0_replica": "replica",
    }
    assert "mes_0_replica" in mesctl("replicas", "list").out

    [row] = mesctl("replicas", "lag", "mes_0", "--every-seconds", "0.1", "--json").json
    assert (row["lag_bytes"], row["state"]) == (0, "serves reads")
    assert 0 <= row["lag_seconds"] < 30
    with paused_replay(servers):
        with servers.primary.connect() as connection:
            connection.execute("INSERT INTO notes VALUES (0)")
        said = mesctl("replicas", "watch", "--count", "2", "--every-seconds", "0.05").out.splitlines()
        assert len(said) == 4
        assert "state='replay paused'" in said[-1]
        refused = mesctl("replicas", "switchover", "mes_0", "--to", "mes_0_replica")
        assert refused.status == 3
        assert "mes_0_replica is no replica in order: replay paused" in refused.err

    assert mesctl("replicas", "switchover", "mes_0", "--to", "nobody").status == 3
    servers.wait_for_replica()
    script = mesctl("replicas", "switchover", "mes_0", "--to", "mes_0_replica", "--dry-run")
    assert script.status == 0
    assert script.out.count("\\connect") == 2

    acknowledged = asyncio.run(write_during_a_switch_over(servers, mesctl))
    assert len(acknowledged) > 20
    with servers.replica.connect() as connection:
        there = {n for (n,) in connection.execute("SELECT n FROM notes")}
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
    assert set(acknowledged) <= there
    mesctl.capsys.readouterr()  # what the library has logged meanwhile
    rows = {row["node"]: row for row in mesctl("replicas", "list", "--json").json}
    assert (rows["mes_0_replica"]["role"], rows["primary"]["role"]) == ("primary", "rival")


async def write_during_a_switch_over(servers: PostgresServers, mesctl: Mesctl) -> list[int]:
    acknowledged: list[int] = []
    stop = asyncio.Event()

    async def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            await cluster.transact(partial(put, n=n))
            acknowledged.append(n)

    async with cluster_at(servers, options=replace(QUICK, failover_wait_seconds=60)) as cluster:
        writer = asyncio.create_task(write())
        done = await asyncio.to_thread(mesctl, "replicas", "switchover", "mes_0", "--to", "mes_0_replica")
        assert done.status == 0, done.err
        assert "mes_0_replica is the primary" in done.out
        so_far = len(acknowledged)
        async with asyncio.timeout(60):
            while len(acknowledged) < so_far + 20:
                await cluster.transact(lambda session: session.execute(text("SELECT 1")))
        stop.set()
        await writer
    return acknowledged
