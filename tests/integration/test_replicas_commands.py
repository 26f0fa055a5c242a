"""`mesctl replicas` on a primary and a replica of the test's own, which the switch-over changes."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest
from sqlalchemy import text

from ops.embedded.pgpass import ensure_passwords
from ops.embedded.servers import ensure_database, ensure_role
from ops.replicas.switchover import (
    SwitchoverGivenUp,
    SwitchoverUnfinished,
    connect_node,
    plan_switchover,
    switch_over,
)
from ops.waiting import wait_until
from readreplica.sessions import WriteSession
from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.integration.replicas_rig import INSERT, QUICK, cluster_at, make_table, paused_replay
from tests.psql import psql
from tests.servers import PostgresServers, run_postgres

TOPOLOGY = """
passfile = "{passfile}"
[trees.books]
kind = "single"
[databases.ledger]
tree = "books"
dbname = "ledger"
primary = {{ host = "127.0.0.1", port = {primary} }}
replicas = [ {{ name = "ledger_replica", host = "127.0.0.1", port = {replica} }} ]
"""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[PostgresServers]:
    with run_postgres(tmp_path) as servers:
        with servers.primary.connect() as connection:
            for role, password in ensure_passwords(servers.passfile, ("books", "books_owner")).items():
                ensure_role(connection, role, password)
            ensure_database(connection, "ledger", owner="books_owner", services=["books"])
        make_table(servers)
        yield servers


@pytest.fixture
def mesctl(servers: PostgresServers, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    path = tmp_path / "topology.toml"
    path.write_text(
        TOPOLOGY.format(passfile=servers.passfile, primary=servers.primary_port, replica=servers.replica_port)
    )
    return Mesctl(path, capsys)


def test_a_node_that_does_not_answer_is_named_with_its_database(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    path.write_text(TOPOLOGY.format(passfile="pgpass", primary=1, replica=2))
    topology = Topology.load(path)
    with (
        pytest.raises(psycopg.OperationalError, match=r"^ledger: ledger_replica: connection failed"),
        connect_node(topology, topology.database("ledger"), "ledger_replica", role="postgres"),
    ):
        pass


async def put(session: WriteSession, *, n: int) -> None:
    await session.execute(INSERT, {"n": n})


def test_list_lag_watch_and_a_switch_over_under_writes(servers: PostgresServers, mesctl: Mesctl) -> None:
    found = {row["node"]: row for row in mesctl("replicas", "list", "--json").json}
    assert {node: row["role"] for node, row in found.items()} == {
        "primary": "primary",
        "ledger_replica": "replica",
    }
    assert "ledger_replica" in mesctl("replicas", "list").out

    [row] = mesctl("replicas", "lag", "ledger", "--every-seconds", "0.1", "--json").json
    assert (row["lag_bytes"], row["state"]) == (0, "serves reads")
    assert 0 <= row["lag_seconds"] < 30
    with paused_replay(servers):
        with servers.primary.connect() as connection:
            connection.execute("INSERT INTO notes VALUES (0)")
        said = mesctl("replicas", "watch", "--count", "2", "--every-seconds", "0.05").out.splitlines()
        assert len(said) == 4
        assert "state='replay paused'" in said[-1]
        refused = mesctl("replicas", "switchover", "ledger", "--to", "ledger_replica")
        assert refused.status == 3
        assert "ledger_replica is no replica in order: replay paused" in refused.err

    assert mesctl("replicas", "switchover", "ledger", "--to", "nobody").status == 3
    servers.wait_for_replica()
    script = mesctl("replicas", "switchover", "ledger", "--to", "ledger_replica", "--dry-run")
    assert script.status == 0
    assert "pg_promote" in script.out

    acknowledged = asyncio.run(write_during_a_switch_over(servers, mesctl))
    assert len(acknowledged) > 20
    with servers.replica.connect() as connection:
        there = {n for (n,) in connection.execute("SELECT n FROM notes")}
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
    assert set(acknowledged) <= there
    mesctl.capsys.readouterr()  # what the library has logged meanwhile
    rows = {row["node"]: row for row in mesctl("replicas", "list", "--json").json}
    assert (rows["ledger_replica"]["role"], rows["primary"]["role"]) == ("primary", "rival")


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
        done = await asyncio.to_thread(mesctl, "replicas", "switchover", "ledger", "--to", "ledger_replica")
        assert done.status == 0, done.err
        assert "ledger_replica is the primary" in done.out
        so_far = len(acknowledged)
        async with asyncio.timeout(60):
            while len(acknowledged) < so_far + 20:
                await cluster.transact(lambda session: session.execute(text("SELECT 1")))
        stop.set()
        await writer
    return acknowledged


def rows(servers: PostgresServers, *, replica: bool = True) -> set[int]:
    with (servers.replica if replica else servers.primary).connect() as connection:
        return {n for (n,) in connection.execute("SELECT n FROM notes")}


def is_fenced(servers: PostgresServers) -> bool:
    with servers.primary.connect() as connection:
        return connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


class Reports:
    """What a switch-over says, and who waits for it to say something."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.waits = Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith("waits for"):
            self.waits.set()


def test_who_has_begun_and_not_written_yet_is_waited_for(servers: PostgresServers, mesctl: Mesctl) -> None:
    topology = Topology.load(mesctl.topology_path)
    plan = plan_switchover(topology, "ledger", to="ledger_replica")
    with (
        closing(psycopg.connect(servers.conninfo())) as unit,
        closing(psycopg.connect(servers.conninfo())) as two,
    ):
        unit.execute("SELECT 1")
        two.execute("INSERT INTO notes VALUES (2)")
        two.execute("PREPARE TRANSACTION 'left over'")
        with pytest.raises(SwitchoverGivenUp) as given_up:
            switch_over(topology, plan, timeout_seconds=0.5, report=Reports())
        assert f"pid {unit.info.backend_pid} of postgres (idle in transaction since" in str(given_up.value)
        assert "prepared transaction 'left over' in postgres" in str(given_up.value)
        assert not is_fenced(servers)

        reports = Reports()
        words = {"timeout_seconds": 60, "report": reports}
        switching = Thread(target=switch_over, args=(topology, plan), kwargs=words)
        switching.start()
        assert reports.waits.wait(timeout=60)
        assert is_fenced(servers)
        two.rollback()
        two.autocommit = True
        two.execute("COMMIT PREPARED 'left over'")
        unit.execute("INSERT INTO notes VALUES (1)")
        unit.commit()
        switching.join(timeout=120)
    assert not switching.is_alive()
    assert rows(servers) == rows(servers, replica=False) == {1, 2}
    assert not [line for line in reports.lines if line.startswith("look")]


def test_who_takes_himself_out_of_the_fence_is_seen(servers: PostgresServers, mesctl: Mesctl) -> None:
    topology = Topology.load(mesctl.topology_path)
    plan = plan_switchover(topology, "ledger", to="ledger_replica")
    with closing(psycopg.connect(servers.conninfo())) as unit:

        def report(line: str) -> None:
            if "replays" in line:  # nobody is under way any more
                unit.execute("SET TRANSACTION READ WRITE")
                unit.execute("INSERT INTO notes VALUES (1)")

        with pytest.raises(SwitchoverGivenUp, match=f"pid {unit.info.backend_pid} of postgres"):
            switch_over(topology, plan, timeout_seconds=0.5, report=report)
        unit.commit()

        def write_late(line: str) -> None:
            said.append(line)
            if line.endswith("is promoted"):
                unit.execute("SET TRANSACTION READ WRITE")
                unit.execute("INSERT INTO notes VALUES (2)")
                unit.commit()

        said: list[str] = []
        switch_over(topology, plan, timeout_seconds=60, report=write_late)
    assert said[-1].startswith("look: primary has finished up to 1 transactions")


def test_a_setting_that_outweighs_the_fence_is_refused(servers: PostgresServers, mesctl: Mesctl) -> None:
    with servers.primary.connect() as connection:
        connection.execute("ALTER ROLE books IN DATABASE ledger SET default_transaction_read_only = off")
    refused = mesctl("replicas", "switchover", "ledger", "--to", "ledger_replica", "--dry-run")
    assert refused.status == 3
    assert "default_transaction_read_only is off for books in ledger" in refused.err


def test_the_script_stops_where_the_verb_waits(servers: PostgresServers, mesctl: Mesctl) -> None:
    script = mesctl("replicas", "switchover", "ledger", "--to", "ledger_replica", "--dry-run").out
    with closing(psycopg.connect(servers.conninfo())) as unit:
        unit.execute("SELECT 1")
        said = psql(servers.conninfo(), script)
        assert f"pid {unit.info.backend_pid} of postgres" in said
        assert "not nobody: run this again" in said
        assert is_fenced(servers)
        unit.execute("INSERT INTO notes VALUES (1)")
        unit.commit()
    assert wait_until(lambda: psql(servers.conninfo(), script).endswith("\nt\n"), timeout_seconds=60)
    assert rows(servers) == {1}


def test_a_promotion_that_nobody_sees_the_end_of_leaves_the_old_one_fenced(
    servers: PostgresServers, mesctl: Mesctl
) -> None:
    topology = Topology.load(mesctl.topology_path)
    plan = plan_switchover(topology, "ledger", to="ledger_replica")
    with servers.replica.connect() as connection:
        [(startup,)] = connection.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'")
    end = Thread(target=end_the_one_who_promotes, args=[servers])

    def freeze(line: str) -> None:
        if line.endswith("is promoted"):
            os.kill(startup, signal.SIGSTOP)
            end.start()

    try:
        with pytest.raises(SwitchoverUnfinished, match="primary stays read-only") as unfinished:
            switch_over(topology, plan, timeout_seconds=1, report=freeze)
        assert "terminating connection" in unfinished.value.fault
        assert is_fenced(servers)
    finally:
        os.kill(startup, signal.SIGCONT)
    end.join(timeout=60)

    def is_promoted() -> bool:
        with suppress(psycopg.Error), servers.replica.connect() as connection:
            return connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
        return False

    # What was asked for goes on, and one of the two takes writes.
    assert wait_until(is_promoted, timeout_seconds=60)
    assert is_fenced(servers)


def end_the_one_who_promotes(servers: PostgresServers) -> None:
    with servers.replica.connect() as connection:
        ended = """
            SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE query LIKE '%pg_promote%' AND wait_event = 'Promote'
        """
        assert wait_until(lambda: connection.execute(ended).fetchone() == (1,), timeout_seconds=60)
